//! From events to batches: what the stream brings becomes work for the target.
//!
//! The assembler takes one event after the other, decides by the router what becomes of each change
//! (skipped, applied, parked), copies values through the projection into the present [`Work`], and
//! notes where it may be cut. Work always ends between two source transactions, except for the parts
//! of one that is larger than a batch: these go out early, and the target keeps its transaction open
//! until the last part comes. One that is not decided yet has the work for itself, so that it can be
//! dropped without a trace.
//!
//! It does no I/O and knows no time but what it is given, so everything here runs in tests as it
//! runs in production.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::batch::{Batch, Item, SchemaChange};
use crate::catalogue::codes;
use crate::checkpoint::{CheckpointUpdate, KnownShape, TableState, TableStateChange};
use crate::error::{Error, Result};
use crate::event::{Begin, Block, Event, RowChange, StreamTable, Truncate};
use crate::mapping::{Mismatch, Projection, TableMapping};
use crate::position::Position;
use crate::schema::TableName;
use crate::source::Partition;
use crate::target::Origin;
use crate::tidemark::low_half;

use super::options::OnTruncate;
use super::router::{Router, has_shape};

mod named;
mod rows;
mod undecided;

pub(crate) use rows::{Unseen, new_key, old_key, unseen_part};

use named::Named;
use rows::{Pushed, filtered, park_batch, push_change};
use undecided::Fate;

/// What goes to the target at once.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Changes to apply, in order.
    pub(crate) batch: Batch,
    /// Changes to put aside, in order.
    pub(crate) parks: Vec<Park>,
    /// What the commit records; `None` for a part of a larger transaction.
    pub(crate) end: Option<CheckpointUpdate>,
    /// When its oldest transaction was received.
    pub(crate) received_at: Option<Instant>,
    /// Changes by route, for the counters.
    pub(crate) counts: Vec<(usize, u64)>,
    /// What is said once it is committed, of tables that have another shape then.
    pub(crate) reshaped: Vec<(TableName, String)>,
}

/// Changes of one table and transaction that are put aside.
#[derive(Debug)]
pub(crate) struct Park {
    pub(crate) route: usize,
    pub(crate) origin: Origin,
    pub(crate) batch: Batch,
}

/// What became of an event.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is in the work (or skipped).
    Yes,
    /// A table has another shape than was known: somebody must look before the stream goes on.
    Reshaped {
        route: usize,
        table: Arc<StreamTable>,
    },
    /// The same of a change that is to be taken again after that: its table was announced when there was
    /// nothing to carry.
    Unlooked {
        route: usize,
        table: Arc<StreamTable>,
    },
    /// Ranges of tables have seen different things, and the log cannot tell them apart here: they have
    /// to be loaded anew.
    Reload { routes: Vec<usize> },
    /// Tables were emptied; not those on the target, as [`OnTruncate::Ignore`] has it. `reload` as in
    /// [`Taken::Reload`].
    Kept {
        routes: Vec<usize>,
        reload: Vec<usize>,
    },
    /// The log does not hold all of a change, so it can neither be applied nor kept: only loading the table
    /// anew brings it.
    NotKept { route: usize, why: Error },
    /// A heartbeat of ours came by.
    Heartbeat { written_at_us: i64 },
    /// What was handed out of the open transaction is to be undone.
    Withdrawn,
}

/// When the target has a new shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Among the table's changes.
    InOrder,
    /// Before rows that are loaded anew take the place of the old ones: what is kept until they are in is older
    /// than they, or by the new shape.
    AtOnce,
}

/// See the module's text.
pub(crate) struct Assembler {
    pub(crate) router: Router,
    work: Work,
    /// Parts were handed out that no commit has followed yet.
    has_parts: bool,
    /// Everything before this is in the target or in work that was handed out.
    applied: Position,
    /// The transaction whose changes come now.
    open: Option<Open>,
    /// Whole transactions in `work` end here.
    end: Option<Position>,
    /// State changes that the next commit records.
    states: Vec<TableStateChange>,
    shapes: Vec<(usize, KnownShape)>,
    /// What is said once that commit is in.
    reshaped: Vec<(TableName, String)>,
    /// Ids of transactions that were assembled lately, for telling whether a snapshot has seen them.
    recent: VecDeque<u32>,
    committing: Vec<u32>,
    on_truncate: OnTruncate,
    refused: Option<u32>,
    named: Named,
    /// What is recorded of partitions with the next commit.
    partitions: Vec<(TableName, Vec<Partition>)>,
    /// Partitioned tables that the log emptied since they were asked for, and by which transaction.
    emptied: Vec<(usize, u32)>,
    /// The same since work was last handed out whole.
    emptied_since_commit: Vec<(usize, u32)>,
}

