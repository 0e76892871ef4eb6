//! A link of one's own between a client and a server: a TCP proxy on loopback that holds bytes back for a delay,
//! carries them at a rate that all connections share, and breaks or stalls connections on demand. What it carries arrives in
//! order and whole; it shows neither the slow start of TCP nor lost packets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::Random;
use crate::acceptor::{Acceptor, RECEIVES};

/// Payload of a full segment, and the bytes that it takes on Ethernet (IPv4, TCP with timestamps).
const SEGMENT: (f64, f64) = (1448.0, 1514.0);
/// What may wait in front of a wire, as in a home router. The rate is reached as long as wake-ups are less late.
const QUEUE: Duration = Duration::from_millis(50);
/// What the kernel may hold of one connection in front of it, in time and in bytes at the least.
const HELD: Duration = Duration::from_millis(250);
const LEAST_HELD: usize = 16 << 10;
/// Timers fire at the next whole millisecond: asked half of one early, they are right on the average.
const EARLY: Duration = Duration::from_micros(500);
/// What is carried at once where there is a rate, and where there is none.
const PIECES: [usize; 2] = [16 << 10, 64 << 10];

/// A link, as it shall be.
#[derive(Clone, Debug)]
pub struct Link {
    server: SocketAddr,
    delay: Duration,
    window: usize,
    up: Option<u64>,
    down: Option<u64>,
    cuts: Option<(usize, u64, u64)>,
}

impl Link {
    /// To that server, as good as none at all: no delay, no limit of its rate, a window of 8 MiB.
    pub fn to(server: SocketAddr) -> Self {
        Link { server, delay: Duration::ZERO, window: 8 << 20, up: None, down: None, cuts: None }
    }

    /// How long a byte travels, one way. A connection is there after a round trip, as with TCP.
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.delay = one_way;
        self
    }

    /// Bytes that a connection may have under way in one direction: those whose receipt its sender does not know of.
    pub fn window(mut self, bytes: usize) -> Self {
        self.window = bytes;
        self
    }

    /// Bits a second towards the server, all connections together. They are those of Ethernet frames: 1514 bytes for
    /// every 1448 that a program sends. Acknowledgements take nothing.
    pub fn up(mut self, bits_per_second: u64) -> Self {
        self.up = Some(bits_per_second);
        self
    }

    /// The same from the server.
    pub fn down(mut self, bits_per_second: u64) -> Self {
        self.down = Some(bits_per_second);
        self
    }

    /// Resets one connection in so many, by chance, after a random number of bytes below `within`.
    pub fn cuts(mut self, one_in: usize, within: u64, seed: u64) -> Self {
        self.cuts = Some((one_in, within.max(1), seed));
        self
    }

    /// Seconds that so many bytes of payload take at a rate, at best.
    pub fn floor(bytes: u64, bits_per_second: u64) -> f64 {
        bytes as f64 * SEGMENT.1 / SEGMENT.0 * 8.0 / bits_per_second as f64
    }

    /// Opens it, on a thread of its own.
    pub fn open(self) -> OpenLink {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let acceptor = Acceptor::start_receiving(receives(self.up), move || {
            let lines = Rc::new(Lines {
                wires: [Wire::of(self.up), Wire::of(self.down)],
                spare: Default::default(),
                link: self.clone(),
                shared: seen,
            });
            let mut random = Random::new(self.cuts.map_or(0, |(_, _, seed)| seed));
            move |client| {
                let fate = lines.shared.fate(self.cuts, &mut random);
                lines.clone().connect(client, fate)
            }
        });
        OpenLink { acceptor, shared }
    }
}

/// What the kernel takes in for us of each connection waits in front of a wire, too: no more than goes through in a while.
fn receives(rate: Option<u64>) -> usize {
    let bytes = rate.map_or(usize::MAX, |rate| (rate as f64 / 8.0 * HELD.as_secs_f64()) as usize);
    bytes.clamp(LEAST_HELD, RECEIVES)
}

/// A link that is open until this is dropped; then its connections are closed.
pub struct OpenLink {
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

impl OpenLink {
    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    /// The same as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The next connection that is made carries so many bytes, both ways together, and then nothing any more. Its
    /// sockets stay open.
    pub fn stall_next(&self, after: u64) {
        self.shared.order(End::Stall, after);
    }

    /// The next connection that is made carries so many bytes, both ways together, and is then reset at both sides.
    pub fn cut_next(&self, after: u64) {
        self.shared.order(End::Cut, after);
    }

    /// Bytes of payload taken from clients and from the server so far.
    pub fn carried(&self) -> [u64; 2] {
        [0, 1].map(|way| self.shared.carried[way].load(Ordering::Relaxed))
    }

