//! A transaction that was put aside and has committed, on its way to the pipeline.
//!
//! Its frames come back from [`super::spool`] in chunks and are decoded here, in the order in which
//! the server sent them, without what belongs to aborted subtransactions. What comes out is an
//! ordinary transaction. Tables are those that this transaction saw: descriptions sent elsewhere
//! meanwhile may be of another time.

use std::sync::Arc;

use tidemark_core::event::{Begin, Event};
use tidemark_core::position::Lsn;
use tidemark_core::{Result, failpoint};

use super::assemble::{Assembler, Output, Tables, malformed, out_of_place};
use super::decode::{self, Form, Message};
use super::frames::{self, FrameKind};
use super::xids::XidSet;

/// A table's description inside a transaction in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Counts all descriptions of the connection.
    pub(crate) arrival: u64,
    /// The (sub)transaction that it belongs to.
    pub(crate) xid: u32,
    pub(crate) table: u32,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Replay {
    begin: Begin,
    commit_end: Lsn,
    aborted: XidSet,
    described: Vec<Description>,
    tables: Tables,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    NotBegun,
    Begun,
    /// It was given out undecided, all of it.
    Given,
}

impl Replay {
    /// `given`: the tables that it has described, if it was given out undecided.
    pub(crate) fn new(
        begin: Begin,
        commit_end: Lsn,
        aborted: XidSet,
        described: Vec<Description>,
        given: Option<Tables>,
    ) -> Replay {
        let progress = match given {
            Some(_) => Progress::Given,
            None => Progress::NotBegun,
        };
        Replay {
            begin,
            commit_end,
            aborted,
            described,
            tables: given.unwrap_or_default(),
            progress,
        }
    }

    /// Whether all of it was given out undecided.
    pub(crate) fn is_given(&self) -> bool {
        self.progress == Progress::Given
    }

    /// What was given out undecided does not count.
    pub(crate) fn withdraw(&mut self, assembler: &Assembler, out: &mut Output) {
        assembler.forget_described(&std::mem::take(&mut self.tables), out);
        self.progress = Progress::NotBegun;
    }

    /// The transaction's id.
    pub(crate) fn xid(&self) -> u32 {
        self.begin.xid
    }

    /// Reads a chunk of whole frames.
    pub(crate) fn read(&mut self, bytes: &[u8], out: &mut Output) -> Result<()> {
        self.begin(out);
        let mut at = 0;
        while at < bytes.len() {
            let frame = frames::frame(bytes, at).map_err(malformed)?;
            at = frame.end;
            let FrameKind::Message(range) = frame.kind else {
                continue;
            };
            let cells = out.cells.len();
            let decoded = decode::decode(bytes, range, Form::Streamed, &mut out.cells);
            let decoded = decoded.map_err(malformed)?;
            if !self.aborted.is_empty() && self.aborted.contains(decoded.xid) {
                out.cells.truncate(cells);
                continue;
            }
            message(&mut self.tables, decoded.message, out)?;
        }
        Ok(())
    }

    /// After the last chunk, or once it is decided.
    pub(crate) fn finish(mut self, assembler: &mut Assembler, out: &mut Output) {
        match self.progress {
            Progress::Given => out.events.push(Event::Decided(self.begin)),
            Progress::NotBegun | Progress::Begun => self.begin(out),
        }
        assembler.settle(&self.described, &self.tables, out);
        out.events.push(Event::Commit {
            end: self.commit_end.into(),
        });
    }

    fn begin(&mut self, out: &mut Output) {
        if self.progress == Progress::NotBegun {
            self.progress = Progress::Begun;
            failpoint::reached(failpoint::REPLAY_BEGUN);
            out.events.push(Event::Begin(self.begin));
        }
    }
}

/// Gives out what a transaction that was streamed says; `tables` are those that it has described.
pub(crate) fn message(tables: &mut Tables, message: Message<'_>, out: &mut Output) -> Result<()> {
    match message {
        Message::Change(change) => {
            tables.check(&change)?;
            out.events.push(Event::Change(change));
        }
        Message::Table(table) => {
            let table = Arc::new(table);
            tables.insert(0, Arc::clone(&table));
            out.events.push(Event::Table(table));
        }
        Message::Truncate(truncate) => out.events.push(Event::Truncate(truncate)),
        Message::Logical { .. } | Message::Origin | Message::Type => {}
        _ => return Err(out_of_place("message that does not belong in a stream")),
    }
    Ok(())
}
