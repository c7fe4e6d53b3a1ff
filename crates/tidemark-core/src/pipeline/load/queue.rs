//! What is left to do of a load, in the order in which workers take it: a table whose rows are in is
//! finished first, then come units of tables that are under way, then the next table.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::checkpoint::Unit;
use crate::error::Error;
use crate::mapping::TableMapping;
use crate::pipeline::Engine;
use crate::schema::TableName;
use crate::source::RowFormat;
use crate::target::{Place, Replace};

use super::{LoadReport, LoadTable};

/// What a worker does next.
pub(super) enum Job {
    Prepare(LoadTable),
    Copy {
        table: usize,
        unit: Unit,
        way: Way,
    },
    Finish {
        table: usize,
    },
    /// All rows are in: nothing will be read any more.
    LetGo,
}

/// How the rows of a table are written.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) format: RowFormat,
    pub(super) place: Place,
    pub(super) replace: Replace,
}

/// A table under way.
pub(super) struct Active {
    pub(super) mapping: Arc<TableMapping>,
    pub(super) way: Way,
    pub(super) units: Vec<Unit>,
    pub(super) waiting: VecDeque<usize>,
    pub(super) copying: usize,
    pub(super) state: ActiveState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ActiveState {
    Copying,
    ToFinish,
    Finishing,
    Done,
}

pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
    tables_max: usize,
    chunks_max: usize,
}

#[derive(Default)]
pub(super) struct Inner {
    pending: VecDeque<LoadTable>,
    preparing: Vec<TableName>,
    pub(super) active: Vec<Active>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) refused: Vec<(Arc<TableMapping>, Error)>,
    pub(super) workers: usize,
    /// Workers that wait because a server takes no more connections.
    pub(super) without_room: usize,
    /// Whether there was ever one.
    has_lacked_room: bool,
}