    /// Connections that are there now.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections that were reset or stalled so far.
    pub fn ended(&self) -> u64 {
        self.shared.ended.load(Ordering::Relaxed)
    }
}

/// What the link's thread and its owner have in common.
#[derive(Default)]
struct Shared {
    orders: Mutex<VecDeque<Fate>>,
    carried: [AtomicU64; 2],
    connections: AtomicU64,
    ended: AtomicU64,
}

impl Shared {
    fn order(&self, end: End, after: u64) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(Fate { end, after });
    }

    fn fate(&self, cuts: Option<(usize, u64, u64)>, random: &mut Random) -> Option<Fate> {
        if let Some(ordered) = self.orders.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
            return Some(ordered);
        }
        let (one_in, within, _) = cuts?;
        random.one_in(one_in).then(|| Fate { end: End::Cut, after: random.below(within as usize) as u64 })
    }
}

/// How a connection ends, and after how many bytes.
#[derive(Clone, Copy)]
struct Fate {
    end: End,
    after: u64,
}

#[derive(Clone, Copy)]
enum End {
    Stall,
    Cut,
}

/// One direction of the link: when it is free again.
struct Wire {
    /// Seconds that a byte of payload takes.
    byte: f64,
    free: Cell<Option<Instant>>,
    // Fair, so that connections take turns.
    turn: tokio::sync::Mutex<()>,
}

impl Wire {
    fn of(rate: Option<u64>) -> Option<Self> {
        rate.map(|rate| Wire { byte: Link::floor(1, rate), free: Cell::default(), turn: tokio::sync::Mutex::default() })
    }

    /// When so many bytes that come now have left at the other end.
    fn send(&self, now: Instant, bytes: usize) -> Instant {
        let begins = self.free.get().map_or(now, |free| free.max(now));
        let ends = begins + Duration::from_secs_f64(bytes as f64 * self.byte);
        self.free.set(Some(ends));
        ends
    }

    /// Waits for one's turn to put something in its queue.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        if let Some(takes) = self.free.get().and_then(|free| free.checked_sub(QUEUE)) {
            sleep_until(takes).await;
        }
        turn
    }
}

/// The link at work.
struct Lines {
    link: Link,
    wires: [Option<Wire>; 2],
    /// Memory that is not in use: to get it anew for each piece would cost more than to carry the piece.
    spare: [RefCell<Vec<Vec<u8>>>; 2],
    shared: Arc<Shared>,
}

impl Lines {
    async fn connect(self: Rc<Self>, mut client: TcpStream, fate: Option<Fate>) {
        let known = Instant::now() + 2 * self.link.delay;
        let carried = match self.reach().await {
            Ok(mut server) => {
                sleep_until(known.checked_sub(EARLY).unwrap_or(known)).await;
                let line = Line { fate, ..Line::default() };
                self.shared.connections.fetch_add(1, Ordering::Relaxed);
                let carried = self.carry_both(&line, &mut client, &mut server).await;
                self.shared.connections.fetch_sub(1, Ordering::Relaxed);
                if carried.is_err() {
                    reset(&server);
                }
                carried
            }
            Err(why) => Err(why),
        };
        if carried.is_err() {
            reset(&client);
        }
    }

    async fn reach(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(receives(self.link.down) as u32)?;
        socket.set_nodelay(true)?;
        socket.connect(self.link.server).await
    }

