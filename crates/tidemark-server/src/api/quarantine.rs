//! Rows and tables that could not be applied: what is there, and what is done about it.
//!
//! What is there is read from the target, whoever runs the pipeline. Keys and values are data of its
//! rows: a viewer is not shown them, and who looks at values is in the audit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemark_core::catalogue::placeholders::named;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::quarantine::{Cause, Chosen, KeptChange, KeptRow, rows_of};
use tidemark_core::schema::TableName;
use tidemark_core::status::TableStatusState;
use tidemark_core::words::counted;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actions::begin;
use super::auth::{Caller, Role};
use super::bodies::{TableBody, table};
use super::extract::{Json, Params, Route, table_name};
use super::guard::write_down;
use super::lists::{cut, next_page};
use super::pipelines::{limit, member};
use super::problem::{Failure, Problem};
use crate::store::OperationRow;
use crate::supervisor::actions::{Action, may};
use crate::supervisor::{Member, open};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(act_on_row))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// Only of this table of the source, as `schema.table`.
    table: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<i64>,
}

/// Tables that were set aside, and a page of rows in quarantine, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct QuarantineList {
    /// Tables that were set aside after an error, and how many changes wait for each.
    tables: Vec<TableBody>,
    rows: Vec<KeptRowBody>,
    /// All that were asked for.
    rows_total: usize,
    /// Changes of those.
    changes_total: usize,
    next_cursor: Option<i64>,
    /// The next page.
    next: Option<String>,
}

/// A row in quarantine.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeptRowBody {
    /// By which it is asked for as long as it is there.
    number: i64,
    /// On the source.
    table: String,
    target: String,
    /// The key that it has, or had last, its parts with commas between; `null` for a viewer.
    key: Option<String>,
    /// Every key that it has or had; `null` for a viewer.
    keys: Option<Vec<Vec<String>>>,
    /// `insert`, `update` or `delete`: what was refused.
    op: String,
    /// The one that was refused, and those that wait behind it.
    changes: usize,
    position: String,
    since: String,
    cause: Option<CauseBody>,
}

/// Why a change is there; `null` in its place for one that waits behind another.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CauseBody {
    code: String,
    sqlstate: String,
    /// What the target said; `null` for a viewer, since it may have values in it.
    text: Option<String>,
}

/// A row in quarantine with its changes.
#[derive(Debug, Serialize, ToSchema)]
struct KeptRowFull {
    #[serde(flatten)]
    row: KeptRowBody,
    /// What to do first.
    first_action: Option<String>,
    /// In order, masked as the target's rows are.
    kept: Vec<KeptChangeBody>,
}

/// A change in quarantine.
#[derive(Debug, Serialize, ToSchema)]
struct KeptChangeBody {
    number: i64,
    /// The row's key; two where the change moves it.
    keys: Vec<Vec<String>>,
    op: String,
    /// The transaction on the source.
    xid: u32,
    position: String,
    since: String,
    cause: Option<CauseBody>,
    /// The new row, as the log has it; `null` is NULL.
    row: BTreeMap<String, Option<String>>,
}

fn cause(cause: &Cause, sees_rows: bool) -> CauseBody {
    CauseBody {
        code: cause.code.clone(),
        sqlstate: cause.sqlstate.clone(),
        text: sees_rows.then(|| cause.text.clone()),
    }
}

pub(super) fn body(row: &KeptRow, sees_rows: bool) -> KeptRowBody {
    let first = row.first();
    KeptRowBody {
        number: first.number,
        table: first.table.to_string(),
        target: first.target.clone(),
        key: sees_rows.then(|| row.key()),
        keys: sees_rows.then(|| row.keys.clone()),
        op: first.op.clone(),
        changes: row.changes.len(),
        position: first.position.clone(),
        since: first.since.clone(),
        cause: first.cause.as_ref().map(|why| cause(why, sees_rows)),
    }
}

