//! From messages to transactions: whole ones, in commit order, whatever order the server sends in.
//!
//! Most transactions arrive decided, as Begin, changes, Commit, and pass straight through. One that
//! outgrows `logical_decoding_work_mem` on the server arrives in pieces while it is still in
//! progress (protocol 2, `streaming 'on'`), mixed with others, and may yet abort, wholly or to a
//! savepoint:
//!
//! ```text
//!   wire   Start 7 … Stop   Begin 8 … Commit   Start 7 … Stop   Abort 7/9   StreamCommit 7
//!   core                    Begin 8 … Commit                                Begin 7 … Commit
//! ```
//!
//! Its pieces are put aside undecoded ([`Aside`], carried out by [`super::spool`]) and read by
//! [`super::replay`] once it commits. No I/O happens here.
//!
//! **Undecided.** One of them may also be given out while it comes, from its first piece on and for
//! as long as nothing else commits and nothing of it aborts. Then it is withdrawn, and takes the way
//! by the spool, which holds all of it in any case. What has been withdrawn was for nothing and has
//! kept others waiting; so each time that this happens twice as many transactions are not tried.
//!
//! **Tables.** The server describes a table once and takes it as known. A description inside a
//! transaction in progress counts only if that transaction commits, and then also for what follows
//! (`cleanup_rel_sync_cache`, PostgreSQL 15 pgoutput.c). So each description is numbered as it
//! arrives, and after a commit the one that arrived last, among those that count, holds.
//!
//! **Boundaries.** A keepalive at `p` is sent when everything that committed before `p` has been
//! sent, so it is handed out as [`Event::Quiet`] between transactions. A transaction in progress does
//! not stand in its way: it commits later than `p`, and the server sends it again as a whole to whoever
//! starts at `p`. PostgreSQL's own subscriber reports such positions as flushed, too.
//!
//! Invariant: commits ascend and none lies before what was handed out as a boundary; where the
//! server breaks this the stream ends with a definite error (reliability R25).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tidemark_core::catalogue::codes;
use tidemark_core::config::ChangeOrigin;
use tidemark_core::event::{Begin, Cell, Event, RowChange, StreamTable};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::source::GiveUndecided;
use tidemark_core::{Error, Result};

use super::decode::{self, Decoded, Form, Malformed, Message};
use super::frames::{self, FrameKind};
use super::replay::{self, Description, Replay};
use super::xids::XidSet;

#[cfg(test)]
mod tests;

/// What a block gave.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) cells: Vec<Cell>,
    pub(crate) events: Vec<Event>,
    /// What is to be done with transactions in progress, in order.
    pub(crate) aside: Vec<Aside>,
}

/// One thing to do with the pieces of transactions in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Keep these frames of the block.
    Keep { xid: u32, frames: Range<usize> },
    /// It is aborted: forget them.
    Forget { xid: u32 },
}

/// Why reading a block stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is used up.
    End,
    /// A transaction that was put aside has committed and comes next; the rest of the block follows
    /// after it.
    Replay(Box<Replay>),
}

/// See the module's text. One for each connection.
#[derive(Debug)]
pub(crate) struct Assembler {
    heartbeat_prefix: Vec<u8>,
    /// Which transactions are wanted.
    origin: ChangeOrigin,
    /// The present one came from elsewhere and is not wanted: its changes are left out.
    is_left_out: bool,
    scope: Scope,
    /// Everything that committed before this has been handed out.
    reached: Lsn,
    /// The farthest position heard of.
    heard: Lsn,
    /// Descriptions so far.
    arrivals: u64,
    tables: Tables,
    in_progress: HashMap<u32, InProgress>,
    give: GiveUndecided,
    given: Option<Given>,
    luck: Luck,
}

/// A transaction in progress that is given out while it comes.
#[derive(Debug)]
struct Given {
    xid: u32,
    /// As it has described them.
    tables: Tables,
}

/// How many transactions in progress are not given out before one is again.
#[derive(Debug, Default)]
struct Luck {
    to_pass: u32,
    withdrawn: u32,
}

/// At most so often are the transactions that are passed over doubled.
const DOUBLINGS_MAX: u32 = 10;

impl Luck {
    fn is_ours(&mut self) -> bool {
        let passes = self.to_pass > 0;
        self.to_pass = self.to_pass.saturating_sub(1);
        !passes
    }

    fn was_good(&mut self) {
        self.withdrawn = 0;
    }

    fn was_bad(&mut self) {
        self.to_pass = 1 << self.withdrawn;
        self.withdrawn = DOUBLINGS_MAX.min(self.withdrawn + 1);
    }
}

/// What the next message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Between,
    Transaction { commit: Position },
    Streamed { xid: u32 },
}

