//! `quarantine list|show|export|release|drop`, `retry` and `skip`: rows and tables that could not be
//! applied. What is there is read from the target, whoever runs the pipeline; what is done about it is
//! done by the pipeline that runs, and where none does by this process in its place.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::placeholders::named;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::checkpoint::{CheckpointUpdate, TableState};
use tidemark_core::control::Command;
use tidemark_core::mapping::TableMapping;
use tidemark_core::quarantine::{Chosen, KeptChange, KeptRow, Key, discarded, rows_of};
use tidemark_core::schema::TableName;
use tidemark_core::words::{shell_word, table_word};

use crate::invocation::Invocation;
use crate::output::numbers::counted;
use crate::output::style::Tone;
use crate::output::table::{Cell, Column, Table};
use crate::output::{Answer, Outcome, put, wrap};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::remote::There;
use crate::seen::Seen;
use crate::verbs::control::{act_there, act_there_with, answered, ask, names, parse_table};

mod there;

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    verb: QuarantineVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum QuarantineVerb {
    /// Rows in quarantine: key, cause and what waits behind each; no values but keys
    List {
        #[command(flatten)]
        rows: Rows,
    },
    /// The same with values and what to do first
    Show {
        #[command(flatten)]
        rows: Rows,
    },
    /// Every change in quarantine as one JSON object a line, with values
    Export {
        #[command(flatten)]
        rows: Rows,
    },
    /// Apply rows in quarantine again; those that are refused again stay
    Release {
        #[command(flatten)]
        rows: Rows,
    },
    /// Discard rows in quarantine: the target then differs from the source there
    Drop {
        #[command(flatten)]
        rows: Rows,
    },
}

/// Which rows.
#[derive(Args, Clone, Debug)]
struct Rows {
    #[command(flatten)]
    which: Which,
    /// Only of this table of the source, as schema.table (may be repeated)
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Only the row of this key; several columns with commas between, or as a JSON array
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    which: Which,
    /// Only this table of the source, as schema.table (may be repeated)
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SkipArgs {
    #[command(flatten)]
    which: Which,
    /// A table that is set aside, as schema.table (may be repeated)
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table, required = true)]
    tables: Vec<TableName>,
    /// Keep the rows that cannot be applied aside, and go on with all others of the table
    #[arg(long, required = true)]
    rows: bool,
}

impl QuarantineArgs {
    /// Whether it changes the target.
    pub(crate) fn acts(&self) -> bool {
        matches!(
            self.verb,
            QuarantineVerb::Release { .. } | QuarantineVerb::Drop { .. }
        )
    }
}

pub(crate) async fn run(invocation: &Invocation, arguments: QuarantineArgs) -> Outcome {
    match arguments.verb {
        QuarantineVerb::List { rows } => list(invocation, &rows).await,
        QuarantineVerb::Show { rows } => show(invocation, &rows).await,
        QuarantineVerb::Export { rows } => export(invocation, &rows).await,
        QuarantineVerb::Release { rows } => match Seen::open(invocation, &rows.which)? {
            Seen::Here(opened) => {
                let found = found(&opened, &rows).await?;
                let found: Vec<Listed> = found.iter().map(Listed::of).collect();
                release(&opened, chosen(&opened.word(), &rows, &found)?).await
            }
            Seen::There(there) => {
                let chosen = chosen_there(&there, &rows).await?;
                act_there_with(&there, "retry", &chosen).await
            }
        },
        QuarantineVerb::Drop { rows } => discard(invocation, &rows).await,
    }
}

pub(crate) async fn retry(invocation: &Invocation, arguments: &RetryArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return act_there(&there, "retry", &arguments.tables).await,
    };
    let chosen = Chosen {
        tables: arguments.tables.clone(),
        key: None,
    };
    release(&opened, chosen).await
}

pub(crate) async fn skip(invocation: &Invocation, arguments: &SkipArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return act_there(&there, "skip", &arguments.tables).await,
    };
    let tables = arguments.tables.clone();
    answered(&opened, &ask(&opened, &Command::Skip { tables }).await?)
}

/// A row in quarantine without its values. What a server does not tell a viewer is `None`.
struct Listed {
    table: String,
    target: String,
    /// The key that it has, or had last.
    key: Option<String>,
    keys: Option<Vec<Key>>,
    changes: usize,
    position: String,
    since: String,
    cause: Value,
}

impl Listed {
    fn of(row: &KeptRow) -> Listed {
        let first = row.first();
        Listed {
            table: first.table.to_string(),
            target: first.target.clone(),
            key: Some(row.key()),
            keys: Some(row.keys.clone()),
            changes: row.changes.len(),
            position: first.position.clone(),
            since: first.since.clone(),
            cause: json!(first.cause),
        }
    }

    fn data(&self) -> Value {
        json!({
            "table": self.table, "target": self.target, "keys": self.keys, "changes": self.changes,
            "position": self.position, "since": self.since, "cause": self.cause,
        })
    }
}

async fn listed(seen: &Seen, rows: &Rows) -> Result<Vec<Listed>, Failure> {
    match seen {
        Seen::Here(opened) => Ok(found(opened, rows).await?.iter().map(Listed::of).collect()),
        Seen::There(there) => there::list(there, rows).await,
    }
}

