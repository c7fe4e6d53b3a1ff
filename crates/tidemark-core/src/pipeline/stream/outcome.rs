//! What became of work that was handed out: committed, undone, taken back, loaded anew.

use std::sync::Arc;

use tokio::time::Instant;

use crate::checkpoint::{Chunk, Reason, TableState};
use crate::control::ResyncStrategy::{self, Truncate};
use crate::error::Result;
use crate::failpoint;
use crate::pipeline::apply::{Done, DoneOutcome, NotInLog};
use crate::pipeline::assemble::Work;
use crate::pipeline::observe::{Committed, PipelineEvent};
use crate::pipeline::options::{OnConflict, Until};
use crate::pipeline::resync::{Reloaded, Resynced, What};
use crate::pipeline::{away, state_change};

use super::Stream;
use super::conflicts::conflict_error;

impl Stream<'_> {
    pub(super) fn on_done(&mut self, done: Done) -> Result<()> {
        match done.outcome {
            DoneOutcome::Flushed | DoneOutcome::Undone => {}
            DoneOutcome::Part(work) => self.add_counts(work.counts),
            DoneOutcome::Drained { is_empty, applied } => {
                self.note_quarantined(&applied);
                self.on_drained(is_empty);
            }
            DoneOutcome::Released(released, applied) => self.on_released(&released, &applied),
            DoneOutcome::Discarded(count, applied) => self.on_discarded(count, &applied),
            DoneOutcome::NotInLog(missing) => self.on_not_in_log(missing),
            DoneOutcome::Committed {
                work,
                applied,
                began,
                took,
            } => {
                self.on_committed(work, applied, began, took)?;
            }
        }
        if let Some(durable) = done.durable.filter(|durable| *durable > self.acknowledged) {
            self.acknowledged = durable;
            failpoint::reached(failpoint::ACKNOWLEDGE_DUE);
            self.changes.acknowledge(durable);
            self.engine
                .observer
                .say(PipelineEvent::Acknowledged(durable));
        }
        Ok(())
    }

    fn on_committed(
        &mut self,
        work: Work,
        applied: crate::target::Applied,
        began: Instant,
        took: std::time::Duration,
    ) -> Result<()> {
        self.add_counts(work.counts);
        let counts = std::mem::take(&mut self.counts);
        self.applying_us = None;
        let update = work.end.unwrap_or_default();
        // Only now: a source that answers does not make a target take what it refuses.
        self.lasting.backoff.reset();
        self.committed_at = Instant::now();
        if let Some(position) = update.position {
            self.processed = position;
        }
        if self.engine.options.on_conflict == OnConflict::Warn {
            self.warn_of_conflicts(&applied.conflicts);
        }
        self.note_quarantined(&applied);
        let table = |route: usize| self.assembler.router.route(route).mapping.source().clone();
        let is_refused =
            self.engine.options.on_conflict == OnConflict::Fail && !applied.conflicts.is_empty();
        let refusal = is_refused.then(|| conflict_error(&applied.conflicts));
        self.engine
            .observer
            .say(PipelineEvent::Committed(Committed {
                position: self.processed,
                transactions: work.batch.transactions,
                applied,
                oldest_commit_us: work.batch.oldest_commit_us,
                queued: work
                    .received_at
                    .map_or_else(Default::default, |at| began.duration_since(at)),
                took,
                changes: counts
                    .iter()
                    .map(|(route, count)| (table(*route), *count))
                    .collect(),
                parked: work
                    .parks
                    .iter()
                    .map(|park| (table(park.route), park.batch.len() as u64))
                    .collect(),
            }));
        for (table, text) in work.reshaped {
            let changed = PipelineEvent::SchemaChanged { table, text };
            self.engine.observer.say(changed);
        }
        for change in update.states {
            failpoint::reached(failpoint::STATE_COMMITTED);
            if let Some(route) = self.assembler.router.named(&change.table) {
                self.resyncs.recorded(route, self.engine, &self.assembler);
            }
            self.answer_recorded(&change.table, change.state);
            // A table that had passed its load before it was set aside is through at once.
            let is_through = change.state == TableState::Streaming
                && self.assembler.router.has_passed(&change.table);
            let table = change.table.clone();
            self.engine.observer.say(PipelineEvent::TableState {
                table: change.table,
                state: change.state,
                reason: change.reason,
            });
            if is_through {
                self.engine
                    .observer
                    .say(PipelineEvent::TablePassed { table });
            }
        }
        for table in update.passed {
            self.engine
                .observer
                .say(PipelineEvent::TablePassed { table });
        }
        self.show_state();
        refusal.map_or(Ok(()), Err)
    }

    /// Changes by table, over all parts of a transaction that is larger than a batch.
    fn add_counts(&mut self, counts: Vec<(usize, u64)>) {
        for (route, count) in counts {
            match self.counts.iter_mut().find(|(known, _)| *known == route) {
                Some((_, sum)) => *sum += count,
                None => self.counts.push((route, count)),
            }
        }
    }

    /// A table whose parked changes are all in follows the stream again from the next boundary on.
    fn on_drained(&mut self, is_empty: bool) {
        let Some(route) = self.resyncs.drained() else {
            return;
        };
        let still_parks = self.assembler.parks(route);
        if !is_empty || still_parks {
            return;
        }
        self.resyncs.over(route);
        self.skipped(route);
        let entry = self.assembler.router.route(route);
        // Set aside meanwhile, for good.
        if entry.state == TableState::Unloaded {
            return;
        }
        let called = entry.announced.as_ref().map(|table| &table.name);
        let is_loaded_away = entry.is_away && entry.state == TableState::Resyncing;
        let away = called.filter(|name| is_loaded_away && *name != entry.mapping.source());
        let mapping = Arc::clone(&entry.mapping);
        let change = match away {
            Some(name) => {
                let reason = Some(away::reason(name));
                state_change(&mapping, TableState::Quarantined, reason)
            }
            None => state_change(&mapping, TableState::Streaming, None),
        };
        self.assembler.set_state(route, change);
    }

    /// Some rows are loaded anew, and one of them has moved to a key outside of them; the log does not hold
    /// all of it. So it is loaded with them, by its new key; where no key is known, the whole table is.
    fn on_not_in_log(&mut self, missing: NotInLog) {
        let Some(route) = self.resyncs.drained() else {
            return;
        };
        let apart = self.assembler.router.rows_apart(route);
        let what = match (missing, apart) {
            (NotInLog::Row(key), Some(mut chunks)) => {
                let columns = chunks
                    .first()
                    .and_then(Chunk::key_columns)
                    .unwrap_or_default();
                chunks.push(Chunk::Rows {
                    columns: columns.to_vec(),
                    keys: vec![key],
                });
                What::Rows(chunks)
            }
            _ => What::Table(Truncate),
        };
        self.load_anew(route, what);
    }

    pub(super) fn on_resynced(&mut self, resynced: Result<Resynced>) -> Result<()> {
        let Resynced { route, outcome } = resynced?;
        if let Some(what) = self.resyncs.ended(route) {
            self.assembler.router.route_mut(route).has_rows = false;
            self.load_anew(route, what);
            return Ok(());
        }
        match outcome {
            Reloaded::Loaded {
                units,
                mapping,
                tidemark,
            } => {
                // A row that went into quarantine while others of its table were about to be loaded: it
                // may be one of these, and what waits behind it is older.
                let is_part = units.iter().any(|unit| unit.chunk.key_columns().is_some());
                let seen = (!is_part).then_some(&tidemark);
                if let Some(why) = self.resyncs.found(route, seen) {
                    return self.set_aside(route, why);
                }
                if is_part && self.quarantine.kept.contains_key(mapping.source()) {
                    self.load_anew(route, What::Table(self.strategy(route)));
                    return Ok(());
                }
                // Whoever wants to be caught up waits for what the load has seen as well.
                if self.engine.options.until == Until::CaughtUp {
                    let end = self.end_at.filter(|end| *end >= tidemark.after);
                    self.end_at = end.or(Some(tidemark.after));
                }
                let router = &mut self.assembler.router;
                router.set_units(route, &units, None);
                router.route_mut(route).has_rows = true;
                if !router.loaded(route, &mapping, &tidemark) {
                    // The log has come farther than the load meanwhile, and so must the record.
                    self.assembler.keep_shape(route);
                }
                self.discard_older(mapping.source());
                if !is_part {
                    self.lasting.partitions.loaded(mapping.source(), &tidemark);
                }
                self.resyncs.take_back(route);
            }
            // Some rows can stand in the way of others where a second key is unique.
            Reloaded::Refused {
                was: What::Rows(_), ..
            } => {
                self.load_anew(route, What::Table(ResyncStrategy::Swap));
            }
            Reloaded::Refused {
                is_begun, error, ..
            } => {
                let is_whole = self.resyncs.found(route, None).is_none();
                let entry = self.assembler.router.route_mut(route);
                entry.has_rows &= !is_begun && is_whole;
                let state = if entry.has_rows {
                    TableState::Quarantined
                } else {
                    TableState::Unloaded
                };
                let mapping = Arc::clone(&entry.mapping);
                let reason = Some(Reason::of(&error));
                let change = state_change(&mapping, state, reason);
                self.assembler.set_state(route, change);
            }
        }
        Ok(())
    }
}
