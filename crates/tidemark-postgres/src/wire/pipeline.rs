//! Many messages in flight: `send_*` queue, [`Connection::flush`] writes, [`Connection::next_reply`]
//! reads the answers in order.
//!
//! Nothing waits for a round trip. Two rules of the protocol make that safe (PostgreSQL 15, 55.2.3,
//! 55.2.4 and 55.2.6): after an error the server skips everything up to the next `Sync`, and
//! `CopyData`/`CopyDone`/`CopyFail` that arrive when no COPY is going on are ignored, so data may
//! be sent before the server has said that it wants it. Mind that a COPY started through
//! `send_execute` that fails swallows messages up to the next `Sync`; one started through
//! `send_query` ends with its own `ReadyForQuery`.
//!
//! The reader is the caller's book-keeper: every `send_query` and `send_sync` brings exactly one
//! [`Reply::Ready`], and requests with an answer ([`Connection::simple`] …) are refused until all
//! of them were read.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tidemark_core::{Error, Result};

use super::ServerError;
use super::connection::{Connection, TransactionStatus};
use super::frame::{Header, Reader};
use super::rows::{self, Column, DataRow};
use crate::error;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The type's text form.
    Text,
    /// The type's binary form.
    Binary,
}

impl Format {
    fn number(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

/// One answer of the server.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Parse, Bind or Close done, nothing described, portal suspended, parameters described.
    Step,
    /// The columns of the rows to come.
    Columns(Arc<[Column]>),
    /// One row.
    Row(DataRow),
    /// A statement is done: its tag; empty for an empty statement.
    Complete(String),
    /// The server takes COPY data now. With pipelining: an answer like any other.
    CopyIn,
    /// The server starts to send COPY data.
    CopyOut {
        /// Binary instead of text.
        format: Format,
    },
    /// Both directions: replication.
    CopyBoth,
    /// A piece of COPY data.
    CopyData(Bytes),
    /// No more COPY data.
    CopyDone,
    /// A statement failed; what follows up to the next [`Reply::Ready`] was skipped.
    Error(Box<ServerError>),
    /// A `send_query` or `send_sync` is dealt with.
    Ready(TransactionStatus),
}

impl Reply {
    /// The rows that a [`Reply::Complete`] counts.
    pub fn affected(&self) -> u64 {
        match self {
            Reply::Complete(tag) => rows::affected(tag),
            _ => 0,
        }
    }
}

impl Connection {
    /// Queues a simple query.
    pub fn send_query(&mut self, sql: &str) -> Result<()> {
        self.queue(|out| frontend::query(sql, out))?;
        self.ready_expected += 1;
        Ok(())
    }

    /// Queues a Parse: a prepared statement, or the unnamed one. Types that are not given are the
    /// server's guess.
    pub fn send_parse(&mut self, name: &str, sql: &str, types: &[u32]) -> Result<()> {
        self.queue(|out| frontend::parse(name, sql, types.iter().copied(), out))
    }

    /// Queues a Bind to the unnamed portal. Results come as text.
    pub fn send_bind<'a, P>(&mut self, statement: &str, format: Format, params: P) -> Result<()>
    where
        P: IntoIterator<Item = Option<&'a [u8]>>,
    {
        let write = |param: Option<&[u8]>, out: &mut BytesMut| match param {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
        };
        let formats = [format.number()];
        self.queue(|out| {
            frontend::bind("", statement, formats, params, write, [], out).map_err(|error| {
                match error {
                    frontend::BindError::Conversion(error) => std::io::Error::other(error),
                    frontend::BindError::Serialization(error) => error,
                }
            })
        })
    }

    /// Queues an Execute of the unnamed portal, all rows.
    pub fn send_execute(&mut self) -> Result<()> {
        self.queue(|out| frontend::execute("", 0, out))
    }

    /// Queues a Close of a prepared statement.
    pub fn send_close_statement(&mut self, name: &str) -> Result<()> {
        self.queue(|out| frontend::close(b'S', name, out))
    }

    /// Queues a Sync: the end of an implicit transaction, and where the server goes on after an
    /// error.
    pub fn send_sync(&mut self) {
        frontend::sync(&mut self.outbound);
        self.ready_expected += 1;
    }

