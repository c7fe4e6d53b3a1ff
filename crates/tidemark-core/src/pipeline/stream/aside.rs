//! Rows in quarantine: what is asked of them, done between two target transactions; and what is said of
//! those that went there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::catalogue::codes;
use crate::checkpoint::TableState;
use crate::control::Answer;
use crate::mapping::TableMapping;
use crate::pipeline::apply::Task;
use crate::pipeline::commands::{accepted, answer, refusal};
use crate::pipeline::observe::PipelineEvent;
use crate::position::Position;
use crate::quarantine::{Chosen, Kept, OnRowError, Released, discarded};
use crate::schema::TableName;
use crate::target::Applied;
use crate::words::counted;

use super::Stream;

/// What is in quarantine, and what is to be done about it.
pub(super) struct Quarantine {
    /// By table.
    pub(super) kept: HashMap<TableName, Kept>,
    tasks: VecDeque<AsideTask>,
    /// What the applier does now.
    given: Option<AsideTask>,
    /// What stopped a table before this run of the stream is before this in the log.
    stopped_before: Position,
}

impl Quarantine {
    pub(super) fn new(kept: &[(TableName, Kept)], head: Position) -> Quarantine {
        Quarantine {
            kept: kept.iter().cloned().collect(),
            tasks: VecDeque::new(),
            given: None,
            stopped_before: head,
        }
    }

    /// Tables that have rows in it.
    pub(super) fn all(&self) -> Vec<(TableName, Kept)> {
        let kept = self.kept.iter();
        kept.map(|(table, kept)| (table.clone(), *kept)).collect()
    }
}

/// Something to be done with rows in quarantine.
struct AsideTask {
    what: What,
    /// Nobody waits where the engine itself wants it.
    reply: Option<oneshot::Sender<Answer>>,
    /// Tables that are set aside and go on afterwards.
    then: Vec<usize>,
}

enum What {
    Release(Chosen),
    Discard(Chosen),
}

