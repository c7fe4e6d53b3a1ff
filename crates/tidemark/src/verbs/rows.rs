//! `peek NAME --table T` and `trace NAME --table T --key K`: rows of both sides, side by side, masked as the
//! pipeline masks them. A server looks, and writes down who did.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_core::schema::TableName;

use crate::invocation::Invocation;
use crate::output::numbers::counted;
use crate::output::style::{Style, Tone};
use crate::output::{Answer, Outcome, Verdict};
use crate::problem::Failure;
use crate::remote::{Remote, There, encoded};
use crate::verbs::control::parse_table;

#[derive(Args, Clone, Debug)]
pub(crate) struct PeekArgs {
    /// A pipeline of the server
    #[arg(value_name = "NAME")]
    name: String,
    /// A table of the source, as schema.table
    #[arg(long, value_name = "TABLE", value_parser = parse_table)]
    table: TableName,
    /// So many rows of each side
    #[arg(long, value_name = "ROWS", default_value_t = 10,
          value_parser = clap::value_parser!(u8).range(1..=50))]
    rows: u8,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// A pipeline of the server
    #[arg(value_name = "NAME")]
    name: String,
    /// A table of the source, as schema.table
    #[arg(long, value_name = "TABLE", value_parser = parse_table)]
    table: TableName,
    /// The row's key, as the target has it; of several columns once for each, in their order
    #[arg(long, value_name = "VALUE", required = true)]
    key: Vec<String>,
}

/// Rows of both sides, as a server tells them.
#[derive(Debug, Deserialize)]
struct Rows {
    table: String,
    target: String,
    columns: Vec<Shown>,
    is_filtered: bool,
    is_whole: bool,
    rows: Vec<Pair>,
    #[serde(default)]
    quarantine: Vec<Kept>,
    compared: Option<Compared>,
}

#[derive(Debug, Deserialize)]
struct Shown {
    source: String,
    target: String,
    mask: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Pair {
    key: Vec<String>,
    verdict: String,
    is_settled: bool,
    source: Option<Vec<ShownValue>>,
    target: Option<Vec<ShownValue>>,
    different: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct ShownValue {
    kind: String,
    text: Option<String>,
    bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Kept {
    op: String,
    changes: u64,
    since: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Compared {
    result: String,
    lsn: String,
    at: String,
}

pub(crate) async fn peek(invocation: &Invocation, arguments: &PeekArgs) -> Outcome {
    let there = Remote::named(invocation)?.pipeline(&arguments.name);
    let (table, rows) = (encoded(&arguments.table.to_string()), arguments.rows);
    let route = format!("/preview?table={table}&limit={rows}");
    let said = there.get(&route);
    Ok(answer(invocation, &there, said.await?)?.0)
}

pub(crate) async fn trace(invocation: &Invocation, arguments: &TraceArgs) -> Outcome {
    let there = Remote::named(invocation)?.pipeline(&arguments.name);
    let table = encoded(&arguments.table.to_string());
    let key = match arguments.key.as_slice() {
        [only] => only.clone(),
        several => serde_json::json!(several).to_string(),
    };
    let key = encoded(&key);
    let route = format!("/trace?table={table}&key={key}");
    let said = there.get(&route);
    let (mut answer, rows) = answer(invocation, &there, said.await?)?;
    let mut lines = vec![answer.text];
    for kept in &rows.quarantine {
        let behind = counted(kept.changes, "change");
        lines.push(format!(
            "in quarantine since {}: {}, {behind} wait",
            kept.since, kept.op
        ));
    }
    if let Some(compared) = &rows.compared {
        lines.push(format!(
            "its table was compared last at {}, {}: {}",
            compared.lsn, compared.at, compared.result
        ));
    }
    if rows.rows.is_empty() {
        lines.insert(0, "neither side has a row with this key".to_owned());
    }
    lines.retain(|line| !line.is_empty());
    answer.text = lines.join("\n");
    let differs = rows
        .rows
        .iter()
        .any(|row| row.verdict != "same" && row.is_settled);
    Ok(if differs {
        answer.verdict(Verdict::Negative)
    } else {
        answer
    })
}

fn answer(invocation: &Invocation, there: &There, said: Value) -> Result<(Answer, Rows), Failure> {
    let rows: Rows =
        serde_json::from_value(said.clone()).map_err(|err| there.server.strange(&err))?;
    let style = invocation.talk.out;
    let mut lines = vec![style.paint(Tone::Strong, &format!("{} → {}", rows.table, rows.target))];
    for pair in &rows.rows {
        lines.extend(pair_lines(style, &rows.columns, pair));
    }
    let mut answer = Answer::new(lines.join("\n"), said);
    if rows.is_filtered {
        answer = answer.notice("rows that the filter leaves out are not shown");
    }
    if !rows.is_whole {
        answer = answer.notice("rows were left out: they would be too much to show");
    }
    Ok((answer, rows))
}

/// A row: its key and verdict, then each column once where both sides agree, and twice where not.
fn pair_lines(style: Style, columns: &[Shown], pair: &Pair) -> Vec<String> {
    let (tone, glyph) = match (pair.verdict.as_str(), pair.is_settled) {
        ("same", _) => (Tone::Good, "✓"),
        (_, true) => (Tone::Bad, "✗"),
        (_, false) => (Tone::Caution, "?"),
    };
    let on_its_way = if pair.is_settled || pair.verdict == "same" {
        ""
    } else {
        ", perhaps a change on its way"
    };
    let glyph = style.paint(tone, glyph);
    let mut lines = vec![format!(
        "{glyph} {}  {}{on_its_way}",
        pair.key.join(", "),
        pair.verdict
    )];
    let width = columns.iter().map(|it| it.target.chars().count()).max();
    let width = width.unwrap_or_default();
    for (place, column) in columns.iter().enumerate() {
        let of = |side: &Option<Vec<ShownValue>>| {
            let value = side.as_ref().and_then(|values| values.get(place));
            value.map_or_else(|| "no row".to_owned(), ShownValue::text)
        };
        let (source, target) = (of(&pair.source), of(&pair.target));
        let name = &column.target;
        let masked = column.mask.as_ref().map(|mask| format!("  ({mask})"));
        let masked = masked.unwrap_or_default();
        let renamed = if column.source == column.target {
            String::new()
        } else {
            format!("  (from {})", column.source)
        };
        if pair.different.contains(&place) || source != target {
            lines.push(format!(
                "    {name:width$}  source {source}{masked}{renamed}"
            ));
            lines.push(format!("    {:width$}  target {target}", ""));
        } else {
            lines.push(format!("    {name:width$}  {target}{masked}{renamed}"));
        }
    }
    lines
}

impl ShownValue {
    fn text(&self) -> String {
        let text = self.text.as_deref().unwrap_or_default();
        match self.kind.as_str() {
            "null" => "NULL".to_owned(),
            "large" => format!("{} bytes", self.bytes.unwrap_or_default()),
            "hidden" => "(hidden)".to_owned(),
            "cut" => format!("{}…", text.escape_debug()),
            _ => text.escape_debug().to_string(),
        }
    }
}
