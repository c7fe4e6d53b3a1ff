//! One request to a server and the whole of its answer (RFC 9112), over TLS where its address says so.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a connection may take, and an answer: servers answer within half a minute.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// Bytes of an answer.
const ANSWER_MAX: usize = 64 << 20;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    is_tls: bool,
    host: String,
    port: u16,
    /// As it was written.
    shown: String,
}

/// What is asked.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: String,
}

/// What is answered.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Address {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    pub(crate) fn parse(text: &str) -> Result<Address, String> {
        const FORM: &str = "write http://HOST:PORT or https://HOST:PORT, with nothing behind it";
        let uri: Uri = text.parse().map_err(|_| FORM.to_owned())?;
        let (is_tls, usual) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(FORM.to_owned()),
        };
        let host = uri.host().unwrap_or_default();
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_user = uri.authority().is_some_and(|at| at.as_str().contains('@'));
        if host.is_empty() || !is_bare || has_user {
            return Err(FORM.to_owned());
        }
        Ok(Address {
            is_tls,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(usual),
            shown: text.trim_end_matches('/').to_owned(),
        })
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn unreachable(&self, why: impl std::fmt::Display) -> Error {
        Error::transient(codes::SERVER_UNREACHABLE, format!("{}: {why}", self.shown))
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask(&self, asked: Asked) -> Result<Answered> {
        let place = (self.host.trim_matches(['[', ']']), self.port);
        let connected = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(place)).await;
        let stream = connected.map_err(|_| self.unreachable("no connection in time"))?;
        let stream = stream.map_err(|err| self.unreachable(err))?;
        let request = self.request(asked)?;
        let answer = async {
            if !self.is_tls {
                return self.exchange(stream, request).await;
            }
            let name = ServerName::try_from(place.0.to_owned());
            let name = name.map_err(|err| self.unreachable(err))?;
            let connector = TlsConnector::from(self.tls()?);
            let stream = connector.connect(name, stream).await;
            let stream = stream.map_err(|err| self.unreachable(format!("TLS: {err}")))?;
            self.exchange(stream, request).await
        };
        let answered = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        answered.map_err(|_| self.unreachable("no answer in time"))?
    }

    fn request(&self, asked: Asked) -> Result<Request<String>> {
        let wrong = |what: &str| Error::definite(codes::CLI_USAGE, what);
        let mut request = Request::new(asked.body);
        *request.method_mut() = asked.method;
        let target = asked.target.parse();
        *request.uri_mut() = target.map_err(|_| wrong("this name cannot be sent"))?;
        let usual = [
            (header::HOST, format!("{}:{}", self.host, self.port)),
            (
                header::USER_AGENT,
                concat!("tidemark/", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
            (header::CONNECTION, "close".to_owned()),
        ];
        for (name, value) in usual.into_iter().chain(asked.headers) {
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| wrong("a token or name has signs that cannot be sent"))?;
            value.set_sensitive(name == header::AUTHORIZATION);
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<String>,
    ) -> Result<Answered> {
        let broken = |err: hyper::Error| self.unreachable(err);
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(broken)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = answer.into_parts();
            Ok(Answered {
                status: head.status,
                headers: head.headers,
                body: self.whole(body).await?,
            })
        };
        let (mut connection, mut answer) = (pin!(connection), pin!(answer));
        tokio::select! {
            answer = &mut answer => answer,
            // Its end wakes whoever waits for the answer.
            _ = &mut connection => answer.await,
        }
    }

    async fn whole(&self, mut body: Incoming) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|err| self.unreachable(err))?;
            if let Ok(data) = frame.into_data() {
                whole.extend_from_slice(&data);
            }
            if whole.len() > ANSWER_MAX {
                return Err(self.unreachable("the answer does not end"));
            }
        }
        Ok(whole)
    }

    /// TLS with the system's authorities.
    fn tls(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|err| self.unreachable(err))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (text, host, port) in [
            ("http://localhost:7070", "localhost", 7070),
            ("https://tidemark.example/", "tidemark.example", 443),
            ("http://[::1]:7070", "[::1]", 7070),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
        }
        for wrong in [
            "localhost:7070",
            "ftp://a",
            "http://",
            "http://a/api",
            "http://a/?x",
            "http://me:secret@a",
            "",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
