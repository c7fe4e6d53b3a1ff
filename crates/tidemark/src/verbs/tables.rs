//! `tables NAME`: every table, those that need a person first.

use clap::Args;
use serde_json::json;
use tidemark_core::status::TableStatus;

use crate::invocation::Invocation;
use crate::output::numbers::{counted, grouped, short};
use crate::output::style::{Style, of_table};
use crate::output::table::{Cell, Column, Table, display_width, shorten_middle};
use crate::output::{Answer, Outcome, wrap};
use crate::pipeline_file::Which;
use crate::seen::Seen;
use crate::standing::Life;
use crate::watching::{self, Watch};

#[derive(Args, Clone, Debug)]
pub(crate) struct TablesArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &TablesArgs) -> Outcome {
    watching::repeat(invocation, arguments.watch, None, async || {
        let seen = Seen::open(invocation, &arguments.which)?;
        let standing = seen.look().await?;
        if standing.life == Life::Draft {
            return Ok(Answer::new(
                format!("{} never ran against this target", seen.name()),
                json!({ "pipeline": seen.name(), "state": "draft", "tables": [] }),
            )
            .notice(format!("what it would copy: tidemark plan {}", seen.word())));
        }
        let data = json!({
            "pipeline": seen.name(),
            "state": standing.state(),
            "measured_at": standing.status.measured_at,
            "tables": standing.status.tables,
        });
        let (style, width) = (invocation.talk.out, invocation.talk.out_width());
        Ok(Answer::new(
            text(&standing.status.tables, style, width),
            data,
        ))
    })
    .await
}

/// All of it in columns where there is room; else the columns that tell most, and the rest of each
/// table below its row, where it has any.
fn text(tables: &[TableStatus], style: Style, width: Option<usize>) -> String {
    let wide = wide(tables);
    let lines = wide.lines(Style::PLAIN, width);
    let fits = |width| lines.iter().all(|line| display_width(line) <= width);
    match width {
        Some(width) if !fits(width) => narrow(tables, style, width).join("\n"),
        _ => wide.lines(style, width).join("\n"),
    }
}

fn wide(tables: &[TableStatus]) -> Table {
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Name, "→ TARGET"),
        (Column::Left, "STATE"),
        (Column::Right, "ROWS LOADED"),
        (Column::Right, "CHUNKS"),
        (Column::Right, "CHANGES"),
        (Column::Right, "PARKED"),
        (Column::Text, "NOTES"),
    ]);
    for table in tables {
        shown.row([
            table.source.as_str().into(),
            format!("→ {}", table.target).into(),
            state(table),
            rows_loaded(table, grouped).into(),
            format!("{}/{}", table.chunks_loaded, table.chunks).into(),
            grouped(table.changes).into(),
            grouped(table.parked).into(),
            notes(table).join("; ").into(),
        ]);
    }
    shown
}

fn narrow(tables: &[TableStatus], style: Style, width: usize) -> Vec<String> {
    const INDENT: usize = 4;
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Left, "STATE"),
        (Column::Right, "ROWS LOADED"),
        (Column::Right, "CHANGES"),
    ]);
    for table in tables {
        shown.row([
            table.source.as_str().into(),
            state(table),
            rows_loaded(table, brief).into(),
            brief(table.changes).into(),
        ]);
    }
    let mut rows = shown.lines(style, Some(width)).into_iter();
    let mut lines: Vec<String> = rows.next().into_iter().collect();
    let room = width.saturating_sub(INDENT);
    for (row, table) in rows.zip(tables) {
        lines.push(row);
        let rest = below(table, room).join("; ");
        if !rest.is_empty() {
            let indented = |line: &String| format!("{}{line}", " ".repeat(INDENT));
            lines.extend(wrap::lines(&rest, room).iter().map(indented));
        }
    }
    lines
}

/// What has no column of its own on a narrow terminal, as far as there is anything to tell.
fn below(table: &TableStatus, room: usize) -> Vec<String> {
    let mut parts = Vec::new();
    if table.target != table.source {
        let target = shorten_middle(&table.target, room.saturating_sub(3));
        parts.push(format!("→ {target}"));
    }
    if table.chunks_loaded != table.chunks {
        let (loaded, all) = (table.chunks_loaded, table.chunks);
        parts.push(format!("{loaded} of {}", counted(u64::from(all), "chunk")));
    }
    if table.parked > 0 {
        parts.push(format!("{} parked", counted(table.parked, "change")));
    }
    parts.extend(notes(table));
    parts
}

