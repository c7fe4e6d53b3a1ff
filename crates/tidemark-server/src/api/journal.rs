//! What is known of a pipeline besides itself: tables, events, runs, verifications.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use tidemark_core::catalogue::codes;
use tidemark_core::clock;
use tidemark_core::status::TABLE_STATES;

use super::App;
use super::actions::{ActBody, ask};
use super::auth::Caller;
use super::bodies::{TableBody, TableCount, counts, table};
use super::extract::{Json, Params, Route, known_word};
use super::lists::{cut, next_page, not_ours};
use super::pipelines::{limit, member};
use super::problem::{Failure, Problem};
use crate::store::{Cursor, EventRow, EventsWanted, Level, OperationRow, RunRow, VerificationRow};
use crate::supervisor::word_of;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(tables))
        .routes(routes!(act_on_table))
        .routes(routes!(events))
        .routes(routes!(errors))
        .routes(routes!(runs))
        .routes(routes!(verifications))
        .routes(routes!(verification))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TablesParams {
    /// Only those in this state.
    state: Option<String>,
    /// Only those whose name on either side holds this, double quotes aside.
    q: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of tables, those that need a person first.
#[derive(Debug, Serialize, ToSchema)]
struct TableList {
    tables: Vec<TableBody>,
    /// All of the pipeline, by state.
    counts: Vec<TableCount>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/pipelines/{id}/tables", tag = "tables",
    params(("id" = String, Path), TablesParams),
    responses((status = 200, body = TableList), (status = 404, body = Problem)))]
async fn tables(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<TablesParams>,
) -> Result<Answer<TableList>, Failure> {
    let limit = limit(params.limit)?;
    known_word("state", params.state.as_ref(), &TABLE_STATES)?;
    let after = params.cursor.as_deref().map(|cursor| {
        let parts = cursor
            .split_once(':')
            .and_then(|(rank, name)| Some((rank.parse::<u8>().ok()?, name)));
        parts.ok_or_else(not_ours)
    });
    let after = after.transpose()?;
    let status = member(&app, &caller, &id)?.view().status;
    let counts = counts(&status);
    let mut found: Vec<_> = status.tables.iter().collect();
    let unquoted = |text: &str| text.replace('"', "");
    let q = params.q.as_deref().map(unquoted).unwrap_or_default();
    let holds = |name: &str| unquoted(name).contains(&q);
    found.retain(|table| {
        let is_in = params
            .state
            .as_ref()
            .is_none_or(|state| *state == word_of(&table.state));
        is_in && (holds(&table.source) || holds(&table.target))
    });
    found.sort_by_key(|table| (table.urgency(), table.source.as_str()));
    found
        .retain(|table| after.is_none_or(|after| (table.urgency(), table.source.as_str()) > after));
    let next_cursor = cut(&mut found, limit, |table| {
        format!("{}:{}", table.urgency(), table.source)
    });
    Ok(Answer(TableList {
        next: next_page(next_cursor.as_deref()),
        next_cursor,
        tables: found.into_iter().map(table).collect(),
        counts,
    }))
}

#[utoipa::path(post, path = "/pipelines/{id}/tables/{table}/actions/{action}", tag = "tables",
    params(("id" = String, Path), ("table" = String, Path, description = "schema.table on the source"),
        ("action" = String, Path, description = "pause, resume, resync, reconcile, verify, retry, skip or drop")),
    request_body = ActBody,
    responses((status = 202, body = OperationRow), (status = 200, description = "The effect", body = Value),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
async fn act_on_table(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, table, action)): Route<(String, String, String)>,
    Json(mut body): Json<ActBody>,
) -> Result<Response, Failure> {
    const ACTIONS: [&str; 8] = [
        "pause",
        "resume",
        "resync",
        "reconcile",
        "verify",
        "retry",
        "skip",
        "drop",
    ];
    if !ACTIONS.contains(&action.as_str()) {
        return Err(Failure::not_found("action"));
    }
    body.tables = vec![table];
    ask(&app, &caller, &id, &action, body).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsParams {
    /// `info`, `warn` or `error`.
    level: Option<String>,
    /// A catalogue code.
    code: Option<String>,
    /// RFC 3339, inclusive.
    since: Option<String>,
    /// RFC 3339, exclusive.
    until: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of events, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct EventList {
    events: Vec<EventRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// A level that is asked for.
pub(super) fn level_of(word: Option<&str>) -> Result<Option<Level>, Failure> {
    let level = word.map(|word| {
        let text = "level is info, warn or error";
        Level::of_word(word).ok_or_else(|| Failure::new(codes::API_MALFORMED, text))
    });
    level.transpose()
}

/// A page after a number.
pub(super) fn page(wanted: Option<usize>, cursor: Option<&str>) -> Result<Cursor, Failure> {
    let before = cursor.map(|cursor| {
        let number = cursor.parse::<i64>();
        number.map_err(|_| not_ours())
    });
    Ok(Cursor {
        before: before.transpose()?,
        limit: limit(wanted)?,
    })
}

/// Where the next page begins, if this one is full.
pub(super) fn next<T>(rows: &[T], page: Cursor, id: impl Fn(&T) -> i64) -> Option<String> {
    let last = rows.last().filter(|_| rows.len() == page.limit);
    last.map(|row| id(row).to_string())
}

#[utoipa::path(get, path = "/pipelines/{id}/events", tag = "events",
    params(("id" = String, Path), EventsParams),
    responses((status = 200, description = "With `Accept: application/x-ndjson` one event a line",
        body = EventList), (status = 404, body = Problem)))]
async fn events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<EventsParams>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let level = level_of(params.level.as_deref())?;
    let list = found(&app, &caller, &id, &params, level).await?;
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    if accept != Some("application/x-ndjson") {
        return Ok(Answer(list).into_response());
    }
    let lines = list
        .events
        .iter()
        .map(|event| format!("{}\n", serde_json::json!(event)));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, lines.collect::<String>()).into_response())
}