struct Open {
    /// Of one that is undecided only the id counts.
    begin: Begin,
    /// It committed before the position we start from: nothing of it is new.
    is_contained: bool,
    received_at: Instant,
    fate: Fate,
}

/// More transactions than a source can have between commit record and visibility.
const RECENT_MAX: usize = 20_000;

impl Assembler {
    /// `committing`: transactions that may have been applied by an earlier run, and were not visible when
    /// this one began. `refused`: one of which nothing is taken in before it is decided.
    pub(crate) fn new(
        router: Router,
        applied: Position,
        committing: &[u64],
        on_truncate: OnTruncate,
        refused: Option<u32>,
    ) -> Assembler {
        Assembler {
            on_truncate,
            refused,
            named: Named::default(),
            partitions: Vec::new(),
            emptied: Vec::new(),
            emptied_since_commit: Vec::new(),
            router,
            work: Work::default(),
            has_parts: false,
            applied,
            open: None,
            end: None,
            states: Vec::new(),
            shapes: Vec::new(),
            reshaped: Vec::new(),
            recent: VecDeque::new(),
            committing: committing.iter().copied().map(low_half).collect(),
        }
    }

    /// Takes one event in.
    pub(crate) fn take(&mut self, block: &Block, event: &Event, now: Instant) -> Result<Taken> {
        self.note_partitions(event);
        match event {
            Event::Begin(begin) => {
                self.begin(*begin, Fate::Committed, now);
                Ok(Taken::Yes)
            }
            Event::Undecided { xid } => self.begin_undecided(*xid, now),
            Event::Decided(begin) => self.decide(*begin),
            Event::Withdrawn => self.withdraw(),
            Event::Table(table) => Ok(self.table(table)),
            Event::Change(change) => self.change(block, change),
            Event::Truncate(truncate) => self.truncate(truncate),
            Event::Commit { end } => self.commit(*end),
            Event::Quiet { position } => Ok(self.quiet(*position)),
            Event::Heartbeat { written_at_us } => Ok(Taken::Heartbeat {
                written_at_us: *written_at_us,
            }),
        }
    }

    fn begin(&mut self, begin: Begin, fate: Fate, now: Instant) {
        self.router.begin(&begin);
        let is_contained = fate == Fate::Committed && self.applied.contains(begin.commit);
        self.open = Some(Open {
            begin,
            is_contained,
            received_at: now,
            fate,
        });
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(begin.xid);
    }

    /// Ids of the transactions that may be applied without being visible on the source yet.
    pub(crate) fn maybe_invisible(&self) -> Vec<u32> {
        self.recent
            .iter()
            .chain(&self.committing)
            .copied()
            .collect()
    }

    /// What a transaction announces that the target has already, or that the table's load has seen,
    /// is not news: its changes are skipped. Anything else must be looked at, even if it looks the same.
    fn table(&mut self, table: &Arc<StreamTable>) -> Taken {
        if self.undecided().is_some() && !self.router.knows(table) {
            self.refuse_undecided();
            return Taken::Yes;
        }
        let Some(route) = self.router.bind(table) else {
            return Taken::Yes;
        };
        if !self.is_past(route) {
            return Taken::Reshaped {
                route,
                table: Arc::clone(table),
            };
        }
        let entry = self.router.route(route);
        let is_same = table.name == *entry.mapping.source() && has_shape(&entry.shape, table);
        let mapping = Arc::clone(&entry.mapping);
        self.skip(route, table);
        let entry = self.router.route_mut(route);
        if is_same {
            entry.projection = Projection::new(&mapping, table).ok();
        } else {
            entry.unlooked = Some(Arc::clone(table));
        }
        Taken::Yes
    }

    /// Whether the target has all that the present transaction did to a table.
    fn is_past(&self, route: usize) -> bool {
        self.is_contained() || self.router.truncate_seen(route) == Some(true)
    }

    /// The table's rows come in a form that nobody needs: the target has them, or will load them.
    pub(crate) fn skip(&mut self, route: usize, table: &Arc<StreamTable>) {
        let open = self.open.as_ref();
        let begin = open.filter(|open| open.fate == Fate::Committed);
        let begin = begin.map(|open| open.begin);
        self.router.announce(route, table, begin);
        self.router.route_mut(route).projection = None;
    }