fn full(pipeline: &str, row: &KeptRow) -> KeptRowFull {
    let change = |change: &KeptChange| KeptChangeBody {
        number: change.number,
        keys: change.keys.clone(),
        op: change.op.clone(),
        xid: change.xid,
        position: change.position.clone(),
        since: change.since.clone(),
        cause: change.cause.as_ref().map(|why| cause(why, true)),
        row: change.row.clone(),
    };
    let first = row.first();
    let why = first.cause.as_ref();
    let code = why.and_then(|why| Code::parse(&why.code));
    let table = first.table.to_string();
    let action = code.map(|code| named(&code.entry().first_action, Some(pipeline), Some(&table)));
    KeptRowFull {
        row: body(row, true),
        first_action: action,
        kept: row.changes.iter().map(change).collect(),
    }
}

/// What is in quarantine, as the target has it.
pub(super) async fn kept(app: &App, member: &Member) -> Result<Vec<KeptRow>, Failure> {
    let target = match member.alive() {
        Some(alive) => Arc::clone(&alive.opened.target),
        None => open(&app.supervisor.shared, member).await?.target,
    };
    Ok(rows_of(target.control().await?.quarantined().await?))
}

#[utoipa::path(get, path = "/pipelines/{id}/quarantine", tag = "quarantine",
    params(("id" = String, Path), ListParams),
    responses((status = 200, body = QuarantineList), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<ListParams>,
) -> Result<Answer<QuarantineList>, Failure> {
    let limit = limit(params.limit)?;
    let wanted = params.table.as_deref().map(table_name).transpose()?;
    let member = member(&app, &caller, &id)?;
    let mut rows = kept(&app, &member).await?;
    let is_wanted = |name: &TableName| wanted.as_ref().is_none_or(|wanted| wanted == name);
    rows.retain(|row| is_wanted(&row.first().table));
    let rows_total = rows.len();
    let changes_total = rows.iter().map(|row| row.changes.len()).sum();
    let from = params.cursor.unwrap_or(i64::MIN);
    rows.retain(|row| row.first().number > from);
    let next_cursor = cut(&mut rows, limit, |row| row.first().number);
    let sees_rows = caller.role >= Role::Operator;
    let status = member.view().status;
    let is_aside = |state| state == TableStatusState::Quarantined;
    let tables = status.tables.iter().filter(|one| is_aside(one.state));
    let tables = tables.filter(|one| wanted.as_ref().is_none_or(|w| w.to_string() == one.source));
    Ok(Answer(QuarantineList {
        tables: tables.map(table).collect(),
        next: next_page(next_cursor.map(|number| number.to_string()).as_deref()),
        next_cursor,
        rows: rows.iter().map(|row| body(row, sees_rows)).collect(),
        rows_total,
        changes_total,
    }))
}

#[utoipa::path(get, path = "/pipelines/{id}/quarantine/{number}", tag = "quarantine",
    params(("id" = String, Path), ("number" = i64, Path)),
    responses((status = 200, description = "With values; that it was looked at is in the audit", body = KeptRowFull),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Route((id, number)): Route<(String, i64)>,
) -> Result<Answer<KeptRowFull>, Failure> {
    let member = member(&app, &caller, &id)?;
    caller.needs(Role::Operator)?;
    let row = row(&app, &member, number).await?;
    // Nobody looks at values unseen.
    let object = format!("/api/v1/pipelines/{id}/quarantine/{number}");
    write_down(&app, &caller, address, "GET", object, "200".to_owned()).await?;
    Ok(Answer(full(&id, &row)))
}

async fn row(app: &App, member: &Member, number: i64) -> Result<KeptRow, Failure> {
    let mut rows = kept(app, member).await?.into_iter();
    let found = rows.find(|row| row.first().number == number);
    found.ok_or_else(|| {
        let text = format!("no row {number} is in quarantine");
        Failure::new(codes::API_NOT_FOUND, text)
    })
}

/// What is done with a row.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RowActBody {
    /// Only tell what would happen.
    #[serde(default)]
    dry_run: bool,
}