/// What is known of a transaction in progress, besides its pieces.
#[derive(Debug, Default)]
struct InProgress {
    aborted: XidSet,
    described: Vec<Description>,
}

/// Tables as described so far.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    by_id: HashMap<u32, (u64, Arc<StreamTable>)>,
    /// The table last asked for, and its number of columns.
    last: Option<(u32, usize)>,
}

impl Tables {
    pub(crate) fn get(&self, id: u32) -> Option<&(u64, Arc<StreamTable>)> {
        self.by_id.get(&id)
    }

    pub(crate) fn insert(&mut self, arrival: u64, table: Arc<StreamTable>) {
        self.last = None;
        self.by_id.insert(table.id, (arrival, table));
    }

    /// Refuses a change whose rows are not those of its table: reading them with other columns would
    /// mix values up in silence.
    pub(crate) fn check(&mut self, change: &RowChange) -> Result<()> {
        let width = match self.last {
            Some((id, width)) if id == change.table => width,
            _ => {
                let known = self.by_id.get(&change.table);
                let (_, table) =
                    known.ok_or_else(|| out_of_place("change of a table not described"))?;
                self.last = Some((change.table, table.columns.len()));
                table.columns.len()
            }
        };
        let rows = [
            change.old.map(tidemark_core::event::OldRow::row),
            change.new,
        ];
        if rows
            .iter()
            .flatten()
            .all(|row| usize::from(row.len) == width)
        {
            return Ok(());
        }
        Err(out_of_place(
            "row with another number of columns than its table",
        ))
    }
}

impl Assembler {
    /// For a stream that begins at `after`, in which messages under `heartbeat_prefix` are ours.
    pub(crate) fn new(after: Lsn, heartbeat_prefix: &str) -> Assembler {
        Assembler {
            heartbeat_prefix: heartbeat_prefix.as_bytes().to_vec(),
            origin: ChangeOrigin::Any,
            is_left_out: false,
            scope: Scope::Between,
            reached: after,
            heard: after,
            arrivals: 0,
            tables: Tables::default(),
            in_progress: HashMap::new(),
            give: GiveUndecided::No,
            given: None,
            luck: Luck::default(),
        }
    }

    /// Whether transactions that replication brought to the source are wanted. Since PostgreSQL 16 it
    /// does not send them to who does not want them.
    pub(crate) fn leaving_out(mut self, origin: ChangeOrigin) -> Assembler {
        self.origin = origin;
        self
    }

    /// Whether a transaction in progress may be given out while it comes.
    pub(crate) fn give_undecided(&mut self, give: GiveUndecided) {
        self.give = give;
    }

    /// Whether a transaction in progress is given out, and whether it still may be.
    pub(crate) fn gives_undecided(&self) -> Option<GiveUndecided> {
        self.given.as_ref().map(|_| self.give)
    }

    /// The transaction that was given out has committed: whether that is to count.
    pub(crate) fn may_decide(&mut self) -> bool {
        match self.give {
            GiveUndecided::Yes => self.luck.was_good(),
            GiveUndecided::No => self.luck.was_bad(),
        }
        self.give == GiveUndecided::Yes
    }

    /// What was given out of a transaction in progress does not count.
    pub(crate) fn withdraw(&mut self, out: &mut Output) {
        if let Some(given) = self.given.take() {
            self.luck.was_bad();
            self.forget_described(&given.tables, out);
        }
    }

    /// A transaction is withdrawn: its tables are what they were before.
    pub(crate) fn forget_described(&self, tables: &Tables, out: &mut Output) {
        out.events.push(Event::Withdrawn);
        for id in tables.by_id.keys() {
            if let Some((_, table)) = self.tables.get(*id) {
                out.events.push(Event::Table(Arc::clone(table)));
            }
        }
    }

    /// The farthest position that the server has spoken of.
    pub(crate) fn heard(&self) -> Lsn {
        self.heard
    }

    /// Reads frames from `at` on and moves `at` behind what was read.
    pub(crate) fn read(&mut self, bytes: &[u8], at: &mut usize, out: &mut Output) -> Result<Stop> {
        while *at < bytes.len() {
            let start = *at;
            let frame = frames::frame(bytes, start).map_err(malformed)?;
            *at = frame.end;
            match frame.kind {
                FrameKind::Keepalive(position) => self.keepalive(position, out),
                FrameKind::Message(message) => {
                    if let Scope::Streamed { xid } = self.scope {
                        self.streamed(bytes, xid, start, message, out)?;
                        continue;
                    }
                    let decoded = decode::decode(bytes, message, Form::Plain, &mut out.cells);
                    let decoded = decoded.map_err(malformed)?;
                    if let Some(replay) = self.message(decoded, out)? {
                        return Ok(Stop::Replay(replay));
                    }
                }
            }
        }
        Ok(Stop::End)
    }

