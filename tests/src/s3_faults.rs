//! What goes wrong between a client of S3 and its server: an HTTP proxy that passes requests and answers on as they
//! are, and does to some of them, by seeded chance or as ordered, what networks and object stores do. It counts what it
//! did. It never holds a body, and looks at no request's meaning beyond its method and query.

mod body;
mod line;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::Random;
use crate::acceptor::Acceptor;
use body::{Changed, Turn};
use line::{Line, break_off};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, Failure>;

/// Something that goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset, and the server never hears of it.
    ResetBefore,
    /// The connection is reset somewhere in the body, that of the request if it has one, else that of the answer.
    ResetWithin,
    /// It takes effect, and the connection is reset in place of the answer.
    LostReply,
    /// 503, `SlowDown`; the server never hears of it.
    SlowDown,
    /// The answer ends somewhere in its body, and the connection in good order. Of `GET`.
    Truncated,
    /// Somewhere in the body nothing moves for a while; then it goes on. Of `GET`, and of requests with a body.
    Stalled,
    /// One bit of the answer's body is another. Of `GET`.
    FlippedAnswer,
    /// One bit of the request's body is another. Of requests with a body, but not of those that are XML.
    FlippedRequest,
    /// 200 with an error as its body; the server never hears of it. Of `CompleteMultipartUpload`.
    ErrorIn200,
    /// 403, `AccessDenied`; the server never hears of it, as of the next three.
    Forbidden,
    /// 408, `RequestTimeout`.
    TimedOut,
    /// 429, `TooManyRequests`.
    TooMany,
    /// 500, `InternalError`.
    Broken,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 13] = [
        Fault::ResetBefore,
        Fault::ResetWithin,
        Fault::LostReply,
        Fault::SlowDown,
        Fault::Truncated,
        Fault::Stalled,
        Fault::FlippedAnswer,
        Fault::FlippedRequest,
        Fault::ErrorIn200,
        Fault::Forbidden,
        Fault::TimedOut,
        Fault::TooMany,
        Fault::Broken,
    ];

    fn can_happen_to(self, request: &Parts, length: u64) -> bool {
        let (get, xml) = (request.method == Method::GET, request.method == Method::POST);
        match self {
            Fault::ResetBefore | Fault::LostReply => true,
            Fault::SlowDown | Fault::Forbidden | Fault::TimedOut | Fault::TooMany | Fault::Broken => true,
            Fault::ResetWithin | Fault::Stalled => get || length > 0,
            Fault::Truncated | Fault::FlippedAnswer => get,
            Fault::FlippedRequest => length > 0 && !xml,
            Fault::ErrorIn200 => xml && asks(&request.uri, "uploadId="),
        }
    }
}

fn asks(uri: &Uri, name: &str) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with(name)))
}

/// The proxy, as it shall be. Without more than that it changes nothing.
pub struct S3Faults {
    server: SocketAddr,
    chances: Vec<(Fault, f64)>,
    stall: Duration,
    seed: u64,
    /// By how much the server's clock is ahead of the client's.
    ahead: Option<Duration>,
}

/// A request may be signed so long before or after it arrives:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html>.
const SKEW: Duration = Duration::from_secs(15 * 60);

impl S3Faults {
    /// In front of that server.
    pub fn to(server: SocketAddr) -> Self {
        S3Faults { server, chances: Vec::new(), stall: Duration::from_secs(60), seed: 1, ahead: None }
    }

    /// How likely the fault is for a request that it can happen to, from 0 to 1; all together at most 1.
    pub fn chance(mut self, fault: Fault, chance: f64) -> Self {
        self.chances.push((fault, chance));
        self
    }

    /// How long something that stalls stands still. 60 seconds at first.
    pub fn stall(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }

    /// The server's clock is so far ahead of the client's: its answers say so, and a request that is signed for another
    /// time is refused.
    pub fn clock_ahead(mut self, by: Duration) -> Self {
        self.ahead = Some(by);
        self
    }

