//! For tests: how others try to lead a request into the network that the worker stands in, and who would see it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use super::Resolve;
use crate::error::Result;

/// Hosts that are refused as they stand, with spaces between them.
pub(crate) const HOSTS: &str = "
    127.0.0.1 127.0.0.3 127.255.255.255 127.1 127.0.1 0177.0.0.1 0177.1 0x7f.0.0.1 0x7f.1 0x7F000001 2130706433
    017700000001 00000000017700000001 127.0.0.01 127.0.0.1. 127.0.0.0x1 127.0.0.257 4294967296 0 0x0 0.0.0.0 0.0.0.0.
    [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:FFFF:7F00:1] [::127.0.0.1] [::7f00:1]
    [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2001:0:7f00:1::1] [fe80::1]
    [fe80::1%25lo] [fe80::1%lo] [::1%25lo] [fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] [ff0e::1] [2001:db8::1]
    [3fff::1] [100::1] [5f00::1] [v1.::1] [127.0.0.1] [localhost] [::1 ::1 []
    169.254.169.254 169.254.170.2 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518 [::ffff:169.254.169.254]
    [64:ff9b::a9fe:a9fe] 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.100.100.200 168.63.129.16
    192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
    255.255.255.255 user@127.0.0.1 public.example@127.0.0.1 user:pass@127.0.0.1 127.0.0.1@public.example @127.0.0.1
    public.example:80@127.0.0.1 %31%32%37.0.0.1 loc%61lhost 127.0.0.1%00 127.0.0.1%2f 127.0.0.1\\ localhost:80 . ..
    public.example\\@127.0.0.1 １２７.0.0.1 127。0。0。1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ localhost.. .localhost local..host local,host
    $(hostname) *.example ~ -.1
";

/// Hosts with characters that are no part of a host.
pub(crate) const ODD_HOSTS: [&str; 6] = ["", "127.0.0.1\0", "127.0.0.1\t", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\r\n"];

/// Whole URLs that are refused as they stand.
pub(crate) const URLS: &str = "
    / //127.0.0.1/ 127.0.0.1 localhost * http:// http:///hook http:127.0.0.1 http:/127.0.0.1/ ftp://public.example/
    file:///etc/passwd file://localhost/etc/passwd gopher://127.0.0.1:25/_HELO ws://127.0.0.1/ data:text/plain,x
    unix:/run/docker.sock http://127.0.0.1#@public.example/ http://127.0.0.1?@public.example/ http://public.example:/
    http://public.example:0/ http://public.example:22/ http://public.example:25/ https://public.example:6379/
    https://public.example:8443/ http://public.example:65536/ http://public.example:99999/ http://public.example:-1/
    http://public.example:0x50/ http://public.example:80:80/
";

/// URLs of names, and the answer that makes each of them bad.
pub(crate) const NAMES: &[(&str, &[&str])] = &[
    ("http://localhost:{port}/", &["127.0.0.1"]),
    ("http://localhost.:{port}/", &["127.0.0.1"]),
    ("HTTP://LOCALHOST:{port}/", &["127.0.0.1"]),
    ("http://localhost:{port}/", &["::1"]),
    ("http://zero.example:{port}/", &["0.0.0.0"]),
    ("http://zero.example:{port}/", &["::"]),
    ("http://mapped.example:{port}/", &["::ffff:127.0.0.1"]),
    ("http://nat64.example:{port}/", &["64:ff9b::7f00:1"]),
    ("http://6to4.example:{port}/", &["2002:7f00:1::1"]),
    ("http://127.0.0.1.nip.example:{port}/", &["127.0.0.1"]),
    ("http://0x7f000001.example:{port}/", &["127.0.0.1"]),
    ("http://xn--lcalhost-v4a.example:{port}/", &["127.0.0.1"]),
    ("http://deadbeef:{port}/", &["127.0.0.1"]),
    ("http://public.example:{port}#@127.0.0.1/", &["127.0.0.1"]),
    ("http://public.example:{port}?@127.0.0.1/", &["127.0.0.1"]),
    ("http://metadata.google.internal:{port}/computeMetadata/v1/", &["169.254.169.254"]),
    ("http://metadata.example:{port}/", &["fd00:ec2::254"]),
    ("http://cname.example:{port}/", &["10.0.0.1"]),
    ("http://mixed.example:{port}/", &["127.0.0.2", "127.0.0.1"]),
    ("http://mixed.example:{port}/", &["127.0.0.1", "127.0.0.2"]),
    ("http://mixed.example:{port}/", &["127.0.0.2", "127.0.0.2", "127.0.0.2", "::1"]),
    ("https://mixed.example:{port}/", &["127.0.0.2", "169.254.169.254"]),
];

/// A resolver that gives one answer after the other, whatever the name, and the last one for ever.
#[derive(Clone)]
pub(crate) struct Rogue {
    answers: Arc<[Vec<IpAddr>]>,
    asked: Arc<AtomicUsize>,
}

impl Rogue {
    pub(crate) fn new(answers: &[&[&str]]) -> Self {
        let addresses = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Rogue { answers: answers.iter().map(addresses).collect(), asked: Arc::default() }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for Rogue {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[turn.min(self.answers.len() - 1)].clone();
        Box::pin(async { Ok(answer) })
    }
}

/// A listener on every address of this machine that must see no connection.
pub(crate) struct Witness(TcpListener);

impl Witness {
    pub(crate) async fn new() -> Self {
        let both = TcpListener::bind("[::]:0").await;
        Witness(match both {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind("0.0.0.0:0").await.unwrap(),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Connections are accepted in the order in which they came: if ours is first, there was no other.
    pub(crate) async fn saw_nothing(self) {
        let ours = TcpStream::connect(("127.0.0.1", self.port())).await.unwrap();
        let (_, first) = self.0.accept().await.unwrap();
        assert_eq!(first.port(), ours.local_addr().unwrap().port());
    }
}
