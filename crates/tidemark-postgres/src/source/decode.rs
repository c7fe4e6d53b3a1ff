//! pgoutput's messages: bytes in, one [`Message`] out, no I/O (PostgreSQL 18, 54.5 and 54.9).
//!
//! The hot path of the change stream. A row's values stay where they are: a [`Cell`] is a range of
//! the block's bytes, pushed to a vector that the whole block shares, so that nothing is allocated
//! per value or row. Values are in their text form (the `binary` option is off), so that one form
//! serves load, stream and every target.
//!
//! Invariant: outside input is never trusted. Whatever the bytes are, the answer is a message that
//! they spell completely, or [`Malformed`]; counts are checked against the bytes that are left
//! before anything is made room for.
//!
//! Neighbours: [`super::assemble`] makes transactions out of messages.

use std::fmt;
use std::ops::Range;

use tidemark_core::event::{
    Begin, Cell, CellKind, OldRow, Op, Row, RowChange, StreamColumn, StreamTable, Truncate,
};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::{ReplicaIdentity, TableName};

#[cfg(test)]
pub(crate) mod tests;

/// PostgreSQL counts microseconds from 2000-01-01, we from 1970-01-01.
const PG_EPOCH_US: i64 = 946_684_800_000_000;

/// Bytes that are not what the protocol says, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    what: &'static str,
    at: usize,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, at: usize) -> Malformed {
        Malformed { what, at }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// Where in the protocol a message stands. Between Stream Start and Stream Stop most messages name
/// their transaction, elsewhere they do not; nothing in the bytes tells which form it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A decided transaction, or between transactions.
    Plain,
    /// Part of a transaction in progress.
    Streamed,
}

/// One message of pgoutput, protocol versions 1 to 4.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Begin(Begin),
    Commit {
        commit: Lsn,
        end: Lsn,
    },
    /// Where a transaction came from first.
    Origin,
    Table(StreamTable),
    /// The name of a type that is not built in.
    Type,
    Change(RowChange),
    Truncate(Truncate),
    Logical {
        is_transactional: bool,
        prefix: &'a [u8],
        content: &'a [u8],
    },
    StreamStart {
        xid: u32,
        is_first: bool,
    },
    StreamStop,
    StreamCommit {
        begin: Begin,
        commit_end: Lsn,
    },
    StreamAbort {
        xid: u32,
        subxid: u32,
    },
    Prepared(TwoPhase),
}

/// Messages of two-phase transactions; sent only for slots made with `two_phase` (protocol 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TwoPhase {
    BeginPrepare,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
    StreamPrepare,
}

/// A message, and the (sub)transaction that it names in [`Form::Streamed`]; 0 where it names none.
#[derive(Debug)]
pub(crate) struct Decoded<'a> {
    pub(crate) xid: u32,
    pub(crate) message: Message<'a>,
}

/// Decodes the message that is exactly the given range of the block's bytes. Its cells are ranges
/// of `bytes`, pushed to `cells`; when the answer is an error some may have been pushed already.
pub(crate) fn decode<'a>(
    bytes: &'a [u8],
    range: Range<usize>,
    form: Form,
    cells: &mut Vec<Cell>,
) -> Result<Decoded<'a>, Malformed> {
    let mut reader = Reader::new(bytes, range)?;
    let tag = reader.u8()?;
    let names_transaction =
        form == Form::Streamed && matches!(tag, b'I' | b'U' | b'D' | b'R' | b'Y' | b'T' | b'M');
    let xid = if names_transaction { reader.u32()? } else { 0 };
    let message = match tag {
        b'I' => reader.insert(cells)?,
        b'U' => reader.update(cells)?,
        b'D' => reader.delete(cells)?,
        b'B' => reader.begin()?,
        b'C' => reader.commit()?,
        b'R' => reader.relation()?,
        b'Y' => reader.data_type()?,
        b'T' => reader.truncate()?,
        b'M' => reader.logical()?,
        b'O' => reader.origin()?,
        b'S' => Message::StreamStart {
            xid: reader.u32()?,
            is_first: reader.flag()?,
        },
        b'E' => Message::StreamStop,
        b'c' => reader.stream_commit()?,
        b'A' => reader.stream_abort()?,
        b'b' => reader.prepared(TwoPhase::BeginPrepare)?,
        b'P' => reader.prepared(TwoPhase::Prepare)?,
        b'K' => reader.prepared(TwoPhase::CommitPrepared)?,
        b'r' => reader.prepared(TwoPhase::RollbackPrepared)?,
        b'p' => reader.prepared(TwoPhase::StreamPrepare)?,
        _ => return Err(Malformed::new("unknown message", reader.at - 1)),
    };
    reader.end()?;
    Ok(Decoded { xid, message })
}

/// The type byte of a message and, in a streamed Relation, whose transaction and which table it
/// describes: all that is needed to put a message aside undecoded.
pub(crate) fn peek_relation(bytes: &[u8], range: Range<usize>) -> Result<(u32, u32), Malformed> {
    let mut reader = Reader::new(bytes, range)?;
    reader.u8()?;
    Ok((reader.u32()?, reader.u32()?))
}

