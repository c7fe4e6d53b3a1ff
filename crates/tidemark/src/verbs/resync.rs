//! `resync NAME --table T`: copy tables anew while the others stream. Shows the effect first.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::checkpoint::Checkpoint;
use tidemark_core::control::anew::loaded_anew;
use tidemark_core::control::{Command, ResyncStrategy};
use tidemark_core::failpoint;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;

use crate::invocation::Invocation;
use crate::output::numbers::{about, bytes, counted, duration, grouped};
use crate::output::waiting::during;
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::remote::There;
use crate::seen::Seen;
use crate::verbs::control::{
    answered, ask, names, no_table, no_table_of, not_running, parse_table,
};
use crate::verbs::plan::load_seconds;
use crate::verbs::verify::Elsewhere;

#[derive(Args, Clone, Debug)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    which: Which,
    /// A table of the source, as schema.table (may be repeated); without it all of them
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Load beside the old table and switch, or empty the old table first
    #[arg(long, value_enum, default_value = "swap")]
    strategy: Strategy,
    /// Return as soon as the pipeline has agreed
    #[arg(long)]
    no_wait: bool,
}

/// How a table is copied anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Strategy {
    Swap,
    Truncate,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &ResyncArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return run_there(invocation, &there, arguments).await,
    };
    let tables = chosen(&opened, &arguments.tables).await?;
    let checkpoint = opened.target.checkpoint().await?;
    let is_still = opened.target.control().await?.owner().await?.is_none();
    if is_still && checkpoint.is_some() && arguments.tables.is_empty() {
        return anew(invocation, &opened, &tables).await;
    }
    if is_still {
        return Err(not_running(&opened).into());
    }
    let described = |table: &TableMapping| Subject::of(table, checkpoint.as_ref());
    let subjects: Vec<Subject> = tables.iter().map(described).collect();
    confirm(invocation, opened.name(), &subjects, arguments.strategy).await?;
    let began = Instant::now();
    let names: Vec<TableName> = tables.iter().map(|table| table.source().clone()).collect();
    let command = Command::Resync {
        tables: names.clone(),
        strategy: match arguments.strategy {
            Strategy::Swap => ResyncStrategy::Swap,
            Strategy::Truncate => ResyncStrategy::Truncate,
        },
    };
    let agreed = ask(&opened, &command).await?;
    let agreed = answered(&opened, &agreed)?;
    if arguments.no_wait {
        return Ok(agreed);
    }
    let (target, pipeline) = (opened.target.as_ref(), Elsewhere(&opened));
    let copied = loaded_anew(target, &pipeline, &names);
    let rows = during(&invocation.talk, COPYING, copied).await?;
    let names = self::names(&names);
    Ok(done(opened.name(), &names, rows, began.elapsed()))
}

const COPYING: &str = "copying";

/// Has a server's pipeline do it. One that does not run has to be started first: what it copies then is
/// its own to decide.
async fn run_there(invocation: &Invocation, there: &There, arguments: &ResyncArgs) -> Outcome {
    let strategy = match arguments.strategy {
        Strategy::Swap => "swap",
        Strategy::Truncate => "truncate",
    };
    let asked = json!({ "strategy": strategy, "dry_run": true });
    let effect = there.tell("resync", &asked).await?;
    let known: Vec<Subject> = serde_json::from_value(effect["tables"].clone())
        .map_err(|err| there.server.strange(&err))?;
    let wanted = names(&arguments.tables);
    let is_known = |name: &&String| !known.iter().any(|table| table.source == **name);
    if let Some(name) = wanted.iter().find(is_known) {
        let known = known.iter().map(|table| table.source.as_str());
        return Err(no_table_of(&there.name, &there.name, name, known).into());
    }
    let is_wanted = |table: &Subject| wanted.is_empty() || wanted.contains(&table.source);
    let subjects: Vec<Subject> = known.into_iter().filter(is_wanted).collect();
    confirm(invocation, &there.name, &subjects, arguments.strategy).await?;
    let began = Instant::now();
    let asked = json!({ "tables": wanted, "strategy": strategy });
    if arguments.no_wait {
        let operation = there.begin("resync", &asked).await?;
        let text = format!(
            "{} was asked for a resync: operation {operation}",
            there.name
        );
        let data = json!({ "pipeline": there.name, "answer": text });
        return Ok(Answer::new(text, data));
    }
    let said = during(&invocation.talk, COPYING, there.act("resync", &asked)).await?;
    let rows = said.data["rows"].as_u64();
    let rows = rows.ok_or_else(|| there.server.strange(&format!("it says `{}`", said.text)))?;
    let names: Vec<String> = subjects.into_iter().map(|table| table.source).collect();
    Ok(done(&there.name, &names, rows, began.elapsed()))
}

fn done(pipeline: &str, tables: &[String], rows: u64, took: Duration) -> Answer {
    let text = format!(
        "✓ resynced {} in {}: {}",
        tables.join(", "),
        duration(took),
        counted(rows, "row")
    );
    let data = json!({
        "pipeline": pipeline, "tables": tables, "rows": rows, "seconds": took.as_secs_f64(),
    });
    Answer::new(text, data)
}