impl Queue {
    pub(super) fn new(engine: &Engine, tables: Vec<LoadTable>, workers: usize) -> Queue {
        Queue {
            inner: Mutex::new(Inner {
                pending: tables.into(),
                workers,
                ..Inner::default()
            }),
            changed: Notify::new(),
            tables_max: engine.options.parallel_tables.max(1),
            chunks_max: engine.options.parallel_chunks.max(1),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A worker that panicked ends the load anyway; what it held is plain data.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; waits while other workers may bring some; `None` when all is done. Whoever `reads`
    /// is told once that all rows are in.
    pub(super) async fn next(&self, reads: bool) -> Option<Job> {
        loop {
            let changed = self.changed.notified();
            {
                let mut inner = self.lock();
                if reads && inner.rows_are_in() {
                    return Some(Job::LetGo);
                }
                if let Some(job) = inner.take(self.tables_max, self.chunks_max) {
                    return Some(job);
                }
                if inner.is_done() {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Waits until all rows are in. Cancel-safe.
    pub(super) async fn rows_are_in(&self) {
        self.until(Inner::rows_are_in).await;
    }

    /// Waits until nothing is left to do. Cancel-safe.
    pub(super) async fn is_done(&self) {
        self.until(Inner::is_done).await;
    }

    /// A worker lacks room. Whether it is the first one.
    pub(super) fn note_lack_of_room(&self) -> bool {
        !std::mem::replace(&mut self.lock().has_lacked_room, true)
    }

    async fn until(&self, is_so: fn(&Inner) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    pub(super) fn report(&self) -> LoadReport {
        let mut inner = self.lock();
        LoadReport {
            rows: inner.rows,
            bytes: inner.bytes,
            refused: std::mem::take(&mut inner.refused),
            tables: inner
                .active
                .iter()
                .map(|active| (Arc::clone(&active.mapping), active.units.clone()))
                .collect(),
            beside: inner
                .active
                .iter()
                .filter(|active| active.way.place == Place::Beside)
                .map(|active| Arc::clone(&active.mapping))
                .collect(),
        }
    }
}

impl Inner {
    fn take(&mut self, tables_max: usize, chunks_max: usize) -> Option<Job> {
        if let Some(table) = self
            .active
            .iter()
            .position(|active| active.state == ActiveState::ToFinish)
        {
            self.active[table].state = ActiveState::Finishing;
            return Some(Job::Finish { table });
        }
        let copying = self
            .active
            .iter_mut()
            .enumerate()
            .find(|(_, active)| !active.waiting.is_empty() && active.copying < chunks_max);
        if let Some((table, active)) = copying {
            let unit = active
                .waiting
                .pop_front()
                .expect("found with a unit waiting");
            active.copying += 1;
            return Some(Job::Copy {
                table,
                unit: active.units[unit].clone(),
                way: active.way,
            });
        }
        let under_way = self
            .active
            .iter()
            .filter(|active| active.state == ActiveState::Copying)
            .count();
        if under_way + self.preparing.len() < tables_max {
            let table = self.pending.remove(self.first_to_make()?)?;
            self.preparing.push(table.mapping.source().clone());
            return Some(Job::Prepare(table));
        }
        None
    }

    /// The first table whose columns need no other that is still to be made. Where all do, as some that
    /// need each other, the first one: the target says what is wrong with it.
    fn first_to_make(&self) -> Option<usize> {
        let is_to_come = |name: &TableName| {
            let mut pending = self.pending.iter().map(|table| table.mapping.source());
            self.preparing.contains(name) || pending.any(|other| other == name)
        };
        let is_free = |table: &LoadTable| {
            let own = table.mapping.source();
            let mut needs = table.mapping.schema.rests_on.iter();
            !needs.any(|name| name != own && is_to_come(name))
        };
        let first = || self.preparing.is_empty().then_some(0);
        self.pending.iter().position(is_free).or_else(first)
    }

    /// A table is made, or refused.
    pub(super) fn prepared(&mut self, table: &TableName) {
        self.preparing.retain(|name| name != table);
    }

    fn rows_are_in(&self) -> bool {
        let is_copied = |active: &Active| active.waiting.is_empty() && active.copying == 0;
        self.pending.is_empty() && self.preparing.is_empty() && self.active.iter().all(is_copied)
    }

    fn is_done(&self) -> bool {
        let is_done = |active: &Active| active.state == ActiveState::Done;
        self.rows_are_in() && self.active.iter().all(is_done)
    }

    pub(super) fn copied(&mut self, table: usize, unit: Unit) {
        let active = &mut self.active[table];
        active.copying -= 1;
        if let Some(slot) = active
            .units
            .iter_mut()
            .find(|known| known.number == unit.number)
        {
            *slot = unit;
        }
        let is_complete = active.waiting.is_empty() && active.copying == 0;
        if is_complete && active.state == ActiveState::Copying {
            active.state = ActiveState::ToFinish;
        }
    }

    /// A table of which nothing was begun is the next again.
    pub(super) fn give_table_back(&mut self, table: LoadTable) {
        self.prepared(table.mapping.source());
        self.pending.push_front(table);
    }

    /// A unit of which nothing was begun is the next of its table again, unless the table was given up.
    pub(super) fn give_unit_back(&mut self, table: usize, unit: u32) {
        let active = &mut self.active[table];
        active.copying = active.copying.saturating_sub(1);
        if active.state == ActiveState::Copying {
            let number = |known: &Unit| known.number == unit;
            let index = active.units.iter().position(number);
            active
                .waiting
                .push_front(index.expect("a unit of the table"));
        }
    }

    /// Gives a table up; its other units are not begun any more.
    pub(super) fn refuse(&mut self, table: usize, err: Error) {
        let active = &mut self.active[table];
        active.waiting.clear();
        active.copying = active.copying.saturating_sub(1);
        if active.state != ActiveState::Done {
            active.state = ActiveState::Done;
            let mapping = Arc::clone(&active.mapping);
            self.refused.push((mapping, err));
        }
    }
}