    /// Queues a CopyData message.
    pub fn send_copy_data(&mut self, payload: &[u8]) -> Result<()> {
        self.queue(|out| {
            frontend::CopyData::new(payload)?.write(out);
            Ok(())
        })
    }

    /// Queues a CopyDone.
    pub fn send_copy_done(&mut self) {
        frontend::copy_done(&mut self.outbound);
    }

    /// Queues a CopyFail: the server ends the COPY with an error that quotes `reason`.
    pub fn send_copy_fail(&mut self, reason: &str) -> Result<()> {
        self.queue(|out| frontend::copy_fail(reason, out))
    }

    /// The buffer that `send_*` write to, for those who encode messages themselves: whole messages
    /// only, and none that is answered by a ReadyForQuery.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.outbound
    }

    /// `ReadyForQuery` answers still to come.
    pub fn ready_expected(&self) -> usize {
        self.ready_expected
    }

    /// The next answer, in order. Writes what is queued while it waits. Cancel-safe.
    pub async fn next_reply(&mut self) -> Result<Reply> {
        let header = self.answer().await?;
        self.take_reply(header)
    }

    /// The next answer if it has already been read from the socket; never waits.
    pub fn buffered_reply(&mut self) -> Result<Option<Reply>> {
        match self.buffered_answer()? {
            Some(header) => self.take_reply(header).map(Some),
            None => Ok(None),
        }
    }

    /// Reads answers up to the `Ready` of the next `send_query` or `send_sync`, for callers to whom
    /// only success matters. The connection can be used on after an error, unless it ended.
    pub async fn expect_ready(&mut self) -> Result<TransactionStatus> {
        let mut failure: Option<Error> = None;
        loop {
            match self.next_reply().await? {
                Reply::Ready(status) => return failure.map_or(Ok(status), Err),
                Reply::Error(said) => {
                    let last = said.ends_session();
                    let error = error::classify(self.side, *said);
                    if last {
                        return Err(error);
                    }
                    failure.get_or_insert(error);
                }
                _ => {}
            }
        }
    }

    /// Appends a message, or nothing if it cannot be encoded.
    pub(super) fn queue<F>(&mut self, write: F) -> Result<()>
    where
        F: FnOnce(&mut BytesMut) -> std::io::Result<()>,
    {
        let before = self.outbound.len();
        let written = write(&mut self.outbound);
        if written.is_err() {
            self.outbound.truncate(before);
        }
        error::unsendable(self.side, written)
    }

    fn take_reply(&mut self, header: Header) -> Result<Reply> {
        let reply = match header.tag {
            b'D' => {
                let body = self.take_body(header);
                let row = DataRow::parse(body).ok_or_else(|| self.unexpected(header))?;
                return Ok(Reply::Row(row));
            }
            b'd' => return Ok(Reply::CopyData(self.take_body(header))),
            b'Z' => return self.note_ready(header).map(Reply::Ready),
            b'1' | b'2' | b'3' | b'n' | b's' | b't' => Reply::Step,
            b'C' => {
                let tag = Reader(self.body(header)).string();
                Reply::Complete(tag.ok_or_else(|| self.unexpected(header))?)
            }
            b'I' => Reply::Complete(String::new()),
            b'T' => {
                let columns = rows::parse_columns(self.body(header));
                Reply::Columns(columns.ok_or_else(|| self.unexpected(header))?)
            }
            b'E' => {
                let said = ServerError::parse(self.body(header));
                if said.ends_session() {
                    self.poison();
                }
                Reply::Error(Box::new(said))
            }
            b'G' => Reply::CopyIn,
            b'H' => Reply::CopyOut {
                format: copy_format(self.body(header)),
            },
            b'W' => Reply::CopyBoth,
            b'c' => Reply::CopyDone,
            _ => return Err(self.unexpected(header)),
        };
        self.skip(header);
        Ok(reply)
    }

    /// No request will be answered any more.
    fn poison(&mut self) {
        self.ready_expected = usize::MAX / 2;
    }
}

/// The overall format in a `CopyOutResponse`.
fn copy_format(body: &[u8]) -> Format {
    if body.first() == Some(&1) {
        Format::Binary
    } else {
        Format::Text
    }
}