/// A table that is to be copied anew, as the API tells of it too.
#[derive(Debug, Deserialize)]
struct Subject {
    source: String,
    target: String,
    rows_estimated: Option<u64>,
    size_bytes: u64,
    rows_loaded_before: Option<u64>,
}

impl Subject {
    fn of(table: &TableMapping, checkpoint: Option<&Checkpoint>) -> Subject {
        let known = checkpoint.and_then(|checkpoint| {
            let mut tables = checkpoint.tables.iter();
            tables.find(|known| known.source == *table.source())
        });
        Subject {
            source: table.source().to_string(),
            target: table.target.to_string(),
            rows_estimated: table.schema.rows,
            size_bytes: table.schema.bytes,
            rows_loaded_before: known.map(|known| known.units.iter().map(|unit| unit.rows).sum()),
        }
    }
}

async fn confirm(
    invocation: &Invocation,
    pipeline: &str,
    tables: &[Subject],
    strategy: Strategy,
) -> Result<(), Error> {
    let effect = effect(pipeline, tables, strategy);
    let (what, word) = match tables {
        [only] => ("table", only.source.as_str()),
        _ => ("pipeline's", pipeline),
    };
    let prompt = format!("Type the {what} name to continue:");
    invocation.talk.confirm(&effect, &prompt, word).await
}

/// Nobody runs it, and perhaps nobody can: a slot that is gone keeps the next run from going on. The
/// checkpoint is forgotten, so that the next run begins from the beginning.
async fn anew(invocation: &Invocation, opened: &Opened, tables: &[TableMapping]) -> Outcome {
    let (name, word) = (opened.name(), opened.word());
    let size: u64 = tables.iter().map(|table| table.schema.bytes).sum();
    let next = format!("tidemark run {word} --set target.existing=truncate");
    let effect = format!(
        "Resync of {name}, which nobody runs now: {}, {} on the source\n  \
         its checkpoint on the target is forgotten; the rows stay until the next run\n  \
         that run makes a new slot, empties the tables and copies them: {next}",
        counted(tables.len() as u64, "table"),
        bytes(size),
    );
    let prompt = "Type the pipeline's name to continue:";
    invocation.talk.confirm(&effect, prompt, name).await?;
    // Whoever starts it at this moment has it, or comes after us.
    opened.target.acquire(&super::run::owner()).await?;
    opened.target.forget().await?;
    failpoint::reached(failpoint::FORGOTTEN);
    let text = format!("✓ the checkpoint of {name} is forgotten; nothing is copied yet");
    let data = json!({ "pipeline": name, "answer": text });
    Ok(Answer::new(text, data).notice(format!("copy the tables anew: {next}")))
}

async fn chosen(opened: &Opened, wanted: &[TableName]) -> Result<Vec<TableMapping>, Failure> {
    let mut tables = opened.going_on().await?.all();
    let unknown = wanted
        .iter()
        .find(|name| !tables.iter().any(|table| table.source() == *name));
    if let Some(name) = unknown {
        let known = tables.iter().map(TableMapping::source);
        return Err(no_table(opened, name, known).into());
    }
    tables.retain(|table| wanted.is_empty() || wanted.contains(table.source()));
    Ok(tables)
}

/// What will happen, with objects, rows, minutes and who will notice.
fn effect(pipeline: &str, tables: &[Subject], strategy: Strategy) -> String {
    const SHOWN_MAX: usize = 12;
    let count = tables.len();
    let mut lines = vec![match tables {
        [only] => format!("Resync of 1 table: {} → {}", only.source, only.target),
        _ => format!("Resync of {count} tables of {pipeline}:"),
    }];
    for table in tables.iter().take(SHOWN_MAX) {
        let number = |rows: Option<u64>| rows.map_or("unknown".to_owned(), grouped);
        let on_source = number(table.rows_estimated);
        let loaded = number(table.rows_loaded_before);
        let name = if count == 1 {
            "rows now".to_owned()
        } else {
            table.source.clone()
        };
        lines.push(format!(
            "  {name:<12} source about {on_source} · loaded last time {loaded}"
        ));
    }
    if count > SHOWN_MAX {
        lines.push(format!("  … and {} more", count - SHOWN_MAX));
    }
    let size: u64 = tables.iter().map(|table| table.size_bytes).sum();
    let (best, worst) = load_seconds(size);
    let time = |seconds| about(Duration::from_secs(seconds));
    match strategy {
        Strategy::Swap => {
            lines.push(
                "  strategy     swap: load beside the old table, then switch. Readers see the old \
                 rows until then."
                    .to_owned(),
            );
            lines.push(format!("  takes        {} to {}", time(best), time(worst)));
            lines.push(format!(
                "  needs        about {} free on the target",
                bytes(size)
            ));
        }
        Strategy::Truncate => {
            lines.push(
                "  strategy     truncate: the old rows go first. Readers see an empty, then a \
                 growing table."
                    .to_owned(),
            );
            lines.push(format!("  takes        {} to {}", time(best), time(worst)));
        }
    }
    lines.push("  other tables keep streaming; the position does not move back".to_owned());
    lines.join("\n")
}
