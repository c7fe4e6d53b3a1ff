//! The lines of the live region: one bar for all, a line for each table as far as there is room.
//!
//! ```text
//! load  ███████████████░░░░░░░░░  62 %   512k / 823k rows   131k rows/s   21 MB/s   3 s to 5 s left
//!   public.order_items  ██████████░░░░░░░░░  53 %  chunk 11/20   88k/s
//!   public.orders       ████████████████████ done  200 000 rows   2.2 s
//! ```

use std::time::{Duration, Instant};

use crate::output::numbers::{about, bytes, counted, duration, seconds, short};
use crate::output::style::{Style, Tone};
use crate::output::table::{display_width, shorten_middle};

use super::{Progress, StreamProgress, TableProgress};

/// Columns and rows there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) width: usize,
    pub(crate) lines: usize,
}

/// Characters of a bar.
const BAR: usize = 24;
const BAR_TABLE: usize = 20;
/// Below this width tables have no bar.
const WIDTH_FOR_BARS: usize = 72;

pub(super) fn lines(progress: &Progress, style: Style, room: Room, now: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    if !progress.tables.is_empty() {
        lines.push(overall(progress, style, room, now));
        lines.extend(tables(progress, style, room, now));
    }
    if let Some(stream) = &progress.stream {
        lines.push(stream_line(stream, style));
    }
    lines
}

fn overall(progress: &Progress, style: Style, room: Room, now: Instant) -> String {
    let rows: u64 = progress.tables.iter().map(|table| table.rows).sum();
    let work = Work::of(&progress.tables);
    let mut line = format!(
        "{}  {} {:>3} %",
        style.paint(Tone::Strong, "load"),
        bar(
            style,
            work.percent,
            if room.width < WIDTH_FOR_BARS {
                BAR / 2
            } else {
                BAR
            }
        ),
        work.percent,
    );
    // What does not fit is left out from the end, so the most telling comes first.
    let mut parts = vec![match work.rows {
        Some(all) => format!("{} / {} rows", short(rows), short(all.max(rows))),
        None => format!("{} rows", short(rows)),
    }];
    if let Some((best, worst)) = progress.bytes.time_for(work.bytes_left) {
        parts.push(time_left(best, worst));
    }
    parts.extend(
        progress
            .rows
            .per_second(now)
            .map(|rate| format!("{} rows/s", short(rate))),
    );
    parts.extend(
        progress
            .bytes
            .per_second(now)
            .map(|rate| format!("{}/s", bytes(rate))),
    );
    let mut used = display_width(&strip(&line));
    for part in parts {
        used += 3 + display_width(&part);
        if used > room.width {
            break;
        }
        line.push_str("   ");
        line.push_str(&part);
    }
    line
}

/// `3 s to 5 s left`; one figure where both round to the same.
fn time_left(best: Duration, worst: Duration) -> String {
    let (best, worst) = (about(best), about(worst + Duration::from_millis(999)));
    if best == worst {
        format!("about {worst} left")
    } else {
        format!("{best} to {worst} left")
    }
}

/// How much there is to do, in bytes of rows: tables differ in the width of their rows, so rows
/// alone would mislead.
struct Work {
    percent: u64,
    rows: Option<u64>,
    bytes_left: u64,
}

impl Work {
    fn of(tables: &[TableProgress]) -> Work {
        let (rows, bytes) = tables
            .iter()
            .fold((0, 0), |(rows, bytes), t| (rows + t.rows, bytes + t.bytes));
        let average = bytes.checked_div(rows).unwrap_or(100).max(1);
        let (mut done, mut all, mut rows_in_all) = (0, 0, 0);
        for table in tables {
            let width = table
                .bytes
                .checked_div(table.rows)
                .filter(|width| *width > 0);
            let width = width.unwrap_or(average);
            let expected = table.rows_estimated.unwrap_or(table.rows).max(table.rows);
            done += table.rows * width;
            all += expected * width;
            rows_in_all += expected;
        }
        let is_done = tables.iter().all(|table| table.took.is_some());
        let percent = (done * 100).checked_div(all).unwrap_or(0);
        Work {
            percent: if is_done { 100 } else { percent.min(99) },
            rows: tables
                .iter()
                .any(|t| t.rows_estimated.is_some())
                .then_some(rows_in_all),
            bytes_left: all - done,
        }
    }
}

fn tables(progress: &Progress, style: Style, room: Room, now: Instant) -> Vec<String> {
    // Two lines go to the bar above and the stream below.
    let places = room.lines.saturating_sub(3).max(1);
    let mut order: Vec<&TableProgress> = progress.tables.iter().collect();
    let rank = |table: &TableProgress| match (table.began, table.took) {
        (Some(_), None) => 0,
        (_, Some(_)) => 1,
        (None, None) => 2,
    };
    order.sort_by_key(|table| rank(table));
    let shown = if order.len() > places {
        places - 1
    } else {
        order.len()
    };
    let name_width = order
        .iter()
        .take(shown)
        .map(|table| display_width(&table.name))
        .max();
    // What stands behind the name: a bar, and `done  200 000 rows   4m 10s` or as much.
    let behind = if room.width < WIDTH_FOR_BARS {
        36
    } else {
        36 + BAR_TABLE
    };
    let name_width = name_width
        .unwrap_or(0)
        .min(room.width.saturating_sub(behind).max(12));
    let mut lines: Vec<String> = order
        .iter()
        .take(shown)
        .map(|table| table_line(table, style, room, name_width, now))
        .collect();
    if shown < order.len() {
        lines.push(style.paint(
            Tone::Faint,
            &format!("  … and {} more", order.len() - shown),
        ));
    }
    lines
}

