//! How pipelines stand: lag, its past, progress of loads, all of them at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_core::catalogue::codes;
use tidemark_core::clock;
use tidemark_core::finding::{Finding, Verdict};
use tidemark_core::status::{Status, TableStatusState};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::bodies::{Lag, PipelineBody, SlotBody, TableBody, lag_of, slot, table};
use super::extract::{DefinitionText, Params, Route};
use super::journal::instant;
use super::pipelines::{member, rank};
use super::problem::{Failure, Problem};
use crate::store::{HistoryRow, Key, Step};
use crate::supervisor::{open_definition, word_of};
use crate::systems::Opened;

/// Points of a history at most.
const POINTS_MAX: i64 = 2_000;
/// Pipelines that an overview has in full.
const OVERVIEW_MAX: usize = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(lag))
        .routes(routes!(history))
        .routes(routes!(progress))
        .routes(routes!(overview))
        .routes(routes!(check))
        .routes(routes!(plan))
}

#[utoipa::path(get, path = "/monitoring/pipelines/{id}/lag", tag = "monitoring",
    params(("id" = String, Path)),
    responses((status = 200, body = Lag), (status = 404, body = Problem)))]
async fn lag(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<Lag>, Failure> {
    let member = member(&app, &caller, &id)?;
    Ok(Answer(lag_of(&member, &member.view())))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryParams {
    /// RFC 3339, or seconds since 1970 UTC; a quarter of an hour ago by default.
    from: Option<String>,
    /// RFC 3339, or seconds since 1970 UTC; now by default.
    to: Option<String>,
    /// About how many points are wanted, up to 2000.
    #[param(minimum = 1, maximum = 2000)]
    points: Option<i64>,
}

/// The past in buckets. A period without a bucket is one without a run; `null` was not measured.
#[derive(Debug, Serialize, ToSchema)]
struct History {
    /// Width of a bucket: 1, 10 or 300.
    step_seconds: i64,
    points: Vec<Point>,
}

/// A bucket: least, most and last.
#[derive(Debug, Serialize, ToSchema)]
struct Point {
    /// Its begin, RFC 3339.
    at: String,
    state: String,
    gap_bytes_min: Option<i64>,
    gap_bytes_max: Option<i64>,
    gap_bytes: Option<i64>,
    latency_seconds_min: Option<f64>,
    latency_seconds_max: Option<f64>,
    latency_seconds: Option<f64>,
    source_lsn: Option<String>,
    processed_lsn: Option<String>,
    retained_bytes: Option<i64>,
    /// Since the run began.
    inserts: Option<i64>,
    updates: Option<i64>,
    deletes: Option<i64>,
}

#[utoipa::path(get, path = "/monitoring/pipelines/{id}/lag/history", tag = "monitoring",
    params(("id" = String, Path), HistoryParams),
    responses((status = 200, body = History), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn history(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<HistoryParams>,
) -> Result<Answer<History>, Failure> {
    let member = member(&app, &caller, &id)?;
    let now = clock::now_us() / 1_000_000;
    let to = seconds(params.to.as_deref())?.unwrap_or(now + 1);
    let from = seconds(params.from.as_deref())?.unwrap_or(to.saturating_sub(15 * 60));
    let points = params.points.unwrap_or(900);
    if from >= to || !(1..=POINTS_MAX).contains(&points) {
        let text = format!("from is before to, and points are 1 to {POINTS_MAX}");
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    let (from, to) = (from.max(0), to.clamp(0, now + 1));
    let step = step_for(now, (from, to), points);
    let mut rows = app.store.history(&member.key, step, from, to).await?;
    // Rather the end of the period than a page too long to draw.
    let limit = usize::try_from(POINTS_MAX).unwrap_or(usize::MAX);
    rows.drain(..rows.len().saturating_sub(limit));
    Ok(Answer(History {
        step_seconds: step.seconds(),
        points: rows.into_iter().map(point).collect(),
    }))
}

/// An instant of a period, in seconds.
fn seconds(text: Option<&str>) -> Result<Option<i64>, Failure> {
    let seconds = |text: &str| match text.parse() {
        Ok(seconds) => Ok(seconds),
        Err(_) => instant(text).map(|us| us.div_euclid(1_000_000)),
    };
    text.map(seconds).transpose()
}

/// The finest buckets of which a period has about as many as are wanted.
pub(super) fn step_for(now: i64, (from, to): (i64, i64), points: i64) -> Step {
    let fits = |step: &Step| {
        let is_kept = now - from <= step.kept_seconds();
        is_kept && (to - from) / step.seconds() <= points.max(1)
    };
    let step = Step::ALL.into_iter().find(fits);
    step.unwrap_or(Step::FiveMinutes)
}

fn point(row: HistoryRow) -> Point {
    let [gap_bytes_min, gap_bytes_max, gap_bytes] = row.gap;
    let [latency_seconds_min, latency_seconds_max, latency_seconds] = row.latency;
    let [inserts, updates, deletes] = row.changes;
    Point {
        at: clock::rfc3339(row.at * 1_000_000),
        state: row.state,
        gap_bytes_min,
        gap_bytes_max,
        gap_bytes,
        latency_seconds_min,
        latency_seconds_max,
        latency_seconds,
        source_lsn: row.source,
        processed_lsn: row.processed,
        retained_bytes: row.retained_bytes,
        inserts,
        updates,
        deletes,
    }
}

/// How far a load is.
#[derive(Debug, Serialize, ToSchema)]
struct Progress {
    pipeline_id: String,
    state: String,
    rows_loaded: u64,
    /// `null` as long as one table has no estimate.
    rows_estimated: Option<u64>,
    /// 0 to 1; `null` where it cannot be told.
    ratio: Option<f64>,
    bytes_loaded: u64,
    tables_done: usize,
    tables_total: usize,
    /// Tables that are not done.
    tables: Vec<TableBody>,
    measured_at: String,
}

#[utoipa::path(get, path = "/monitoring/pipelines/{id}/progress", tag = "monitoring",
    params(("id" = String, Path)),
    responses((status = 200, body = Progress), (status = 404, body = Problem)))]
async fn progress(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<Progress>, Failure> {
    let member = member(&app, &caller, &id)?;
    let view = member.view();
    let status = &view.status;
    let is_open = |state| {
        matches!(
            state,
            TableStatusState::Queued | TableStatusState::Loading | TableStatusState::Resyncing
        )
    };
    let open: Vec<_> = status.tables.iter().filter(|t| is_open(t.state)).collect();
    let rows_loaded: u64 = status.tables.iter().map(|table| table.rows_loaded).sum();
    let estimates = status.tables.iter().map(|table| {
        let at_least = table.rows_loaded;
        let is_done = !is_open(table.state);
        if is_done {
            Some(at_least)
        } else {
            table.rows_estimated.map(|rows| rows.max(at_least))
        }
    });
    let rows_estimated: Option<u64> = estimates.sum();
    let ratio = rows_estimated.and_then(|rows| match (rows, open.is_empty()) {
        (_, true) => Some(1.0),
        (0, false) => None,
        (rows, false) => Some(rows_loaded as f64 / rows as f64),
    });
    Ok(Answer(Progress {
        pipeline_id: member.key.id.clone(),
        state: view.state.clone(),
        rows_loaded,
        rows_estimated: rows_estimated.filter(|_| !status.tables.is_empty()),
        ratio: ratio.filter(|_| !status.tables.is_empty()),
        bytes_loaded: status.tables.iter().map(|table| table.bytes_loaded).sum(),
        tables_done: status.tables.len() - open.len(),
        tables_total: status.tables.len(),
        tables: open.into_iter().map(table).collect(),
        measured_at: status.measured_at.clone(),
    }))
}

/// All pipelines at a glance, worst first.
#[derive(Debug, Serialize, ToSchema)]
struct Overview {
    by_health: BTreeMap<String, usize>,
    by_state: BTreeMap<String, usize>,
    total: usize,
    worst_lag: Option<WorstLag>,
    /// Pipelines whose latency is unknown though they run.
    lag_unknown: usize,
    tables_quarantined: usize,
    alerts_firing: usize,
    slots_at_risk: Vec<SlotAtRisk>,
    /// Worst first, at most 500.
    pipelines: Vec<PipelineBody>,
    measured_at: String,
}

/// The pipeline that is furthest behind.
#[derive(Debug, Serialize, ToSchema)]
struct WorstLag {
    pipeline_id: String,
    latency_seconds: f64,
    gap_bytes: Option<u64>,
}

/// A slot that its server gives up if it goes on like this.
#[derive(Debug, Serialize, ToSchema)]
struct SlotAtRisk {
    pipeline_id: String,
    slot: SlotBody,
}

#[utoipa::path(get, path = "/monitoring/overview", tag = "monitoring",
    responses((status = 200, body = Overview)))]
async fn overview(State(app): State<Arc<App>>, caller: Caller) -> Answer<Overview> {
    let is_own = |key: &Key| key.tenant == caller.tenant;
    let firing = app.supervisor.shared.alerts.firing(is_own);
    let mut overview = Overview {
        by_health: BTreeMap::new(),
        by_state: BTreeMap::new(),
        total: 0,
        worst_lag: None,
        lag_unknown: 0,
        tables_quarantined: 0,
        alerts_firing: firing.len(),
        slots_at_risk: Vec::new(),
        pipelines: Vec::new(),
        measured_at: clock::now(),
    };
    let mut all = Vec::new();
    for member in app.supervisor.members_of(&caller.tenant) {
        let view = member.view();
        let (id, status) = (&member.key.id, &view.status);
        overview.total += 1;
        *overview
            .by_health
            .entry(word_of(&status.health))
            .or_insert(0) += 1;
        *overview.by_state.entry(view.state.clone()).or_insert(0) += 1;
        overview.tables_quarantined += quarantined(status);
        match status.latency_seconds {
            Some(latency) => {
                let worst = overview
                    .worst_lag
                    .as_ref()
                    .map(|worst| worst.latency_seconds);
                if worst.is_none_or(|worst| latency > worst) {
                    overview.worst_lag = Some(WorstLag {
                        pipeline_id: id.clone(),
                        latency_seconds: latency,
                        gap_bytes: status.gap_bytes,
                    });
                }
            }
            None if view.is_running => overview.lag_unknown += 1,
            None => {}
        }
        if let Some(at_risk) = status.slot.as_ref().filter(|slot| {
            slot.predicted_loss_at.is_some()
                || matches!(slot.wal_status.as_str(), "lost" | "unreserved")
        }) {
            overview.slots_at_risk.push(SlotAtRisk {
                pipeline_id: id.clone(),
                slot: slot(at_risk),
            });
        }
        all.push((rank(status.health), id.clone(), member, view));
    }
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let shown = all.iter().take(OVERVIEW_MAX);
    overview.pipelines = shown
        .map(|(_, _, member, view)| PipelineBody::of(member, view))
        .collect();
    Answer(overview)
}

pub(super) fn quarantined(status: &Status) -> usize {
    let is_aside = |state| state == TableStatusState::Quarantined;
    status
        .tables
        .iter()
        .filter(|table| is_aside(table.state))
        .count()
}

/// What stands in the way of a pipeline.
#[derive(Debug, Serialize, ToSchema)]
struct Checked {
    /// Whether nothing failed.
    ok: bool,
    failed: usize,
    warnings: usize,
    /// Worst first.
    findings: Vec<FindingBody>,
}

/// One result of a check.
#[derive(Debug, Serialize, ToSchema)]
struct FindingBody {
    code: String,
    /// `passed`, `note`, `warning` or `failed`.
    verdict: String,
    /// `source` or `target`.
    side: String,
    found: String,
    why: String,
    fixes: Vec<FixBody>,
}

/// One way to mend it.
#[derive(Debug, Serialize, ToSchema)]
struct FixBody {
    text: String,
    /// `safe_sql`, `sql` or `text`.
    kind: String,
}

async fn opened(app: &App, caller: &Caller, text: String) -> Result<Opened, Failure> {
    caller.needs(Role::Admin)?;
    let shared = &app.supervisor.shared;
    Ok(open_definition(shared, shared.define(&caller.tenant, text)).await?)
}

#[utoipa::path(post, path = "/checks", tag = "pipelines",
    request_body(content((Value = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = Checked), (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn check(
    State(app): State<Arc<App>>,
    caller: Caller,
    DefinitionText(text): DefinitionText,
) -> Result<Answer<Checked>, Failure> {
    let opened = opened(&app, &caller, text).await?;
    let mut found = app.supervisor.shared.systems.check(&opened).await?;
    found.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    let count = |verdict| {
        found
            .iter()
            .filter(|f: &&Finding| f.verdict == verdict)
            .count()
    };
    let (failed, warnings) = (count(Verdict::Failed), count(Verdict::Warning));
    Ok(Answer(Checked {
        ok: failed == 0,
        failed,
        warnings,
        findings: found.into_iter().map(finding).collect(),
    }))
}

fn finding(finding: Finding) -> FindingBody {
    FindingBody {
        code: finding.code.to_string(),
        verdict: word_of(&finding.verdict),
        side: finding.side.to_string(),
        found: finding.found,
        why: finding.why,
        fixes: finding
            .fixes
            .into_iter()
            .map(|fix| FixBody {
                text: fix.text,
                kind: word_of(&fix.kind),
            })
            .collect(),
    }
}

#[utoipa::path(post, path = "/plans", tag = "pipelines",
    request_body(content((Value = "application/json"), (String = "application/toml"))),
    responses((status = 200, description = "As `tidemark plan --json`", body = Value),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn plan(
    State(app): State<Arc<App>>,
    caller: Caller,
    DefinitionText(text): DefinitionText,
) -> Result<Answer<Value>, Failure> {
    let opened = opened(&app, &caller, text).await?;
    Ok(Answer(app.supervisor.shared.systems.plan(&opened).await?))
}
