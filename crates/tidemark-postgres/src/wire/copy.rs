//! COPY in both directions, as the bytes that travel.
//!
//! [`CopyOut::next_block`] hands out CopyData messages with type byte and length; [`CopyIn::write_frames`]
//! sends such bytes as they are. Between two servers a row is thus never looked at, only its message's
//! length is (to count rows and to find the end).
//!
//! A server sends a message for each row and takes them cut anywhere (PostgreSQL 15, 55.2.6). Each
//! costs it some 60 ns to take, a fifteenth of its work where rows are small: so messages of small
//! rows are joined before they are handed out.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_core::{Error, Result};
use tokio::time::{Instant, Sleep, sleep};

use super::connection::Connection;
use super::frame;
use super::pipeline::{Format, Reply};
use crate::error;

/// A block is handed out when it holds this much,
const BLOCK_BYTES: usize = 256 * 1024;
/// or this much when the server has no more at the moment,
const BLOCK_BYTES_MIN: usize = 64 * 1024;
/// or anything at all when nothing more came for so long. Servers send 8 KiB at a time; passing
/// each on by itself would cost the threads behind more than the copying does.
const LINGER: Duration = Duration::from_millis(5);

/// Messages are joined up to this length: few enough, and still in the processor's cache when the
/// server, which reads 8 KiB at a time into a message, takes them apart.
const JOINED_BYTES: usize = 32 * 1024;

/// The 19 bytes in front of a binary COPY, and the two behind it (PostgreSQL 15, COPY, "Binary
/// Format"). The server sends the former with the first row and the latter in a message of its own.
const BINARY_HEADER_LEN: usize = 19;
const BINARY_TRAILER: [u8; 2] = [0xff, 0xff];

/// Whole CopyData messages, or a part of one that is larger than a block.
#[derive(Debug)]
pub struct CopyBlock {
    /// Messages one after the other: `d`, length, payload, which is one row or several. A message that
    /// is larger than a block comes in several blocks, cut anywhere; sent on in order they are whole
    /// again.
    pub frames: Bytes,
    /// Rows that end in this block.
    pub rows: u64,
    /// The last message goes on in the next block.
    pub ends_inside_row: bool,
}

/// A running `COPY … TO STDOUT`. Dropped before its end, it leaves the connection unusable: cancel
/// the statement by [`Connection::cancel_token`] and drop the connection as well.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    format: Format,
    /// Bytes at the front of `inbound` that are known to be whole CopyData messages.
    scanned: usize,
    /// Rows in them.
    scanned_rows: u64,
    /// Bytes still to come of a message whose beginning is handed out.
    rest_of_row: usize,
    first_message: bool,
    finished: bool,
    failure: Option<Error>,
    /// Runs while a small block waits for more.
    linger: Pin<Box<Sleep>>,
    lingering: bool,
}

/// What a look at the buffer found.
enum Scan {
    Block,
    More,
    End,
}

/// A running `COPY … FROM STDIN`. Dropped before [`CopyIn::finish`] or [`CopyIn::fail`], it leaves
/// the connection unusable, and the server undoes the COPY when the connection is dropped.
#[derive(Debug)]
pub struct CopyIn<'a> {
    connection: &'a mut Connection,
}

impl Connection {
    /// Starts a `COPY … TO STDOUT`.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>> {
        self.begin_request()?;
        self.send_query(sql)?;
        match self.next_reply().await? {
            Reply::CopyOut { format } => Ok(CopyOut {
                connection: self,
                format,
                scanned: 0,
                scanned_rows: 0,
                rest_of_row: 0,
                first_message: true,
                finished: false,
                failure: None,
                linger: Box::pin(sleep(LINGER)),
                lingering: false,
            }),
            other => Err(self.not_a_copy(other).await),
        }
    }

    /// Starts a `COPY … FROM STDIN` and waits until the server takes data. Statements without rows
    /// may stand before it (`BEGIN; DELETE …; COPY …`). Where the round trip matters, pipeline
    /// `send_query`, `send_copy_data`, `send_copy_done` instead.
    pub async fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>> {
        self.begin_request()?;
        self.send_query(sql)?;
        loop {
            match self.next_reply().await? {
                Reply::CopyIn => return Ok(CopyIn { connection: self }),
                Reply::Complete(_) => {}
                other => return Err(self.not_a_copy(other).await),
            }
        }
    }

    /// The error for a statement that was to start a COPY and answered something else.
    async fn not_a_copy(&mut self, reply: Reply) -> Error {
        let Reply::Error(said) = reply else {
            return error::protocol(self.side, "the statement is not a COPY of this direction");
        };
        let error = error::classify(self.side, *said);
        // Reading on keeps the connection usable; if that fails, the next request says so.
        drop(self.expect_ready().await);
        error
    }
}