impl Stream<'_> {
    /// `retry`: rows are applied again, then tables that are set aside go on.
    pub(super) fn on_retry(&mut self, chosen: Chosen, reply: oneshot::Sender<Answer>) {
        let then = match self.tables_to_retry(&chosen) {
            Ok(then) => then,
            Err(why) => return answer(reply, refusal(why)),
        };
        self.quarantine.tasks.push_back(AsideTask {
            what: What::Release(chosen),
            reply: Some(reply),
            then,
        });
    }

    pub(super) fn on_discard(&mut self, chosen: Chosen, reply: oneshot::Sender<Answer>) {
        if self.lasting.is_paused {
            return answer(reply, refusal("it is paused"));
        }
        self.quarantine.tasks.push_back(AsideTask {
            what: What::Discard(chosen),
            reply: Some(reply),
            then: Vec::new(),
        });
    }

    /// `skip`: tables that are set aside go on, and rows that are refused go aside one by one.
    pub(super) fn skip_tables(
        &mut self,
        tables: &[TableName],
    ) -> Result<super::requests::Asked, String> {
        let routes = self.routes_of(tables)?;
        self.must_be_free(&routes)?;
        for route in &routes {
            let entry = self.assembler.router.route(*route);
            let table = entry.mapping.source();
            if entry.state != TableState::Quarantined || !entry.has_rows {
                return Err(format!("{table} was not stopped by a row: nothing to skip"));
            }
            if entry.mapping.key.is_empty() {
                return Err(format!(
                    "{table} has no key, by which later changes of a row would be known"
                ));
            }
        }
        for route in &routes {
            let table = self.assembler.router.route(*route).mapping.source();
            self.lasting.skips.push(table.clone());
            self.resyncs.take_back(*route);
        }
        Ok(self.asked(
            &[],
            format!(
                "{} resumed; rows that cannot be applied are put aside",
                counted(routes.len(), "table")
            ),
        ))
    }

    /// Tables that were to go on when a side was lost are to go on now.
    pub(super) fn skip_again(&mut self) {
        let router = &self.assembler.router;
        let is_stopped = |table: &TableName| {
            let entry = router.named(table).map(|route| router.route(route));
            entry.is_some_and(|entry| entry.state == TableState::Quarantined && entry.has_rows)
        };
        self.lasting.skips.retain(is_stopped);
        for table in &self.lasting.skips {
            if let Some(route) = router.named(table) {
                self.resyncs.take_back(route);
            }
        }
    }

    fn is_to_skip(&self, route: usize) -> bool {
        let table = self.assembler.router.route(route).mapping.source();
        self.lasting.skips.contains(table)
    }

    /// A table goes on as the file says.
    pub(super) fn skipped(&mut self, route: usize) {
        let table = self.assembler.router.route(route).mapping.source();
        self.lasting.skips.retain(|skipped| skipped != table);
    }

    /// A table whose parked changes are to be taken back now. The row that stopped a table comes once
    /// more, to be parked, when the log is read again from the checkpoint. So one that is to go on without
    /// that row waits for it: taken back before, nothing would be skipped, and the row would stop the
    /// table as ever.
    pub(super) fn to_drain(&self) -> Option<usize> {
        let is_there = self.assembler.assembled() >= self.quarantine.stopped_before;
        let mut waiting = self.resyncs.to_drain();
        waiting.find(|route| is_there || !self.is_to_skip(*route))
    }

    /// A table was loaded anew as a whole: what was kept of its rows is older.
    pub(super) fn discard_older(&mut self, table: &TableName) {
        if self.quarantine.kept.contains_key(table) {
            self.quarantine.tasks.push_back(AsideTask {
                what: What::Discard(Chosen {
                    tables: vec![table.clone()],
                    key: None,
                }),
                reply: None,
                then: Vec::new(),
            });
        }
    }

    /// What these tables rest on was followed on the target: their rows in quarantine may be taken now.
    pub(super) fn release_followed(&mut self, tables: &[TableName]) {
        let is_kept = |table: &&TableName| self.quarantine.kept.contains_key(*table);
        let tables: Vec<TableName> = tables.iter().filter(is_kept).cloned().collect();
        if !tables.is_empty() {
            self.quarantine.tasks.push_back(AsideTask {
                what: What::Release(Chosen { tables, key: None }),
                reply: None,
                then: Vec::new(),
            });
        }
    }

    /// Gives the applier the next of these, where it has no transaction open.
    pub(super) fn give_aside(&mut self) -> bool {
        if !self.assembler.is_between_commits() {
            return false;
        }
        let Some(next) = self.quarantine.tasks.pop_front() else {
            return false;
        };
        self.applier.give(match &next.what {
            What::Discard(chosen) => Task::Discard(chosen.clone()),
            What::Release(chosen) => Task::Release {
                mappings: self.mappings_with_rows(),
                chosen: chosen.clone(),
            },
        });
        self.quarantine.given = Some(next);
        true
    }

    pub(super) fn on_released(&mut self, released: &Released, applied: &Applied) {
        self.note_quarantined(applied);
        let Some(AsideTask { reply, then, .. }) = self.quarantine.given.take() else {
            return;
        };
        for route in &then {
            if !self.resyncs.is_under_way(*route) {
                self.resyncs.take_back(*route);
            }
        }
        if let Some(reply) = reply {
            answer(reply, released.answer(then.len()));
        }
    }

    pub(super) fn on_discarded(&mut self, count: u64, applied: &Applied) {
        self.note_quarantined(applied);
        let reply = self.quarantine.given.take().and_then(|given| given.reply);
        if let Some(reply) = reply {
            answer(reply, accepted(discarded(count)));
        }
    }

    /// Keeps count of what is in quarantine, and says what went there.
    pub(super) fn note_quarantined(&mut self, applied: &Applied) {
        for (table, kept) in &applied.quarantined {
            if kept.rows == 0 {
                self.quarantine.kept.remove(table);
            } else {
                self.quarantine.kept.insert(table.clone(), *kept);
            }
        }
        if !applied.quarantined.is_empty() {
            let tables = applied.quarantined.clone();
            self.engine.observer.say(PipelineEvent::Quarantined(tables));
        }
        let mut first: HashMap<&TableName, (&str, u64)> = HashMap::new();
        for (table, cause) in &applied.refused {
            self.discovery.refused(table);
            first.entry(table).or_insert((&cause.text, 0)).1 += 1;
        }
        for (table, (text, count)) in first {
            let rows = if count == 1 { "row goes" } else { "rows go" };
            self.engine.observer.say(PipelineEvent::Warning {
                code: codes::ROW_QUARANTINED,
                text: format!("{table}: {count} {rows} into quarantine: {text}"),
            });
        }
    }

    /// Tables whose rows are those of some state of the source.
    fn mappings_with_rows(&self) -> Vec<Arc<TableMapping>> {
        let router = &self.assembler.router;
        router
            .routes()
            .filter(|(route, entry)| {
                let is_whole = entry.has_rows && entry.state.has_rows();
                is_whole && !self.resyncs.is_under_way(*route)
            })
            .map(|(_, entry)| Arc::clone(&entry.mapping))
            .collect()
    }

    fn tables_to_retry(&self, chosen: &Chosen) -> Result<Vec<usize>, String> {
        if self.lasting.is_paused {
            return Err("it is paused".to_owned());
        }
        let named = self.routes_of(&chosen.tables)?;
        self.must_be_free(&named)?;
        let is_wanted = |route: usize| chosen.tables.is_empty() || named.contains(&route);
        for route in &named {
            let entry = self.assembler.router.route(*route);
            if !entry.has_rows {
                let table = entry.mapping.source();
                return Err(format!(
                    "the rows of {table} are not all in: it has to be loaded anew, by `tidemark resync`"
                ));
            }
        }
        let routes = self.assembler.router.routes();
        let goes_on = routes.filter(|(route, entry)| {
            let is_set_aside = entry.state == TableState::Quarantined && entry.has_rows;
            let is_free = !self.resyncs.is_under_way(*route);
            chosen.key.is_none() && is_wanted(*route) && is_set_aside && is_free
        });
        Ok(goes_on.map(|(route, _)| route).collect())
    }

    /// The mapping by which a table's parked changes are taken back.
    pub(super) fn mapping_to_drain(&self, route: usize) -> Arc<TableMapping> {
        let mapping = &self.assembler.router.route(route).mapping;
        if !self.is_to_skip(route) || mapping.on_row_error.is_by_row() {
            return Arc::clone(mapping);
        }
        let bounds = mapping.on_row_error.bounds();
        Arc::new(TableMapping {
            on_row_error: OnRowError::QuarantineRow(bounds),
            ..mapping.as_ref().clone()
        })
    }
}
