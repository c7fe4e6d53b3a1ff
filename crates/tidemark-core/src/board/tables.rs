//! The tables of the board: what each of them has come to.
//!
//! A table is met again after a reconnect, and what this run copied of it stays. What the target has recorded of
//! all of them is taken in at once.

use std::collections::HashMap;

use crate::checkpoint::{Reason, TableState};
use crate::pipeline::observe::TableOutline;
use crate::quarantine::Kept;
use crate::schema::TableName;
use crate::status::{Reconciled, TableStatus, TableStatusState};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Tables {
    rows: Vec<Row>,
    /// Where in `rows` each is.
    places: HashMap<TableName, usize>,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) status: TableStatus,
    state: TableState,
    pub(super) is_catching_up: bool,
    pub(super) is_copying: bool,
    is_left_out: bool,
    extent: Extent,
}

/// Which rows are copied, while some are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// All of them.
    Whole,
    /// Some, among the others.
    Part,
}

impl Tables {
    /// All of them, those that need a person first.
    pub(super) fn statuses(&self) -> Vec<TableStatus> {
        let mut tables: Vec<TableStatus> = self.rows.iter().map(Row::status).collect();
        tables.sort_by(|a, b| (a.urgency(), &a.source).cmp(&(b.urgency(), &b.source)));
        tables
    }

    /// All of it at once: nobody sees some of the tables and takes them for all.
    pub(super) fn recorded(&mut self, tables: &[TableOutline], quarantined: &[(TableName, Kept)]) {
        for outline in tables {
            self.outline(outline);
        }
        for row in &mut self.rows {
            row.status.quarantined = 0;
        }
        self.quarantined(quarantined);
    }

    pub(super) fn quarantined(&mut self, tables: &[(TableName, Kept)]) {
        for (table, kept) in tables {
            self.row(table, |row| row.status.quarantined = kept.rows);
        }
    }

    /// A table as the target has it, met for the first time or again.
    pub(super) fn outline(&mut self, outline: &TableOutline) {
        let status = TableStatus {
            source: outline.source.to_string(),
            target: outline.target.to_string(),
            state: TableStatusState::Queued,
            reason: outline.reason.as_ref().map(ToString::to_string),
            rows_loaded: outline.rows_loaded,
            rows_estimated: outline.rows_estimated,
            bytes_loaded: 0,
            chunks_loaded: outline.units_loaded,
            chunks: outline.units,
            changes: 0,
            parked: 0,
            conflicts: 0,
            reconciled: None,
            quarantined: 0,
        };
        let row = Row {
            status,
            state: outline.state,
            is_catching_up: false,
            is_copying: false,
            is_left_out: outline.is_left_out,
            extent: if outline.is_part {
                Extent::Part
            } else {
                Extent::Whole
            },
        };
        let place = self.places.get(&outline.source).copied();
        let Some(known) = place.and_then(|place| self.rows.get_mut(place)) else {
            self.places.insert(outline.source.clone(), self.rows.len());
            self.rows.push(row);
            return;
        };
        let (before, is_whole) = (&known.status, outline.state.has_rows());
        // Met again after a reconnect: what this run copied stays.
        let is_as_it_was =
            is_whole && known.state == outline.state && before.chunks == outline.units;
        let loaded = if is_as_it_was || outline.is_part {
            before
        } else {
            &row.status
        };
        let chunks = if outline.is_part { before } else { &row.status };
        known.status = TableStatus {
            rows_loaded: loaded.rows_loaded,
            bytes_loaded: loaded.bytes_loaded,
            chunks_loaded: chunks.chunks_loaded,
            chunks: chunks.chunks,
            changes: before.changes,
            parked: before.parked,
            conflicts: before.conflicts,
            reconciled: before.reconciled.clone(),
            quarantined: before.quarantined,
            ..row.status.clone()
        };
        (known.is_left_out, known.extent) = (row.is_left_out, row.extent);
        if !is_as_it_was {
            (known.state, known.is_catching_up, known.is_copying) = (row.state, false, false);
        }
    }

    /// Changes a table that is known.
    pub(super) fn row(&mut self, table: &TableName, change: impl FnOnce(&mut Row)) {
        let place = self.places.get(table).copied();
        if let Some(row) = place.and_then(|place| self.rows.get_mut(place)) {
            change(row);
        }
    }
}

impl Row {
    pub(super) fn change(&mut self, state: TableState, reason: Option<&Reason>) {
        self.state = state;
        self.is_catching_up = state == TableState::Streaming;
        self.is_left_out = false;
        self.status.reason = reason.map(ToString::to_string);
    }

    /// Rows are being copied; of what a load brings they count.
    pub(super) fn copied(&mut self, rows: u64, bytes: u64) {
        self.is_copying = true;
        if self.extent == Extent::Whole {
            self.status.rows_loaded += rows;
            self.status.bytes_loaded += bytes;
        }
    }

    pub(super) fn taken_back(&mut self, rows: u64, bytes: u64) {
        if self.extent == Extent::Whole {
            let status = &mut self.status;
            status.rows_loaded = status.rows_loaded.saturating_sub(rows);
            status.bytes_loaded = status.bytes_loaded.saturating_sub(bytes);
        }
    }

    pub(super) fn unit_loaded(&mut self) {
        if self.extent == Extent::Whole {
            self.status.chunks_loaded += 1;
        }
    }

    /// Where rows were moved one by one, all of them are what a load brings.
    pub(super) fn reconciled(&mut self, found: &Reconciled) {
        if found.whole.is_none() {
            self.status.rows_loaded = found.source_rows;
        }
        self.status.reconciled = Some(found.clone());
    }

    /// What is set aside has a reason of its own.
    pub(super) fn leave_out(&mut self, reason: Option<&String>) {
        if self.state == TableState::Streaming {
            self.is_left_out = reason.is_some();
            self.status.reason = reason.cloned();
        }
    }

    fn status(&self) -> TableStatus {
        let state = match self.state {
            _ if self.is_left_out => TableStatusState::Excluded,
            TableState::Loading if self.is_copying || self.status.chunks_loaded > 0 => {
                TableStatusState::Loading
            }
            TableState::Loading => TableStatusState::Queued,
            TableState::Streaming if self.is_catching_up => TableStatusState::CatchingUp,
            TableState::Streaming => TableStatusState::Streaming,
            TableState::Resyncing => TableStatusState::Resyncing,
            TableState::Quarantined | TableState::Unloaded => TableStatusState::Quarantined,
            TableState::Paused => TableStatusState::Paused,
            TableState::Done => TableStatusState::Done,
        };
        TableStatus {
            state,
            ..self.status.clone()
        }
    }
}