impl CopyOut<'_> {
    /// Text or binary.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The next block; `None` at the end, when the connection is ready for other requests.
    /// Cancel-safe.
    pub async fn next_block(&mut self) -> Result<Option<CopyBlock>> {
        poll_fn(|cx| {
            loop {
                match self.scan()? {
                    Scan::Block => return Poll::Ready(Ok(Some(self.take_block()))),
                    Scan::End => {
                        return Poll::Ready(self.failure.take().map_or(Ok(None), Err));
                    }
                    Scan::More => {}
                }
                self.connection.make_room(BLOCK_BYTES);
                match self.connection.poll_progress(cx) {
                    Poll::Ready(read) => read?,
                    Poll::Pending if self.scanned == 0 => return Poll::Pending,
                    Poll::Pending => {
                        if self.scanned < BLOCK_BYTES_MIN {
                            ready!(self.poll_linger(cx));
                        }
                        return Poll::Ready(Ok(Some(self.take_block())));
                    }
                }
            }
        })
        .await
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.lingering {
            self.linger.as_mut().reset(Instant::now() + LINGER);
            self.lingering = true;
        }
        self.linger.as_mut().poll(cx)
    }

    /// Walks over the messages that have arrived.
    fn scan(&mut self) -> Result<Scan> {
        loop {
            if self.finished {
                return Ok(Scan::End);
            }
            let buffer = &self.connection.inbound[..];
            if self.rest_of_row > 0 {
                return Ok(if buffer.is_empty() {
                    Scan::More
                } else {
                    Scan::Block
                });
            }
            let ahead = &buffer[self.scanned..];
            let header = frame::header(ahead, frame::FRAME_MAX)
                .map_err(|bad| error::protocol(self.connection.side, bad))?;
            match header {
                Some(header) if header.tag == b'd' && ahead.len() >= header.len => {
                    let payload = &ahead[frame::HEADER_LEN..header.len];
                    if self.format == Format::Text || !is_end_of_binary(payload, self.first_message)
                    {
                        self.scanned_rows += 1;
                    }
                    self.first_message = false;
                    self.scanned += header.len;
                }
                // Not whole: wait, unless a block is full, or would be by a part of this row alone.
                Some(header) if header.tag == b'd' => {
                    let large = header.len > BLOCK_BYTES && ahead.len() >= BLOCK_BYTES;
                    if self.scanned == 0 && large {
                        self.rest_of_row = header.len;
                        self.first_message = false;
                        return Ok(Scan::Block);
                    }
                    let full = self.scanned >= BLOCK_BYTES || (self.scanned > 0 && large);
                    return Ok(if full { Scan::Block } else { Scan::More });
                }
                Some(_) if self.scanned == 0 => {
                    if !self.read_other_message()? {
                        return Ok(Scan::More);
                    }
                }
                Some(_) => return Ok(Scan::Block),
                None if self.scanned >= BLOCK_BYTES => return Ok(Scan::Block),
                None => return Ok(Scan::More),
            }
        }
    }

    /// What comes between and after the rows. False if it has not arrived as a whole.
    fn read_other_message(&mut self) -> Result<bool> {
        let Some(reply) = self.connection.buffered_reply()? else {
            return Ok(false);
        };
        match reply {
            Reply::CopyDone | Reply::Complete(_) => {}
            Reply::Ready(_) => self.finished = true,
            Reply::Error(said) => {
                self.finished = said.ends_session();
                self.failure = Some(error::classify(self.connection.side, *said));
            }
            _ => {
                return Err(error::protocol(
                    self.connection.side,
                    "unknown message in COPY",
                ));
            }
        }
        Ok(true)
    }

    fn take_block(&mut self) -> CopyBlock {
        self.lingering = false;
        if self.rest_of_row > 0 {
            let here = self.rest_of_row.min(self.connection.inbound.len());
            self.rest_of_row -= here;
            let frames = self.connection.inbound.split_to(here).freeze();
            let ends_inside_row = self.rest_of_row > 0;
            return CopyBlock {
                frames,
                rows: u64::from(!ends_inside_row),
                ends_inside_row,
            };
        }
        let mut frames = self.connection.inbound.split_to(self.scanned);
        self.scanned = 0;
        join_messages(&mut frames);
        CopyBlock {
            frames: frames.freeze(),
            rows: std::mem::take(&mut self.scanned_rows),
            ends_inside_row: false,
        }
    }
}

/// Joins whole CopyData messages that follow each other, in place.
fn join_messages(frames: &mut BytesMut) {
    // Of the message that is being made: where it begins, where it ends so far.
    let (mut begin, mut end) = (0, 0);
    let mut at = 0;
    while at < frames.len() {
        let header = frame::header(&frames[at..], frame::FRAME_MAX);
        let header = header.ok().flatten().expect("it was scanned before");
        let payload = at + frame::HEADER_LEN..at + header.len;
        at = payload.end;
        if end > 0 && end - begin + payload.len() <= JOINED_BYTES {
            let to = end;
            end += payload.len();
            frames.copy_within(payload, to);
        } else {
            seal(frames, begin, end);
            begin = end;
            end += header.len;
            frames.copy_within(at - header.len..at, begin);
        }
    }
    seal(frames, begin, end);
    frames.truncate(end);
}

