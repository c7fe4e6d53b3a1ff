//! A small HTTP client (RFC 9112): one request a connection, so that a test says exactly what is sent.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_mins(1);

/// A request that is made up.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it a body of a type.
    #[must_use]
    pub fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self.header("content-type", kind)
    }

    /// Gives it a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Request {
        self.body("application/json", body.to_string())
    }

    /// Sends it and reads the whole answer.
    pub async fn send(&self, address: &str) -> Result<Response> {
        let sent = async {
            let mut stream = self.open(address).await?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await?;
            Response::parse(&bytes)
        };
        let what = || format!("{} {}", self.method, self.target);
        tokio::time::timeout(PATIENCE, sent)
            .await
            .with_context(|| format!("{}: no answer", what()))?
            .with_context(what)
    }

    /// Sends it and leaves the answer to the caller, for one that has no end.
    pub async fn open(&self, address: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        let mut head = format!(
            "{} {} HTTP/1.1\r\nconnection: close\r\n",
            self.method, self.target
        );
        let has = |wanted: &str| self.headers.iter().any(|(name, _)| name == wanted);
        if !has("host") {
            write!(head, "host: {address}\r\n")?;
        }
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n")?;
        }
        write!(head, "content-length: {}\r\n\r\n", self.body.len())?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        Ok(stream)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, its framing removed.
    pub body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8]) -> Result<Response> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.context("the answer has no end of its head")?;
        let (head, body) = bytes.split_at(end);
        let body = body.get(4..).unwrap_or_default();
        let head = std::str::from_utf8(head)?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.context("no status")?.parse()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let is_chunked = headers
            .iter()
            .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked {
            joined(body)?
        } else {
            body.to_vec()
        };
        Ok(Response {
            status,
            headers,
            body,
        })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// The body of a chunked message (RFC 9112, section 7.1).
fn joined(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n");
        let (size, rest) = bytes.split_at(end.context("a chunk has no size")?);
        let size = std::str::from_utf8(size)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        let rest = rest.get(2..).unwrap_or_default();
        if size == 0 {
            return Ok(body);
        }
        if rest.len() < size + 2 {
            bail!("a chunk is cut off");
        }
        body.extend_from_slice(rest.get(..size).unwrap_or_default());
        bytes = rest.get(size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_both_framings() {
        let plain = b"HTTP/1.1 404 Not Found\r\nX-A: b \r\ncontent-length: 2\r\n\r\n{}";
        let answer = Response::parse(plain).unwrap();
        assert_eq!((answer.status, answer.header("x-a")), (404, Some("b")));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n";
        assert_eq!(Response::parse(chunked).unwrap().text(), "[1,2]");
    }
}
