//! A receiver of HTTP requests, as what stands at the other end of a webhook: keeps all that comes, and
//! answers as a test has it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and target.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
}

impl Received {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it is signed as Standard Webhooks says, over id, time and body, with the secret as it stands.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let part = |name: &str| self.header(name).unwrap_or_default().to_owned();
        let mut signed =
            format!("{}.{}.", part("webhook-id"), part("webhook-timestamp")).into_bytes();
        signed.extend_from_slice(&self.body);
        let digest = STANDARD.encode(hmac_sha256(secret.as_bytes(), &signed));
        self.header("webhook-signature") == Some(format!("v1,{digest}").as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the body is no JSON")
    }
}

/// RFC 2104, for keys that are no longer than a block.
fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let padded = |with: u8| (0..64).map(move |at| key.get(at).copied().unwrap_or(0) ^ with);
    let inner = Sha256::new()
        .chain_update(padded(0x36).collect::<Vec<u8>>())
        .chain_update(text)
        .finalize();
    let outer = Sha256::new()
        .chain_update(padded(0x5c).collect::<Vec<u8>>())
        .chain_update(inner);
    outer.finalize().to_vec()
}

#[derive(Default)]
struct Inner {
    received: Vec<Received>,
    /// What follows `HTTP/1.1 ` in the next answers; the last one stays.
    answers: Vec<String>,
}

/// See the module's text.
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Listens on this machine, and answers 204.
    pub async fn start() -> Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let inner: Arc<Mutex<Inner>> = Arc::default();
        let kept = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move { drop(answer(stream, &kept).await) });
            }
        });
        Ok(Receiver {
            address,
            inner,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the next answers are, such as `503 Busy\r\nretry-after: 1`; the last one stays.
    pub fn answer(&self, answers: &[&str]) {
        self.lock().answers = answers.iter().map(|text| (*text).to_owned()).collect();
    }

    /// All that came so far.
    pub fn received(&self) -> Vec<Received> {
        self.lock().received.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, inner: &Mutex<Inner>) -> Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            break end;
        }
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "no head");
    };
    let head = String::from_utf8(bytes.drain(..end + 4).collect())?;
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let mut received = Received {
        line,
        headers: headers.collect(),
        body: Vec::new(),
    };
    let length = received.header("content-length").unwrap_or("0");
    let length: usize = length.parse()?;
    while bytes.len() < length {
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "no body");
    }
    received.body = bytes;
    let said = {
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.received.push(received);
        if inner.answers.len() > 1 {
            inner.answers.remove(0)
        } else {
            let last = inner.answers.first();
            last.map_or_else(|| "204 No Content".to_owned(), Clone::clone)
        }
    };
    let text = format!("HTTP/1.1 {said}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
