//! What fires, and which rules there are.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use tidemark_core::clock;
use tidemark_core::config::show_duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::guard::Caller;
use crate::store::{AlertRow, AlertState};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(active))
        .routes(routes!(rules))
}

/// Alerts that fire, those that matter most first.
#[derive(Debug, Serialize, ToSchema)]
struct ActiveList {
    alerts: Vec<AlertBody>,
}

/// An alert that fires.
#[derive(Debug, Serialize, ToSchema)]
struct AlertBody {
    pipeline_id: String,
    /// The rule in the pipeline file, in words.
    rule: String,
    /// What it looks at.
    when: String,
    /// `critical`, `warning` or `notice`.
    severity: String,
    /// Since when it is so, RFC 3339.
    since: String,
    /// When it fired, RFC 3339.
    fired_at: Option<String>,
    /// Since when it is over, RFC 3339; `null` while it is so.
    over_since: Option<String>,
    /// What is so, what it means for the data, what to do first.
    text: String,
}

#[utoipa::path(get, path = "/alerts/active", tag = "alerts",
    responses((status = 200, body = ActiveList)))]
async fn active(State(app): State<Arc<App>>, caller: Caller) -> Answer<ActiveList> {
    let alerts = &app.supervisor.shared.alerts;
    let firing = alerts.firing(|key| key.tenant == caller.tenant);
    Answer(ActiveList {
        alerts: firing.into_iter().map(body).collect(),
    })
}

fn body(row: AlertRow) -> AlertBody {
    AlertBody {
        pipeline_id: row.key.id,
        rule: row.rule,
        when: row.when,
        severity: row.severity,
        since: clock::rfc3339(row.since_us),
        fired_at: row.fired_us.map(clock::rfc3339),
        over_since: row.over_us.map(clock::rfc3339),
        text: row.text,
    }
}

/// All rules, by pipeline. Rules stand in the pipelines' definitions.
#[derive(Debug, Serialize, ToSchema)]
struct RuleList {
    rules: Vec<RuleBody>,
    /// Pipelines whose definition could not be read since the server was started, so that their rules
    /// are not known.
    unknown: Vec<String>,
}

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
struct RuleBody {
    pipeline_id: String,
    /// In words.
    rule: String,
    /// `critical`, `warning` or `notice`.
    severity: &'static str,
    /// How long it must be over before it counts as resolved, as the file says it.
    resolve_after: String,
    /// `calm`, `pending` or `firing`.
    state: &'static str,
}

#[utoipa::path(get, path = "/alerts/rules", tag = "alerts",
    responses((status = 200, body = RuleList)))]
async fn rules(State(app): State<Arc<App>>, caller: Caller) -> Answer<RuleList> {
    let alerts = &app.supervisor.shared.alerts;
    let mut list = RuleList {
        rules: Vec::new(),
        unknown: Vec::new(),
    };
    for member in app.supervisor.members_of(&caller.tenant) {
        let Some(rules) = member.rules() else {
            list.unknown.push(member.key.id.clone());
            continue;
        };
        list.rules.extend(rules.iter().map(|rule| {
            RuleBody {
                pipeline_id: member.key.id.clone(),
                rule: rule.id(),
                severity: rule.severity.word(),
                resolve_after: show_duration(rule.resolve_after),
                state: alerts
                    .state(&member.key, rule)
                    .unwrap_or(AlertState::Calm)
                    .word(),
            }
        }));
    }
    Answer(list)
}