    /// From here on the table's rows come in this shape, and are carried by this mapping.
    pub(crate) fn adopt(
        &mut self,
        route: usize,
        table: &Arc<StreamTable>,
        mapping: &Arc<TableMapping>,
    ) -> Result<()> {
        self.reshape(route, table, mapping, Vec::new(), Due::InOrder)
    }

    /// The same, and the table's shape changes on the target too: at this place among the table's changes,
    /// or at once, as `due` says. An empty list of changes is noted as well, since rows that are carried in
    /// one way must not be put together with rows that are carried in another.
    pub(crate) fn reshape(
        &mut self,
        route: usize,
        table: &Arc<StreamTable>,
        mapping: &Arc<TableMapping>,
        changes: Vec<SchemaChange>,
        due: Due,
    ) -> Result<()> {
        let entry = self.router.route(route);
        let is_alike = entry.mapping.carries_alike(mapping);
        let carried_by = Arc::clone(if is_alike { &entry.mapping } else { mapping });
        let projection = Projection::new(&carried_by, table);
        let projection = projection.map_err(|why| mismatch(mapping, &why))?;
        let shape = KnownShape::of(mapping);
        let is_as_it_was = is_alike && changes.is_empty() && entry.shape == shape;
        if self.undecided().is_some() && !is_as_it_was {
            self.refuse_undecided();
            return Ok(());
        }
        self.skip(route, table);
        let entry = self.router.route_mut(route);
        entry.mapping = Arc::clone(&carried_by);
        entry.projection = Some(projection);
        if entry.shape != shape {
            entry.shape = shape;
            self.keep_shape(route);
        }
        if !is_alike || !changes.is_empty() {
            let is_resyncing = self.router.route(route).state == TableState::Resyncing;
            let (at_once, in_order) = match due {
                Due::AtOnce if is_resyncing => (changes, Vec::new()),
                _ => (Vec::new(), changes),
            };
            if !at_once.is_empty() {
                push_schema(&mut self.work.batch, &carried_by, at_once);
            }
            push_schema(self.batch_of(route), &carried_by, in_order);
            self.note_open();
        }
        Ok(())
    }

    /// Has it said, once the present transaction is committed, that the target has a table's new shape.
    pub(crate) fn say_reshaped(&mut self, table: &TableName, text: String) {
        self.reshaped.push((table.clone(), text));
    }

    /// Where a table's changes of the present transaction go.
    fn batch_of(&mut self, route: usize) -> &mut Batch {
        let is_parked = self.router.route(route).state.is_parked();
        match &self.open {
            Some(open) if is_parked => {
                let (xid, commit) = (open.begin.xid, open.begin.commit);
                park_batch(&mut self.work.parks, route, Origin { xid, commit })
            }
            _ => &mut self.work.batch,
        }
    }

    /// The table's shape, as it is now, is recorded with the next commit.
    pub(crate) fn keep_shape(&mut self, route: usize) {
        let shape = self.router.route(route).shape.clone();
        self.shapes.push((route, shape));
    }

    /// The transaction whose changes come now has brought something.
    fn note_open(&mut self) {
        if let Some(open) = &self.open {
            self.work.received_at.get_or_insert(open.received_at);
            if open.fate == Fate::Committed {
                let oldest = &mut self.work.batch.oldest_commit_us;
                oldest.get_or_insert(open.begin.committed_at_us);
            }
        }
    }