    fn keepalive(&mut self, position: Lsn, out: &mut Output) {
        self.heard = self.heard.max(position);
        // What is given out undecided commits later; the position comes again after it.
        let is_open = matches!(self.scope, Scope::Transaction { .. }) || self.given.is_some();
        if !is_open && position > self.reached {
            self.reached = position;
            out.events.push(Event::Quiet {
                position: position.into(),
            });
        }
    }

    /// A message between Stream Start and Stream Stop: put aside as it is.
    fn streamed(
        &mut self,
        bytes: &[u8],
        xid: u32,
        start: usize,
        message: Range<usize>,
        out: &mut Output,
    ) -> Result<()> {
        let end = message.end;
        match bytes.get(message.start) {
            Some(b'E') => {
                decode::decode(bytes, message, Form::Streamed, &mut out.cells)
                    .map_err(malformed)?;
                self.scope = Scope::Between;
                return Ok(());
            }
            Some(b'R') => {
                self.arrivals += 1;
                let described = decode::peek_relation(bytes, message.clone());
                let (subxid, table) = described.map_err(malformed)?;
                let described = &mut self.in_progress.entry(xid).or_default().described;
                described.push(Description {
                    arrival: self.arrivals,
                    xid: subxid,
                    table,
                });
            }
            Some(b'I' | b'U' | b'D' | b'T' | b'M' | b'Y' | b'O') => {}
            _ => return Err(out_of_place("message that does not belong in a stream")),
        }
        if let Some(given) = self.given.as_mut().filter(|given| given.xid == xid) {
            let decoded = decode::decode(bytes, message, Form::Streamed, &mut out.cells);
            let decoded = decoded.map_err(malformed)?;
            replay::message(&mut given.tables, decoded.message, out)?;
        }
        match out.aside.last_mut() {
            Some(Aside::Keep { xid: last, frames }) if *last == xid && frames.end == start => {
                frames.end = end;
            }
            _ => out.aside.push(Aside::Keep {
                xid,
                frames: start..end,
            }),
        }
        Ok(())
    }

    fn message(&mut self, decoded: Decoded<'_>, out: &mut Output) -> Result<Option<Box<Replay>>> {
        match decoded.message {
            Message::Change(change) => {
                self.expect_transaction()?;
                self.tables.check(&change)?;
                if !self.is_left_out {
                    out.events.push(Event::Change(change));
                }
            }
            Message::Begin(begin) => {
                self.expect_between()?;
                self.withdraw(out);
                self.open(begin.commit)?;
                self.scope = Scope::Transaction {
                    commit: begin.commit,
                };
                self.is_left_out = false;
                out.events.push(Event::Begin(begin));
            }
            Message::Commit { commit, end } => {
                if self.scope
                    != (Scope::Transaction {
                        commit: commit.into(),
                    })
                {
                    return Err(out_of_place("commit of a transaction that did not begin"));
                }
                self.scope = Scope::Between;
                self.close(commit, end)?;
                out.events.push(Event::Commit { end: end.into() });
            }
            Message::Table(table) => {
                self.expect_transaction()?;
                let table = Arc::new(table);
                self.arrivals += 1;
                self.tables.insert(self.arrivals, Arc::clone(&table));
                out.events.push(Event::Table(table));
            }
            Message::Truncate(truncate) => {
                self.expect_transaction()?;
                if !self.is_left_out {
                    out.events.push(Event::Truncate(truncate));
                }
            }
            Message::Logical {
                is_transactional: false,
                prefix,
                content,
            } => {
                if prefix == self.heartbeat_prefix {
                    out.events.extend(heartbeat(content));
                }
            }
            Message::Origin => self.is_left_out = self.origin == ChangeOrigin::None,
            Message::Logical { .. } | Message::Type => {}
            Message::StreamStart { xid, is_first } => {
                self.expect_between()?;
                self.stream_start(xid, is_first)?;
                if is_first {
                    self.try_to_give(xid, out);
                }
            }
            Message::StreamStop => return Err(out_of_place("end of a stream that did not begin")),
            Message::StreamAbort { xid, subxid } => {
                self.expect_between()?;
                self.stream_abort(xid, subxid, out);
            }
            Message::StreamCommit { begin, commit_end } => {
                self.expect_between()?;
                return self.stream_commit(begin, commit_end, out).map(Some);
            }
            Message::Prepared(step) => {
                let what = format!("{step:?} of a slot without two_phase");
                return Err(out_of_place(&what));
            }
        }
        Ok(None)
    }

    fn expect_between(&self) -> Result<()> {
        match self.scope {
            Scope::Between => Ok(()),
            _ => Err(out_of_place(
                "message inside a transaction that belongs between two",
            )),
        }
    }

