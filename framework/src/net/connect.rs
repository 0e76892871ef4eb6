//! How a request gets its connection: look the name up once, judge every address, dial just these.
//!
//! A name that is checked first and looked up again for the connection can change in between. So this connector is the
//! only one that looks up, and what it dials are the addresses that the guard has seen. One address that is refused
//! spoils the whole answer: an honest name does not mix. No proxy is taken from the environment.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::guard::{Guard, Host, Refused};
use crate::error::{Classify, Result};

/// Longest time to look a name up, and again to dial all of its addresses.
const WITHIN: Duration = Duration::from_secs(5);
/// Each address gets its part of that, but no less than this.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Looks names up; the default asks the operating system.
///
/// One question is asked per connection, and what is answered is judged by the guard, so an implementation need not
/// judge. Its future may be dropped at any time.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not look names up",
    note = "a resolver has `fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>>>`"
)]
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`, a DNS name in ASCII, perhaps with a dot at its end. Any error counts as passing.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system, on tokio's threads for blocking calls.
pub(crate) struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await.or_transient()?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// The connector of the HTTP client: a TCP connection to where the guard allows.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(super) guard: Guard,
    pub(super) resolver: Arc<dyn Resolve>,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl Dialler {
    async fn connect(self, url: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let target = self.guard.target(&url)?;
        let addresses = match target.host {
            Host::Address(address) => vec![address],
            Host::Name(name) => {
                let found = timeout(WITHIN, self.resolver.resolve(name))
                    .await
                    .map_err(|_| "looking its name up takes too long")?;
                found.map_err(|error| format!("looking its name up: {error}"))?
            }
        };
        if !addresses.iter().all(|address| self.guard.allows(*address)) {
            return Err(
                Refused::new(&url, "has an address that is not public, nor in a network of Guard::open_to").into()
            );
        }
        let dial = async {
            let each = AT_LEAST.max(WITHIN / addresses.len().max(1) as u32);
            let mut why = BoxError::from("its name has no address");
            for address in &addresses {
                match timeout(each, TcpStream::connect((*address, target.port))).await {
                    Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                    Ok(Err(error)) => why = error.into(),
                    Err(_) => why = "an address does not answer".into(),
                }
            }
            Err(why)
        };
        timeout(WITHIN, dial).await.map_err(|_| "none of its addresses answers")?
    }
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}
