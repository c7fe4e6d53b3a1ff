//! What the server runs with, and for whom. For whoever runs it: nothing in it is secret, all of it is the
//! server's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Caller;
use super::extract::Params;
use super::guard;
use super::journal::PageParams;
use super::lists::{cut, next_page};
use super::logs::of_the_server;
use super::pipelines::limit;
use super::problem::{Failure, Problem};
use crate::connections;
use crate::store::{self, DesiredState, Step};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(settings))
        .routes(routes!(tenants))
}

/// What the server runs with: its flags, variables and file, and what is fixed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SettingsBody {
    pub(crate) version: &'static str,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// Where it listens.
    pub(crate) listen: String,
    /// Where metrics are, if they have an address of their own.
    pub(crate) metrics_listen: Option<String>,
    /// Names under which it is spoken to.
    pub(crate) hosts: Vec<String>,
    /// `open`: whoever reaches it may do everything; `token`: every request needs a token.
    pub(crate) auth: &'static str,
    pub(crate) store: StoreBody,
    /// Files of its own are there, and `connections.toml` for what is defined through the API.
    pub(crate) state_directory: String,
    /// The directory of pipeline files that it follows.
    pub(crate) pipelines_directory: Option<String>,
    /// Where people reach its pages, for the links in messages.
    pub(crate) pages: Option<String>,
    /// Who can be told of alerts, by name, of all tenants.
    pub(crate) notifiers: Vec<String>,
    pub(crate) limits: LimitsBody,
    pub(crate) retention: RetentionBody,
}

/// Where the server keeps what it remembers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct StoreBody {
    /// `sqlite` or `postgres`.
    pub(crate) kind: &'static str,
    /// A file, or an address without secrets.
    pub(crate) place: String,
}

/// How much of something there may be.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LimitsBody {
    /// Of a tenant that is not the server's own.
    pub(crate) tenant_pipelines: usize,
    pub(crate) request_bytes: usize,
    /// How long the body of a request may take to come.
    pub(crate) request_seconds: u64,
    /// How long an answer may take.
    pub(crate) answer_seconds: u64,
    /// At once.
    pub(crate) client_connections: usize,
    /// Who looks at rows, or into a database, at once.
    pub(crate) looks: usize,
}

/// How much of what has happened is kept, of each pipeline unless it says otherwise.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct RetentionBody {
    pub(crate) events: i64,
    pub(crate) runs: i64,
    pub(crate) verifications: i64,
    /// `null`: all of it is kept.
    pub(crate) audit_days: Option<i64>,
    /// History of lag, by the width of its buckets.
    pub(crate) history: Vec<HistoryKept>,
    /// Messages that were sent.
    pub(crate) delivery_days: i64,
    /// Answers to an `Idempotency-Key`.
    pub(crate) answer_days: i64,
}

/// How long buckets of a width are kept.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct HistoryKept {
    step_seconds: i64,
    kept_seconds: i64,
}

impl LimitsBody {
    pub(crate) fn of(tenant_pipelines: usize, looks: usize) -> LimitsBody {
        LimitsBody {
            tenant_pipelines,
            request_bytes: guard::BODY_MAX,
            request_seconds: guard::BODY_WITHIN.as_secs(),
            answer_seconds: guard::ANSWER_WITHIN.as_secs(),
            client_connections: connections::CONNECTIONS_MAX,
            looks,
        }
    }
}

impl RetentionBody {
    pub(crate) fn of_this_program() -> RetentionBody {
        let history = Step::ALL.iter().map(|step| HistoryKept {
            step_seconds: step.seconds(),
            kept_seconds: step.kept_seconds(),
        });
        RetentionBody {
            events: store::EVENTS_KEPT,
            runs: store::RUNS_KEPT,
            verifications: store::VERIFICATIONS_KEPT,
            audit_days: None,
            history: history.collect(),
            delivery_days: store::DELIVERIES_KEPT_DAYS,
            answer_days: store::ANSWERS_KEPT_DAYS,
        }
    }
}

#[utoipa::path(get, path = "/settings", tag = "access",
    responses((status = 200, body = SettingsBody), (status = 403, body = Problem)))]
async fn settings(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Answer<SettingsBody>, Failure> {
    of_the_server(&caller)?;
    Ok(Answer(app.settings.clone()))
}

/// A page of tenants that have anything here, by name.
#[derive(Debug, Serialize, ToSchema)]
struct TenantList {
    tenants: Vec<TenantBody>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// A tenant. It is there as soon as a token is given out for it.
#[derive(Debug, Default, Serialize, ToSchema)]
struct TenantBody {
    name: String,
    pipelines: usize,
    /// Of those, how many are to run.
    running: usize,
    connections: usize,
    /// Tokens that count.
    tokens: usize,
}

#[utoipa::path(get, path = "/tenants", tag = "access", params(PageParams),
    responses((status = 200, body = TenantList), (status = 400, body = Problem), (status = 403, body = Problem)))]
async fn tenants(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Answer<TenantList>, Failure> {
    of_the_server(&caller)?;
    let limit = limit(params.limit)?;
    let mut found: BTreeMap<String, TenantBody> = BTreeMap::new();
    for member in app.supervisor.members() {
        let tenant = found.entry(member.key.tenant.clone()).or_default();
        tenant.pipelines += 1;
        tenant.running += usize::from(member.row().desired.state == DesiredState::Running);
    }
    for tenant in app.supervisor.shared.endpoints.tenants() {
        found.entry(tenant).or_default().connections += 1;
    }
    for (_, token) in app.store.tokens_that_count().await? {
        found.entry(token.tenant).or_default().tokens += 1;
    }
    let after = params.cursor.unwrap_or_default();
    let rest = found.into_iter().filter(|(name, _)| *name > after);
    let mut tenants: Vec<TenantBody> = rest
        .map(|(name, tenant)| TenantBody { name, ..tenant })
        .take(limit + 1)
        .collect();
    let next_cursor = cut(&mut tenants, limit, |tenant| tenant.name.clone());
    Ok(Answer(TenantList {
        next: next_page(next_cursor.as_deref()),
        tenants,
        next_cursor,
    }))
}
