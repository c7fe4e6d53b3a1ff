//! The last log lines of a pipeline, and how loud the log is.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidemark_core::catalogue::codes;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::extract::{Json, Params, Route};
use super::journal::level_of;
use super::lists::{cut, next_page};
use super::pipelines::{limit, member};
use super::problem::{Failure, Problem};
use crate::logs::{Line, LogLevel};
use crate::store::Level;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(lines))
        .routes(routes!(log_level, set_log_level))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogParams {
    /// `info`, `warn` or `error`: this and what is worse.
    level: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<u64>,
}

/// A page of log lines, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct LineList {
    lines: Vec<Line>,
    next_cursor: Option<u64>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/pipelines/{id}/logs", tag = "events", params(("id" = String, Path), LogParams),
    responses((status = 200, description = "The last lines since the server began; with \
        `Accept: application/x-ndjson` one a line", body = LineList),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn lines(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<LogParams>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let member = member(&app, &caller, &id)?;
    let limit = limit(params.limit)?;
    let level = level_of(params.level.as_deref())?.unwrap_or(Level::Info);
    let logs = &app.supervisor.shared.logs;
    let mut lines = logs.lines(&member.key, level, params.cursor, limit + 1);
    let next_cursor = cut(&mut lines, limit, |line| line.id);
    let accept = headers.get(header::ACCEPT);
    if accept.is_some_and(|accept| accept == "application/x-ndjson") {
        let text = lines
            .iter()
            .map(|line| format!("{}\n", serde_json::json!(line)));
        let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
        return Ok((kind, text.collect::<String>()).into_response());
    }
    Ok(Answer(LineList {
        next: next_page(next_cursor.map(|id| id.to_string()).as_deref()),
        next_cursor,
        lines,
    })
    .into_response())
}

/// How loud the log of this process is.
#[derive(Debug, Serialize, ToSchema)]
struct LogLevelBody {
    /// `null` where `TIDEMARK_LOG` decides.
    level: Option<LogLevel>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewLogLevel {
    /// Required.
    level: Option<LogLevel>,
}

#[utoipa::path(get, path = "/admin/log-level", tag = "access",
    responses((status = 200, body = LogLevelBody), (status = 403, body = Problem)))]
async fn log_level(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Answer<LogLevelBody>, Failure> {
    of_the_server(&caller)?;
    let level = app.supervisor.shared.logs.loudness().level();
    Ok(Answer(LogLevelBody { level }))
}

#[utoipa::path(put, path = "/admin/log-level", tag = "access", request_body = NewLogLevel,
    responses((status = 200, description = "From the next line on, until the process ends", body = LogLevelBody),
        (status = 400, body = Problem), (status = 403, body = Problem)))]
async fn set_log_level(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(wanted): Json<NewLogLevel>,
) -> Result<Answer<LogLevelBody>, Failure> {
    of_the_server(&caller)?;
    let level = wanted.level.ok_or_else(|| {
        let text = "`level` is error, warn, info or debug";
        Failure::new(codes::API_MALFORMED, text)
    })?;
    let logs = &app.supervisor.shared.logs;
    logs.loudness().set(level);
    tracing::warn!(by = caller.name, "the log is written from {level} on");
    let level = logs.loudness().level();
    Ok(Answer(LogLevelBody { level }))
}

/// What concerns all tenants is for whoever runs the server.
pub(super) fn of_the_server(caller: &Caller) -> Result<(), Failure> {
    caller.needs(Role::Admin)?;
    if caller.is_own() {
        return Ok(());
    }
    let text = format!("{} is of a tenant, and this of the server", caller.name);
    Err(Failure::new(codes::API_NOT_ALLOWED, text))
}
