//! Partitions that change as a whole, of which the log of the table that they belong to says nothing.
//!
//! PostgreSQL announces changes under the partitioned table's own name, and then not that one partition
//! is emptied (`pgoutput_truncate`, PostgreSQL 15); and no log tells that a partition with rows in it is
//! attached, detached or dropped. So the catalog is compared with what it was at the last look: which
//! partitions there are, and since when each belongs to the table, for one may have gone and come again
//! with other rows in between; and a partition that was emptied has new storage. It has that as well after
//! `VACUUM FULL` or a rewrite, and after a TRUNCATE of the whole table, which the log does bring. So new
//! storage is a doubt until the stream has passed the look, and is dropped if the transaction that gave it
//! is one that emptied the whole table, or one that a load of the table has seen. Of what is left only a
//! comparison of the rows can tell. Where everything is to be followed both sides are compared and brought
//! to be the same; else it is said, since rows that go with a partition may be wanted on the target.
//!
//! A run that is killed, or does not run for a while, must not forget what it was in doubt of. So the last
//! look of which nothing is in doubt is kept in the target, table by table, and each attempt begins with
//! it: what is other by then is in doubt (again). It is recorded in the commit that records what is done
//! about the doubt, and before the first row is loaded. That a TRUNCATE of the whole table is in, which no
//! later run reads, is recorded in its own commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::checkpoint::{CheckpointUpdate, KnownPartitions};
use crate::error::{Context, Result};
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::TableName;
use crate::source::Partition;
use crate::tidemark::{PgSnapshot, Seen, Tidemark};

use super::Run;

/// Of a table that is emptied all the time so many transactions are kept in mind: more than come between
/// two looks. One that is forgotten costs a comparison.
const EMPTIED_MAX: usize = 1_000;

/// What is known of the partitions of a run's tables.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// At the last look at a table that is partitioned.
    known: BTreeMap<TableName, Vec<Partition>>,
    /// What the target has a record of, or will have with the next commit.
    recorded: BTreeMap<TableName, Option<Vec<Partition>>>,
    /// Tables whose last look is not the recorded one.
    unrecorded: BTreeSet<TableName>,
    doubts: Vec<Doubt>,
    /// Transactions that emptied a whole table, as the log told.
    emptied: BTreeMap<TableName, VecDeque<u32>>,
    /// What loads of whole tables have seen that came to their end since the last look.
    loaded: BTreeMap<TableName, PgSnapshot>,
    /// Where the log ended after the last look, and after the one before.
    looks: Option<(Option<Position>, Position)>,
    /// Partitions that rows came from, and where the transaction ended, until a look has told of them.
    written: Vec<(Written, Position)>,
    /// Those that looks have missed, until the stream has passed the look: by their numbers.
    gone: Vec<(u32, Position)>,
}

/// A partition that the log has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) root: TableName,
    pub(super) name: TableName,
    /// The source's number for it.
    pub(super) id: u32,
}

/// What a look found.
#[derive(Debug)]
pub(super) struct PartitionsNow {
    pub(super) partitions: Vec<(TableName, Vec<Partition>)>,
    /// The log ended here after that.
    pub(super) head: Position,
}

/// A change that may have left the target behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) root: TableName,
    kind: Kind,
    /// What was seen, of which partition.
    pub(super) seen: String,
    /// What it means for the target's rows as long as nobody compares them.
    pub(super) effect: &'static str,
    /// It was done before this end of the log.
    to: Position,
}