/// Rows with their values.
async fn kept(seen: &Seen, rows: &Rows) -> Result<Vec<KeptRow>, Failure> {
    match seen {
        Seen::Here(opened) => found(opened, rows).await,
        Seen::There(there) => there::found(there, rows).await,
    }
}

/// Rows in quarantine, by when the first change of each came.
async fn found(opened: &Opened, rows: &Rows) -> Result<Vec<KeptRow>, Failure> {
    let changes = opened.target.control().await?.quarantined().await?;
    let mut found = rows_of(changes);
    found.retain(|row| rows.tables.is_empty() || rows.tables.contains(&row.first().table));
    if let Some(key) = &rows.key {
        found.retain(|row| row.is_of(key));
    }
    Ok(found)
}

async fn list(invocation: &Invocation, rows: &Rows) -> Outcome {
    let seen = Seen::open(invocation, &rows.which)?;
    let found = listed(&seen, rows).await?;
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Left, "KEY"),
        (Column::Right, "CHANGES"),
        (Column::Left, "CODE"),
        (Column::Left, "SQLSTATE"),
        (Column::Left, "POSITION"),
        (Column::Left, "SINCE"),
    ]);
    for row in &found {
        let cause = |name: &str| row.cause[name].as_str().unwrap_or_default().to_owned();
        shown.row([
            row.table.as_str().into(),
            row.key.as_deref().unwrap_or("not shown").into(),
            row.changes.to_string().into(),
            Cell::toned(cause("code"), Tone::Bad),
            cause("sqlstate").into(),
            row.position.as_str().into(),
            row.since.as_str().into(),
        ]);
    }
    let text = if found.is_empty() {
        "nothing is in quarantine".to_owned()
    } else {
        let width = invocation.talk.out_width();
        shown.lines(invocation.talk.out, width).join("\n")
    };
    let data: Vec<Value> = found.iter().map(Listed::data).collect();
    Ok(Answer::new(
        text,
        json!({ "pipeline": seen.name(), "rows": data }),
    ))
}

async fn show(invocation: &Invocation, rows: &Rows) -> Outcome {
    let seen = Seen::open(invocation, &rows.which)?;
    let found = kept(&seen, rows).await?;
    let width = invocation.talk.out_width();
    let (name, style) = (seen.word(), invocation.talk.out);
    let mut text = String::new();
    for row in &found {
        let first = row.first();
        let cause = first.cause.as_ref();
        let code = cause.map_or("", |cause| cause.code.as_str());
        let (table, key) = (table_word(&first.table), row.key());
        let waiting = row.changes.len().saturating_sub(1);
        let head = format!(
            "{} {code}  {}  key {key}",
            style.paint(Tone::Bad, "✗"),
            first.target
        );
        let mut lines = vec![("What", cause.map_or_else(String::new, |c| c.text.clone()))];
        lines.push((
            "Effect",
            format!(
                "the row on the target is not as on the source; {} of it wait behind this one, \
                 all other rows go on",
                counted(waiting as u64, "change")
            ),
        ));
        let of_table = first.table.to_string();
        let action = Code::parse(code)
            .map(|code| named(&code.entry().first_action, Some(&name), Some(&of_table)));
        lines.push((
            "Do first",
            format!(
                "{}; then: tidemark retry {name} --table {table}",
                action.unwrap_or_default()
            ),
        ));
        lines.push((
            "Or",
            format!(
                "give it up: tidemark quarantine drop {name} --table {table} --key {}",
                shell_word(&key)
            ),
        ));
        for change in &row.changes {
            let cells: Vec<String> = change
                .row
                .iter()
                .map(|(column, value)| match value {
                    Some(value) => format!("{column} = {value}"),
                    None => format!("{column} = NULL"),
                })
                .collect();
            let state = change
                .cause
                .as_ref()
                .map_or("waits", |cause| &cause.sqlstate);
            lines.push((
                "Raw",
                format!(
                    "{} at {} (transaction {}, {state}): {}",
                    change.op,
                    change.position,
                    change.xid,
                    cells.join(", ")
                ),
            ));
        }
        put!(text, "{head}\n");
        for (label, body) in lines {
            put!(text, "{}\n", wrap::labelled(label, &body, 2, 10, width));
        }
    }
    if found.is_empty() {
        text.push_str("nothing is in quarantine");
    }
    let data: Vec<Value> = found.iter().map(data).collect();
    Ok(Answer::new(
        text.trim_end(),
        json!({ "pipeline": seen.name(), "rows": data }),
    ))
}

async fn export(invocation: &Invocation, rows: &Rows) -> Outcome {
    let seen = Seen::open(invocation, &rows.which)?;
    let found = kept(&seen, rows).await?;
    let mut changes: Vec<&KeptChange> = found.iter().flat_map(|row| &row.changes).collect();
    changes.sort_by_key(|change| change.number);
    let values: Vec<Value> = changes.into_iter().map(|change| json!(change)).collect();
    let lines: Vec<String> = values.iter().map(Value::to_string).collect();
    Ok(Answer::new(
        lines.join("\n"),
        json!({ "pipeline": seen.name(), "changes": values }),
    ))
}

