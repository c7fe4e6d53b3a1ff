//! How one pipeline stands, in full: what `tidemark status --json` says of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use serde_json::Value;
use tidemark_core::catalogue::codes;
use tidemark_core::standing::{Life, Standing};
use tidemark_core::status::{By, Health, PipelineState};
use tidemark_core::target::Owner;
use tidemark_core::{Error, Result};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Caller;
use super::extract::Route;
use super::pipelines::member;
use super::problem::{Failure, Problem};
use crate::supervisor::{Member, View, open};

/// How long both sides may take to answer; then it is told what is known here.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(status))
}

#[utoipa::path(get, path = "/pipelines/{id}/status", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, body = Value, description = "As `tidemark status --json` says it"),
        (status = 404, body = Problem)))]
async fn status(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<Value>, Failure> {
    let member = member(&app, &caller, &id)?;
    let looked = tokio::time::timeout(LOOK_WITHIN, look(&app, &member)).await;
    let looked = looked.unwrap_or_else(|_| {
        let text = "both sides were not looked at in time";
        Err(Error::transient(codes::API_TIMEOUT, text))
    });
    let view = member.view();
    let standing = standing(view, looked, &app.supervisor.shared.owner);
    Ok(Answer(standing.data()))
}

async fn look(app: &App, member: &Member) -> Result<Standing> {
    let shared = &app.supervisor.shared;
    let opened = match member.alive() {
        Some(alive) => alive.opened,
        None => Arc::new(open(shared, member).await?),
    };
    shared.systems.look(&opened).await
}

/// Whoever runs it knows best. Where nobody does, this server knows why; where the target does not
/// tell, it knows what it saw last.
fn standing(view: View, looked: Result<Standing>, ourselves: &Owner) -> Standing {
    let is_draft = view.state == "draft";
    let standing = match looked {
        Ok(standing) if is_draft || matches!(standing.life, Life::Running(_)) => return standing,
        Ok(standing) => standing,
        Err(err) => {
            let mut status = view.status;
            if status.source_lsn.is_none() {
                let code = err.code().to_string();
                status.unknown_reason.get_or_insert(code);
            }
            let life = match view.is_running {
                true => Life::Running(ourselves.clone()),
                false if is_draft => Life::Draft,
                false => Life::Still,
            };
            return Standing {
                status,
                life,
                report_age_seconds: None,
            };
        }
    };
    let mut status = standing.status;
    status.state = view.status.state;
    status.since = view.since;
    status.reason = view.reason;
    status.by = match view.by.as_str() {
        "engine" => By::Engine,
        "schedule" => By::Schedule,
        _ => By::User,
    };
    status.error = view.status.error.or(status.error);
    status.health = match status.state {
        PipelineState::Failed => Health::Error,
        _ => status.health,
    };
    Standing {
        status,
        // It is more than a draft here, whatever the target has of it.
        life: Life::Still,
        report_age_seconds: standing.report_age_seconds,
    }
}
