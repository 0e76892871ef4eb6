//! Tricks to lead a reference into the network that the worker stands in. None may end in a connection.

use super::server::{Answer, Server};
use super::*;
use crate::net::tricks::{HOSTS, NAMES, ODD_HOSTS, Rogue, URLS, Witness};

/// What is open stands for the public internet, which a test must not reach.
fn guard(port: u16) -> Guard {
    Guard::new().plain_http().ports([port]).open_to(["127.0.0.2".parse().unwrap()])
}

#[tokio::test]
async fn no_trick_leads_to_a_connection() {
    let witness = Witness::new().await;
    let port = witness.port();
    let mut tried = 0;
    let mut refuse = async |url: &str, answers: &[&[&str]], asked: &[usize]| {
        let rogue = Rogue::new(answers);
        let places = Places::new().https(Https::new(guard(port)).resolver(rogue.clone()));
        let got = match url.parse() {
            Ok(reference) => places.get(&reference, 1000).await.map(drop),
            Err(why) => Err(why),
        };
        let why = got.unwrap_err();
        assert_eq!(why.fault(), Fault::Invalid, "{url:?}: {why}");
        assert!(asked.contains(&rogue.asked()), "{url:?}: its name was looked up {} times", rogue.asked());
        // Nor may anything be written there.
        if let Ok(reference) = url.parse() {
            let sent = places.send(&reference, Content::bytes("x"), Put::Create).await;
            assert_eq!(sent.unwrap_err().fault(), Fault::Invalid, "{url:?}");
        }
        tried += 1;
    };
    let written = HOSTS.split_whitespace().chain(ODD_HOSTS);
    for host in written {
        refuse(&format!("http://{host}:{port}/a"), &[&["127.0.0.1"]], &[0]).await;
    }
    for url in URLS.split_whitespace().chain([""]) {
        refuse(url, &[&["127.0.0.1"]], &[0]).await;
    }
    for (url, answer) in NAMES {
        // A reference with a fragment is refused before its name is looked up.
        let answers = [*answer, answer, &["127.0.0.2"]];
        refuse(&url.replace("{port}", &port.to_string()), &answers, &[0, 1]).await;
    }
    assert!(tried >= 150, "{tried} tricks");
    witness.saw_nothing().await;
}

#[tokio::test]
async fn no_redirect_leads_to_a_connection() {
    let witness = Witness::new().await;
    let port = witness.port();
    let targets = HOSTS.split_whitespace().map(|host| format!("http://{host}:{port}/a"));
    let targets = targets.chain(URLS.split_whitespace().filter(|url| url.contains("://")).map(str::to_owned));
    let targets = targets.chain([format!("//127.0.0.1:{port}/"), format!("//user@127.0.0.1:{port}/"), String::new()]);
    let targets = targets.chain(["http:/127.0.0.1".to_owned(), "file:///etc/passwd".to_owned()]);
    let mut followed = 0;
    for target in targets.filter(|target| target.is_ascii()) {
        let head = format!("302 Found; content-length: 0; location: {target}");
        // The server itself stands for a public one.
        let server = Server::over("127.0.0.2", None, move |_| Answer::new(&head, "")).await;
        let guard = guard(port).ports([server.port]);
        let places = Places::new().https(Https::new(guard).resolver(Rogue::new(&[&["127.0.0.2"]])));
        let url = reference(format!("http://public.example:{}/a?token=hunter2", server.port));
        let why = places.get(&url, 1000).await.unwrap_err();
        assert_eq!(why.fault(), Fault::Invalid, "{target:?}: {why}");
        assert!(!format!("{why:?}").contains("hunter2"), "{why}");
        followed += server.asked().len();
    }
    assert!(followed >= 60, "{followed} redirects were given");
    witness.saw_nothing().await;
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_dialled_where_it_was_judged() {
    let server = Server::over("0.0.0.0", None, |_| Answer::new("200 OK; content-length: 3", "yes")).await;
    let rogue = Rogue::new(&[&["127.0.0.2"], &["127.0.0.1"], &["127.0.0.2"]]);
    let places = Places::new().https(Https::new(guard(server.port)).resolver(rogue.clone()));
    let url = reference(format!("http://rebinding.example:{}/a?token=hunter2", server.port));
    places.check(&url).unwrap();
    assert_eq!(rogue.asked(), 0, "a check looks nothing up");
    assert_eq!(places.get(&url, 10).await.unwrap(), "yes");
    refused(places.get(&url, 10).await, Fault::Invalid, "has an address that is not public");
    assert_eq!(places.get(&url, 10).await.unwrap(), "yes");
    assert_eq!((rogue.asked(), server.asked().len()), (3, 2));
}