#[utoipa::path(get, path = "/pipelines/{id}/errors", tag = "events",
    params(("id" = String, Path), EventsParams),
    responses((status = 200, body = EventList), (status = 404, body = Problem)))]
async fn errors(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<EventsParams>,
) -> Result<Answer<EventList>, Failure> {
    let list = found(&app, &caller, &id, &params, Some(Level::Error)).await?;
    Ok(Answer(list))
}

/// An instant that is asked for, in microseconds.
pub(super) fn instant(text: &str) -> Result<i64, Failure> {
    let wrong = || format!("`{text}` is no time like 2026-11-29T15:00:00Z");
    clock::parse(text).ok_or_else(|| Failure::new(codes::API_MALFORMED, wrong()))
}

async fn found(
    app: &App,
    caller: &Caller,
    id: &str,
    params: &EventsParams,
    level: Option<Level>,
) -> Result<EventList, Failure> {
    let member = member(app, caller, id)?;
    let page = page(params.limit, params.cursor.as_deref())?;
    let (since, until) = (
        params.since.as_deref().map(instant).transpose()?,
        params.until.as_deref().map(instant).transpose()?,
    );
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        let text = "since is not after until";
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    let wanted = EventsWanted {
        level,
        code: params.code.clone(),
        // As events have it, whatever zone it was said in: texts of one form have the order of time.
        since: since.map(clock::rfc3339),
        until: until.map(clock::rfc3339),
    };
    let events = app.store.events(&member.key, wanted, page).await?;
    let next_cursor = next(&events, page, |event| event.id);
    Ok(EventList {
        next: next_page(next_cursor.as_deref()),
        events,
        next_cursor,
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    pub(super) limit: Option<usize>,
    /// From `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct RunList {
    runs: Vec<RunRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/pipelines/{id}/runs", tag = "events",
    params(("id" = String, Path), PageParams),
    responses((status = 200, body = RunList), (status = 404, body = Problem)))]
async fn runs(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<PageParams>,
) -> Result<Answer<RunList>, Failure> {
    let member = member(&app, &caller, &id)?;
    let page = page(params.limit, params.cursor.as_deref())?;
    let runs = app.store.runs(&member.key, page).await?;
    let next_cursor = next(&runs, page, |run| run.id);
    Ok(Answer(RunList {
        next: next_page(next_cursor.as_deref()),
        runs,
        next_cursor,
    }))
}

/// A page of comparisons, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct VerificationList {
    verifications: Vec<VerificationRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/pipelines/{id}/verifications", tag = "verifications",
    params(("id" = String, Path), PageParams),
    responses((status = 200, body = VerificationList), (status = 404, body = Problem)))]
async fn verifications(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<PageParams>,
) -> Result<Answer<VerificationList>, Failure> {
    let member = member(&app, &caller, &id)?;
    let page = page(params.limit, params.cursor.as_deref())?;
    let verifications = app.store.verifications(&member.key, None, page).await?;
    let next_cursor = next(&verifications, page, |row| row.id);
    Ok(Answer(VerificationList {
        next: next_page(next_cursor.as_deref()),
        verifications,
        next_cursor,
    }))
}

#[utoipa::path(get, path = "/pipelines/{id}/verifications/{number}", tag = "verifications",
    params(("id" = String, Path), ("number" = i64, Path)),
    responses((status = 200, body = VerificationRow), (status = 404, body = Problem)))]
async fn verification(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, number)): Route<(String, i64)>,
) -> Result<Answer<VerificationRow>, Failure> {
    let member = member(&app, &caller, &id)?;
    let page = Cursor {
        before: None,
        limit: 1,
    };
    let found = app
        .store
        .verifications(&member.key, Some(number), page)
        .await?;
    let found = found.into_iter().next();
    found
        .map(Answer)
        .ok_or_else(|| Failure::not_found("verification"))
}
