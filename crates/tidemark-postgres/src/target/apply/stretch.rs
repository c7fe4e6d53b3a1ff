//! Applies the changes between two barriers, each table in the way that suits what is there.
//!
//! ```text
//!   few changes, or order matters ───────────────► one by one, in source order
//!   nothing but inserts ─────────────────────────► COPY
//!   many changes, with a key ─► net change ──────► delete, update, COPY of what came
//!   many changes, no key ─────► counts per row ──► delete like, COPY
//! ```
//!
//! Tables are independent of each other here: the session fires no foreign keys and triggers, and
//! tables for which it does are applied one by one, all of them in one pass in source order.
//!
//! All is queued before anything is read. Counts are looked at afterwards; rows that an update set
//! missed are inserted then, in the same transaction.

use std::ops::Range;
use tidemark_core::Result;

use tidemark_core::batch::{Batch, Item};
use tidemark_core::compact::{
    KeyedNet, KeylessNet, Stretch, TableChanges, fold_keyed, fold_keyless,
};

use super::known::{KnownTables, Met};
use super::rows::{Rows, Values};
use super::session::{Outcome, Session, Step};
use super::sets::{Arrivals, RowSet, Sets};
use crate::wire::ServerError;

/// From this many rows on one set costs the server less than as many statements. Measured by
/// `examples/apply_bench.rs`: from 10 rows on an update costs less, at 30 two thirds, at 100 half.
const SET_MIN: usize = 8;

/// The same for rows that are found by all their values: a set is a whole pass over the table that
/// makes a text of its rows, a single row half a pass that compares values (unless an index serves).
pub(super) const LIKE_MIN: usize = 8;

/// What applying a stretch came to.
pub(super) enum Ended {
    /// Done; by table's place in the batch, how many changes met other rows than the log implies.
    Done(Vec<(u32, u64)>),
    /// The server refused something; the transaction can only be rolled back.
    Refused(Step, Box<ServerError>),
}

/// How far the changes may stray from row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As suits each table.
    Fast,
    /// One by one in source order, ready for rows that ought not to be there. What the source did by one
    /// statement, at whose end a constraint held, are many here: deferrable ones wait for the commit.
    Careful,
    /// What the changes come to, ready for the same.
    Net,
}

/// Applies the changes of one batch; kept over its stretches.
pub(super) struct Work<'a> {
    pub(super) session: &'a mut Session,
    pub(super) known: &'a mut KnownTables,
    pub(super) batch: &'a Batch,
    /// By place in the batch; filled as tables are met.
    pub(super) met: Vec<Option<Met>>,
    pub(super) pace: Pace,
    /// Statements that open the transaction or savepoint, until they are queued.
    pub(super) opening: &'static [&'static str],
}

/// A set whose count is to be looked at.
struct Watch<'n> {
    table: usize,
    slots: Vec<u32>,
    kind: Watched<'n>,
}

enum Watched<'n> {
    /// This many rows ought to be counted.
    Exactly(u64),
    /// Every row ought to be counted; those that are not are inserted.
    All(RowSet<'n>),
}

/// How the changes of one table are applied.
enum Way {
    Rows,
    Copy,
    Keyed(KeyedNet),
    Keyless(KeylessNet),
}

/// What is done with each of a few rows.
#[derive(Clone, Copy)]
enum Each {
    /// This many rows ought to be found, 0 or 1.
    Delete(u64),
    Update,
    Insert,
}

impl<'b> Work<'b> {
    /// Queues what opens the transaction, if that is still to be done.
    pub(super) fn open(&mut self) -> Result<()> {
        let opening = std::mem::take(&mut self.opening);
        opening
            .iter()
            .try_for_each(|sql| self.session.run(sql, Step::Own))
    }

    /// Applies one stretch.
    pub(super) async fn stretch(&mut self, stretch: &Stretch) -> Result<Ended> {
        self.meet_all(stretch).await?;
        let ways: Vec<Way> = stretch.tables.iter().map(|c| self.way(c)).collect();
        self.open()?;
        if self.pace == Pace::Careful {
            self.session
                .run("SET CONSTRAINTS ALL DEFERRED", Step::Own)?;
        }
        let mut watches = Vec::new();
        for (changes, way) in stretch.tables.iter().zip(&ways) {
            match way {
                Way::Rows => {}
                Way::Copy => self.copy_inserts(changes).await?,
                Way::Keyed(net) => self.keyed(changes, net, &mut watches).await?,
                Way::Keyless(net) => self.keyless(changes, net, &mut watches).await?,
            }
        }
        self.one_by_one(stretch, &ways).await?;
        self.session.sync();
        let outcome = self.session.finish().await?;
        let ended = self.look(outcome, &watches).await?;
        Ok(match ended {
            Ended::Done(mut conflicts) => {
                for (changes, way) in stretch.tables.iter().zip(&ways) {
                    if let Way::Keyed(net) = way {
                        conflicts.push((narrow(changes.table), net.conflicts));
                    }
                }
                Ended::Done(self.unexpected(conflicts))
            }
            refused @ Ended::Refused(..) => refused,
        })
    }