/// Reads a range of the block from front to back; every offset is one of the whole block.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Refuses blocks whose offsets would not fit a [`Cell`].
    fn new(bytes: &'a [u8], range: Range<usize>) -> Result<Reader<'a>, Malformed> {
        match bytes.get(..range.end) {
            Some(bytes) if range.start <= range.end && u32::try_from(range.end).is_ok() => {
                Ok(Reader {
                    bytes,
                    at: range.start,
                })
            }
            _ => Err(Malformed::new("message outside its block", range.start)),
        }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn short(&self) -> Malformed {
        Malformed::new("message cut short", self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>())
        {
            Some(array) => {
                self.at += N;
                Ok(*array)
            }
            None => Err(self.short()),
        }
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::new("flag that is neither 0 nor 1", self.at - 1)),
        }
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// A position that is set; 0 is the server's word for none.
    fn lsn(&mut self) -> Result<Lsn, Malformed> {
        match self.array().map(u64::from_be_bytes)? {
            0 => Err(Malformed::new("log position that is not set", self.at - 8)),
            lsn => Ok(Lsn(lsn)),
        }
    }

    fn time_us(&mut self) -> Result<i64, Malformed> {
        Ok(self.i64()?.saturating_add(PG_EPOCH_US))
    }

    /// Flags that are reserved by every version so far.
    fn no_flags(&mut self) -> Result<(), Malformed> {
        match self.u8()? {
            0 => Ok(()),
            _ => Err(Malformed::new("unknown flags", self.at - 1)),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = taken.ok_or_else(|| self.short())?;
        self.at += count;
        Ok(taken)
    }

    /// Up to the next zero byte, which is consumed.
    fn string_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = memchr::memchr(0, rest).ok_or_else(|| self.short())?;
        let text = self.take(end)?;
        self.at += 1;
        Ok(text)
    }

    fn string(&mut self) -> Result<&'a str, Malformed> {
        let at = self.at;
        std::str::from_utf8(self.string_bytes()?)
            .map_err(|_| Malformed::new("name that is not UTF-8", at))
    }

    /// Schema and name; the server leaves out the schema where it is `pg_catalog`.
    fn name(&mut self) -> Result<TableName, Malformed> {
        let schema = match self.string()? {
            "" => "pg_catalog",
            schema => schema,
        };
        Ok(TableName::new(schema, self.string()?))
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            _ => Err(Malformed::new("bytes after the end of a message", self.at)),
        }
    }

    fn begin(&mut self) -> Result<Message<'a>, Malformed> {
        let commit = Position::PgLsn(self.lsn()?);
        let committed_at_us = self.time_us()?;
        Ok(Message::Begin(Begin {
            xid: self.u32()?,
            commit,
            committed_at_us,
        }))
    }

    fn commit(&mut self) -> Result<Message<'a>, Malformed> {
        self.no_flags()?;
        let (commit, end) = (self.lsn()?, self.lsn()?);
        self.time_us()?;
        Ok(Message::Commit { commit, end })
    }

    fn stream_commit(&mut self) -> Result<Message<'a>, Malformed> {
        let xid = self.u32()?;
        self.no_flags()?;
        let commit = Position::PgLsn(self.lsn()?);
        let commit_end = self.lsn()?;
        let begin = Begin {
            xid,
            commit,
            committed_at_us: self.time_us()?,
        };
        Ok(Message::StreamCommit { begin, commit_end })
    }

    /// Position and time follow only where streaming is `parallel` (protocol 4).
    fn stream_abort(&mut self) -> Result<Message<'a>, Malformed> {
        let (xid, subxid) = (self.u32()?, self.u32()?);
        if self.left() > 0 {
            self.i64()?;
            self.time_us()?;
        }
        Ok(Message::StreamAbort { xid, subxid })
    }

    fn origin(&mut self) -> Result<Message<'a>, Malformed> {
        self.i64()?;
        self.string()?;
        Ok(Message::Origin)
    }

    fn prepared(&mut self, step: TwoPhase) -> Result<Message<'a>, Malformed> {
        if step != TwoPhase::BeginPrepare {
            self.no_flags()?;
        }
        self.lsn()?;
        self.lsn()?;
        self.time_us()?;
        if step == TwoPhase::RollbackPrepared {
            self.time_us()?;
        }
        self.u32()?;
        self.string()?;
        Ok(Message::Prepared(step))
    }

    fn data_type(&mut self) -> Result<Message<'a>, Malformed> {
        self.u32()?;
        self.name()?;
        Ok(Message::Type)
    }

    fn logical(&mut self) -> Result<Message<'a>, Malformed> {
        let is_transactional = self.flag()?;
        self.i64()?;
        let prefix = self.string_bytes()?;
        let len = self.length()?;
        Ok(Message::Logical {
            is_transactional,
            prefix,
            content: self.take(len)?,
        })
    }

    fn truncate(&mut self) -> Result<Message<'a>, Malformed> {
        let count = self.length()?;
        let flags = self.u8()?;
        if flags > 3 {
            return Err(Malformed::new("unknown flags", self.at - 1));
        }
        if self.left() != count.saturating_mul(4) {
            return Err(Malformed::new(
                "number of tables that does not fit",
                self.at,
            ));
        }
        let tables = (0..count).map(|_| self.u32()).collect::<Result<_, _>>()?;
        let (cascade, restart_identity) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Message::Truncate(Truncate {
            tables,
            cascade,
            restart_identity,
        }))
    }

    fn relation(&mut self) -> Result<Message<'a>, Malformed> {
        let id = self.u32()?;
        let name = self.name()?;
        let identity = self.u8()?;
        let identity_at = self.at - 1;
        let count = usize::from(self.u16()?);
        // Flags, an empty name, type and modifier.
        if count.saturating_mul(10) > self.left() {
            return Err(Malformed::new(
                "number of columns that does not fit",
                self.at - 2,
            ));
        }
        let mut columns = Vec::with_capacity(count);
        let mut key = Vec::new();
        for index in 0..count {
            if self.flag()? {
                key.push(index);
            }
            columns.push(StreamColumn {
                name: self.string()?.to_owned(),
                type_id: self.u32()?,
                type_modifier: self.i32()?,
            });
        }
        let identity = match identity {
            // `DEFAULT` without a primary key, `USING INDEX` whose index is gone: the server
            // refuses updates and deletes then, as with `NOTHING`.
            b'd' | b'i' if key.is_empty() => ReplicaIdentity::Nothing,
            b'd' | b'i' => ReplicaIdentity::Key(key),
            b'f' => ReplicaIdentity::Full,
            b'n' => ReplicaIdentity::Nothing,
            _ => return Err(Malformed::new("unknown replica identity", identity_at)),
        };
        Ok(Message::Table(StreamTable {
            id,
            name,
            columns,
            identity,
        }))
    }

    fn insert(&mut self, cells: &mut Vec<Cell>) -> Result<Message<'a>, Malformed> {
        let table = self.u32()?;
        self.expect(b'N')?;
        let new = Some(self.row(cells)?);
        Ok(Message::Change(RowChange {
            table,
            op: Op::Insert,
            old: None,
            new,
        }))
    }

    fn update(&mut self, cells: &mut Vec<Cell>) -> Result<Message<'a>, Malformed> {
        let table = self.u32()?;
        let old = match self.u8()? {
            b'N' => None,
            tag => {
                let old = self.old_row(tag, cells)?;
                self.expect(b'N')?;
                Some(old)
            }
        };
        let new = Some(self.row(cells)?);
        Ok(Message::Change(RowChange {
            table,
            op: Op::Update,
            old,
            new,
        }))
    }

    fn delete(&mut self, cells: &mut Vec<Cell>) -> Result<Message<'a>, Malformed> {
        let table = self.u32()?;
        let tag = self.u8()?;
        let old = Some(self.old_row(tag, cells)?);
        Ok(Message::Change(RowChange {
            table,
            op: Op::Delete,
            old,
            new: None,
        }))
    }

    fn expect(&mut self, tag: u8) -> Result<(), Malformed> {
        if self.u8()? == tag {
            return Ok(());
        }
        Err(Malformed::new("row of an unexpected kind", self.at - 1))
    }

    fn old_row(&mut self, tag: u8, cells: &mut Vec<Cell>) -> Result<OldRow, Malformed> {
        match tag {
            b'K' => Ok(OldRow::Key(self.row(cells)?)),
            b'O' => Ok(OldRow::Full(self.row(cells)?)),
            _ => Err(Malformed::new("row of an unexpected kind", self.at - 1)),
        }
    }

    fn row(&mut self, cells: &mut Vec<Cell>) -> Result<Row, Malformed> {
        let len = self.u16()?;
        if usize::from(len) > self.left() {
            return Err(Malformed::new(
                "number of values that does not fit",
                self.at - 2,
            ));
        }
        // A cell takes at least one byte of a block below 4 GiB.
        let start = u32::try_from(cells.len())
            .map_err(|_| Malformed::new("too many values in a block", self.at))?;
        cells.reserve(usize::from(len));
        for _ in 0..len {
            let cell = match self.u8()? {
                b't' => self.text()?,
                b'n' => Cell::NULL,
                b'u' => Cell::UNCHANGED,
                _ => return Err(Malformed::new("value of an unexpected kind", self.at - 1)),
            };
            cells.push(cell);
        }
        Ok(Row { start, len })
    }

    fn text(&mut self) -> Result<Cell, Malformed> {
        let len = self.u32()?;
        // `Reader::new` has made sure that offsets fit; lengths that do not fail in `take`.
        let start = u32::try_from(self.at).map_err(|_| self.short())?;
        self.take(len as usize)?;
        Ok(Cell {
            kind: CellKind::Text,
            start,
            len,
        })
    }

    /// A count of things or bytes to come: signed on the wire, never negative.
    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.i32()?).map_err(|_| Malformed::new("negative length", self.at - 4))
    }
}
