//! Ends told to URLs over loopback, by a clock that is moved by hand.

use std::sync::atomic::AtomicU64;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::source::committed::outlets::Sender;
use crate::source::{Extended, Receipt};
use crate::webhook::{ATTEMPTS, Guard, Headers, Secret, TOLERANCE, Webhook, pause, verify};

const SECRET: &str = "whsec_Zm9yZWJheSdzIHNlY3JldCBmb3IgaXRzIHRlc3Rz";
/// What time it is when a test begins.
const NOON: u64 = 1_700_000_000;

/// A queue whose messages, put back, come again at once: what was to pass meanwhile is on the clock.
#[derive(Clone)]
struct Impatient {
    queue: Memory,
    pauses: Arc<Mutex<Vec<u64>>>,
    clock: Arc<AtomicU64>,
}

struct Hurried(Impatient, Arc<dyn Receipt>);

impl Source for Impatient {
    fn name(&self) -> &'static str {
        "impatient"
    }

    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let taken = self.queue.receive(max).await?;
        let hurry = |job: Delivery| Delivery { receipt: Arc::new(Hurried(self.clone(), job.receipt)), ..job };
        Ok(taken.into_iter().map(hurry).collect())
    }
}

impl Receipt for Hurried {
    fn extend(&self, by: Duration) -> BoxFuture<'_, Result<Extended>> {
        self.1.extend(by)
    }

    fn settle<'a>(&'a self, verdict: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Verdict::Retry { after, .. } = verdict else {
                return self.1.settle(verdict).await;
            };
            self.0.pauses.lock().unwrap().push(after.as_secs());
            self.0.clock.fetch_add(after.as_secs(), Ordering::Relaxed);
            self.1.settle(&Verdict::give_back()).await
        })
    }
}

/// A receiver on loopback that answers by script, the last answer for ever, and checks every signature.
struct Receiver {
    url: String,
    /// The id and body of each message.
    came: Arc<Mutex<Vec<(String, Value)>>>,
    clock: Arc<AtomicU64>,
}

