//! One connection: its socket, its buffers, and the moving of bytes.
//!
//! Everything that reads or writes goes through [`Connection::poll_progress`], which writes what is
//! queued and reads what is there in one step. That is what makes deep pipelines safe: while the
//! server's receive buffer is full of our statements, its answers are taken off its hands.
//!
//! Cancel-safety: bytes read or written are accounted for in the struct, never in a future, so any
//! future here may be dropped between polls. What may be left behind is an answer half read;
//! [`Connection::begin_request`] refuses to go on in that case.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tidemark_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::frame::{self, Header, Reader};
use super::{ServerError, Stream};
use crate::config::{ConnectConfig, Side};
use crate::error;

/// The least room offered to a read.
const READ_MIN: usize = 16 * 1024;

/// Notifications that wait to be taken; they wake, so one of so many more or less says nothing new.
const NOTIFICATIONS_MAX: usize = 1_000;
/// Settings that a server reports of itself; PostgreSQL has some fifteen.
const PARAMETERS_MAX: usize = 1_000;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Queries and COPY.
    Ordinary,
    /// The above (simple protocol only) and logical replication (`replication=database`).
    Replication,
}

/// Where the session stands, from `ReadyForQuery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Outside a transaction.
    Idle,
    /// Inside one.
    Open,
    /// Inside one that can only be rolled back.
    Failed,
}

/// What `NOTIFY` sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The channel.
    pub channel: String,
    /// Empty if none was given.
    pub payload: String,
    /// The server process that sent it.
    pub pid: u32,
}

/// What start-up found out about the session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) pid: u32,
    pub(crate) cancel_key: u32,
    pub(crate) parameters: HashMap<String, String>,
    pub(crate) pooled: bool,
    /// Which of the URL's hosts answered, to cancel at the same place.
    pub(crate) host_index: usize,
}

/// A connection to one server. Dropping it closes the socket; [`Connection::close`] says goodbye.
pub struct Connection {
    pub(super) stream: Stream,
    pub(super) side: Side,
    pub(super) config: ConnectConfig,
    pub(super) session: Session,
    pub(super) inbound: BytesMut,
    pub(super) outbound: BytesMut,
    /// How much of `outbound` is written.
    pub(super) written: usize,
    /// Values that go out behind so many bytes of `outbound`, where they need no copy.
    attached: VecDeque<(usize, Bytes)>,
    /// Kept while the server's last words are still read.
    write_error: Option<io::Error>,
    /// `ReadyForQuery` messages still to come.
    pub(super) ready_expected: usize,
    pub(super) status: TransactionStatus,
    notifications: VecDeque<Notification>,
    frame_limit: usize,
}

