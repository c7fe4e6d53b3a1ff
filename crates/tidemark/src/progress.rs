//! Progress of a load and of the stream after it: what is known, and how much of it to show when.
//!
//! Fed by whoever reads the engine's events, drawn by whoever owns the screen; neither is known
//! here, and time is handed in, so that tests need no clock. On a terminal [`Progress::region`] gives
//! the lines of the live region; elsewhere [`Progress::line`] gives a line for a table at every 10 %
//! or 30 s, whichever is later, and at its end, so that the number of lines is bounded.

use std::time::{Duration, Instant};

use crate::output::style::Style;

mod eta;
mod region;

use eta::Rate;
pub(crate) use region::Room;

/// A table is mentioned again when it has come this much further, …
const LINE_EVERY_PERCENT: u64 = 10;
/// … and not before this long.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// What is known of a load.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    tables: Vec<TableProgress>,
    /// Bytes of all tables, for the time that is left.
    bytes: Rate,
    /// Rows of all tables, for the eye.
    rows: Rate,
    stream: Option<StreamProgress>,
}

/// One table.
#[derive(Debug)]
struct TableProgress {
    name: String,
    rows: u64,
    rows_estimated: Option<u64>,
    bytes: u64,
    chunks: u32,
    chunks_loaded: u32,
    began: Option<Instant>,
    took: Option<Duration>,
    rate: Rate,
    mentioned: Option<(Instant, u64)>,
}

/// What is known of the stream; `None` was not measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StreamProgress {
    /// The state's word.
    pub(crate) state: &'static str,
    pub(crate) gap_bytes: Option<u64>,
    pub(crate) latency_seconds: Option<f64>,
    pub(crate) transactions: u64,
    pub(crate) rows: u64,
}

/// Something to say about a table where there is no live region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableLine {
    pub(crate) table: String,
    /// `None` where the number of rows is not known beforehand.
    pub(crate) percent: Option<u64>,
    pub(crate) rows: u64,
    pub(crate) rows_per_second: Option<u64>,
    /// How long it took, once it is in.
    pub(crate) took: Option<Duration>,
}

/// A table that is to be loaded, or that was met again.
#[derive(Clone, Debug)]
pub(crate) struct TableBegin {
    pub(crate) name: String,
    pub(crate) rows_estimated: Option<u64>,
    pub(crate) rows_loaded: u64,
    pub(crate) chunks: u32,
    pub(crate) chunks_loaded: u32,
}

impl Progress {
    /// A table comes into view.
    pub(crate) fn begin(&mut self, begin: TableBegin) {
        let table = TableProgress {
            rows: begin.rows_loaded,
            rows_estimated: begin.rows_estimated,
            bytes: 0,
            chunks: begin.chunks,
            chunks_loaded: begin.chunks_loaded,
            began: None,
            took: None,
            rate: Rate::default(),
            mentioned: None,
            name: begin.name,
        };
        match self
            .tables
            .iter_mut()
            .find(|known| known.name == table.name)
        {
            Some(known) => *known = table,
            None => self.tables.push(table),
        }
    }

    /// More is known of a table than when it came into view.
    pub(crate) fn outline(&mut self, table: &str, rows_estimated: Option<u64>, chunks: (u32, u32)) {
        if let Some(table) = self.table(table).filter(|table| table.took.is_none()) {
            table.rows_estimated = rows_estimated.or(table.rows_estimated);
            (table.chunks_loaded, table.chunks) = chunks;
        }
    }

    /// Rows and bytes of a table came in.
    pub(crate) fn advance(&mut self, table: &str, rows: u64, bytes: u64, now: Instant) {
        self.rows.add(rows, now);
        self.bytes.add(bytes, now);
        if let Some(table) = self.table(table) {
            table.began.get_or_insert(now);
            table.rows += rows;
            table.bytes += bytes;
            table.rate.add(rows, now);
        }
    }

    /// They will come again.
    pub(crate) fn take_back(&mut self, table: &str, rows: u64, bytes: u64) {
        if let Some(table) = self.table(table) {
            table.rows = table.rows.saturating_sub(rows);
            table.bytes = table.bytes.saturating_sub(bytes);
        }
    }

    /// A chunk is in.
    pub(crate) fn chunk(&mut self, table: &str) {
        if let Some(table) = self.table(table) {
            table.chunks_loaded += 1;
        }
    }

    /// A table is in, its keys and indexes too.
    pub(crate) fn finish(&mut self, table: &str, now: Instant) {
        if let Some(table) = self.table(table) {
            table.took = Some(table.began.map_or(Duration::ZERO, |began| now - began));
            table.rows_estimated = Some(table.rows);
        }
    }

    /// How the stream is; `None` while there is none.
    pub(crate) fn stream(&mut self, stream: Option<StreamProgress>) {
        self.stream = stream;
    }

    /// The load is over (or begins anew): what was shown of it is not current any more.
    pub(crate) fn forget_load(&mut self) {
        self.tables.clear();
        self.rows = Rate::default();
        self.bytes = Rate::default();
    }

