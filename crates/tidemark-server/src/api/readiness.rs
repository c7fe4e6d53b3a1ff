//! Whether a pipeline is ready, and what it would do: asked of its two databases now, in the words of the
//! verbs of the same names.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::extract::Route;
use super::pipelines::member;
use super::problem::{Failure, Problem};
use crate::supervisor::open;
use crate::systems::Opened;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(check))
        .routes(routes!(plan))
}

async fn opened(app: &App, caller: &Caller, id: &str) -> Result<Opened, Failure> {
    let member = member(app, caller, id)?;
    // Both open sessions on databases, as often as they are asked.
    caller.needs(Role::Operator)?;
    Ok(open(&app.supervisor.shared, &member).await?)
}

#[utoipa::path(get, path = "/pipelines/{id}/check", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, description = "As `tidemark check --json`", body = Value),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn check(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<Value>, Failure> {
    let opened = opened(&app, &caller, &id).await?;
    Ok(Answer(app.supervisor.shared.systems.report(&opened).await?))
}

#[utoipa::path(get, path = "/pipelines/{id}/plan", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, description = "As `tidemark plan --json`", body = Value),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn plan(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<Value>, Failure> {
    let opened = opened(&app, &caller, &id).await?;
    Ok(Answer(app.supervisor.shared.systems.plan(&opened).await?))
}
