//! Both sides of a running pipeline compared at one position, and what was found kept.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_core::catalogue::codes;
use tidemark_core::control::HoldId;
use tidemark_core::mapping::TableMapping;
use tidemark_core::pipeline::going_on::GoingOn;
use tidemark_core::quarantine::count;
use tidemark_core::schema::TableName;
use tidemark_core::status::Verified;
use tidemark_core::target::Target;
use tidemark_core::verify::compare::{self, Depth, Outcome, Report, Request, TableReport};
use tidemark_core::verify::difference;
use tidemark_core::verify::repair;
use tidemark_core::{Error, Result, clock};

use super::Shared;
use super::member::{Alive, Found, Member};
use crate::store::{Entry, Level, VerificationRow};

/// Differences that are looked for in a table. All are counted up to here.
const DIFFERENCES_MAX: usize = 10_000;
/// Differences that are remembered of the last comparison, all tables together.
const DIFFERENCES_KEPT: usize = 100_000;
/// Times that a comparison is begun which was interrupted.
const ATTEMPTS_MAX: u32 = 3;

/// What a comparison found, as it is kept.
pub(crate) struct Kept {
    /// Under which.
    pub(crate) number: i64,
    /// `identical`, `different` or `incomplete`.
    pub(crate) result: String,
    /// In a sentence.
    pub(crate) text: String,
}

/// Compares the tables that are named, or all.
pub(crate) async fn verify(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    alive: &Alive,
    wanted: &[TableName],
    depth: Depth,
) -> Result<Kept> {
    let began = Instant::now();
    let opened = &alive.opened;
    let tables = tables(alive, wanted).await?;
    let mut attempt = 1;
    let mut report = loop {
        let request = Request {
            tables: tables.clone(),
            depth,
            differences_max: DIFFERENCES_MAX,
            hold: HoldId::random(),
            progress: Arc::default(),
        };
        let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
        match compare::verify(source, target, &alive.commander, &request).await {
            Err(err) if err.code() == codes::VERIFY_NO_HOLD && attempt < ATTEMPTS_MAX => {
                attempt += 1;
            }
            compared => break compared?,
        }
    };
    if wanted.is_empty() {
        let verified = Verified {
            lsn: report.position,
            result: report.word().to_owned(),
            values: depth == Depth::Deep,
            at: clock::now(),
        };
        let mut board = alive.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.set_verified(verified);
    }
    let took = began.elapsed();
    let kept = keep(shared, member, wanted, &report, depth, took).await?;
    if depth == Depth::Deep {
        bound(&mut report);
        member.found(Found {
            number: kept.number,
            wanted: wanted.to_vec(),
            report,
        });
    }
    Ok(kept)
}

/// A table with more differences than are kept of all is copied whole by a repair.
fn bound(report: &mut Report) {
    let mut kept = 0;
    for table in &mut report.tables {
        kept += table.differences.len();
        if kept > DIFFERENCES_KEPT {
            table.differences.clear();
        }
    }
}

/// Has the pipeline copy anew what a comparison found to differ, and compares again.
pub(super) async fn repair(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    alive: &Alive,
    number: i64,
) -> Result<Kept> {
    let found = to_repair(member, number)?;
    let target = alive.opened.target.as_ref();
    let aside = rows_aside(target).await?;
    let mappings = tables(alive, &found.wanted).await?;
    repair::repair(target, &alive.commander, &found.report, &mappings, &aside).await?;
    verify(shared, member, alive, &found.wanted, Depth::Deep).await
}

/// What a repair of this comparison is about.
pub(super) fn to_repair(member: &Member, number: i64) -> Result<Arc<Found>> {
    member.last_found(number).ok_or_else(|| {
        let text = format!("what verification {number} found is not known any more");
        Error::definite(codes::API_CONFLICT, text)
            .first_action("verify it again; the last comparison of every value can be repaired")
    })
}