fn table_line(
    table: &TableProgress,
    style: Style,
    room: Room,
    name_width: usize,
    now: Instant,
) -> String {
    let name = shorten_middle(&table.name, name_width);
    let padding = " ".repeat(name_width - display_width(&name).min(name_width));
    let percent = table.percent();
    let bar = if room.width < WIDTH_FOR_BARS {
        String::new()
    } else {
        format!("{} ", bar(style, percent.unwrap_or(0), BAR_TABLE))
    };
    let rest = match (table.took, table.began) {
        (Some(took), _) => format!(
            "{}  {}   {}",
            style.paint(Tone::Good, "done"),
            counted(table.rows, "row"),
            duration(took)
        ),
        (None, Some(_)) => {
            let percent = percent.map_or("  ? %".to_owned(), |percent| format!("{percent:>3} %"));
            let chunk = match table.chunks {
                0 | 1 => String::new(),
                all => format!("  chunk {}/{all}", table.chunks_loaded),
            };
            let rate = table.rate.per_second(now);
            let rate = rate.map_or_else(String::new, |rate| format!("   {}/s", short(rate)));
            format!("{percent}{chunk}{rate}")
        }
        (None, None) => style.paint(Tone::Faint, "queued"),
    };
    format!("  {name}{padding}  {bar}{rest}")
}

fn stream_line(stream: &StreamProgress, style: Style) -> String {
    let unknown = || "unknown".to_owned();
    format!(
        "{}  {}   gap {}   latency {}   {}, {} applied",
        style.paint(Tone::Strong, "stream"),
        stream.state,
        stream.gap_bytes.map_or_else(unknown, bytes),
        stream.latency_seconds.map_or_else(unknown, seconds),
        counted(stream.transactions, "transaction"),
        counted(stream.rows, "row"),
    )
}

fn bar(style: Style, percent: u64, width: usize) -> String {
    let full = usize::try_from(percent).unwrap_or(100).min(100) * width / 100;
    format!(
        "{}{}",
        style.paint(Tone::Good, &"█".repeat(full)),
        style.paint(Tone::Faint, &"░".repeat(width - full))
    )
}

/// A line without its colours, to measure it.
fn strip(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, code)) = rest.split_once('\u{1b}') {
        out.push_str(before);
        rest = code.split_once('m').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::TableBegin;
    use super::*;

    const ROOM: Room = Room {
        width: 100,
        lines: 24,
    };

    fn loading() -> (Progress, Instant) {
        let start = Instant::now();
        let mut progress = Progress::default();
        for (name, rows, chunks) in [
            ("public.customers", 20_000, 1),
            ("public.orders", 200_000, 4),
            (
                "public.a_table_with_quite_a_long_name_that_is_waiting",
                1_000,
                1,
            ),
        ] {
            progress.begin(TableBegin {
                name: name.to_owned(),
                rows_estimated: Some(rows),
                rows_loaded: 0,
                chunks,
                chunks_loaded: 0,
            });
        }
        let at = |second| start + Duration::from_secs(second);
        progress.advance("public.customers", 20_000, 2_000_000, at(0));
        progress.finish("public.customers", at(2));
        for second in 1..=8 {
            progress.advance("public.orders", 12_500, 1_250_000, at(second));
        }
        progress.chunk("public.orders");
        progress.chunk("public.orders");
        (progress, at(8))
    }

    #[test]
    fn the_region_shows_all_and_each() {
        let (progress, now) = loading();
        let lines = progress.region(Style::PLAIN, ROOM, now);
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[0].starts_with("load  ████████████░"), "{lines:#?}");
        assert!(
            lines[0].contains("54 %   120k / 221k rows   "),
            "{lines:#?}"
        );
        assert!(
            lines[0].contains("   6 s to 10 s left   12k rows/s   1.2 MB/s"),
            "{lines:#?}"
        );
        assert!(lines[1].contains("50 %  chunk 2/4   12k/s"), "{lines:#?}");
        assert!(lines[2].contains("done  20 000 rows   2.0 s"), "{lines:#?}");
        assert!(lines[3].ends_with("queued"), "{lines:#?}");
    }

    #[test]
    fn narrow_and_low_terminals_get_less() {
        let (progress, now) = loading();
        for width in [60, 80, 140] {
            let lines = progress.region(Style::PLAIN, Room { width, lines: 24 }, now);
            assert!(
                lines.iter().all(|line| display_width(line) <= width),
                "{width} {lines:#?}"
            );
        }
        let lines = progress.region(
            Style::PLAIN,
            Room {
                width: 80,
                lines: 5,
            },
            now,
        );
        assert_eq!(lines.len(), 3);
        assert!(lines[2].contains("… and 2 more"), "{lines:#?}");
    }

    #[test]
    fn what_was_not_measured_is_unknown() {
        let mut progress = Progress::default();
        progress.stream(Some(StreamProgress {
            state: "streaming",
            ..StreamProgress::default()
        }));
        let lines = progress.region(Style::PLAIN, ROOM, Instant::now());
        assert!(
            lines[0].contains("gap unknown   latency unknown"),
            "{lines:#?}"
        );
    }
}