    /// Describes the tables of a stretch where that was not done.
    pub(super) async fn meet_all(&mut self, stretch: &Stretch) -> Result<()> {
        for changes in &stretch.tables {
            self.meet(changes.table).await?;
        }
        Ok(())
    }

    /// Describes a table of the batch where that was not done.
    pub(super) async fn meet(&mut self, place: usize) -> Result<()> {
        if self.met.len() <= place {
            self.met.resize(place + 1, None);
        }
        if self.met[place].is_none() {
            let mapping = &self.batch.tables()[place];
            let mut met = self.known.meet(self.session, mapping).await?;
            met.is_cautious |= self.pace != Pace::Fast;
            self.met[place] = Some(met);
        }
        Ok(())
    }

    /// A table that was met.
    pub(super) fn of(&self, place: usize) -> Met {
        let met = self.met[place].as_ref();
        met.expect("met before it is changed").clone()
    }

    fn way(&self, changes: &TableChanges) -> Way {
        let met = self.of(changes.table);
        let table = &met.table;
        if self.pace == Pace::Net && !table.key.is_empty() {
            return fold_keyed(self.batch, changes, &table.key).map_or(Way::Rows, Way::Keyed);
        }
        if met.is_cautious || table.is_ordered || table.columns.is_empty() {
            return Way::Rows;
        }
        if table.key.is_empty() {
            if changes.updates + changes.deletes >= LIKE_MIN {
                return fold_keyless(self.batch, changes).map_or(Way::Rows, Way::Keyless);
            }
            let is_copied = changes.is_insert_only() && changes.inserts >= SET_MIN;
            return if is_copied { Way::Copy } else { Way::Rows };
        }
        if changes.items.len() < SET_MIN {
            return Way::Rows;
        }
        if changes.is_insert_only() && !table.expects_surprises() {
            return Way::Copy;
        }
        let Some(mut net) = fold_keyed(self.batch, changes, &table.key) else {
            return Way::Rows;
        };
        // Of keys that are equal and not the same one may have gone to and fro: what vanished under the one
        // is the row that is there under the other.
        if !net.vanished.is_empty() && !table.is_key_exact() {
            return Way::Rows;
        }
        net.sort(self.batch, &table.key);
        Way::Keyed(net)
    }

    async fn copy_inserts(&mut self, changes: &TableChanges) -> Result<()> {
        let met = self.of(changes.table);
        let rows = Arrivals::of_changes(self.batch, changes);
        self.sets(&met, changes.table).copy(rows).await
    }