/// What a repair would do.
pub(crate) async fn effect_of_repair(member: &Member, number: i64) -> Result<Value> {
    let found = to_repair(member, number)?;
    let alive = member.alive();
    let aside = match &alive {
        Some(alive) => rows_aside(alive.opened.target.as_ref()).await?,
        None => Vec::new(),
    };
    let tables = difference::to_repair(&found.report, &aside).map(table);
    Ok(json!({
        "pipeline_id": member.key.id,
        "action": "repair",
        "verification": number,
        "tables": tables.collect::<Vec<_>>(),
        "others": "keep streaming; the position does not move back",
    }))
}

/// Tables of which rows are in quarantine.
async fn rows_aside(target: &dyn Target) -> Result<Vec<TableName>> {
    let kept = target.control().await?.quarantined().await?;
    Ok(count(&kept).into_iter().map(|(table, _)| table).collect())
}

/// Keeps what a comparison of the tables that are named, or all, found.
pub(super) async fn keep(
    shared: &Arc<Shared>,
    member: &Member,
    wanted: &[TableName],
    report: &Report,
    depth: Depth,
    took: Duration,
) -> Result<Kept> {
    member.measures().rows_compared += report.rows();
    let text = sentence(report);
    let level = if report.is_identical() {
        Level::Info
    } else {
        Level::Error
    };
    let entry = Entry::plain(&member.key, level, "verification", text.as_str());
    shared.scribe.note(entry);
    let depth = match depth {
        Depth::Deep => "deep",
        Depth::Counts => "counts",
    };
    let row = VerificationRow {
        id: 0,
        at: clock::now(),
        lsn: report.position.to_string(),
        position_type: report.position.kind().to_owned(),
        whole: wanted.is_empty(),
        result: report.word().to_owned(),
        depth: depth.to_owned(),
        rows: i64::try_from(report.rows()).unwrap_or(i64::MAX),
        seconds: took.as_secs_f64(),
        tables: report.tables.iter().map(table).collect(),
    };
    member.compared().take(&row);
    let number = shared.store.add_verification(&member.key, row).await?;
    let result = report.word().to_owned();
    Ok(Kept {
        number,
        result,
        text,
    })
}

/// The mappings of the tables that are named, or all.
pub(crate) async fn tables(alive: &Alive, wanted: &[TableName]) -> Result<Vec<Arc<TableMapping>>> {
    let config = &alive.opened.config;
    let schema = alive
        .opened
        .source
        .describe(config.rules.selection())
        .await?;
    let begun = alive.opened.target.checkpoint().await?;
    let tables = GoingOn::of(&config.rules, &schema, begun.as_ref())?.all();
    let mut tables: Vec<Arc<TableMapping>> = tables.into_iter().map(Arc::new).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !tables.iter().any(|table| table.source() == *name))
    {
        let text = format!("{unknown} is not a table of {}", config.name);
        return Err(Error::definite(codes::MAPPING_NO_TABLE, text));
    }
    tables.retain(|table| wanted.is_empty() || wanted.contains(table.source()));
    Ok(tables)
}

fn sentence(report: &Report) -> String {
    let (rows, at) = (report.rows(), report.position);
    let different: u64 = report.tables.iter().map(|table| table.different).sum();
    match report.word() {
        "identical" => format!("{rows} rows identical at {at}"),
        "different" => format!("{different} rows differ at {at}"),
        _ => format!("nothing differs at {at}, and not every table could be compared"),
    }
}

/// Without cell values: keys are shown where a person asks for differences.
fn table(table: &TableReport) -> Value {
    let (result, why) = match &table.outcome {
        Outcome::Identical => ("identical", None),
        Outcome::Different => ("different", None),
        Outcome::NotCompared(why) => ("not_compared", Some(why)),
    };
    json!({
        "source": table.source.to_string(),
        "target": table.target.to_string(),
        "lsn": table.position.to_string(),
        "result": result,
        "reason": why,
        "source_rows": table.source_rows,
        "target_rows": table.target_rows,
        "different": table.different,
        "is_counted": table.is_counted,
    })
}
