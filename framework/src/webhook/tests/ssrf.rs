//! Tricks to lead a webhook into the network that the worker stands in. None may end in a connection.

use super::*;
use crate::net::tricks::{HOSTS, NAMES, ODD_HOSTS, URLS};

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
