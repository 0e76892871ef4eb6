//! Tricks to lead a webhook into the network that the worker stands in. None may end in a connection.

use super::*;

/// Hosts that are refused as they stand, with spaces between them.
const HOSTS: &str = "
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
const ODD_HOSTS: [&str; 6] = ["", "127.0.0.1\0", "127.0.0.1\t", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\r\n"];

/// Whole URLs that are refused as they stand.
const URLS: &str = "
    / //127.0.0.1/ 127.0.0.1 localhost * http:// http:///hook http:127.0.0.1 http:/127.0.0.1/ ftp://public.example/
    file:///etc/passwd file://localhost/etc/passwd gopher://127.0.0.1:25/_HELO ws://127.0.0.1/ data:text/plain,x
    unix:/run/docker.sock http://127.0.0.1#@public.example/ http://127.0.0.1?@public.example/ http://public.example:/
    http://public.example:0/ http://public.example:22/ http://public.example:25/ https://public.example:6379/
    https://public.example:8443/ http://public.example:65536/ http://public.example:99999/ http://public.example:-1/
    http://public.example:0x50/ http://public.example:80:80/
";

/// URLs of names, and the answer that makes each of them bad.
const NAMES: &[(&str, &[&str])] = &[
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

#[tokio::test]
async fn no_trick_leads_to_a_connection() {
    let witness = Witness::new().await;
    let port = witness.port();
    // What is open stands for the public internet, which a test must not reach: the other answers must spoil it.
    let guard = guard(port).open_to(open("127.0.0.2"));
    let refused = async |url: &str, answers: &[&[&str]], asked: usize| {
        let rogue = Rogue::new(answers);
        let webhook = Webhook::new(guard.clone(), secrets()).unwrap().resolver(rogue.clone());
        match send(&webhook, url).await {
            Err(error) => assert_eq!(error.fault(), Fault::Invalid, "{url:?}: {error}"),
            Ok(sent) => panic!("{url:?} {answers:?}: {sent:?}"),
        }
        assert_eq!(rogue.asked(), asked, "{url:?}: how often the name was looked up");
    };
    let written = HOSTS.split_whitespace().chain(ODD_HOSTS).map(|host| format!("http://{host}:{port}/hook"));
    let whole = URLS.split_whitespace().chain([""]).map(str::to_string);
    for url in written.chain(whole) {
        assert!(!url.parse().is_ok_and(|url: Uri| guard.check_url(&url).is_ok()), "{url:?}");
        refused(&url, &[&["127.0.0.1"]], 0).await;
    }
    for (url, answer) in NAMES {
        refused(&url.replace("{port}", &port.to_string()), &[answer, &["127.0.0.2"]], 1).await;
    }
    witness.saw_nothing().await;
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_dialled_where_it_was_judged() {
    let mut receiver = Receiver::new("0.0.0.0", OK, None).await;
    let rogue = Rogue::new(&[&["127.0.0.2"], &["127.0.0.1"], &["127.0.0.2"]]);
    let guard = guard(receiver.port).open_to(open("127.0.0.2/32"));
    let webhook = Webhook::new(guard, secrets()).unwrap().resolver(rogue.clone());
    let url = format!("http://rebinding.example:{}/hook?token=hunter2", receiver.port);
    assert!(matches!(send(&webhook, &url).await.unwrap(), Sent::Delivered));
    let refused = send(&webhook, &url).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Invalid);
    assert!(refused.to_string().contains("http://rebinding.example:"), "{refused}");
    assert!(!format!("{refused:?}").contains("hunter2"), "{refused:?}");
    assert!(matches!(send(&webhook, &url).await.unwrap(), Sent::Delivered));
    assert_eq!(rogue.asked(), 3);
    for _ in 0..2 {
        let (at, request) = receiver.requests.recv().await.unwrap();
        assert_eq!(at.to_string(), "127.0.0.2");
        assert_eq!(header(&request, "host"), Some(format!("rebinding.example:{}", receiver.port).as_str()));
    }
    assert!(receiver.requests.try_recv().is_err());
}

#[tokio::test]
async fn what_the_operating_system_finds_is_judged_too() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://localhost:{}/", receiver.port);
    let strict = Webhook::new(guard(receiver.port), secrets()).unwrap();
    assert_eq!(send(&strict, &url).await.unwrap_err().fault(), Fault::Invalid);
    let opened =
        Webhook::new(guard(receiver.port).open_to(open("127.0.0.0/8")).open_to(open("::1")), secrets()).unwrap();
    assert!(matches!(send(&opened, &url).await.unwrap(), Sent::Delivered));
}
