//! How far a comparison is, for whoever waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counted while it goes on, from one task; read from anywhere.
#[derive(Debug, Default)]
pub struct Progress {
    tables: AtomicU64,
    tables_done: AtomicU64,
    rows: AtomicU64,
}

impl Progress {
    /// Tables that are done with, and all of them; 0 of 0 before it has begun.
    pub fn tables(&self) -> (u64, u64) {
        let done = self.tables_done.load(Ordering::Relaxed);
        (done, self.tables.load(Ordering::Relaxed))
    }

    /// Rows compared so far, those of ranges that are done with.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// One of so many tables begins, be it once more.
    pub(super) fn begin(&self, tables: usize) {
        let tables = u64::try_from(tables).unwrap_or(u64::MAX);
        self.tables.store(tables, Ordering::Relaxed);
        self.tables_done.store(0, Ordering::Relaxed);
        self.rows.store(0, Ordering::Relaxed);
    }

    pub(super) fn range_done(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn table_done(&self) {
        self.tables_done.fetch_add(1, Ordering::Relaxed);
    }
}