impl Connection {
    pub(crate) fn new(stream: Stream, config: &ConnectConfig, frame_limit: usize) -> Connection {
        Connection {
            stream,
            side: config.side,
            config: config.clone(),
            session: Session::default(),
            inbound: BytesMut::with_capacity(READ_MIN),
            outbound: BytesMut::new(),
            written: 0,
            attached: VecDeque::new(),
            write_error: None,
            ready_expected: 0,
            status: TransactionStatus::Idle,
            notifications: VecDeque::new(),
            frame_limit,
        }
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    pub(crate) fn outbound_mut(&mut self) -> &mut BytesMut {
        &mut self.outbound
    }

    /// From start-up limits to those of a session.
    pub(crate) fn lift_frame_limit(&mut self) {
        self.frame_limit = frame::FRAME_MAX;
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn inbound_capacity(&self) -> usize {
        self.inbound.capacity()
    }

    /// Which end of the pipeline it belongs to.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The server process of this session. Wrong behind a pooler.
    pub fn pid(&self) -> u32 {
        self.session.pid
    }

    /// Whether another program than the server answered at start-up (PgBouncer and the like).
    pub fn is_pooled(&self) -> bool {
        self.session.pooled
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// What SCRAM binds to: the hash of the server's certificate.
    pub(crate) fn server_end_point(&self) -> Option<Vec<u8>> {
        let Stream::Tls(stream) = &self.stream else {
            return None;
        };
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        crate::tls::server_end_point(certificate)
    }

    /// A setting that the server reports by itself (`server_version`, `server_encoding`, …).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.session.parameters.get(name).map(String::as_str)
    }

    /// As `server_version_num`: 150004 for 15.4; 0 if the server's text is not understood.
    pub fn server_version(&self) -> u32 {
        self.parameter("server_version").map_or(0, parse_version)
    }

    /// Where the session stood at the end of the last answer.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Ends the session politely. Errors are of no interest any more.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.outbound);
        if self.flush().await.is_ok() {
            drop(tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await);
        }
    }

    /// Refuses to start a request while an earlier answer is unread.
    pub(super) fn begin_request(&self) -> Result<()> {
        if self.ready_expected == 0 {
            return Ok(());
        }
        Err(error::protocol(
            self.side,
            "the connection was left in the middle of a request",
        ))
    }

    /// Writes all that is queued, reading answers meanwhile.
    pub async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| {
            loop {
                if self.poll_write(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                // Blocked by a full socket: the server may be waiting for us to read.
                match self.poll_read(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Writes what can be written and reads what is there; ready once something was read.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.poll_write(cx).is_pending() {
            tracing::trace!("socket full, reading answers");
        }
        self.poll_read(cx)
    }

    /// Ready when nothing is left to write. A broken pipe counts as written: what the server said
    /// before it closed is still to be read, and reading then ends with the error.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.write_error.is_none() {
            let next = self.attached.front().map(|(at, _)| *at);
            let until = next.unwrap_or(self.outbound.len());
            let rest = match self.attached.front() {
                Some((at, value)) if *at == self.written => &value[..],
                _ if self.written < until => &self.outbound[self.written..until],
                _ => break,
            };
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.note_written(count),
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.attached.clear();
        self.outbound.clear();
        self.written = 0;
        if self.write_error.is_none() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn note_written(&mut self, count: usize) {
        match self.attached.front_mut() {
            Some((at, value)) if *at == self.written => {
                value.advance(count);
                if value.is_empty() {
                    self.attached.pop_front();
                }
            }
            _ => self.written += count,
        }
    }

    /// Queues the bytes of a value without a copy, behind what is in [`Connection::output`].
    pub fn attach(&mut self, value: Bytes) {
        if !value.is_empty() {
            self.attached.push_back((self.outbound.len(), value));
        }
    }

    /// Takes back what was queued since the output was so long.
    pub fn take_back(&mut self, len: usize) {
        self.outbound.truncate(len);
        // Nothing is attached to the very beginning of a message.
        self.attached.retain(|(at, _)| *at <= len);
    }

    /// Bytes queued and not yet taken by the socket.
    pub fn queued_bytes(&self) -> usize {
        let attached: usize = self.attached.iter().map(|(_, value)| value.len()).sum();
        self.outbound.len() - self.written + attached
    }

    /// Writes what is queued and then `bytes`, taking what was written off their front. Ready when
    /// all is written or something was read, which is worth a look before going on.
    pub(super) fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut &[u8],
    ) -> Poll<Result<()>> {
        let mut blocked = self.poll_write(cx).is_pending() || self.write_error.is_some();
        while !blocked && !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(count)) if count > 0 => *bytes = &bytes[count..],
                Poll::Pending => blocked = true,
                Poll::Ready(outcome) => {
                    let error = outcome
                        .err()
                        .unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    self.write_error = Some(error);
                    blocked = true;
                }
            }
        }
        match self.poll_read(cx) {
            Poll::Pending if !blocked => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// Makes the next read a large one. Room grows by what is asked for here, never by what a
    /// length of the server says.
    pub(super) fn make_room(&mut self, bytes: usize) {
        if self.inbound.capacity() - self.inbound.len() < bytes / 2 {
            self.inbound.reserve(bytes);
        }
    }

    /// Reads once into `inbound`.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.inbound.capacity() - self.inbound.len() < READ_MIN {
            self.inbound.reserve(READ_MIN);
        }
        let read = pin!(self.stream.read_buf(&mut self.inbound)).poll(cx);
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(match self.write_error.take() {
                Some(error) => error::lost(self.side, error),
                None => error::closed(self.side),
            })),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error::lost(self.side, error))),
        }
    }

    /// Waits until `inbound` starts with a whole message that is an answer. What servers send at
    /// any time (notices, settings, notifications) is taken out on the way.
    pub(crate) async fn answer(&mut self) -> Result<Header> {
        loop {
            if let Some(header) = self.buffered_answer()? {
                return Ok(header);
            }
            poll_fn(|cx| self.poll_progress(cx)).await?;
        }
    }

    /// [`Connection::answer`] out of what has been read already.
    pub(super) fn buffered_answer(&mut self) -> Result<Option<Header>> {
        loop {
            let found = frame::complete(&self.inbound, self.frame_limit);
            let Some(header) = found.map_err(|bad| error::protocol(self.side, bad))? else {
                return Ok(None);
            };
            if !matches!(header.tag, b'N' | b'S' | b'A') {
                return Ok(Some(header));
            }
            self.absorb(header);
        }
    }

    /// The body of the message at the front, leaving it there.
    pub(crate) fn body(&self, header: Header) -> &[u8] {
        &self.inbound[frame::HEADER_LEN..header.len]
    }

    /// Takes the message at the front off the buffer.
    pub(crate) fn skip(&mut self, header: Header) {
        self.inbound.advance(header.len);
    }

    /// Takes the message at the front off the buffer and gives its body.
    pub(super) fn take_body(&mut self, header: Header) -> Bytes {
        let mut message = self.inbound.split_to(header.len).freeze();
        message.advance(frame::HEADER_LEN);
        message
    }

    /// Notices, settings and notifications. Malformed ones are ignored, and those beyond what any server
    /// has to say: nothing hangs on them.
    fn absorb(&mut self, header: Header) {
        let body = self.body(header);
        match header.tag {
            b'N' => {
                let notice = ServerError::parse(body);
                tracing::debug!(side = %self.side, pid = self.session.pid, "{notice:?}");
            }
            b'S' => {
                let mut reader = Reader(body);
                if let (Some(name), Some(value)) = (reader.string(), reader.string()) {
                    let known = &mut self.session.parameters;
                    if known.len() < PARAMETERS_MAX || known.contains_key(&name) {
                        known.insert(name, value);
                    }
                }
            }
            _ => {
                let mut reader = Reader(body);
                if let (Some(pid), Some(channel), Some(payload)) =
                    (reader.u32(), reader.string(), reader.string())
                    && self.notifications.len() < NOTIFICATIONS_MAX
                {
                    self.notifications.push_back(Notification {
                        channel,
                        payload,
                        pid,
                    });
                }
            }
        }
        self.skip(header);
    }

    /// Waits for a notification (after `LISTEN`), outside of requests. Cancel-safe.
    pub async fn notification(&mut self) -> Result<Notification> {
        self.begin_request()?;
        loop {
            if let Some(header) = self.buffered_answer()? {
                return Err(match header.tag {
                    b'E' => self.refusal(header),
                    _ => self.unexpected(header),
                });
            }
            if let Some(notification) = self.notifications.pop_front() {
                return Ok(notification);
            }
            poll_fn(|cx| self.poll_progress(cx)).await?;
        }
    }

    /// The error for an `ErrorResponse` at the front.
    pub(crate) fn refusal(&mut self, header: Header) -> Error {
        let said = ServerError::parse(self.body(header));
        self.skip(header);
        error::classify(self.side, said)
    }

    /// The error for a message that does not belong here.
    pub(crate) fn unexpected(&self, header: Header) -> Error {
        let tag = char::from(header.tag).escape_default();
        error::protocol(self.side, format_args!("message '{tag}'"))
    }

    /// Notes the state that a `ReadyForQuery` reports.
    pub(super) fn note_ready(&mut self, header: Header) -> Result<TransactionStatus> {
        let status = match self.body(header) {
            b"I" => TransactionStatus::Idle,
            b"T" => TransactionStatus::Open,
            b"E" => TransactionStatus::Failed,
            _ => return Err(self.unexpected(header)),
        };
        self.skip(header);
        self.ready_expected = self.ready_expected.saturating_sub(1);
        self.status = status;
        Ok(status)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("side", &self.side)
            .field("address", &self.config.address())
            .field("pid", &self.session.pid)
            .finish_non_exhaustive()
    }
}

/// `15.4 (Debian 15.4-1)` is 150004, `9.6.24` 90624, `18beta1` 180000.
fn parse_version(text: &str) -> u32 {
    let number = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default();
    let mut parts = number
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let major = parts.next().unwrap_or(0).min(1000);
    let minor = parts.next().unwrap_or(0).min(99);
    let patch = parts.next().unwrap_or(0).min(99);
    if major >= 10 {
        major * 10_000 + minor
    } else {
        major * 10_000 + minor * 100 + patch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(parse_version("15.4 (Debian 15.4-1.pgdg120+1)"), 150_004);
        assert_eq!(parse_version("18beta1"), 180_000);
        assert_eq!(parse_version("9.6.24"), 90_624);
        assert_eq!(parse_version("unknown"), 0);
        assert_eq!(parse_version("99999999999.99999"), 9900);
    }
}
