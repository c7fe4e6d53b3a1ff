//! Whether the server lives and is ready, and its metrics. Pipelines do not make it unready: one that is
//! broken would have all of them started anew.

use std::sync::Arc;

use axum::Json as Answer;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemark_core::status::Health;

use super::App;
use super::auth::{AuthMode, Caller};
use super::extract::Params;
use super::guard;
use super::problem::Failure;
use crate::store::{DesiredState, Key};
use crate::supervisor::{Member, OWN_TENANT};

pub(super) fn routes(app: &Arc<App>, metrics_auth: AuthMode) -> Router<Arc<App>> {
    // Names and positions of pipelines are for those who may see them.
    let metrics =
        Router::new()
            .route("/metrics", get(metrics))
            .layer(middleware::from_fn_with_state(
                (Arc::clone(app), metrics_auth),
                guard::scrapes,
            ));
    Router::new()
        .route("/livez", get(lives))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/startupz", get(ready))
        .merge(metrics)
}

/// Turns, and touches nothing.
async fn lives() -> &'static str {
    "ok\n"
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadyParams {
    /// List what was looked at.
    verbose: Option<String>,
    /// `strict`: not ready while a pipeline that is to run has no connection.
    pipelines: Option<String>,
}

/// Whether it is to run, and has no connection.
fn is_lost(member: &Member) -> bool {
    let view = member.view();
    if !view.is_running {
        return member.row().desired.state == DesiredState::Running;
    }
    // One that tries to reach a side, again or for the first time, is not connected either.
    let is_away = view.status.health == Health::Unknown || view.status.error.is_some();
    is_away || matches!(view.state.as_str(), "checking" | "starting" | "failed")
}

/// Whether the store is open and answers, and the tasks that look after pipelines turn. Whoever asks needs no
/// token, so no pipeline is named.
async fn ready(State(app): State<Arc<App>>, Params(params): Params<ReadyParams>) -> Response {
    let store = app.store.keeps().await;
    let is_strict = params.pipelines.as_deref() == Some("strict");
    let lost = if is_strict {
        let members = app.supervisor.members().into_iter();
        members.filter(|member| is_lost(member)).count()
    } else {
        0
    };
    let late = app.supervisor.shared.turns.late();
    let is_ready = store.is_ok() && late.is_empty() && lost == 0;
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if params.verbose.is_none() {
        return (status, if is_ready { "ok\n" } else { "not ready\n" }).into_response();
    }
    let store: Value = match store {
        Ok(()) => "ok".into(),
        Err(err) => err.code().to_string().into(),
    };
    let body = json!({ "ready": is_ready, "role": "leader", "store": store, "listener": "ok",
        "rounds_late": late, "pipelines_lost": is_strict.then_some(lost) });
    (status, Answer(body)).into_response()
}

async fn metrics(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Failure> {
    // Whoever runs the server scrapes all of it, a tenant its own.
    let members = if caller.tenant == OWN_TENANT {
        app.supervisor.members()
    } else {
        app.supervisor.members_of(&caller.tenant)
    };
    let is_wanted = |key: &Key| caller.tenant == OWN_TENANT || key.tenant == caller.tenant;
    let firing = app.supervisor.shared.alerts.firing(is_wanted);
    let mut told = app.supervisor.shared.notify.counts();
    told.retain(|(tenant, ..), _| caller.tenant == OWN_TENANT || *tenant == caller.tenant);
    let schedules = &app.supervisor.shared.schedules;
    let scheduled = schedules.scheduled(&members, tidemark_core::clock::now_us());
    let text = crate::metrics::exposition(&members, &firing, told, &scheduled, &app.requests);
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}