    /// Another series of chances. The same ones come in the same order, but not always to the same request.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Opens it, on a thread of its own.
    pub fn open(self) -> OpenS3Faults {
        let shared = Arc::new(Shared {
            random: Mutex::new(Random::new(self.seed)),
            always: Mutex::default(),
            orders: Mutex::default(),
            requests: AtomicU64::new(0),
            done: Default::default(),
            settings: self,
        });
        let proxy = shared.clone();
        let acceptor = Acceptor::start(move || {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let server = Client::builder(TokioExecutor::new()).set_host(false).build(connector);
            move |stream| serve(proxy.clone(), server.clone(), stream)
        });
        OpenS3Faults { acceptor, shared }
    }
}

/// A proxy that is open until this is dropped; then its connections are closed.
pub struct OpenS3Faults {
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

impl OpenS3Faults {
    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    /// The same as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The fault happens to the next request that this is true of: of its method, and its path with its query. What is
    /// ordered comes before chance, in the order of orders.
    pub fn next(&self, fault: Fault, of: impl Fn(&Method, &str) -> bool + Send + 'static) {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).push((fault, Box::new(of)));
    }

    /// The fault happens to every request that this is true of, before what is ordered, until [`relent`](Self::relent).
    pub fn always(&self, fault: Fault, of: impl Fn(&Method, &str) -> bool + Send + 'static) {
        *self.shared.always.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, Box::new(of)));
    }

    /// Nothing happens always any more.
    pub fn relent(&self) {
        *self.shared.always.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Faults that are ordered and have not found their request.
    pub fn left(&self) -> usize {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How often it has happened.
    pub fn count(&self, fault: Fault) -> u64 {
        self.shared.done[fault as usize].load(Ordering::Relaxed)
    }

    /// Requests that have come.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

type Meant = Box<dyn Fn(&Method, &str) -> bool + Send>;

/// What the proxy's thread and its owner have in common.
struct Shared {
    settings: S3Faults,
    random: Mutex<Random>,
    always: Mutex<Option<(Fault, Meant)>>,
    orders: Mutex<Vec<(Fault, Meant)>>,
    requests: AtomicU64,
    done: [AtomicU64; Fault::ALL.len()],
}

impl Shared {
    /// What happens to a request, and a number that says where.
    fn draw(&self, request: &Parts, length: u64) -> (Option<Fault>, u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.uri.path_and_query().map_or("", |path| path.as_str());
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let always = self.always.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((fault, _)) = always.as_ref().filter(|(_, meant)| meant(&request.method, path)) {
            return (Some(*fault), random.bits());
        }
        drop(always);
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = orders.iter().position(|(_, meant)| meant(&request.method, path)) {
            return (Some(orders.remove(first).0), random.bits());
        }
        let mut left = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        for (fault, chance) in &self.settings.chances {
            if fault.can_happen_to(request, length) {
                if left < *chance {
                    return (Some(*fault), random.bits());
                }
                left -= chance;
            }
        }
        (None, 0)
    }

    fn happened(&self, fault: Fault) {
        self.done[fault as usize].fetch_add(1, Ordering::Relaxed);
    }
}

async fn serve(shared: Arc<Shared>, server: Server, stream: TcpStream) {
    let broken = Arc::new(AtomicBool::new(false));
    let line = Line { stream, broken: broken.clone() };
    let answer = |request| timed(shared.clone(), server.clone(), broken.clone(), request);
    // How a connection ends is the client's matter, or was ours.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(line), service_fn(answer)).await;
}

type Server = Client<HttpConnector, AnyBody>;

/// By the server's clock.
async fn timed(
    shared: Arc<Shared>,
    server: Server,
    broken: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Result<Response<AnyBody>, Failure> {
    let Some(ahead) = shared.settings.ahead else { return answer(shared, server, broken, request).await };
    let now = SystemTime::now() + ahead;
    let off = match now.duration_since(signed(&request)?) {
        Ok(before) => before,
        Err(after) => after.duration(),
    };
    let mut response = if off > SKEW {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let text = "The difference between the request time and the current time is too large.";
        document(StatusCode::FORBIDDEN, "", "RequestTimeTooSkewed", text)
    } else {
        answer(shared, server, broken, request).await?
    };
    response.headers_mut().insert(DATE, HeaderValue::from_str(&httpdate::fmt_http_date(now))?);
    Ok(response)
}

/// When it was signed, as in `20301231T235959Z`.
fn signed(request: &Request<Incoming>) -> Result<SystemTime, Failure> {
    let date = request.headers().get("x-amz-date").ok_or("a request without a date")?.to_str()?;
    let part = |range| date.get(range).ok_or("a date that is too short");
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15)?);
    Ok(humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))?)
}