    /// The transaction whose changes come now, where it has committed.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.open.as_ref().and_then(Open::origin)
    }

    fn is_contained(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_contained)
    }

    fn change(&mut self, block: &Block, change: &RowChange) -> Result<Taken> {
        let Some(open) = &self.open else {
            return Err(protocol("a change outside a transaction"));
        };
        if open.is_contained || open.fate == Fate::Refused {
            return Ok(Taken::Yes);
        }
        let Some(index) = self.router.find(change.table) else {
            return Ok(Taken::Yes);
        };
        let route = self.router.route(index);
        let Some(projection) = &route.projection else {
            return match (&route.unlooked, &route.announced) {
                (Some(table), _) if !self.is_past(index) => Ok(Taken::Unlooked {
                    route: index,
                    table: Arc::clone(table),
                }),
                (None, None) => Err(protocol("a change of a table that was not announced")),
                _ => Ok(Taken::Yes),
            };
        };
        let change = match filtered(projection, block, change) {
            Ok(Some(change)) => change,
            Ok(None) => return Ok(Taken::Yes),
            Err(why) => return Ok(self.not_kept(index, why)),
        };
        let batch = if route.state.is_parked() {
            let origin = Origin {
                xid: open.begin.xid,
                commit: open.begin.commit,
            };
            park_batch(&mut self.work.parks, index, origin)
        } else {
            self.work.batch.begin_transaction(open.origin());
            &mut self.work.batch
        };
        let pushed = push_change(batch, &self.router, index, projection, block, &change);
        if pushed == Pushed::NotInLog {
            return Ok(Taken::Reload {
                routes: vec![index],
            });
        }
        if pushed == Pushed::Yes {
            self.note_open();
            match self
                .work
                .counts
                .iter_mut()
                .rfind(|(route, _)| *route == index)
            {
                Some((_, count)) => *count += 1,
                None => self.work.counts.push((index, 1)),
            }
        }
        Ok(Taken::Yes)
    }

    fn truncate(&mut self, truncate: &Truncate) -> Result<Taken> {
        let Some(open) = &self.open else {
            return Err(protocol("a truncate outside a transaction"));
        };
        let xid = open.begin.xid;
        if self.undecided().is_some() {
            self.refuse_undecided();
        }
        if self.is_contained() || self.is_refused() {
            return Ok(Taken::Yes);
        }
        let size_before = self.size();
        let (mut reload, mut kept) = (Vec::new(), Vec::new());
        let restart_identity = truncate.restart_identity;
        let mut applied = Vec::new();
        for id in &truncate.tables {
            let Some(index) = self.router.find(*id) else {
                continue;
            };
            let route = self.router.route(index);
            let mapping = Arc::clone(&route.mapping);
            if mapping.schema.is_partitioned {
                self.emptied.push((index, xid));
                self.emptied_since_commit.push((index, xid));
            }
            let is_parked = route.state.is_parked();
            match self.router.truncate_seen(index) {
                Some(true) if !is_parked => continue,
                None if !is_parked => {
                    reload.push(index);
                    continue;
                }
                _ => {}
            }
            match self.on_truncate {
                OnTruncate::StopTable if !is_parked => return Err(not_truncated(&mapping)),
                OnTruncate::Ignore => {
                    kept.push(index);
                    continue;
                }
                OnTruncate::Apply | OnTruncate::StopTable => {}
            }
            if is_parked {
                let batch = self.batch_of(index);
                let tables = vec![batch.table(&mapping)];
                batch.push(Item::Truncate {
                    tables,
                    restart_identity,
                });
            } else {
                applied.push(self.work.batch.table(&mapping));
            }
        }
        if !applied.is_empty() {
            self.work.batch.push(Item::Truncate {
                tables: applied,
                restart_identity,
            });
        }
        if self.size() != size_before {
            self.note_open();
        }
        Ok(if !kept.is_empty() {
            let routes = kept;
            Taken::Kept { routes, reload }
        } else if !reload.is_empty() {
            Taken::Reload { routes: reload }
        } else {
            Taken::Yes
        })
    }

    fn commit(&mut self, end: Position) -> Result<Taken> {
        if self.undecided().is_some() {
            return Err(protocol("a commit of an undecided transaction"));
        }
        let Some(open) = self.open.take() else {
            return Err(protocol("a commit outside a transaction"));
        };
        if end < self.applied || self.end.is_some_and(|last| end < last) {
            // A slot that is behind the checkpoint repeats what is in already; anything else would
            // be a log that runs backwards.
            if open.is_contained {
                return Ok(Taken::Yes);
            }
            return Err(protocol("commit positions that do not ascend"));
        }
        if !open.is_contained {
            self.work.batch.transactions += 1;
            self.named.ended(end);
            // What came before it was decided is late from its commit on.
            if self.has_parts || self.size().0 > 0 {
                let oldest = &mut self.work.batch.oldest_commit_us;
                oldest.get_or_insert(open.begin.committed_at_us);
            }
        }
        self.end = Some(end);
        Ok(Taken::Yes)
    }

    fn quiet(&mut self, position: Position) -> Taken {
        let last = self.end.unwrap_or(self.applied);
        if self.open.is_some() || position <= last {
            return Taken::Yes;
        }
        self.end = Some(position);
        Taken::Yes
    }

    /// A table's changes go another way from the next boundary on; the next commit records it.
    pub(crate) fn set_state(&mut self, route: usize, change: TableStateChange) {
        self.router.route_mut(route).state = change.state;
        self.states.push(change);
    }

    /// Partitioned tables that the log emptied since this was last asked, and by which transaction.
    pub(crate) fn take_emptied(&mut self) -> Vec<(usize, u32)> {
        std::mem::take(&mut self.emptied)
    }

    /// Partitions are recorded with the next commit.
    pub(crate) fn keep_partitions(&mut self, settled: Vec<(TableName, Vec<Partition>)>) {
        self.partitions.extend(settled);
    }

    /// Whether changes of a table wait in the present work to be put aside.
    pub(crate) fn parks(&self, route: usize) -> bool {
        self.work.parks.iter().any(|park| park.route == route)
    }

    /// Whether the work stands between two transactions.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.open.is_none()
    }

    /// Whether the target has no transaction open once the work handed out so far is done.
    pub(crate) fn is_between_commits(&self) -> bool {
        !self.has_parts
    }

    /// How large the work is, in items and bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let parked: usize = self.work.parks.iter().map(|park| park.batch.bytes()).sum();
        let items: usize = self.work.parks.iter().map(|park| park.batch.len()).sum();
        (
            self.work.batch.len() + items,
            self.work.batch.bytes() + parked,
        )
    }

    /// Tables that the present work changes.
    pub(crate) fn tables(&self) -> usize {
        self.work.batch.tables().len()
    }

    /// Whether there is anything that a commit would bring to the target, besides the position. Changes
    /// that were handed out in parts are brought by their transaction's end, which has none itself.
    pub(crate) fn has_changes(&self) -> bool {
        let is_to_record =
            !self.states.is_empty() || !self.shapes.is_empty() || !self.partitions.is_empty();
        self.has_parts || self.size().0 > 0 || is_to_record
    }

    /// Everything before this is in the target once the work handed out so far is.
    pub(crate) fn applied(&self) -> Position {
        self.applied
    }

    /// Everything before this is assembled: what `applied` will be after the next work.
    pub(crate) fn assembled(&self) -> Position {
        self.end.unwrap_or(self.applied)
    }

    /// When the oldest transaction was committed that brought something to the present work, by the
    /// source's clock, in microseconds since 1970 UTC.
    pub(crate) fn oldest_commit_us(&self) -> Option<i64> {
        self.work.batch.oldest_commit_us
    }

    /// Hands the work out whole: only between two transactions.
    pub(crate) fn cut(&mut self) -> Work {
        debug_assert!(self.is_at_boundary());
        let mut work = std::mem::take(&mut self.work);
        self.has_parts = false;
        let mut update = CheckpointUpdate {
            position: self.end.take(),
            states: std::mem::take(&mut self.states),
            partitions: std::mem::take(&mut self.partitions),
            ..CheckpointUpdate::default()
        };
        for (route, xid) in self.emptied_since_commit.drain(..) {
            let table = self.router.route(route).mapping.source().clone();
            update.emptied.push((table, xid));
        }
        if let Some(position) = update.position {
            self.applied = position;
        }
        for (route, shape) in self.shapes.drain(..) {
            let table = self.router.route(route).mapping.source().clone();
            update.shapes.push((table, shape));
        }
        for route in self.router.pass(self.applied) {
            update
                .passed
                .push(self.router.route(route).mapping.source().clone());
        }
        work.end = Some(update);
        work.reshaped = std::mem::take(&mut self.reshaped);
        work
    }

    /// Hands out what there is of a transaction that is larger than a batch.
    pub(crate) fn cut_part(&mut self) -> Work {
        self.has_parts = true;
        std::mem::take(&mut self.work)
    }
}

fn push_schema(batch: &mut Batch, mapping: &Arc<TableMapping>, changes: Vec<SchemaChange>) {
    let table = batch.table(mapping);
    batch.push(Item::Schema { table, changes });
}

fn mismatch(mapping: &TableMapping, why: &Mismatch) -> Error {
    let text = match why {
        Mismatch::Missing(columns) => format!("its columns {} are gone", columns.join(", ")),
        Mismatch::Identity(columns) => {
            format!("old rows are no longer told by {}", columns.join(", "))
        }
    };
    Error::data(codes::SCHEMA_CHANGE_REFUSED, text).table(mapping.source().to_string())
}

fn not_truncated(mapping: &TableMapping) -> Error {
    let text = "the source emptied the table, and target.on_truncate is \"stop_table\"";
    Error::data(codes::TRUNCATE_NOT_APPLIED, text).table(mapping.source().to_string())
}

fn protocol(what: &str) -> Error {
    Error::definite(codes::INTERNAL, format!("the stream brought {what}"))
}