fn state(table: &TableStatus) -> Cell {
    let (glyph, word, tone) = of_table(table.state);
    Cell::toned(format!("{glyph} {word}"), tone)
}

/// Of how many, until all are in: what the source has had since comes by the stream.
fn rows_loaded(table: &TableStatus, written: fn(u64) -> String) -> String {
    let loaded = written(table.rows_loaded);
    let is_in = table.chunks > 0 && table.chunks_loaded == table.chunks;
    match table.rows_estimated {
        Some(all) if all > table.rows_loaded && !is_in => format!("{loaded} / {}", short(all)),
        _ => loaded,
    }
}

/// Every digit where these are few.
fn brief(number: u64) -> String {
    if number < 1_000_000 {
        grouped(number)
    } else {
        short(number)
    }
}

fn notes(table: &TableStatus) -> Vec<String> {
    let mut notes: Vec<String> = table.reason.iter().cloned().collect();
    if table.conflicts > 0 {
        notes.push(format!("{} conflicts", grouped(table.conflicts)));
    }
    if table.quarantined > 0 {
        let rows = counted(table.quarantined, "row");
        notes.push(format!("{rows} in quarantine"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use tidemark_core::status::TableStatusState;

    use super::*;

    fn table(source: &str, target: &str) -> TableStatus {
        TableStatus {
            source: source.to_owned(),
            target: target.to_owned(),
            state: TableStatusState::Streaming,
            reason: None,
            rows_loaded: 8_500,
            rows_estimated: None,
            bytes_loaded: 0,
            chunks_loaded: 1,
            chunks: 1,
            changes: 12,
            parked: 0,
            conflicts: 0,
            reconciled: None,
            quarantined: 0,
        }
    }

    /// One table with nothing to say, and one with everything.
    fn tables() -> [TableStatus; 2] {
        let troubled = TableStatus {
            state: TableStatusState::Quarantined,
            reason: Some("TM4010: a column of the target is too narrow for what came".into()),
            rows_loaded: 98_765_432_109,
            rows_estimated: Some(123_456_789_012),
            chunks_loaded: 3,
            chunks: 900,
            changes: 12_345_678_901,
            parked: 41,
            conflicts: 7,
            quarantined: 2,
            ..table(
                "public.a_table_with_a_very_long_name_of_its_own",
                "warehouse.a_table_with_another_very_long_name_of_sixty_signs_or_so",
            )
        };
        [table("public.orders", "public.orders"), troubled]
    }

    #[test]
    fn a_narrow_terminal_shows_everything_within_its_width() {
        for width in [60, 72, 78, 80, 100] {
            let text = text(&tables(), Style::PLAIN, Some(width));
            for line in text.lines() {
                assert!(display_width(line) <= width, "{width}:\n{text}");
            }
        }
        let narrow = text(&tables(), Style::PLAIN, Some(60));
        let flow = narrow.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "public.orders",
            "quarantined",
            "3 of 900 chunks",
            "41 changes parked",
            "TM4010: a column of the target is too narrow for what came",
            "7 conflicts",
            "2 rows in quarantine",
        ] {
            assert!(flow.contains(part), "{part}:\n{narrow}");
        }
        let of_orders = narrow.lines().nth(1).unwrap();
        assert!(
            of_orders.contains("8 500") && of_orders.ends_with("12"),
            "{narrow}"
        );
        let of_troubled = narrow.lines().nth(2).unwrap();
        assert!(
            of_troubled.starts_with("public") && of_troubled.contains('…'),
            "nothing to say of orders:\n{narrow}"
        );
    }

    #[test]
    fn what_was_to_be_loaded_is_told_until_it_is() {
        let grown = |chunks_loaded| TableStatus {
            rows_estimated: Some(20_000),
            chunks_loaded,
            chunks: 2,
            ..table("public.orders", "public.orders")
        };
        assert_eq!(rows_loaded(&grown(1), grouped), "8 500 / 20k");
        assert_eq!(rows_loaded(&grown(2), grouped), "8 500");
    }

    #[test]
    fn where_there_is_room_everything_has_a_column() {
        let head = |width| {
            let text = text(&tables(), Style::PLAIN, width);
            text.lines().next().unwrap().to_owned()
        };
        for column in ["TARGET", "CHUNKS", "PARKED", "NOTES"] {
            assert!(head(None).contains(column) && head(Some(180)).contains(column));
            assert!(!head(Some(60)).contains(column), "{column}");
        }
    }
}