async fn discard(invocation: &Invocation, rows: &Rows) -> Outcome {
    let seen = Seen::open(invocation, &rows.which)?;
    let found = listed(&seen, rows).await?;
    let chosen = chosen(&seen.word(), rows, &found)?;
    if found.is_empty() {
        return Ok(done(seen.name(), discarded(0)));
    }
    let changes: usize = found.iter().map(|row| row.changes).sum();
    let effect = format!(
        "Discards {} in quarantine of {}, with {} that the source made.\n\
         The target then differs from the source there, until the rows change again or are repaired:\n\
         tidemark verify {} --repair",
        counted(found.len() as u64, "row"),
        seen.name(),
        counted(changes as u64, "change"),
        seen.word()
    );
    let prompt = "Type the pipeline's name to continue:";
    invocation
        .talk
        .confirm(&effect, prompt, seen.name())
        .await?;
    let opened = match seen {
        Seen::Here(opened) => opened,
        Seen::There(there) => return act_there_with(&there, "drop", &body(&chosen)).await,
    };
    if is_run(&opened).await? {
        return answered(&opened, &ask(&opened, &Command::Discard(chosen)).await?);
    }
    opened.target.acquire(&super::run::owner()).await?;
    let mut applier = opened.target.applier().await?;
    applier.begin().await?;
    let count = applier.discard(&chosen).await?;
    applier.commit(&CheckpointUpdate::default()).await?;
    applier.flush().await?;
    Ok(done(opened.name(), discarded(count)))
}

/// Applies rows again: by the pipeline that runs, or in its place.
async fn release(opened: &Opened, chosen: Chosen) -> Outcome {
    if is_run(opened).await? {
        return answered(opened, &ask(opened, &Command::Retry(chosen)).await?);
    }
    let tables = opened.going_on().await?.mappings;
    let checkpoint = opened.target.checkpoint().await?;
    let recorded = checkpoint.map(|found| found.tables).unwrap_or_default();
    let state = |table: &TableMapping| {
        let mut recorded = recorded.iter();
        let found = recorded.find(|recorded| recorded.source == *table.source());
        found.map(|found| found.state)
    };
    let is_whole = |table: &TableMapping| state(table).is_some_and(TableState::has_rows);
    let mut set_aside = recorded.iter().filter(|table| {
        let is_meant = chosen.tables.is_empty() || chosen.tables.contains(&table.source);
        is_meant && chosen.key.is_none() && table.state == TableState::Quarantined
    });
    let notice = set_aside.next().map(|table| {
        let (name, argument) = (opened.word(), table_word(&table.source));
        let table = &table.source;
        format!("{table} is set aside; it goes on when {name} runs: tidemark retry {name} --table {argument}")
    });
    let tables: Vec<Arc<TableMapping>> =
        tables.into_iter().filter(is_whole).map(Arc::new).collect();
    // Whoever starts it at this moment has it, or comes after us.
    opened.target.acquire(&super::run::owner()).await?;
    let mut applier = opened.target.applier().await?;
    applier.begin().await?;
    let released = applier.release(&tables, &chosen).await?;
    applier.commit(&CheckpointUpdate::default()).await?;
    applier.flush().await?;
    let outcome = answered(opened, &released.answer(0))?;
    Ok(match notice {
        Some(notice) => outcome.notice(notice),
        None => outcome,
    })
}

async fn is_run(opened: &Opened) -> Result<bool, Failure> {
    Ok(opened.target.control().await?.owner().await?.is_some())
}

/// Which rows are meant, by a key as it is kept.
fn chosen(word: &str, rows: &Rows, found: &[Listed]) -> Result<Chosen, Failure> {
    let mut chosen = Chosen {
        tables: rows.tables.clone(),
        key: None,
    };
    if let Some(wanted) = &rows.key {
        let first = found.first().and_then(|row| row.keys.as_ref());
        let key = first.and_then(|keys| keys.first().cloned());
        let none = || {
            let text = format!("no row of key {wanted} is in quarantine");
            Error::definite(codes::CLI_REFUSED, text)
                .first_action(format!("tidemark quarantine list {word}"))
        };
        chosen.key = Some(key.ok_or_else(none)?);
    }
    Ok(chosen)
}

async fn chosen_there(there: &There, rows: &Rows) -> Result<Value, Failure> {
    let found = match &rows.key {
        Some(_) => there::list(there, rows).await?,
        None => Vec::new(),
    };
    Ok(body(&chosen(&there.name, rows, &found)?))
}

/// As an API wants it.
fn body(chosen: &Chosen) -> Value {
    json!({ "tables": names(&chosen.tables), "key": chosen.key })
}

fn done(name: &str, text: String) -> Answer {
    let data = json!({ "pipeline": name, "answer": text });
    Answer::new(text, data)
}

fn data(row: &KeptRow) -> Value {
    let changes: Vec<Value> = row.changes.iter().map(|change| json!(change)).collect();
    let mut data = Listed::of(row).data();
    data["kept"] = changes.into();
    data
}
