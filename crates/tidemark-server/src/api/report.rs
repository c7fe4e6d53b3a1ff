//! A pipeline's report in one file, see `crate::report`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tidemark_core::catalogue::codes;
use tidemark_core::clock;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Caller;
use super::bodies::{PipelineBody, lag_of, shown, table};
use super::extract::{Params, Route};
use super::monitoring::step_for;
use super::pipelines::member;
use super::problem::{Failure, Problem};
use crate::report::{Comparison, Report, policy};
use crate::store::{Cursor, EventsWanted, Level};

/// Hours that it looks back, by default and at most.
const HOURS: i64 = 24;
const HOURS_MAX: i64 = 30 * 24;
/// Points of a chart, about.
const POINTS: i64 = 900;
const EVENTS: usize = 500;
const ROWS: usize = 20;
const LINES: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(report))
        .routes(routes!(verification))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReportParams {
    /// How far it looks back, 1 to 720; a day by default.
    #[param(minimum = 1, maximum = 720)]
    hours: Option<i64>,
}

#[utoipa::path(get, path = "/pipelines/{id}/report.html", tag = "events", params(("id" = String, Path), ReportParams),
    responses((status = 200, description = "How it stands, charts, tables, verification, events, runs, log lines and \
            definition in one document that needs nothing else", body = String, content_type = "text/html"),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn report(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<ReportParams>,
) -> Result<Response, Failure> {
    let member = member(&app, &caller, &id)?;
    let hours = params.hours.unwrap_or(HOURS);
    if !(1..=HOURS_MAX).contains(&hours) {
        let text = format!("hours are 1 to {HOURS_MAX}");
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    let now = clock::now_us() / 1_000_000;
    let period = (now - hours * 3600, now + 1);
    let step = step_for(now, period, POINTS);
    let page = |limit| Cursor {
        before: None,
        limit,
    };
    let events = EventsWanted {
        level: None,
        code: None,
        since: Some(clock::rfc3339(period.0 * 1_000_000)),
        until: None,
    };
    let (key, store, shared) = (&member.key, &app.store, &app.supervisor.shared);
    let view = member.view();
    let mut tables: Vec<_> = view.status.tables.iter().collect();
    tables.sort_by_key(|table| (table.urgency(), table.source.as_str()));
    let definition = shared.definition(&member.row()).await.ok();
    let report = Report {
        pipeline: PipelineBody::of(&member, &view),
        lag: lag_of(&member, &view),
        tables: tables.into_iter().map(table).collect(),
        period,
        step_seconds: step.seconds(),
        history: store.history(key, step, period.0, period.1).await?,
        events: store.events(key, events, page(EVENTS)).await?,
        verifications: store.verifications(key, None, page(ROWS)).await?,
        runs: store.runs(key, page(ROWS)).await?,
        lines: shared.logs.lines(key, Level::Info, None, LINES),
        definition: definition.map(|definition| shown(&definition.text)),
        by: caller.name,
    };
    Ok(document("report", report.html()))
}

#[utoipa::path(get, path = "/pipelines/{id}/verifications/{number}/report.html", tag = "verifications",
    params(("id" = String, Path), ("number" = i64, Path)),
    responses((status = 200, description = "What was compared and found, table by table, in one document that needs \
            nothing else", body = String, content_type = "text/html"), (status = 404, body = Problem)))]
async fn verification(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, number)): Route<(String, i64)>,
) -> Result<Response, Failure> {
    let member = member(&app, &caller, &id)?;
    let one = Cursor {
        before: None,
        limit: 1,
    };
    let found = app.store.verifications(&member.key, Some(number), one);
    let found = found.await?.pop();
    let found = found.ok_or_else(|| Failure::not_found("verification"))?;
    let (source, target) = member.route().unzip();
    let comparison = Comparison {
        pipeline: id,
        source,
        target,
        found,
        by: caller.name,
    };
    Ok(document("verification", comparison.html()))
}

/// A document that a browser shows, and lets do nothing.
fn document(name: &str, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (
            header::CONTENT_DISPOSITION,
            format!("inline; filename=\"{name}.html\""),
        ),
    ];
    (headers, html).into_response()
}