    async fn carry_both(&self, line: &Line, client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let (up, down) = (self.carry(line, 0, from_client, to_server), self.carry(line, 1, from_server, to_client));
        tokio::select! {
            both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
            () = line.over.notified() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Carries one direction of a connection until its end, which it passes on.
    async fn carry(&self, line: &Line, way: usize, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        let flow = Flow::default();
        let sent = self.take(line, way, from, &flow);
        let arrived = self.give(way, to, &flow);
        tokio::try_join!(sent, arrived).map(|_| ())
    }

    async fn take(&self, line: &Line, way: usize, from: ReadHalf<'_>, flow: &Flow) -> io::Result<()> {
        let wire = self.wires[way].as_ref();
        loop {
            if line.left() == 0 {
                self.end(line).await;
            }
            let room = flow.room(self.link.window).await;
            from.readable().await?;
            let _turn = match wire {
                Some(wire) => Some(wire.turn().await),
                None => None,
            };
            let most = room.min(line.left());
            if most == 0 {
                continue;
            }
            let mut bytes = self.spare[way].borrow_mut().pop();
            let bytes = bytes.get_or_insert_with(|| vec![0; PIECES[usize::from(wire.is_none())]]);
            let most = most.min(bytes.len());
            let read = from.try_read(&mut bytes[..most]);
            let bytes = std::mem::take(bytes);
            let count = match read {
                Ok(count) => count,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    self.spare[way].borrow_mut().push(bytes);
                    continue;
                }
                Err(why) => return Err(why),
            };
            let now = Instant::now();
            let left = wire.map_or(now, |wire| wire.send(now, count));
            flow.push(Piece { at: left + self.link.delay, bytes, count });
            if count == 0 {
                return Ok(());
            }
            line.carried.set(line.carried.get() + count as u64);
            self.shared.carried[way].fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    async fn give(&self, way: usize, mut to: WriteHalf<'_>, flow: &Flow) -> io::Result<()> {
        loop {
            let piece = flow.next().await;
            let early = piece.at.checked_sub(EARLY).unwrap_or(piece.at);
            if early > Instant::now() {
                sleep_until(early).await;
            }
            if piece.count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece.bytes[..piece.count]).await?;
            flow.acknowledge(Instant::now() + self.link.delay, piece.count);
            self.spare[way].borrow_mut().push(piece.bytes);
        }
    }

    /// A connection has carried what it was to carry.
    async fn end(&self, line: &Line) {
        if !line.ended.replace(true) {
            self.shared.ended.fetch_add(1, Ordering::Relaxed);
        }
        if line.fate.is_some_and(|fate| matches!(fate.end, End::Cut)) {
            line.over.notify_one();
        }
        std::future::pending().await
    }
}

/// One connection.
#[derive(Default)]
struct Line {
    fate: Option<Fate>,
    carried: Cell<u64>,
    ended: Cell<bool>,
    over: Notify,
}

impl Line {
    /// Bytes that it may carry still.
    fn left(&self) -> usize {
        self.fate.map_or(usize::MAX, |fate| fate.after.saturating_sub(self.carried.get()) as usize)
    }
}

/// What is under way in one direction of a connection. An empty piece is its end.
#[derive(Default)]
struct Flow {
    pieces: RefCell<VecDeque<Piece>>,
    /// Bytes whose receipt the sender does not know of, and when it will.
    unknown: Cell<usize>,
    known: RefCell<VecDeque<(Instant, usize)>>,
    pushed: Notify,
    acknowledged: Notify,
}

struct Piece {
    at: Instant,
    bytes: Vec<u8>,
    count: usize,
}

impl Flow {
    fn push(&self, piece: Piece) {
        self.unknown.set(self.unknown.get() + piece.count);
        self.pieces.borrow_mut().push_back(piece);
        self.pushed.notify_one();
    }

    async fn next(&self) -> Piece {
        loop {
            let first = self.pieces.borrow_mut().pop_front();
            match first {
                Some(piece) => return piece,
                None => self.pushed.notified().await,
            }
        }
    }

    fn acknowledge(&self, at: Instant, count: usize) {
        self.known.borrow_mut().push_back((at, count));
        self.acknowledged.notify_one();
    }

    /// The sender knows of what was acknowledged until now.
    fn forget(&self, now: Instant) {
        let mut known = self.known.borrow_mut();
        while let Some((_, count)) = known.pop_front_if(|(at, _)| *at <= now) {
            self.unknown.set(self.unknown.get() - count);
        }
    }

    /// Waits for room in the window: so many bytes.
    async fn room(&self, window: usize) -> usize {
        loop {
            self.forget(Instant::now());
            let room = window.saturating_sub(self.unknown.get());
            if room > 0 {
                return room;
            }
            let next = self.known.borrow().front().map(|(at, _)| *at);
            match next {
                Some(at) => sleep_until(at).await,
                None => self.acknowledged.notified().await,
            }
        }
    }
}

/// Has a connection end in a reset instead of in order.
pub(crate) fn reset(stream: &TcpStream) {
    // If not, its end is an orderly one.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_that_is_kept_busy_carries_its_rate_however_late_it_is_fed() {
        let wire = Wire::of(Some(100_000_000)).unwrap();
        let start = Instant::now();
        let mut random = Random::new(1);
        let (pieces, mut left, mut now) = (5_000, start, start);
        for _ in 0..pieces {
            let takes = left.checked_sub(QUEUE).unwrap_or(now);
            if takes > now {
                // Woken up to 40 ms late, as on a busy machine.
                now = takes + Duration::from_micros(random.below(40_000) as u64);
            }
            left = wire.send(now, 14_480);
        }
        let floor = Duration::from_secs_f64(f64::from(pieces) * 15_140.0 * 8.0 / 100e6);
        let took = left - start;
        assert!(took >= floor - Duration::from_millis(1) && took <= floor.mul_f64(1.001), "{took:?} {floor:?}");
    }

    #[test]
    fn a_wire_that_was_idle_saves_nothing_up() {
        let wire = Wire::of(Some(8_000_000)).unwrap();
        let start = Instant::now();
        wire.send(start, 1448);
        let later = start + Duration::from_secs(10);
        assert_eq!(wire.send(later, 1448) - later, Duration::from_micros(1514));
    }
}