    /// A line about a table, if it is time for one. Without a live region, ask after each event.
    pub(crate) fn line(&mut self, table: &str, now: Instant) -> Option<TableLine> {
        let table = self.table(table)?;
        let percent = table.percent();
        if let Some(took) = table.took {
            if matches!(table.mentioned, Some((_, u64::MAX))) {
                return None;
            }
            table.mentioned = Some((now, u64::MAX));
            return Some(table.to_line(Some(100), Some(took), now));
        }
        let began = table.began?;
        let (last_at, last_percent) = table.mentioned.unwrap_or((began, 0));
        let is_late = now.duration_since(last_at) >= LINE_EVERY;
        let is_far = percent.is_none_or(|percent| percent >= last_percent + LINE_EVERY_PERCENT);
        if !(is_late && is_far) {
            return None;
        }
        table.mentioned = Some((now, percent.unwrap_or_default()));
        Some(table.to_line(percent, None, now))
    }

    /// The lines of the live region.
    pub(crate) fn region(&self, style: Style, room: Room, now: Instant) -> Vec<String> {
        region::lines(self, style, room, now)
    }

    fn table(&mut self, name: &str) -> Option<&mut TableProgress> {
        self.tables.iter_mut().find(|table| table.name == name)
    }
}

impl TableProgress {
    /// How far it is: 100 only when it is in, since the number of rows is an estimate.
    fn percent(&self) -> Option<u64> {
        if self.took.is_some() {
            return Some(100);
        }
        match self.rows_estimated {
            Some(0) | None if self.chunks > 1 => {
                Some((u64::from(self.chunks_loaded) * 100 / u64::from(self.chunks)).min(99))
            }
            Some(0) | None => None,
            Some(estimated) => Some((self.rows * 100 / estimated).min(99)),
        }
    }

    fn to_line(&self, percent: Option<u64>, took: Option<Duration>, now: Instant) -> TableLine {
        TableLine {
            table: self.name.clone(),
            percent,
            rows: self.rows,
            rows_per_second: self.rate.per_second(now),
            took,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(estimated: Option<u64>) -> Progress {
        let mut progress = Progress::default();
        progress.begin(TableBegin {
            name: "public.orders".to_owned(),
            rows_estimated: estimated,
            rows_loaded: 0,
            chunks: 1,
            chunks_loaded: 0,
        });
        progress
    }

    /// A load of 1000 rows at `rows_per_second`, asked after each second; the seconds with a line.
    fn lines_of_a_load(rows_per_second: u64) -> Vec<(u64, TableLine)> {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut progress = begun(Some(1_000));
        let mut lines = Vec::new();
        let mut second = 0;
        for _ in (0..1_000).step_by(usize::try_from(rows_per_second).unwrap()) {
            progress.advance("public.orders", rows_per_second, 10, at(second));
            lines.extend(
                progress
                    .line("public.orders", at(second))
                    .map(|line| (second, line)),
            );
            second += 1;
        }
        progress.finish("public.orders", at(second));
        lines.extend(
            progress
                .line("public.orders", at(second))
                .map(|line| (second, line)),
        );
        assert_eq!(
            progress.line("public.orders", at(second)),
            None,
            "the end is said once"
        );
        lines
    }

    #[test]
    fn without_a_terminal_lines_come_at_ten_percent_or_thirty_seconds_whichever_is_later() {
        let quick = lines_of_a_load(100);
        assert_eq!(quick.len(), 1, "{quick:?}");
        assert_eq!(quick[0].1.percent, Some(100));
        assert_eq!(quick[0].1.took, Some(Duration::from_secs(10)));

        let slow = lines_of_a_load(1);
        let percents: Vec<_> = slow.iter().map(|(_, line)| line.percent.unwrap()).collect();
        assert_eq!(percents, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);

        let middling = lines_of_a_load(5);
        let seconds: Vec<_> = middling.iter().map(|(second, _)| *second).collect();
        assert!(
            seconds.windows(2).all(|pair| pair[1] - pair[0] >= 20),
            "{seconds:?}"
        );
        assert!(middling.len() <= 8, "{middling:?}");
    }

    #[test]
    fn an_estimate_that_is_too_low_does_not_claim_the_end() {
        let mut progress = begun(Some(10));
        progress.advance("public.orders", 500, 10, Instant::now());
        assert_eq!(progress.tables[0].percent(), Some(99));
        let mut unknown = begun(None);
        unknown.advance("public.orders", 500, 10, Instant::now());
        assert_eq!(unknown.tables[0].percent(), None);
    }

    #[test]
    fn rows_that_come_again_are_taken_back() {
        let mut progress = begun(Some(1_000));
        progress.advance("public.orders", 500, 10, Instant::now());
        progress.take_back("public.orders", 500, 10);
        assert_eq!(progress.tables[0].percent(), Some(0));
    }
}
