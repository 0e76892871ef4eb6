//! How calls reach a store: HTTP/1.1 over TCP, or over TLS with the roots of Mozilla or of one's own, one connection a call at a time.
//!
//! It owns the connections. What it adds to the SDK's own client is that little waits in the kernel to be sent, so that
//! what a body gives is what the link takes: only so can a stalled part be told from a slow one.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error::{Classify, Context as _, Error, Result};

/// To open a connection to one of a name's addresses.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A connection without use is closed: home routers forget theirs without telling.
const IDLE: Duration = Duration::from_secs(20);
/// Bytes of one connection that may wait in the kernel beyond what is on its way. It asks for more when half of them are
/// gone: ten connections of a link of 0.3 Mbit/s still do so every few seconds.
const UNSENT: u32 = 32 << 10;
/// Bytes of one connection that may wait in this process, each way.
pub(super) const BUFFER: usize = 256 << 10;

/// The HTTP client of a store.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client<HttpsConnector<Dial>, SdkBody>,
}

impl Wire {
    /// Trusts those certificates of authorities that a PEM file has, where there is one, instead of Mozilla's.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why| Error::failed(format_args!("TLS: {why}")))?;
        let tls = match authorities {
            Some(file) => tls.with_root_certificates(roots(file)?),
            None => tls.with_webpki_roots(),
        };
        let tls = tls.with_no_client_auth();
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        let dial = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_buf_size(BUFFER)
            .build(dial.wrap_connector(Dial(tcp)));
        Ok(Wire { client })
    }
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let read = || {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).or_invalid()? {
            roots.add(certificate.or_invalid()?).or_invalid()?;
        }
        match roots.is_empty() {
            true => Err(Error::invalid("it holds no certificate: want PEM")),
            false => Ok(roots),
        }
    };
    read().with_context(|| format!("AWS_CA_BUNDLE, {}", file.display()))
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|why| ConnectorError::user(why.into()))?;
            let response = client.request(request).await.map_err(|why| ConnectorError::io(why.into()))?;
            let response = response.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|why| ConnectorError::other(why.into(), None))
        })
    }
}

/// Opens connections.
#[derive(Clone)]
struct Dial(Tcp);

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let stream = connecting.await?;
            // Without it parts are only told later that they are slow.
            let _ = SockRef::from(stream.inner()).set_tcp_notsent_lowat(UNSENT);
            Ok(stream)
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    #[test]
    fn authorities_of_ones_own_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("good.pem"), folder.path().join("bad.pem"));
        let own = || {
            let own = rcgen::generate_simple_self_signed(["store.example".to_owned()]).unwrap();
            let text = BASE64_STANDARD.encode(own.cert.der());
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        std::fs::write(&good, own() + &own()).unwrap();
        std::fs::write(&bad, "no certificate").unwrap();
        assert_eq!(roots(&good).unwrap().len(), 2);
        assert!(Wire::new(Some(&good)).is_ok());
        for file in [bad, folder.path().join("missing")] {
            let why = Wire::new(Some(&file)).unwrap_err();
            assert!(why.to_string().contains(&file.display().to_string()), "{why}");
        }
    }
}
