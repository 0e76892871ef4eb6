//! Servers that answer well, badly, and never to an end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::server::{Answer, Server, header, range};
use super::*;

const MOST: u64 = 100 << 20;

#[tokio::test]
async fn ranges_of_one_version_are_put_together() {
    let body = noise(25_000_000);
    let server = Server::of(body.clone(), "\"v1\"").await;
    assert_eq!(server.places().get(&server.url(), MOST).await.unwrap(), body);
    let asked = server.asked();
    assert!(asked.len() >= 3, "{} requests", asked.len());
    let conditional = asked.iter().filter(|request| header(request, "if-match") == Some("\"v1\"")).count();
    assert_eq!(conditional, asked.len() - 1, "all but the first ask for the version that it gave");
    for request in asked {
        assert!(request.starts_with("GET /in/a.bin?token=hunter2 HTTP/1.1\r\n"), "{request}");
        assert_eq!(header(&request, "accept-encoding"), Some("identity"));
        assert!(range(&request).is_some());
    }
    let dir = tempfile::tempdir().unwrap();
    let fetched = server.places().fetch(&server.url(), dir.path().join("a"), MOST).await.unwrap();
    assert_eq!((fetched.len, fetched.version.as_str()), (25_000_000, "\"v1\""));
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), body);
    refused(server.places().get(&server.url(), 24_999_999).await, Fault::Invalid, "it has 25000000 bytes");
}

#[tokio::test]
async fn servers_without_ranges_or_validators_give_all_at_once() {
    let body = noise(11_000_000);
    let heads = ["200 OK; etag: \"v1\"", "200 OK", "200 OK; etag: W/\"v1\""];
    for head in heads {
        let (head, all) = (format!("{head}; content-length: {}", body.len()), body.clone());
        let server = Server::new(move |_| Answer::new(&head, all.clone())).await;
        assert_eq!(server.places().get(&server.url(), MOST).await.unwrap(), body);
        assert_eq!(server.asked().len(), 1);
    }
    // Ranges, but nothing that says whether two of them fit together.
    let all = body.clone();
    let server = Server::new(move |request| match range(request) {
        Some((first, last)) => {
            let (len, part) = (all.len(), all.slice(first..=last.min(all.len() - 1)));
            let last = first + part.len() - 1;
            let head = format!("206 Partial Content; etag: W/\"v1\"; content-range: bytes {first}-{last}/{len}");
            Answer::new(&format!("{head}; content-length: {}", part.len()), part)
        }
        None => Answer::new(&format!("200 OK; content-length: {}", all.len()), all.clone()),
    })
    .await;
    assert_eq!(server.places().get(&server.url(), MOST).await.unwrap(), body);
    assert_eq!(server.asked().iter().filter(|request| range(request).is_none()).count(), 1);
}

#[tokio::test]
async fn an_empty_file_is_one_however_it_is_said() {
    let heads = ["416 Range Not Satisfiable; content-range: bytes */0; content-length: 0", "416 No; content-length: 0"];
    for head in heads {
        let server = Server::new(move |request| match range(request) {
            Some(_) => Answer::new(head, ""),
            None => Answer::new("200 OK; content-length: 0; etag: \"v1\"", ""),
        })
        .await;
        assert_eq!(server.places().get(&server.url(), MOST).await.unwrap(), "");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(server.places().fetch(&server.url(), dir.path().join("a"), MOST).await.unwrap().len, 0);
    }
}

#[tokio::test]
async fn an_answer_of_unknown_length_is_collected_up_to_the_limit() {
    let body = noise(100_000);
    let mut chunks = Vec::new();
    for chunk in body.chunks(7000) {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let server = Server::new(move |_| Answer::new("200 OK; transfer-encoding: chunked", chunks.clone())).await;
    assert_eq!(server.places().get(&server.url(), 100_000).await.unwrap(), body);
    refused(server.places().get(&server.url(), 99_999).await, Fault::Invalid, "it is longer than 99999 bytes");
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("a");
    assert_eq!(server.places().fetch(&server.url(), &to, 100_000).await.unwrap().len, 100_000);
    assert_eq!(std::fs::read(&to).unwrap(), body);
    refused(server.places().fetch(&server.url(), dir.path().join("b"), 99_999).await, Fault::Invalid, "longer");
    assert!(!dir.path().join("b").exists());

    let open = Server::new(|_| Answer::new("200 OK", "all of it, or not")).await;
    refused(open.places().get(&open.url(), MOST).await, Fault::Invalid, "neither how long it is nor where it ends");
}

#[tokio::test]
async fn endless_bodies_come_to_an_end() {
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 65536], b"\r\n"].concat();
    let heads = [
        ("200 OK; transfer-encoding: chunked", "it is longer than 1000000 bytes"),
        ("200 OK", "neither how long"),
        ("200 OK; content-length: 1000000000000000", "it has 1000000000000000 bytes, but at most 1000000"),
        ("200 OK; content-length: 18446744073709551615", "not done within"),
        ("200 OK; content-length: 18446744073709551616", "not done within"),
        ("206 Partial Content; content-range: bytes 0-9/10; etag: \"v\"", "it is longer than 10 bytes"),
    ];
    for (head, says) in heads {
        let chunk = Bytes::from(chunk.clone());
        let server = Server::new(move |_| Answer::endless(head, chunk.clone())).await;
        let places = Places::new().https(Https::new(server.guard()).within(Duration::from_secs(2)));
        let why = places.get(&server.url(), 1_000_000).await.unwrap_err();
        assert!(why.to_string().contains(says), "{head}: {why}");
        assert!(!format!("{why:?}").contains("hunter2"));
        // The limit, the buffers of both kernels, and ours.
        let sent = server.sent.load(Ordering::SeqCst);
        assert!(sent < 64 << 20, "{head}: {sent} bytes were sent");
    }
}

