//! The API: routes, and the document that describes them, made from the same declarations.
//!
//! `guard` is before and after every request, and `auth` knows who asks; the other modules have the routes
//! by subject. The body of an answer is a type of the API's own (`bodies`), an error is a problem document
//! (`problem`).

use std::sync::Arc;

use axum::Json as Answer;
use axum::Router;
use axum::extract::State;
use axum::middleware;
use tidemark_core::catalogue::codes;
use tokio::sync::Semaphore;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

pub use auth::{AuthMode, Role};

pub(crate) use auth::Auth;
pub(crate) use bodies::{Lag, PipelineBody, TableBody, lag_of, rows_quarantined};
pub(crate) use guard::Answering;
pub(crate) use settings::{LimitsBody, RetentionBody, SettingsBody, StoreBody};

use crate::demo::Demo;
use crate::metrics::Requests;
use crate::store::Store;
use crate::supervisor::Supervisor;
use problem::Failure;

mod access;
mod actions;
mod alerts;
pub(crate) mod auth;
mod bodies;
mod connections;
mod definition;
mod demo;
mod extract;
mod guard;
mod health;
mod journal;
mod lists;
mod logs;
mod merge;
mod monitoring;
mod named;
mod operations;
mod pages;
mod pipelines;
pub(crate) mod problem;
mod quarantine;
mod readiness;
#[cfg(test)]
mod reference;
mod report;
mod rows;
mod schedules;
mod settings;
mod standing;
mod stream;

/// What every request is given.
pub(crate) struct App {
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) store: Store,
    pub(crate) auth: Arc<Auth>,
    /// Names under which the server is spoken to.
    pub(crate) hosts: Vec<String>,
    pub(crate) requests: Requests,
    pub(crate) answering: Answering,
    /// What is around it, where it is the server of a demo.
    pub(crate) demo: Option<Arc<dyn Demo>>,
    /// What it runs with.
    pub(crate) settings: SettingsBody,
    /// Places for those who look at rows.
    pub(crate) looks: Semaphore,
}

/// What is answered where metrics have an address of their own.
pub(crate) fn metrics_router(app: Arc<App>, auth: AuthMode) -> Router {
    let routes = health::routes(&app, auth);
    guarded(routes, app)
}

/// Everything that is answered.
pub(crate) fn router(app: Arc<App>, metrics_auth: AuthMode) -> Router {
    let (api, _) = routes().split_for_parts();
    let api = api
        .route("/api/v1/openapi.json", axum::routing::get(document))
        .route("/problems/{code}", axum::routing::get(access::code))
        .merge(demo::routes(&app))
        .layer(middleware::from_fn(lists::tagged))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            guard::known,
        ));
    let metrics = health::routes(&app, metrics_auth);
    guarded(api.merge(metrics).merge(pages::routes()), app)
}

/// These and nothing else, with what is around every answer.
fn guarded(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes
        .fallback(nothing)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            guard::around,
        ))
        .with_state(app)
}

fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(head()).nest(
        "/api/v1",
        OpenApiRouter::new()
            .merge(pipelines::routes())
            .merge(actions::routes())
            .merge(definition::routes())
            .merge(readiness::routes())
            .merge(standing::routes())
            .merge(journal::routes())
            .merge(logs::routes())
            .merge(quarantine::routes())
            .merge(report::routes())
            .merge(rows::routes())
            .merge(monitoring::routes())
            .merge(operations::routes())
            .merge(connections::routes())
            .merge(named::routes())
            .merge(alerts::routes())
            .merge(schedules::routes())
            .merge(access::routes())
            .merge(settings::routes())
            .merge(stream::routes()),
    )
}

/// The document (OpenAPI 3.1) that describes the API.
pub fn openapi() -> OpenApi {
    let (_, mut document) = routes().split_for_parts();
    lists::describe(&mut document);
    document
}

fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tidemark")
        .version("v1")
        .description(Some(
            "Copies databases and keeps the copies current. What is not known is null, never 0.",
        ))
        .build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = utoipa::openapi::ComponentsBuilder::new()
        .security_scheme("token", SecurityScheme::Http(bearer))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .build()
}

async fn document(State(_): State<Arc<App>>) -> Answer<OpenApi> {
    Answer(openapi())
}

async fn nothing() -> Failure {
    Failure::new(codes::API_NOT_FOUND, "there is no such route")
}

async fn other_method() -> Failure {
    Failure::new(codes::API_METHOD, "the route has no such method")
}
