//! The link that transfers are measured over: nothing is faster than it allows, and what breaks, breaks as ordered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use forebay_tests::{Link, PATIENCE, eventually, stays};

/// A server that sends back what it gets, and how many of its connections broke.
fn echo() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<ErrorKind>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (broken, breaks) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, broken) = (stream.unwrap(), broken.clone());
            thread::spawn(move || {
                let mut piece = vec![0; 64 << 10];
                loop {
                    let echoed = stream.read(&mut piece).and_then(|count| {
                        stream.write_all(&piece[..count])?;
                        Ok(count)
                    });
                    match echoed {
                        Ok(0) => return,
                        Ok(_) => {}
                        Err(why) => return broken.send(why.kind()).unwrap(),
                    }
                }
            });
        }
    });
    (address, breaks)
}

fn connect(link: &forebay_tests::OpenLink) -> TcpStream {
    let stream = TcpStream::connect(link.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn noise(count: usize) -> Vec<u8> {
    let mut random = forebay_tests::Random::new(count as u64);
    (0..count).map(|_| random.bits() as u8).collect()
}

/// Sends and receives at once.
fn echoed(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut half = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            half.write_all(bytes).unwrap();
            half.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        back
    })
}

#[test]
fn a_byte_takes_the_delay_each_way_and_a_connection_a_round_trip_more() {
    let link = Link::to(echo().0).delay(Duration::from_millis(40)).open();
    let start = Instant::now();
    let mut stream = connect(&link);
    let mut byte = [7];
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    // Half a millisecond early, each way.
    assert!(start.elapsed() >= Duration::from_millis(158), "{:?}", start.elapsed());
    let start = Instant::now();
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(79), "{:?}", start.elapsed());
}

#[test]
fn all_arrives_in_order_and_no_faster_than_the_rate_that_connections_share() {
    let link = Link::to(echo().0).up(80_000_000).down(160_000_000).open();
    let bytes = noise(1_000_000);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(echoed(connect(&link), &bytes) == bytes));
        }
    });
    let floor = Link::floor(4_000_000, 80_000_000);
    assert!(start.elapsed().as_secs_f64() >= floor * 0.995, "{:?} is less than {floor} s", start.elapsed());
    assert_eq!(link.carried(), [4_000_000, 4_000_000]);
}

#[test]
fn a_window_lets_so_much_through_in_a_round_trip() {
    let link = Link::to(echo().0).delay(Duration::from_millis(20)).window(100_000).open();
    let bytes = noise(1_000_000);
    let start = Instant::now();
    assert!(echoed(connect(&link), &bytes) == bytes);
    // Ten windows: the last may be on its way when the ninth is known to have arrived.
    assert!(start.elapsed() >= Duration::from_millis(9 * 38), "{:?}", start.elapsed());
}

#[test]
fn a_connection_is_reset_at_both_sides_after_so_many_bytes() {
    let (server, breaks) = echo();
    let link = Link::to(server).open();
    link.cut_next(300_000);
    let mut stream = connect(&link);
    let failed = (0..1_000)
        .find_map(|_| stream.write_all(&[1; 10_000]).and_then(|()| stream.read_exact(&mut [0; 10_000])).err());
    for broken in [failed.unwrap().kind(), breaks.recv_timeout(PATIENCE).unwrap()] {
        assert!(matches!(broken, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{broken}");
    }
    assert_eq!(link.carried().iter().sum::<u64>(), 300_000);
    assert_eq!(link.ended(), 1);
    let bytes = noise(500_000);
    assert!(echoed(connect(&link), &bytes) == bytes, "the next connection is whole");
}

#[test]
fn a_connection_that_stalls_carries_no_more_and_stays_open() {
    let link = Link::to(echo().0).open();
    link.stall_next(10_000);
    let mut stalled = connect(&link);
    stalled.write_all(&noise(50_000)).unwrap();
    eventually("it stalls", || link.ended() == 1);
    stays(10_000, || link.carried().iter().sum::<u64>());
    let bytes = noise(500_000);
    assert!(echoed(connect(&link), &bytes) == bytes, "others go on");
    stalled.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut left = Vec::new();
    assert_eq!(stalled.read_to_end(&mut left).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn some_connections_are_cut_by_chance() {
    let link = Link::to(echo().0).cuts(2, 20_000, 3).open();
    let whole = |_: &usize| {
        let mut stream = connect(&link);
        let sent = stream.write_all(&[1; 20_000]).and_then(|()| stream.read_exact(&mut vec![0; 20_000]));
        sent.is_ok()
    };
    let whole = (0..40).filter(whole).count() as u64;
    assert_eq!(link.ended() + whole, 40);
    assert!((5..=35).contains(&whole), "{whole} of 40");
}
