//! What a demo's page asks for. Not in the document of the API: only the server of a demo has it.

use std::sync::Arc;

use axum::Json as Answer;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Deserialize;

use super::App;
use super::extract::Json;
use super::problem::Failure;
use crate::demo::{Demo, Told};

/// Only where there is a demo.
pub(super) fn routes(app: &App) -> Router<Arc<App>> {
    match app.demo {
        None => Router::new(),
        Some(_) => Router::new()
            .route("/api/v1/demo", get(told))
            .route("/api/v1/demo/breaks", post(break_it)),
    }
}

fn demo(app: &App) -> Result<&dyn Demo, Failure> {
    let demo = app.demo.as_deref();
    demo.ok_or_else(|| Failure::not_found("demo"))
}

async fn told(State(app): State<Arc<App>>) -> Result<Answer<Told>, Failure> {
    Ok(Answer(demo(&app)?.told().await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakBody {
    what: String,
}

async fn break_it(
    State(app): State<Arc<App>>,
    Json(body): Json<BreakBody>,
) -> Result<StatusCode, Failure> {
    demo(&app)?.break_it(&body.what).await?;
    Ok(StatusCode::ACCEPTED)
}
