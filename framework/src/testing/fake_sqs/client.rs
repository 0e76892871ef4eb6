//! The way from the AWS SDK to the fake within the process: no sockets, so that it works while tokio's clock is paused.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Config, Credentials, Region};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{Request, Response};

use super::FakeSqs;
use super::settings::REGION;

/// The one place of this crate where the SDK's types are public: who gives a client of the SDK this fake as its HTTP
/// client has a client of the fake. A request that is given up is dropped, as if its connection were closed.
impl HttpClient for FakeSqs {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for FakeSqs {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let fake = self.clone();
        HttpConnectorFuture::new(async move {
            let request = to_http(&request).map_err(|why| ConnectorError::user(why.into()))?;
            match fake.handle(request).await {
                Ok(response) => from_http(&response).map_err(|why| ConnectorError::other(why, None)),
                Err(broken) => Err(ConnectorError::io(broken.into())),
            }
        })
    }
}

impl FakeSqs {
    /// A client of the SDK that speaks to this fake, with the SDK's own timeouts and retries.
    pub fn client(&self) -> Client {
        Client::from_conf(self.config().build())
    }

    /// A client that calls once and never again.
    pub fn client_without_retries(&self) -> Client {
        Client::from_conf(self.config().retry_config(RetryConfig::disabled()).build())
    }

    fn config(&self) -> aws_sdk_sqs::config::Builder {
        Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(Self::ENDPOINT)
            .credentials_provider(Credentials::new("fake", "fake", None, None, "fake"))
            .http_client(self.clone())
    }
}

fn to_http(request: &HttpRequest) -> Result<Request<Bytes>, http::Error> {
    let mut built = Request::builder().method(request.method()).uri(request.uri());
    for (name, value) in request.headers().iter() {
        built = built.header(name, value);
    }
    // SQS has no streams: a body is always in memory.
    built.body(Bytes::copy_from_slice(request.body().bytes().unwrap_or_default()))
}

fn from_http(response: &Response<Bytes>) -> Result<HttpResponse, Box<dyn std::error::Error + Send + Sync>> {
    let status = StatusCode::try_from(response.status().as_u16())?;
    let mut built = HttpResponse::new(status, SdkBody::from(response.body().clone()));
    for (name, value) in response.headers() {
        built.headers_mut().insert(name.as_str().to_owned(), value.to_str()?.to_owned());
    }
    Ok(built)
}
