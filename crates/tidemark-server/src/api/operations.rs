//! Long actions: what became of them, and ending one before its end.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::extract::{Json, Params, Route};
use super::journal::PageParams;
use super::lists::{end_in_time, in_time};
use super::pipelines::member;
use super::problem::{Failure, Problem};
use crate::store::OperationRow;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(operation))
        .routes(routes!(cancel))
        .routes(routes!(confirm))
}

/// A page of operations, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct OperationList {
    operations: Vec<OperationRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/pipelines/{id}/operations", tag = "operations",
    params(("id" = String, Path), PageParams),
    responses((status = 200, body = OperationList), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<PageParams>,
) -> Result<Answer<OperationList>, Failure> {
    let member = member(&app, &caller, &id)?;
    let page = in_time(params.limit, params.cursor.as_deref())?;
    let limit = page.limit;
    let mut operations = app.store.operations(&member.key, page).await?;
    let (next_cursor, next) = end_in_time(&mut operations, limit, |row| {
        (row.created_at.as_str(), row.id.as_str())
    });
    Ok(Answer(OperationList {
        operations,
        next_cursor,
        next,
    }))
}

#[utoipa::path(get, path = "/operations/{id}", tag = "operations", params(("id" = String, Path)),
    responses((status = 200, body = OperationRow), (status = 404, body = Problem)))]
async fn operation(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<OperationRow>, Failure> {
    found(&app, &caller, id).await.map(Answer)
}

async fn found(app: &App, caller: &Caller, id: String) -> Result<OperationRow, Failure> {
    let found = app.store.operation(caller.tenant.clone(), id).await?;
    let mut found = found.ok_or_else(|| Failure::not_found("operation"))?;
    if caller.role < Role::Operator {
        // Statements and definitions of the source may be in it.
        found.data = None;
    }
    Ok(found)
}

#[utoipa::path(post, path = "/operations/{id}/cancel", tag = "operations", params(("id" = String, Path)),
    responses((status = 202, body = OperationRow, description = "It ends now, `cancelled`, unless it was over already"),
        (status = 404, body = Problem), (status = 409, body = Problem,
            description = "It is over, or what was asked is for the pipeline to end: a verification can be given up, and a cutover, which takes everything back")))]
async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Response, Failure> {
    caller.needs(Role::Operator)?;
    let operation = found(&app, &caller, id).await?;
    if !app.supervisor.cancel(&operation.id, &caller.name) {
        let (text, then) = if operation.state == "running" {
            let text = format!("{} cannot be given up", operation.kind);
            (
                text,
                "wait for it; pause or stop the pipeline to end what it does",
            )
        } else {
            (
                format!("it is over: {}", operation.state),
                "look at what became of it",
            )
        };
        return Err(Error::definite(codes::API_CONFLICT, text)
            .first_action(then)
            .into());
    }
    let place = format!("/api/v1/operations/{}", operation.id);
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, place)],
        Answer(operation),
    )
        .into_response())
}

/// Consent to what an operation asks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConfirmBody {
    /// The pipeline's name. Required.
    confirm: Option<String>,
}

#[utoipa::path(post, path = "/operations/{id}/confirm", tag = "operations", params(("id" = String, Path)),
    request_body = ConfirmBody,
    responses((status = 202, body = OperationRow, description = "It goes on"), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "It asks nothing now: `asks` in its `data` is null")))]
async fn confirm(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Json(body): Json<ConfirmBody>,
) -> Result<Response, Failure> {
    caller.needs(Role::Operator)?;
    let operation = found(&app, &caller, id).await?;
    if body.confirm.as_ref() != Some(&operation.pipeline) {
        let text = "`confirm` is the pipeline's name";
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    if !app.supervisor.agree(&operation.id) {
        let text = format!("{} asks nothing now", operation.kind);
        return Err(Failure::new(codes::API_CONFLICT, text));
    }
    Ok((StatusCode::ACCEPTED, Answer(operation)).into_response())
}