    fn expect_transaction(&self) -> Result<()> {
        match self.scope {
            Scope::Transaction { .. } => Ok(()),
            _ => Err(out_of_place("message outside of a transaction")),
        }
    }

    fn stream_start(&mut self, xid: u32, is_first: bool) -> Result<()> {
        match (is_first, self.in_progress.contains_key(&xid)) {
            (true, true) => return Err(out_of_place("second beginning of a streamed transaction")),
            (false, false) => return Err(out_of_place("streamed transaction without a beginning")),
            (true, false) => {
                self.in_progress.insert(xid, InProgress::default());
            }
            (false, true) => {}
        }
        self.scope = Scope::Streamed { xid };
        Ok(())
    }

    /// It commits after everything that was handed out: the server sends nothing of a transaction in
    /// progress before it has read up to where we wanted to start (`ReorderBufferCanStartStreaming`,
    /// PostgreSQL 15), and commits in their order.
    fn try_to_give(&mut self, xid: u32, out: &mut Output) {
        let may = self.give == GiveUndecided::Yes && self.given.is_none();
        if may && self.luck.is_ours() {
            out.events.push(Event::Undecided { xid });
            let tables = Tables::default();
            self.given = Some(Given { xid, tables });
        }
    }

    fn is_given(&self, xid: u32) -> bool {
        self.given.as_ref().is_some_and(|given| given.xid == xid)
    }

    /// A subtransaction's abort leaves the rest of its transaction alone. PostgreSQL 18 may announce
    /// aborts of transactions that it never streamed; they mean nothing to us.
    fn stream_abort(&mut self, xid: u32, subxid: u32, out: &mut Output) {
        if self.is_given(xid) {
            self.withdraw(out);
        }
        if xid == subxid {
            if self.in_progress.remove(&xid).is_some() {
                out.aside.push(Aside::Forget { xid });
            }
        } else if let Some(transaction) = self.in_progress.get_mut(&xid) {
            transaction.aborted.insert(subxid);
            transaction
                .described
                .retain(|description| description.xid != subxid);
        }
    }

    fn stream_commit(
        &mut self,
        begin: Begin,
        commit_end: Lsn,
        out: &mut Output,
    ) -> Result<Box<Replay>> {
        if !self.is_given(begin.xid) {
            self.withdraw(out);
        }
        let given = self.given.take().map(|given| given.tables);
        let Some(InProgress { aborted, described }) = self.in_progress.remove(&begin.xid) else {
            return Err(out_of_place(
                "commit of a transaction that was not streamed",
            ));
        };
        self.open(begin.commit)?;
        let Position::PgLsn(commit) = begin.commit;
        self.close(commit, commit_end)?;
        Ok(Box::new(Replay::new(
            begin, commit_end, aborted, described, given,
        )))
    }

    /// After a replay: takes over the descriptions that now count, and repeats those that arrived
    /// outside of the transaction and later than its own.
    pub(crate) fn settle(&mut self, described: &[Description], seen: &Tables, out: &mut Output) {
        // Ascending by arrival, so the last of each table stays.
        let last: HashMap<u32, u64> = described
            .iter()
            .map(|description| (description.table, description.arrival))
            .collect();
        for (id, arrival) in last {
            let Some((_, table)) = seen.get(id) else {
                continue;
            };
            match self.tables.get(id) {
                Some((current_arrival, current)) if *current_arrival > arrival => {
                    if current != table {
                        out.events.push(Event::Table(Arc::clone(current)));
                    }
                }
                _ => self.tables.insert(arrival, Arc::clone(table)),
            }
        }
    }

    fn open(&mut self, commit: Position) -> Result<()> {
        let reached = Position::PgLsn(self.reached);
        if commit >= reached {
            return Ok(());
        }
        let message = format!("a transaction that commits at {commit} came after {reached}");
        Err(Error::definite(codes::STREAM_ORDER, message))
    }

    fn close(&mut self, commit: Lsn, end: Lsn) -> Result<()> {
        if end <= commit {
            return Err(out_of_place("commit that ends before it starts"));
        }
        self.reached = end;
        self.heard = self.heard.max(end);
        Ok(())
    }
}

/// The clock in one of our own heartbeats; nothing if it is not one.
fn heartbeat(content: &[u8]) -> Option<Event> {
    let written_at_us = std::str::from_utf8(content).ok()?.parse().ok()?;
    Some(Event::Heartbeat { written_at_us })
}

/// The bytes are no message: a proxy or a dying server. A new connection starts clean.
pub(crate) fn malformed(error: Malformed) -> Error {
    crate::error::protocol(crate::config::Side::Source, error)
}

/// A message where the protocol has no place for it.
pub(crate) fn out_of_place(what: &str) -> Error {
    crate::error::protocol(crate::config::Side::Source, what)
}