    async fn keyless<'n>(
        &mut self,
        changes: &TableChanges,
        net: &'n KeylessNet,
        watches: &mut Vec<Watch<'n>>,
    ) -> Result<()> {
        let met = self.of(changes.table);
        let batch = self.batch;
        let mut sets = self.sets(&met, changes.table);
        let slots = sets.delete_like(batch, net).await?;
        if !net.added.is_empty() {
            sets.copy(Arrivals::of_net(batch, net)).await?;
        }
        let count = net.removed.iter().map(|tally| tally.count).sum();
        let kind = Watched::Exactly(count);
        watches.push(Watch {
            table: changes.table,
            slots,
            kind,
        });
        Ok(())
    }

    /// Deletes, then updates, then inserts; each as a set where it is worth it.
    async fn keyed<'n>(
        &mut self,
        changes: &TableChanges,
        net: &'n KeyedNet,
        watches: &mut Vec<Watch<'n>>,
    ) -> Result<()>
    where
        'b: 'n,
    {
        let table = changes.table;
        let met = self.of(table);
        let set = |images| RowSet {
            batch: self.batch,
            merged: &net.merged,
            images,
        };
        let step = Step::Change {
            table: narrow(table),
            item: changes.items[0],
        };
        for (images, expected) in [(&net.deletes, 1), (&net.vanished, 0)] {
            if images.len() < SET_MIN || met.table.has_hooks() {
                let each = Each::Delete(expected);
                self.each(&met, step, set(images), each).await?;
                continue;
            }
            let slots = self.sets(&met, table).delete(set(images)).await?;
            let kind = Watched::Exactly(expected * images.len() as u64);
            watches.push(Watch { table, slots, kind });
        }
        for group in &net.updates {
            let rows = set(&group.rows);
            // A set does not tell which of its rows is missing.
            let must_be_there =
                !group.is_complete && met.table.expects_surprises() || met.table.has_hooks();
            if group.rows.len() < SET_MIN || must_be_there || rows.has_large() {
                self.each(&met, step, rows, Each::Update).await?;
            } else if !group.columns.is_empty() {
                let mut sets = self.sets(&met, table);
                let slots = sets.update(rows, &group.columns, group.is_complete).await?;
                let kind = if group.is_complete {
                    Watched::All(rows)
                } else {
                    Watched::Exactly(group.rows.len() as u64)
                };
                watches.push(Watch { table, slots, kind });
            } else if group.is_complete {
                let slots = self.sets(&met, table).insert_missing(rows).await?;
                let kind = Watched::Exactly(0);
                watches.push(Watch { table, slots, kind });
            }
        }
        let inserts = set(&net.inserts);
        let is_listed = met.table.expects_surprises();
        let is_large = is_listed && inserts.has_large();
        if inserts.len() < SET_MIN || is_large || met.table.has_hooks() {
            self.each(&met, step, inserts, Each::Insert).await
        } else {
            self.arrivals(&met, table, inserts).await
        }
    }

    /// Many rows that come. Where they may be there already, those that are are updated first.
    async fn arrivals(&mut self, met: &Met, table: usize, rows: RowSet<'_>) -> Result<()> {
        let mut sets = self.sets(met, table);
        if !met.table.expects_surprises() {
            return sets.copy(Arrivals::of_set(rows)).await;
        }
        let columns: Vec<usize> = met.table.values().collect();
        if !columns.is_empty() {
            sets.update(rows, &columns, true).await?;
        }
        sets.insert_missing(rows).await.map(drop)
    }

    /// Rows of a net change, one by one: few, or such as are too large for lists.
    async fn each(&mut self, met: &Met, step: Step, set: RowSet<'_>, what: Each) -> Result<()> {
        let mut rows = Rows {
            session: self.session,
            met,
            step,
        };
        for cells in set.cells() {
            let values = Values {
                batch: set.batch,
                cells,
            };
            let queued = match what {
                Each::Delete(expected) => rows.delete(values, expected),
                Each::Update => rows.update(values),
                Each::Insert => rows.insert(values),
            };
            queued.map_err(|error| met.table.error(error))?;
            rows.session.pump().await?;
        }
        Ok(())
    }

    fn sets<'s>(&'s mut self, met: &'s Met, place: usize) -> Sets<'s> {
        Sets {
            session: self.session,
            table: &met.table,
            place: narrow(place),
        }
    }

    /// All changes of the tables that are not applied as sets, in source order.
    async fn one_by_one(&mut self, stretch: &Stretch, ways: &[Way]) -> Result<()> {
        let mut is_one_by_one = vec![false; self.batch.tables().len()];
        for (changes, way) in stretch.tables.iter().zip(ways) {
            is_one_by_one[changes.table] = matches!(way, Way::Rows);
        }
        if is_one_by_one.contains(&true) {
            self.items(stretch.items.clone(), |table| is_one_by_one[table])
                .await?;
        }
        Ok(())
    }

    pub(super) async fn items(
        &mut self,
        items: Range<usize>,
        is_chosen: impl Fn(usize) -> bool + Send,
    ) -> Result<()> {
        for item in items {
            if self.session.is_refused() {
                break;
            }
            let Item::Change(change) = &self.batch.items()[item] else {
                continue;
            };
            if !is_chosen(change.table) {
                continue;
            }
            let met = self.met[change.table].as_ref();
            let met = met.expect("met at the start of the stretch");
            let step = Step::Change {
                table: narrow(change.table),
                item: narrow(item),
            };
            let mut rows = Rows {
                session: self.session,
                met,
                step,
            };
            let queued = rows.change(self.batch, change);
            queued.map_err(|error| met.table.error(error))?;
            self.session.pump().await?;
        }
        Ok(())
    }

    /// Queues every change of the batch in source order; it has no barriers, and its tables are met.
    pub(super) async fn queue_one_by_one(&mut self) -> Result<()> {
        self.items(0..self.batch.len(), |_| true).await
    }

    /// Looks at what was counted, and inserts rows that updates did not find.
    async fn look(&mut self, outcome: Outcome, watches: &[Watch<'_>]) -> Result<Ended> {
        if let Some((step, said)) = outcome.refused {
            return Ok(Ended::Refused(step, said));
        }
        let mut conflicts = outcome.surprises;
        let mut is_more = false;
        for watch in watches {
            let counted: u64 = watch
                .slots
                .iter()
                .map(|slot| outcome.counts[*slot as usize])
                .sum();
            let expected = match &watch.kind {
                Watched::Exactly(count) => *count,
                Watched::All(rows) => rows.len() as u64,
            };
            conflicts.push((narrow(watch.table), counted.abs_diff(expected)));
            if let Watched::All(rows) = &watch.kind
                && counted < expected
            {
                let met = self.of(watch.table);
                self.sets(&met, watch.table).insert_missing(*rows).await?;
                is_more = true;
            }
        }
        if is_more {
            self.session.sync();
            if let Some((step, said)) = self.session.finish().await?.refused {
                return Ok(Ended::Refused(step, said));
            }
        }
        Ok(Ended::Done(conflicts))
    }

    /// Conflicts without those that are to be expected.
    pub(super) fn unexpected(&self, mut conflicts: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
        conflicts.retain(|(table, count)| {
            *count > 0 && !self.of(*table as usize).table.expects_surprises()
        });
        conflicts
    }
}

/// A place in the batch, as steps carry it.
pub(super) fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("items fit where their cells do")
}