#[tokio::test]
async fn lies_about_lengths_and_ranges_are_found_out() {
    let part = "206 Partial Content; content-length: 10; etag: \"v\"; content-range: ";
    let lies = [
        (format!("{part}bytes 1-10/100000000"), "the server was asked for"),
        (format!("{part}bytes 0-9/100000000"), "the server was asked for"),
        (format!("{part}bytes 0-10/10"), "does not say which"),
        (format!("{part}bytes 9-0/10"), "does not say which"),
        (format!("{part}bytes 0-9/*"), "does not say which"),
        (format!("{part}bytes */10"), "does not say which"),
        (format!("{part}items 0-9/10"), "does not say which"),
        (format!("{part}bytes 0-9/99999999999999999999"), "does not say which"),
        (format!("{part}bytes 0-18446744073709551615/18446744073709551615"), "does not say which"),
        (format!("{part}nonsense"), "does not say which"),
        ("206 Partial Content; content-length: 10; etag: \"v\"".to_owned(), "does not say which"),
        ("206 Partial Content; content-length: 10; etag: \"v\"; content-range: bytes 0-10/11".to_owned(), "contradict"),
        ("200 OK; content-length: 10; content-encoding: gzip".to_owned(), "compressed"),
        ("204 No Content".to_owned(), "answered with 204"),
        ("304 Not Modified".to_owned(), "answered with 304"),
        ("401 Unauthorized; content-length: 10".to_owned(), "answered with 401"),
        ("403 Forbidden; content-length: 10".to_owned(), "answered with 403"),
        ("404 Not Found; content-length: 10".to_owned(), "no such object"),
        ("410 Gone; content-length: 10".to_owned(), "no such object"),
    ];
    for (head, says) in lies {
        let server = Server::new(move |_| Answer::new(&head, "0123456789")).await;
        refused(server.places().get(&server.url(), MOST).await, Fault::Invalid, says);
        assert_eq!(server.asked().len(), 1, "{says}: what is refused is not asked for again");
    }
}

#[tokio::test]
async fn what_breaks_off_or_contradicts_itself_is_never_taken_for_whole() {
    let heads = [
        "200 OK; content-length: 11",
        "200 OK; content-length: 11; etag: \"v\"",
        "200 OK; content-length: 10; content-length: 11",
        "200 OK; content-length: ten",
        "200 OK; content-length: -10",
        "200 OK; transfer-encoding: chunked",
        "500 Internal Server Error; content-length: 10",
        "503 Slow Down; content-length: 10",
        "nonsense",
    ];
    let never = heads.map(async |head| {
        let server = Server::new(move |_| Answer::new(head, "0123456789")).await;
        let places = Places::new().https(Https::new(server.guard()).within(Duration::from_secs(1)));
        let dir = tempfile::tempdir().unwrap();
        let fetched = places.fetch(&server.url(), dir.path().join("a"), MOST).await;
        refused(fetched, Fault::Transient, "http://127.0.0.1");
        assert!(server.asked().len() > 1, "{head}: it is tried again");
        assert!(!dir.path().join("a").exists());
    });
    join_all(never).await;
}

#[tokio::test]
async fn a_break_is_named_for_what_it_was() {
    let server = Server::new(|_| Answer::new("200 OK; content-length: 11", "0123456789")).await;
    let https = Https::new(server.guard());
    let page = https.page(server.url().expose(), "it".to_owned()).unwrap();
    let reading = page.read(0..100, None).await.unwrap().found().unwrap();
    assert_eq!((reading.len, reading.range.clone()), (11, 0..11));
    refused(reading.collect(100).await, Fault::Transient, "");
}

