//! Requests to hosts that others name: which of them may be reached, and the connector that reaches just those.
//!
//! It owns the guard against being led into the network that a worker stands in, and the one TLS stack. It promises that
//! no connection is made to an address that the guard has not seen. It sends nothing by itself: webhooks and downloads do.

mod connect;
mod guard;
mod network;
#[cfg(test)]
pub(crate) mod tricks;

use std::sync::Arc;

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use rustls::ClientConfig;
use rustls::crypto::ring;

pub use connect::Resolve;
pub(crate) use connect::System;
pub use guard::Guard;
pub(crate) use guard::{Refused, shown};
pub use network::Network;

/// Connections over TCP or TLS to where a guard allows.
pub(crate) type Connector = HttpsConnector<connect::Dialler>;

/// TLS 1.2 or 1.3 with the roots of Mozilla, whatever is installed.
pub(crate) fn public_roots() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_webpki_roots()
        .with_no_client_auth()
}

/// A connector for clients that speak HTTP/1.1. No proxy is taken from the environment.
pub(crate) fn connector(guard: Guard, resolver: Arc<dyn Resolve>, tls: ClientConfig) -> Connector {
    let dialler = connect::Dialler { guard, resolver };
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(dialler)
}