/// Writes the length of the message that goes from one place to another.
fn seal(frames: &mut BytesMut, begin: usize, end: usize) {
    if end > begin {
        let length = u32::try_from(end - begin - 1).expect("a joined message is at most a block");
        frames[begin + 1..begin + frame::HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    }
}

/// The end mark of a binary COPY, alone or, when there are no rows, right behind the header.
fn is_end_of_binary(payload: &[u8], first: bool) -> bool {
    let bare = if first {
        payload.get(BINARY_HEADER_LEN..).unwrap_or(payload)
    } else {
        payload
    };
    bare == BINARY_TRAILER
}

impl CopyIn<'_> {
    /// Sends messages as they are: whole CopyData messages, or parts that follow each other. An
    /// error of the server ends the COPY and comes back from here as soon as it has arrived.
    ///
    /// Not cancel-safe: a dropped future may have sent a part.
    pub async fn write_frames(&mut self, frames: &[u8]) -> Result<()> {
        let mut rest = frames;
        while !rest.is_empty() {
            let connection = &mut *self.connection;
            poll_fn(|cx| connection.poll_write_frames(cx, &mut rest)).await?;
            self.check().await?;
        }
        Ok(())
    }

    /// Sends `payload` as one CopyData message. Small ones are gathered. Errors as above.
    ///
    /// Not cancel-safe: a dropped future may have sent a part.
    pub async fn write_payload(&mut self, payload: &[u8]) -> Result<()> {
        self.connection.send_copy_data(payload)?;
        while self.connection.queued_bytes() >= BLOCK_BYTES {
            let connection = &mut *self.connection;
            poll_fn(|cx| connection.poll_write_frames(cx, &mut &[][..])).await?;
            self.check().await?;
        }
        Ok(())
    }

    /// Ends the COPY: rows that the server has taken.
    pub async fn finish(self) -> Result<u64> {
        self.connection.send_copy_done();
        let sets = self.connection.result_sets().await?;
        Ok(sets.iter().map(super::ResultSet::affected).sum())
    }

    /// Ends the COPY so that the server takes nothing of it.
    pub async fn fail(self, reason: &str) -> Result<()> {
        self.connection.send_copy_fail(reason)?;
        let side = self.connection.side;
        match self.connection.result_sets().await {
            Ok(_) => Err(error::protocol(side, "COPY went on after CopyFail")),
            // query_canceled: our own doing.
            Err(error) if error.sqlstate_code() == Some("57014") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the server has ended the COPY by itself; it then takes no notice of what we send.
    async fn check(&mut self) -> Result<()> {
        match self.connection.buffered_reply()? {
            None => Ok(()),
            Some(Reply::Error(said)) => {
                let last = said.ends_session();
                let error = error::classify(self.connection.side, *said);
                if !last {
                    drop(self.connection.expect_ready().await);
                }
                Err(error)
            }
            Some(_) => Err(error::protocol(
                self.connection.side,
                "unknown message in COPY",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn messages(payloads: &[Vec<u8>]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for payload in payloads {
            bytes.extend_from_slice(b"d");
            let length = u32::try_from(payload.len() + 4).unwrap();
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    fn payloads(frames: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = frames;
        let mut payloads = Vec::new();
        while !rest.is_empty() {
            let header = frame::complete(rest, frame::FRAME_MAX).unwrap().unwrap();
            assert_eq!(header.tag, b'd');
            payloads.push(rest[frame::HEADER_LEN..header.len].to_vec());
            rest = &rest[header.len..];
        }
        payloads
    }

    proptest! {
        #[test]
        fn joined_messages_carry_the_same_bytes_in_few_messages(
            rows in vec((any::<u8>(), prop_oneof![0..300_usize, 20_000..50_000_usize]), 0..30),
        ) {
            let rows: Vec<Vec<u8>> = rows.into_iter().map(|(byte, len)| vec![byte; len]).collect();
            let mut frames = messages(&rows);
            join_messages(&mut frames);
            let joined = payloads(&frames);
            prop_assert_eq!(joined.concat(), rows.concat());
            let largest = rows.iter().map(Vec::len).max().unwrap_or(0);
            prop_assert!(joined.iter().all(|one| one.len() <= largest.max(JOINED_BYTES)));
            for (one, next) in joined.iter().zip(joined.iter().skip(1)) {
                prop_assert!(frame::HEADER_LEN + one.len() + next.len() > JOINED_BYTES);
            }
        }
    }
}