#[tokio::test]
async fn a_file_that_changes_while_it_comes_is_never_mixed() {
    let (old, new) = (noise(25_000_000), Bytes::from(vec![7; 25_000_000]));
    let (turn, both) = (AtomicUsize::new(0), [old, new.clone()]);
    // The first answer is of the old version, all others of the new; this server does not heed If-Match.
    let server = Server::new(move |request| {
        let now = turn.fetch_add(1, Ordering::SeqCst).min(1);
        let (first, last) = range(request).unwrap();
        let part = both[now].slice(first..=last.min(24_999_999));
        let last = first + part.len() - 1;
        let head = format!("206 Partial Content; content-range: bytes {first}-{last}/25000000; etag: \"{now}\"");
        Answer::new(&format!("{head}; content-length: {}", part.len()), part)
    })
    .await;
    assert_eq!(server.places().get(&server.url(), MOST).await.unwrap(), new);
}

#[tokio::test]
async fn redirects_are_followed_five_times_and_judged_each_time() {
    let server = Server::new(|request| {
        let path = request.split(' ').nth(1).unwrap();
        match path.split('?').next().unwrap() {
            "/a/6" => Answer::new("302 Found; location: 5?token=hunter2; content-length: 0", ""),
            "/a/5" => Answer::new("301 Moved; location: /a/4; content-length: 0", ""),
            "/a/4" => Answer::new("303 See; location: /a/3; content-length: 0", ""),
            "/a/3" => Answer::new("307 Go; location: 2; content-length: 0", ""),
            "/a/2" => Answer::new("308 Go; location: /b/../a/1; content-length: 0", ""),
            "/b/../a/1" | "/a/1" => Answer::new("302 Found; location: ?end; content-length: 0", ""),
            "/loop" => Answer::new("302 Found; location: /loop; content-length: 0", ""),
            _ => Answer::new("200 OK; content-length: 3", "end"),
        }
    })
    .await;
    let at = |path: &str| reference(format!("http://127.0.0.1:{}{path}", server.port));
    let places = server.places();
    refused(places.get(&at("/a/6"), MOST).await, Fault::Invalid, "more than 5 redirects");
    assert_eq!(server.asked().len(), 6);
    refused(places.get(&at("/loop"), MOST).await, Fault::Invalid, "more than 5 redirects");
    let none = Places::new().https(Https::new(server.guard()).redirects(0));
    refused(none.get(&at("/a/5"), MOST).await, Fault::Invalid, "more than 0 redirects");
}

#[tokio::test]
async fn an_upload_says_how_long_it_is_and_replaces_nothing_by_itself() {
    let turn = AtomicUsize::new(0);
    let server = Server::new(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 | 2 | 6 => Answer::new("200 OK; etag: \"v1\"; content-length: 0", ""),
        1 => Answer::new("412 Precondition Failed; content-length: 0", ""),
        3 => Answer::new("403 Forbidden; content-length: 0", ""),
        4 => Answer::new("307 Go; location: /elsewhere; content-length: 0", ""),
        _ => Answer::new("503 Slow Down; content-length: 0", ""),
    })
    .await;
    let (places, url) = (server.places(), server.url());
    let send = async |mode| places.send(&url, Content::bytes("result"), mode).await;
    assert!(matches!(send(Put::Create).await.unwrap(), Outcome::Stored(version) if version.as_str() == "\"v1\""));
    assert_eq!(send(Put::Create).await.unwrap(), Outcome::Conflict);
    assert!(matches!(send(Put::Overwrite).await.unwrap(), Outcome::Stored(_)));
    refused(send(Put::Create).await, Fault::Invalid, "answered with 403");
    refused(send(Put::Create).await, Fault::Invalid, "answered with 307");
    let twice = send(Put::Create).await.unwrap();
    assert!(matches!(twice, Outcome::Stored(_)), "what passes is tried again");
    let once = Content::stream(futures_util::stream::iter([Ok(Bytes::from_static(b"gone"))]));
    refused(places.send(&url, once, Put::Create).await, Fault::Transient, "answered with 503");
    let asked = server.asked();
    assert_eq!(asked.len(), 8);
    assert!(asked[0].starts_with("PUT /in/a.bin?token=hunter2 HTTP/1.1\r\n") && asked[0].ends_with("\r\n\r\nresult"));
    assert_eq!((header(&asked[0], "content-length"), header(&asked[0], "if-none-match")), (Some("6"), Some("*")));
    assert_eq!(header(&asked[2], "if-none-match"), None);
}

#[tokio::test]
async fn https_wants_a_certificate_for_the_name_from_a_known_root() {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = own.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let tls = Arc::new(tls).into();
    let server = Server::over("127.0.0.1", Some(tls), |_| Answer::new("200 OK; content-length: 3", "yes")).await;
    let url = reference(format!("https://127.0.0.1:{}/?token=hunter2", server.port));

    let unknown = Places::new().https(Https::new(server.guard()).within(Duration::from_secs(1)));
    refused(unknown.get(&url, MOST).await, Fault::Transient, "https://127.0.0.1");
    assert!(server.asked().is_empty());

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let known = Places::new().https(Https::new(server.guard()).tls(tls));
    assert_eq!(known.get(&url, MOST).await.unwrap(), "yes");
}