impl Receiver {
    async fn new(answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Receiver { url, came: Arc::default(), clock: Arc::new(AtomicU64::new(NOON)) };
        let (came, clock, answers) = (receiver.came.clone(), receiver.clock.clone(), answers.to_vec());
        tokio::spawn(async move {
            for turn in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (headers, body) = read(&mut stream).await;
                let [id, timestamp, signature] =
                    ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| headers[name].as_str());
                let now = clock.load(Ordering::Relaxed);
                let signed = Headers { id, timestamp, signature };
                verify(&[Secret::new(SECRET).unwrap()], signed, &body, now, TOLERANCE).expect("a good signature");
                came.lock().unwrap().push((id.to_owned(), serde_json::from_slice(&body).unwrap()));
                let answer = format!(
                    "HTTP/1.1 {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    answers[turn.min(answers.len() - 1)]
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        receiver
    }

    fn sender(&self, port: u16) -> Sender {
        let guard = Guard::new().plain_http().ports([port]).open_to(["127.0.0.0/8".parse().unwrap()]);
        let webhook = Webhook::new(guard, [Secret::new(SECRET).unwrap()]).unwrap();
        let clock = self.clock.clone();
        Sender { webhook, clock: Arc::new(move || clock.load(Ordering::Relaxed)) }
    }

    fn port(&self) -> u16 {
        self.url.split([':', '/']).find_map(|part| part.parse().ok()).unwrap()
    }

    fn ids(&self) -> Vec<String> {
        self.came.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

async fn read(stream: &mut tokio::net::TcpStream) -> (BTreeMap<String, String>, Vec<u8>) {
    let mut lines = BufReader::new(stream);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).await.unwrap();
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    lines.read_exact(&mut body).await.unwrap();
    (headers, body)
}

/// One job that names a receiver, at a worker with a queue for results too.
struct Hooked {
    receiver: Receiver,
    source: Committed<Impatient>,
    queue: Memory,
    pauses: Arc<Mutex<Vec<u64>>>,
    store: store::Memory,
    all: Results,
}

impl Hooked {
    /// `allowed` is the port that the guard lets through instead of the receiver's.
    async fn new(answers: &[&'static str], allowed: Option<u16>) -> Self {
        let receiver = Receiver::new(answers).await;
        let (queue, store, all) = (Memory::new(), store::Memory::new(), Results::default());
        queue.push_with("job.1", "bad", meta(&[(Meta::WEBHOOK, &receiver.url)]));
        queue.close();
        let (pauses, clock) = (Arc::default(), receiver.clock.clone());
        let impatient = Impatient { queue: queue.clone(), pauses, clock };
        let pauses = impatient.pauses.clone();
        let sender = receiver.sender(allowed.unwrap_or(receiver.port()));
        let source = Committed::new(impatient, store.clone()).results_to(all.clone());
        let source = source.set(|outlets| outlets.sender = Some(sender));
        Hooked { receiver, source, queue, pauses, store, all }
    }

    /// Works to the end; the job is run once, and its end is on the queue once.
    async fn work(&mut self) {
        let runs = timeout(Duration::from_secs(60), work(&mut self.source)).await.expect("it comes to an end");
        assert_eq!(runs, once(&["job.1"]));
        assert_eq!(self.all.ends(), ["job.1 job.failed"]);
        assert_eq!((self.queue.rejected(), self.queue.settled().len()), (1, 1));
    }

    fn pauses(&self) -> Vec<u64> {
        self.pauses.lock().unwrap().clone()
    }

    async fn told(&self) -> Option<Told> {
        kept(&self.store, "job.1").await.map(|kept| kept.webhook.unwrap())
    }
}

#[tokio::test]
async fn a_url_is_told_the_same_as_the_queue() {
    let mut world = Hooked::new(&["204 No Content"], None).await;
    world.work().await;
    let came = world.receiver.came.lock().unwrap().clone();
    assert_eq!(came, [("msg_job%2E1".to_owned(), world.all.told()[0].1.clone())]);
    assert_eq!((world.pauses(), world.told().await), (vec![], None), "nothing had to be kept");
}

#[tokio::test]
async fn a_url_that_is_away_is_tried_as_the_schedule_says_and_the_queue_is_not_told_again() {
    let away = "503 Service Unavailable";
    let mut world = Hooked::new(&[away, away, away, "200 OK"], None).await;
    world.work().await;
    assert_eq!(world.receiver.ids(), ["msg_job%2E1"; 4]);
    assert_eq!(world.pauses(), [5, 300, 1800]);
    let documents: Vec<_> = world.receiver.came.lock().unwrap().iter().map(|(_, body)| body.clone()).collect();
    assert!(documents.iter().all(|document| *document == world.all.told()[0].1));
    assert_eq!((world.all.tries(), world.queue.settled()[0].attempt), (1, 4));
    let told = world.told().await.unwrap();
    assert_eq!((told.attempts, told.next, told.outcome.as_str()), (4, None, "delivered"));
}

#[tokio::test]
async fn a_url_that_stays_away_is_given_up() {
    let mut world = Hooked::new(&["500 Internal Server Error"], None).await;
    world.work().await;
    assert_eq!(world.receiver.ids().len(), ATTEMPTS as usize);
    // What is longer than a message can be hidden for comes in parts.
    let parts = |seconds: u64| [vec![39_600; (seconds / 39_600) as usize], vec![seconds % 39_600]].concat();
    let pauses: Vec<u64> = (1..ATTEMPTS).flat_map(|attempt| parts(pause(attempt).as_secs())).collect();
    assert_eq!(world.pauses(), pauses);
    let told = world.told().await.unwrap();
    assert!(told.next.is_none() && told.outcome.starts_with("given up"), "{told:?}");
}

#[tokio::test]
async fn a_url_is_left_alone_for_as_long_as_it_asks() {
    let later = "429 Too Many Requests\r\nretry-after: 400";
    let mut world = Hooked::new(&[later, later, "200 OK"], None).await;
    world.work().await;
    assert_eq!((world.pauses(), world.receiver.ids().len()), (vec![400, 400], 3));
}

#[tokio::test]
async fn a_refusal_for_ever_is_final() {
    let mut gone = Hooked::new(&["410 Gone"], None).await;
    gone.work().await;
    assert_eq!((gone.pauses(), gone.receiver.ids().len()), (vec![], 1));
    assert_eq!(gone.told().await.unwrap().outcome, "refused for ever by the receiver");

    let mut guarded = Hooked::new(&["200 OK"], Some(1)).await;
    guarded.work().await;
    assert_eq!((guarded.pauses(), guarded.receiver.ids().len()), (vec![], 0));
    assert!(guarded.told().await.unwrap().outcome.starts_with("given up"));
}