#[utoipa::path(post, path = "/pipelines/{id}/quarantine/{number}/actions/{action}", tag = "quarantine",
    params(("id" = String, Path), ("number" = i64, Path),
        ("action" = String, Path, description = "retry or drop")),
    request_body = RowActBody,
    responses((status = 202, body = OperationRow), (status = 200, description = "The effect", body = Value),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
async fn act_on_row(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, number, action)): Route<(String, i64, String)>,
    Json(wanted): Json<RowActBody>,
) -> Result<Response, Failure> {
    caller.needs(Role::Operator)?;
    let member = member(&app, &caller, &id)?;
    let make = match action.as_str() {
        "retry" => Action::Retry,
        "drop" => Action::Drop,
        _ => return Err(Failure::not_found("action")),
    };
    let row = row(&app, &member, number).await?;
    let action = make(row.chosen());
    may(&member, &action)?;
    if wanted.dry_run {
        return Ok(effect_on(&member, &action, std::slice::from_ref(&row)));
    }
    begin(&app, &caller, member, action).await
}

/// What an action on rows and tables in quarantine would do to the data.
pub(super) async fn effect(
    app: &App,
    member: &Member,
    action: &Action,
) -> Result<Response, Failure> {
    let rows = kept(app, member).await?;
    Ok(effect_on(member, action, &rows))
}

fn effect_on(member: &Member, action: &Action, rows: &[KeptRow]) -> Response {
    let id = &member.key.id;
    let all = Chosen::default();
    let (chosen, is_table_meant) = match action {
        Action::Retry(chosen) => (chosen, chosen.key.is_none()),
        Action::Drop(chosen) => (chosen, false),
        _ => (&all, true),
    };
    let named: &[TableName] = match action {
        Action::Skip(tables) => tables,
        _ => &chosen.tables,
    };
    let is_named =
        |source: &str| named.is_empty() || named.iter().any(|name| name.to_string() == source);
    let status = member.view().status;
    let mut aside: Vec<_> = status.tables.iter().collect();
    aside.retain(|table| {
        let is_aside = table.state == TableStatusState::Quarantined;
        is_table_meant && is_aside && is_named(&table.source)
    });
    let parked: u64 = aside.iter().map(|table| table.parked).sum();
    let is_meant = |row: &&KeptRow| match action {
        Action::Skip(_) => false,
        _ => chosen.is(&row.first().table, &row.keys),
    };
    let rows: Vec<&KeptRow> = rows.iter().filter(is_meant).collect();
    let changes: usize = rows.iter().map(|row| row.changes.len()).sum();
    let (count, waits) = (counted(rows.len(), "row"), counted(changes, "change"));
    let mut effect = Vec::new();
    if matches!(action, Action::Retry(_)) && !rows.is_empty() {
        effect.push(format!(
            "{count} in quarantine: what {waits} of the source come to is applied again. \
             What the target refuses again stays in quarantine; nothing is lost."
        ));
    }
    if !aside.is_empty() {
        let parked = counted(usize::try_from(parked).unwrap_or(usize::MAX), "change");
        let names: Vec<&str> = aside.iter().map(|table| table.source.as_str()).collect();
        let names = names.join(", ");
        effect.push(match action {
            Action::Skip(_) => format!(
                "{names}: goes on with {parked} kept in order. Rows that the target refuses go into \
                 quarantine one by one, with what comes for them later; there the target differs from \
                 the source until they are retried."
            ),
            _ => format!(
                "{names}: goes on with {parked} kept in order. If the target refuses one again, the \
                 table is set aside again, and nothing is lost."
            ),
        });
    }
    if matches!(action, Action::Drop(_)) && !rows.is_empty() {
        effect.push(format!(
            "Discards {count} in quarantine, with {waits} that the source made. The target then differs \
             from the source there, until the rows change again or are repaired: \
             tidemark verify {id} --repair"
        ));
    }
    if effect.is_empty() {
        effect.push("Nothing is in quarantine there: nothing would be changed.".to_owned());
    }
    Answer(json!({
        "pipeline_id": id,
        "action": action.word(),
        "tables": aside.iter().map(|one| table(one)).collect::<Vec<_>>(),
        "rows": rows.len(),
        "changes": changes,
        "effect": effect,
    }))
    .into_response()
}