async fn answer(
    shared: Arc<Shared>,
    server: Server,
    broken: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Result<Response<AnyBody>, Failure> {
    let (parts, mut body) = request.into_parts();
    let (fault, place) = shared.draw(&parts, body.size_hint().lower());
    let turn = |fault| Turn { fault, place, shared: shared.clone(), broken: broken.clone() };
    let in_request = match fault {
        Some(Fault::ResetBefore) => {
            shared.happened(Fault::ResetBefore);
            return Err(break_off(&broken));
        }
        Some(refused) if refusal(refused).is_some() => {
            // To answer while it still sends would often break the connection, and so be another fault.
            while let Some(frame) = body.frame().await {
                frame?;
            }
            shared.happened(refused);
            return refusal(refused).ok_or_else(|| "no refusal".into());
        }
        Some(within @ (Fault::ResetWithin | Fault::Stalled)) if body.size_hint().lower() > 0 => Some(within),
        Some(Fault::FlippedRequest) => Some(Fault::FlippedRequest),
        _ => None,
    };
    let meant = parts.method == Method::GET;
    let length = body.size_hint().lower();
    let answered = server.request(forward(&shared, parts, Changed::of(body, length, in_request.map(&turn)))?).await?;
    let (mut head, body) = answered.into_parts();
    head.headers.remove(CONNECTION);
    if fault == Some(Fault::LostReply) {
        shared.happened(Fault::LostReply);
        return Err(break_off(&broken));
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
    let in_answer = fault.filter(|_| meant && in_request.is_none() && head.status.is_success());
    Ok(Response::from_parts(head, Changed::of(body, length, in_answer.map(turn))))
}

/// The request as it goes on.
fn forward(shared: &Shared, mut parts: Parts, body: AnyBody) -> Result<Request<AnyBody>, Failure> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = format!("http://{}{path}", shared.settings.server).parse()?;
    // These are between neighbours; the client has been told to continue.
    parts.headers.remove(CONNECTION);
    parts.headers.remove(EXPECT);
    Ok(Request::from_parts(parts, body))
}

/// The answer to a request that is refused.
fn refusal(fault: Fault) -> Option<Response<AnyBody>> {
    let (status, code, text) = match fault {
        Fault::SlowDown => (503, "SlowDown", "Please reduce your request rate."),
        Fault::Forbidden => (403, "AccessDenied", "Access Denied"),
        Fault::TimedOut => (408, "RequestTimeout", "Your socket connection was not read from or written to in time."),
        Fault::TooMany => (429, "TooManyRequests", "Please reduce your request rate."),
        Fault::Broken => (500, "InternalError", "We encountered an internal error. Please try again."),
        Fault::ErrorIn200 => (200, "InternalError", "We encountered an internal error. Please try again."),
        _ => return None,
    };
    // S3 sends white space as long as it is at work.
    let space = if status == 200 { " \n \n" } else { "" };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Some(document(status, space, code, text))
}

/// An error as S3 spells it.
fn document(status: StatusCode, space: &str, code: &str, text: &str) -> Response<AnyBody> {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{space}<Error><Code>{code}</Code><Message>{text}</Message>\
         <RequestId>1</RequestId><HostId>1</HostId></Error>"
    );
    let document = Full::new(Bytes::from(document)).map_err(|never: Infallible| match never {});
    let mut response = Response::new(document.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
