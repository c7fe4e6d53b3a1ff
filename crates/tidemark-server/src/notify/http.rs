//! One request to a receiver: to an address that was looked at, over TLS that is verified, within a time,
//! and nothing of the answer is read but its head.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tidemark_core::catalogue::codes;
use tidemark_core::config::HttpUrl;
use tidemark_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::reach::{Reach, unreachable};

/// How long all of it may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long a receiver may have us wait for the next attempt.
const RETRY_AFTER_MAX: u64 = 3_600;

/// What goes out.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

/// Why nothing was taken.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: Error,
    /// How long the receiver wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused {
            error,
            retry_after: None,
        }
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Client {
    pub(super) reach: Reach,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Client {
    pub(super) fn new(reach: Reach) -> Client {
        Client {
            reach,
            tls: OnceLock::new(),
        }
    }

    /// Sends it. `Ok` is the status of a receiver that took it.
    pub(super) async fn post(&self, url: &HttpUrl, message: Outgoing) -> Result<u16, Refused> {
        let sent = tokio::time::timeout(ANSWER_WITHIN, self.send(url, message)).await;
        let (status, headers) = sent.unwrap_or_else(|_| {
            let text = format!(
                "{}: no answer within {} s",
                url.host,
                ANSWER_WITHIN.as_secs()
            );
            Err(unreachable(text))
        })?;
        judge(url, status, &headers)
    }

    async fn send(&self, url: &HttpUrl, message: Outgoing) -> Result<(StatusCode, HeaderMap)> {
        let request = request(url, message)?;
        let stream = self.reach.connect(&url.host, url.port).await?;
        if !url.is_tls {
            return exchange(url, stream, request).await;
        }
        let stream = self.secure(&url.host, stream).await?;
        exchange(url, stream, request).await
    }

    /// Begins TLS with a host, whose certificate has to be valid for its name.
    pub(super) async fn secure(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|err| unreachable(format!("{host}: {err}")))?;
        let stream = TlsConnector::from(self.tls()?).connect(name, stream).await;
        stream.map_err(|err| unreachable(format!("TLS with {host}: {err}")))
    }

    /// TLS with the system's authorities, read when they are needed first.
    fn tls(&self) -> Result<Arc<ClientConfig>> {
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|err| unreachable(format!("TLS cannot be set up: {err}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

fn request(url: &HttpUrl, message: Outgoing) -> Result<Request<Body>> {
    let wrong = |what: &str| Error::definite(codes::NOTIFY_REFUSED, what);
    let mut request = Request::new(Body::from(message.body));
    *request.method_mut() = Method::POST;
    let path = url.path.expose().parse();
    *request.uri_mut() = path.map_err(|_| wrong("the address cannot be sent"))?;
    let agent = concat!("tidemark/", env!("CARGO_PKG_VERSION"));
    let fixed = [
        (header::HOST, url.authority()),
        (header::USER_AGENT, agent.to_owned()),
        (header::CONTENT_TYPE, message.content_type.to_owned()),
        (header::CONNECTION, "close".to_owned()),
    ];
    let more = message.headers.into_iter();
    let more = more.map(|(name, value)| (HeaderName::from_static(name), value));
    for (name, value) in fixed.into_iter().chain(more) {
        let value = HeaderValue::try_from(value).map_err(|_| wrong("a header cannot be sent"))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

async fn exchange(
    url: &HttpUrl,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Body>,
) -> Result<(StatusCode, HeaderMap)> {
    let broken = |err: hyper::Error| unreachable(format!("{}: {err}", url.host));
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(broken)?;
    let (mut connection, mut answer) = (pin!(connection), pin!(sender.send_request(request)));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // Its end wakes whoever waits for the answer.
        _ = &mut connection => answer.await,
    };
    let (head, _) = answer.map_err(broken)?.into_parts();
    Ok((head.status, head.headers))
}

fn judge(url: &HttpUrl, status: StatusCode, headers: &HeaderMap) -> Result<u16, Refused> {
    if status.is_success() {
        return Ok(status.as_u16());
    }
    let text = format!("{} answered {}", url.host, status.as_u16());
    let comes_back = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if !comes_back {
        return Err(Error::definite(codes::NOTIFY_REFUSED, text).into());
    }
    let wanted = headers.get(header::RETRY_AFTER);
    let wanted = wanted.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    Err(Refused {
        error: Error::transient(codes::NOTIFY_REFUSED, text),
        retry_after: wanted.map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_MAX))),
    })
}
