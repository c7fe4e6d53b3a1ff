//! What a pipeline's definition says, and what changes from one to another. Secrets are never shown; that
//! one is another now is.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidemark_core::config::changes;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::bodies::{etag, shown};
use super::extract::{DefinitionText, Route};
use super::merge::unmask;
use super::pipelines::member;
use super::problem::{Failure, Problem};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(definition))
        .routes(routes!(since_start, compare))
}

#[utoipa::path(get, path = "/pipelines/{id}/definition", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, body = String, content_type = "application/toml",
        description = "The pipeline file; secrets are `***`, references stay"),
        (status = 404, body = Problem)))]
async fn definition(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Response, Failure> {
    let member = member(&app, &caller, &id)?;
    let row = member.row();
    let definition = app.supervisor.shared.definition(&row).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/toml".to_owned()),
        (header::ETAG, etag(&row)),
    ];
    Ok((headers, shown(&definition.text)).into_response())
}

/// What changes from one definition to another.
#[derive(Debug, Serialize, ToSchema)]
struct Changes {
    pipeline_id: String,
    /// Whether anything does.
    changed: bool,
    /// Lines of a unified diff, without its head. Secrets are `***`; one that is another now shows as a
    /// change of its line.
    diff: Vec<String>,
    /// Whether it runs: what its run began with is compared.
    running: bool,
    /// The file that defines it; it is read-only here then.
    file: Option<String>,
    /// What `If-Match` wants.
    etag: String,
}

#[utoipa::path(get, path = "/pipelines/{id}/definition/changes", tag = "pipelines",
    params(("id" = String, Path)),
    responses((status = 200, body = Changes, description = "From what runs to what is defined now; \
        nothing where it does not run, since its next run begins with what is defined"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn since_start(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<Changes>, Failure> {
    let member = member(&app, &caller, &id)?;
    let row = member.row();
    let defined = app.supervisor.shared.definition(&row).await?;
    let alive = member.alive();
    let runs = alive.as_ref().map(|alive| &*alive.definition);
    let diff = runs.map_or_else(Vec::new, |runs| changes(runs, &defined.text));
    Ok(Answer(Changes {
        changed: !diff.is_empty(),
        diff,
        running: runs.is_some(),
        etag: etag(&row),
        pipeline_id: row.key.id,
        file: row.file,
    }))
}

#[utoipa::path(post, path = "/pipelines/{id}/definition/changes", tag = "pipelines",
    params(("id" = String, Path)),
    request_body(content((Value = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = Changes, description = "From what is defined to what is given; \
        changes nothing"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn compare(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    DefinitionText(text): DefinitionText,
) -> Result<Answer<Changes>, Failure> {
    // It can be found out by trying whether a secret is this or that.
    caller.needs(Role::Admin)?;
    let member = member(&app, &caller, &id)?;
    let row = member.row();
    let defined = app.supervisor.shared.definition(&row).await?;
    let diff = changes(&defined.text, &unmask(&text, &defined.text)?);
    Ok(Answer(Changes {
        changed: !diff.is_empty(),
        diff,
        running: member.alive().is_some(),
        etag: etag(&row),
        pipeline_id: row.key.id,
        file: row.file,
    }))
}
