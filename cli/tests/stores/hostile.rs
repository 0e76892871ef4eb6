//! A bucket whose keys want to be files elsewhere.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use crate::{Said, forebay};

/// The last is the only one that may come.
const KEYS: [&str; 8] =
    ["x/../../evil", "x/../evil", "x//etc/evil", "x/./evil", "x/a\\..\\evil", "x/evil/", "x/.good.partial", "x/good"];

/// A server that lists these keys, and has something under any.
fn serve() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(&stream));
        }
    });
    endpoint
}

fn answer(mut stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let ranged = headers.iter().any(|line| line.to_lowercase().starts_with("range:"));
    let time = "last-modified: Wed, 01 Jan 2020 00:00:00 GMT\r\netag: \"1\"";
    let (status, more, body) = if request.contains("list-type=2") {
        let object = |key: &&str| {
            format!(
                "<Contents><Key>{key}</Key><Size>4</Size><ETag>&quot;1&quot;</ETag>\
                 <LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        };
        let all: String = KEYS.iter().map(object).collect();
        let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{all}</ListBucketResult>");
        ("200 OK", "content-type: application/xml".to_owned(), body)
    } else if ranged {
        ("206 Partial Content", format!("{time}\r\ncontent-range: bytes 0-3/4"), "evil".to_owned())
    } else {
        ("200 OK", time.to_owned(), "evil".to_owned())
    };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n\r\n", body.len());
    let body = if request.starts_with("HEAD") { "" } else { &body };
    // Who asked may have left.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

#[test]
fn keys_do_not_lead_out_of_the_folder() {
    let endpoint = serve();
    for command in ["cp", "sync"] {
        let at = tempfile::tempdir().unwrap();
        let folder = at.path().join("deep/within/out");
        fs::create_dir_all(&folder).unwrap();
        let arguments: &[&str] = match command {
            "cp" => &["store", "cp", "-r", "s3://forebay/x/", "deep/within/out"],
            _ => &["store", "sync", "--delete", "s3://forebay/x/", "deep/within/out"],
        };
        let said: Said = forebay(at.path(), &endpoint, arguments).output().unwrap().into();
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.starts_with("copied 1 file,"), "{said:?}");
        let mut found = Vec::new();
        let mut folders = vec![at.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        assert_eq!(found, [folder.join("good")]);
    }
}