impl Doubt {
    fn of(
        root: &TableName,
        (partition, kind, seen, effect): Difference<'_>,
        to: Position,
    ) -> Doubt {
        Doubt {
            root: root.clone(),
            kind,
            seen: format!("{} of {root} {seen}", partition.name),
            effect,
            to,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// New storage, which came by this transaction, or by one before it that nobody has seen.
    Storage {
        written_by: u32,
    },
    Membership,
}

impl Kind {
    /// Whether a snapshot has seen it for sure. Of ids from its `xmin` on that is not told: one may be that of a
    /// subtransaction, which a snapshot does not list (`pg_current_snapshot()`) while its transaction runs.
    fn is_seen_by(self, load: &PgSnapshot) -> bool {
        match self {
            Kind::Storage { written_by } => load.widen(written_by) < load.xmin,
            Kind::Membership => false,
        }
    }
}

impl Partitions {
    /// Goes on from what the target has: a doubt that was not settled by a commit comes again, and what this run
    /// has seen since is not forgotten, for the target has no record of it while anything is in doubt.
    fn take_up(&mut self, recorded: Vec<KnownPartitions>) {
        self.recorded.clear();
        self.unrecorded.clear();
        for found in recorded {
            if let Some(xid) = found.emptied_by {
                self.emptied(found.table.clone(), xid);
            }
            if let Some(partitions) = &found.partitions {
                if let (Some(known), Some((_, to))) = (self.known.get(&found.table), self.looks) {
                    for difference in differences(partitions, known) {
                        let doubt = Doubt::of(&found.table, difference, to);
                        let is_same = |it: &Doubt| (it.kind, &it.seen) == (doubt.kind, &doubt.seen);
                        if !self.doubts.iter().any(is_same) {
                            self.doubts.push(doubt);
                        }
                    }
                } else {
                    self.known.insert(found.table.clone(), partitions.clone());
                }
            }
            self.recorded.insert(found.table, found.partitions);
        }
    }

    /// The catalog was looked at, and the log ended at `head` after that. A table that is called otherwise
    /// just then is not among `now`, and is compared with what it was when it is back.
    pub(super) fn looked(&mut self, now: Vec<(TableName, Vec<Partition>)>, head: Position) {
        let before = self.looks.map(|(_, last)| last);
        self.looks = Some((before, head));
        for (root, now) in now {
            let before = self.known.get(&root);
            let ids: BTreeSet<u32> = now.iter().map(|new| new.id).collect();
            let missed = before.into_iter().flatten().map(|old| old.id);
            let missed = missed.filter(|id| !ids.contains(id));
            self.gone.extend(missed.map(|id| (id, head)));
            let load = self.loaded.get(&root);
            for difference in differences(before.unwrap_or(&now), &now) {
                let doubt = Doubt::of(&root, difference, head);
                if load.is_none_or(|load| !doubt.kind.is_seen_by(load)) {
                    self.doubts.push(doubt);
                }
            }
            let recorded = self.recorded.get(&root).and_then(Option::as_ref);
            if recorded != Some(&now) {
                self.unrecorded.insert(root.clone());
            }
            self.known.insert(root, now);
        }
        // Ids of transactions can be compared for a while only.
        self.loaded.clear();
        for (partition, at) in std::mem::take(&mut self.written) {
            self.written(partition, at);
        }
    }

    /// Rows of a partition came, in a transaction that ended at `at`. The stream may be behind looks.
    pub(super) fn written(&mut self, partition: Written, at: Position) {
        let Some((from, to)) = self.looks else {
            return;
        };
        let known = self.known.get(&partition.root);
        let mut known = known.into_iter().flatten();
        let is_told = known.any(|known| known.id == partition.id)
            || self.gone.iter().any(|(id, _)| *id == partition.id);
        if is_told {
            return;
        }
        if from.is_none_or(|from| from < at) {
            self.written.push((partition, at));
            return;
        }
        let Written { root, name, id } = partition;
        self.gone.push((id, to));
        self.doubts.push(Doubt {
            kind: Kind::Membership,
            seen: format!("{name} of {root} was made, and detached or dropped again"),
            effect: KEEPS_ITS_ROWS,
            to,
            root,
        });
    }

    /// The log emptied a whole table.
    pub(super) fn emptied(&mut self, table: TableName, xid: u32) {
        let emptied = self.emptied.entry(table).or_default();
        if emptied.len() == EMPTIED_MAX {
            emptied.pop_front();
        }
        emptied.push_back(xid);
    }

    /// A table is new to the pipeline: the target gets a record of it.
    pub(super) fn comes(&mut self, table: TableName) {
        self.unrecorded.insert(table.clone());
        self.recorded.entry(table).or_default();
    }

    /// All rows of a table were loaded, or compared, as a snapshot has seen them: storage that this has seen
    /// is in no doubt.
    pub(super) fn loaded(&mut self, table: &TableName, tidemark: &Tidemark) {
        let Seen::PgSnapshot(load) = &tidemark.seen else {
            return;
        };
        let is_seen = |doubt: &Doubt| doubt.root == *table && doubt.kind.is_seen_by(load);
        self.doubts.retain(|doubt| !is_seen(doubt));
        self.loaded.insert(table.clone(), load.clone());
    }

    /// What is to be looked into once everything before `position` was taken in, but for tables that are
    /// `busy` now.
    pub(super) fn due_at(
        &mut self,
        position: Position,
        is_busy: impl Fn(&TableName) -> bool,
    ) -> Vec<Doubt> {
        // No row of before comes any more.
        self.gone.retain(|(_, to)| position < *to);
        let emptied = &self.emptied;
        let is_explained = |doubt: &Doubt| match doubt.kind {
            Kind::Storage { written_by } => emptied
                .get(&doubt.root)
                .is_some_and(|emptied| emptied.contains(&written_by)),
            Kind::Membership => false,
        };
        let is_due = |doubt: &mut Doubt| doubt.to <= position && !is_busy(&doubt.root);
        let due = self.doubts.extract_if(.., is_due);
        due.filter(|doubt| !is_explained(doubt)).collect()
    }

    /// What is to be recorded: of tables of which the target has a record, and nothing is in doubt.
    pub(super) fn take_settled(&mut self) -> Vec<(TableName, Vec<Partition>)> {
        let (known, recorded, doubts) = (&self.known, &mut self.recorded, &self.doubts);
        let is_settled = |table: &TableName| {
            let is_there = known.contains_key(table) && recorded.contains_key(table);
            is_there && doubts.iter().all(|doubt| doubt.root != *table)
        };
        let settled = self.unrecorded.extract_if(.., is_settled);
        let settled: Vec<TableName> = settled.collect();
        let settled = settled.into_iter().map(|table| {
            let partitions = known[&table].clone();
            recorded.insert(table.clone(), Some(partitions.clone()));
            (table, partitions)
        });
        settled.collect()
    }
}

impl Run {
    /// Before rows are read, since what changes from then on is to be noticed, and after that; `None` where
    /// nothing is streamed.
    pub(super) async fn look_at_partitions(
        &self,
        mappings: &[Arc<TableMapping>],
    ) -> Result<Option<PartitionsNow>> {
        let engine = &self.engine;
        if !engine.options.mode.streams() {
            return Ok(None);
        }
        let names: Vec<_> = mappings.iter().map(|m| m.source().clone()).collect();
        let partitions = engine.source.partitions(&names).await?;
        let head = engine.source.head().await?;
        Ok(Some(PartitionsNow { partitions, head }))
    }

    /// Goes on from what the target has, and records what is new there. `now` is from before any row of this
    /// attempt was read. Durable on return.
    pub(super) async fn take_up_partitions(&mut self, now: Option<PartitionsNow>) -> Result<()> {
        let Some(PartitionsNow { partitions, head }) = now else {
            return Ok(());
        };
        let target = &self.engine.target;
        let known = &mut self.lasting.partitions;
        known.take_up(target.partitions().await?);
        known.looked(partitions, head);
        let update = CheckpointUpdate {
            partitions: known.take_settled(),
            ..CheckpointUpdate::default()
        };
        if update.partitions.is_empty() {
            return Ok(());
        }
        let mut applier = target.applier().await?;
        applier.begin().await?;
        applier.commit(&update).await?;
        applier.flush().await.context(|| "record partitions")
    }
}

/// What it means that a partition has gone.
const KEEPS_ITS_ROWS: &str = "the target keeps the rows that it had";

/// A partition, what was seen of it, and what it means.
type Difference<'a> = (&'a Partition, Kind, &'static str, &'static str);

fn differences<'a>(before: &'a [Partition], now: &'a [Partition]) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    let after: BTreeMap<u32, &Partition> = now.iter().map(|new| (new.id, new)).collect();
    for old in before {
        match after.get(&old.id).copied() {
            None => found.push((
                old,
                Kind::Membership,
                "was detached or dropped",
                KEEPS_ITS_ROWS,
            )),
            Some(new) if new.since != old.since => found.push((
                new,
                Kind::Membership,
                "was detached and attached again",
                "the target has not what was done to it meanwhile",
            )),
            Some(new) if new.storage != old.storage => found.push(has_new_storage(new)),
            Some(_) => {}
        }
    }
    let known: BTreeSet<u32> = before.iter().map(|old| old.id).collect();
    let is_known = |new: &Partition| known.contains(&new.id);
    for new in now.iter().filter(|new| !is_known(new)) {
        if new.is_attached {
            found.push((
                new,
                Kind::Membership,
                "was attached",
                "the target does not have the rows that it brought",
            ));
        } else if has_lost_its_first_storage(new) {
            found.push(has_new_storage(new));
        }
    }
    found
}

fn has_new_storage(partition: &Partition) -> Difference<'_> {
    (
        partition,
        Kind::Storage {
            written_by: partition.written_by,
        },
        "has new storage",
        "if it was emptied by TRUNCATE, or unlogged for a while (and not by VACUUM FULL or a rewrite made \
         smaller), the target has not the rows that it has",
    )
}

/// Whether a table's rows are elsewhere than where they were first: its number is that of its first file
/// (`heap_create`, PostgreSQL 15). One without files of its own has 0.
fn has_lost_its_first_storage(partition: &Partition) -> bool {
    partition.storage != 0 && partition.storage != partition.id
}

#[cfg(test)]
mod tests;
