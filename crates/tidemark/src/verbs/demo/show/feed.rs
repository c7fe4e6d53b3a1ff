//! From what the pipeline reports to progress: the demo watches a pipeline of another process.

use std::collections::HashMap;
use std::time::Instant;

use tidemark_core::status::{Status, TableStatusState};

use crate::progress::{Progress, TableBegin};

/// What the pipeline reported, as progress.
#[derive(Default)]
pub(super) struct Feed {
    pub(super) progress: Progress,
    known: HashMap<String, Seen>,
}

/// What progress knows of a table already.
#[derive(Default)]
struct Seen {
    rows: u64,
    bytes: u64,
    is_in: bool,
}

impl Feed {
    /// Takes a report in.
    pub(super) fn take(&mut self, status: &Status, now: Instant) {
        for table in &status.tables {
            let (name, chunks) = (&table.source, (table.chunks_loaded, table.chunks));
            if !self.known.contains_key(name) {
                self.progress.begin(TableBegin {
                    name: name.clone(),
                    rows_estimated: table.rows_estimated,
                    rows_loaded: 0,
                    chunks: table.chunks,
                    chunks_loaded: table.chunks_loaded,
                });
            }
            let seen = self.known.entry(name.clone()).or_default();
            self.progress.outline(name, table.rows_estimated, chunks);
            let rows = table.rows_loaded.saturating_sub(seen.rows);
            let bytes = table.bytes_loaded.saturating_sub(seen.bytes);
            if rows > 0 {
                self.progress.advance(name, rows, bytes, now);
            }
            let is_in = matches!(
                table.state,
                TableStatusState::CatchingUp | TableStatusState::Streaming | TableStatusState::Done
            );
            if is_in && !seen.is_in {
                self.progress.finish(name, now);
            }
            *seen = Seen {
                rows: table.rows_loaded,
                bytes: table.bytes_loaded,
                is_in,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::output::style::Style;
    use crate::progress::Room;
    use tidemark_core::status::TableStatus;

    fn reported(rows_estimated: Option<u64>, rows: u64, state: TableStatusState) -> Status {
        let mut status = tidemark_core::status::Status::unknown("shop", "full_load_and_cdc");
        status.tables.push(TableStatus {
            source: "public.orders".to_owned(),
            target: "dw.orders".to_owned(),
            state,
            reason: None,
            rows_loaded: rows,
            rows_estimated,
            bytes_loaded: rows * 10,
            chunks_loaded: 0,
            chunks: 4,
            changes: 0,
            parked: 0,
            conflicts: 0,
            reconciled: None,
            quarantined: 0,
        });
        status
    }

    /// The first look is at the checkpoint, which has no estimates; the pipeline's own reports have.
    #[test]
    fn estimates_that_come_later_are_shown() {
        let mut feed = Feed::default();
        let room = Room {
            width: 100,
            lines: 24,
        };
        let begun = Instant::now();
        let mut first_line = |status: Status, second| {
            let now = begun + Duration::from_secs(second);
            feed.take(&status, now);
            feed.progress.region(Style::PLAIN, room, now).remove(0)
        };
        let line = first_line(reported(None, 0, TableStatusState::Queued), 0);
        assert!(line.contains("  0 %   0 rows"), "{line}");
        let line = first_line(reported(Some(1_000), 500, TableStatusState::Loading), 1);
        assert!(line.contains(" 50 %   500 / 1 000 rows"), "{line}");
        let line = first_line(reported(Some(1_000), 1_003, TableStatusState::Streaming), 2);
        assert!(line.contains("100 %   1 003 / 1 003 rows"), "{line}");
    }
}
