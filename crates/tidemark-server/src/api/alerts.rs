//! What fires, and which rules there are.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tidemark_core::catalogue::codes;
use tidemark_core::clock;
use tidemark_core::config::{AlertRule, show_duration};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Caller;
use super::extract::{Json, Params, Route};
use super::journal::{PageParams, next, page};
use super::lists::{cut, next_page, not_ours};
use super::pipelines::limit;
use super::problem::{Failure, Problem};
use crate::store::{AlertRow, AlertState, DeliveryRow};
use crate::supervisor::Member;
use crate::{alerts, notify};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(active))
        .routes(routes!(snooze, wake))
        .routes(routes!(rules))
        .routes(routes!(notifiers))
        .routes(routes!(test_notifier))
        .routes(routes!(deliveries))
}

/// A page of alerts that fire, those that matter most first.
#[derive(Debug, Serialize, ToSchema)]
struct ActiveList {
    alerts: Vec<AlertBody>,
    /// All that fire.
    total: usize,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// An alert that fires.
#[derive(Debug, Serialize, ToSchema)]
struct AlertBody {
    /// By which it is snoozed.
    id: String,
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
    /// Until when no message is sent of it, RFC 3339; `null` where it is not snoozed.
    snoozed_until: Option<String>,
    /// Who said so.
    snoozed_by: Option<String>,
    /// What is so, what it means for the data, what to do first.
    text: String,
}

#[utoipa::path(get, path = "/alerts/active", tag = "alerts", params(PageParams),
    responses((status = 200, body = ActiveList), (status = 400, body = Problem)))]
async fn active(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Answer<ActiveList>, Failure> {
    let limit = limit(params.limit)?;
    let after = params.cursor.as_deref().map(|cursor| {
        let mut parts = cursor.splitn(3, '.');
        let mut place = || {
            let rank = parts.next()?.parse().ok()?;
            let fired_us = parts.next()?.parse().ok()?;
            Some((rank, fired_us, parts.next()?.to_owned()))
        };
        place().ok_or_else(not_ours)
    });
    let after: Option<(u8, i64, String)> = after.transpose()?;
    let all = &app.supervisor.shared.alerts;
    let mut firing = all.firing(|key| key.tenant == caller.tenant);
    let total = firing.len();
    firing.retain(|row| {
        after
            .as_ref()
            .is_none_or(|after| alerts::place(row) > *after)
    });
    let next_cursor = cut(&mut firing, limit, |row| {
        let (rank, fired_us, id) = alerts::place(row);
        format!("{rank}.{fired_us}.{id}")
    });
    Ok(Answer(ActiveList {
        next: next_page(next_cursor.as_deref()),
        alerts: firing.into_iter().map(body).collect(),
        total,
        next_cursor,
    }))
}

fn body(row: AlertRow) -> AlertBody {
    let is_snoozed = row.is_snoozed(clock::now_us());
    let id = alerts::id_of(&row);
    let snooze = row.snooze.filter(|_| is_snoozed);
    AlertBody {
        id,
        snoozed_until: snooze.as_ref().map(|it| clock::rfc3339(it.until_us)),
        snoozed_by: snooze.map(|it| it.by),
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

/// For how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SnoozeBody {
    /// A minute to thirty days; an hour, if it is left out.
    #[serde(default = "an_hour")]
    #[schema(minimum = 60, maximum = 2_592_000, default = 3_600)]
    for_seconds: u64,
}

fn an_hour() -> u64 {
    3_600
}

/// Of an alert that fires no message is sent for a while. Who was told that it fires is told when it is
/// over; where it still fires when the time has passed, all are told again.
#[utoipa::path(post, path = "/alerts/{id}/snooze", tag = "alerts", params(("id" = String, Path)),
    request_body = SnoozeBody,
    responses((status = 200, body = AlertBody), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
async fn snooze(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Json(wanted): Json<SnoozeBody>,
) -> Result<Answer<AlertBody>, Failure> {
    if !(60..=2_592_000).contains(&wanted.for_seconds) {
        let text = "for_seconds is a minute to thirty days";
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    let lasts = Some(Duration::from_secs(wanted.for_seconds));
    snoozed(&app, &caller, &id, lasts).await
}

/// Ends a snooze: if it still fires, all are told again.
#[utoipa::path(delete, path = "/alerts/{id}/snooze", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = AlertBody), (status = 404, body = Problem)))]
async fn wake(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<AlertBody>, Failure> {
    snoozed(&app, &caller, &id, None).await
}

async fn snoozed(
    app: &App,
    caller: &Caller,
    id: &str,
    lasts: Option<Duration>,
) -> Result<Answer<AlertBody>, Failure> {
    let supervisor = &app.supervisor;
    let moved = alerts::snooze(supervisor, &caller.tenant, id, lasts, &caller.name);
    let row = moved.await?;
    row.map(|row| Answer(body(row)))
        .ok_or_else(|| Failure::not_found("alert that fires"))
}

/// A page of rules, by pipeline and in the order of its definition, where they stand.
#[derive(Debug, Serialize, ToSchema)]
struct RuleList {
    rules: Vec<RuleBody>,
    /// All pipelines whose definition could not be read since the server was started, so that their rules
    /// are not known.
    unknown: Vec<String>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
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
    /// `calm`, `pending`, `firing`, or `unknown`: it does not fire, and what it looks at cannot be told now.
    state: &'static str,
    /// Whether what it looks at was known at the last look; while it is not, an alert that fires goes on.
    known: bool,
    /// Who is told, by the name of a notifier.
    notify: Vec<String>,
    /// Those of them that this server does not know: they are not told.
    unknown_notifiers: Vec<String>,
}

#[utoipa::path(get, path = "/alerts/rules", tag = "alerts", params(PageParams),
    responses((status = 200, body = RuleList), (status = 400, body = Problem)))]
async fn rules(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Answer<RuleList>, Failure> {
    let limit = limit(params.limit)?;
    let after = params.cursor.as_deref().map(|cursor| {
        let parts = cursor.rsplit_once('.');
        let place = parts.and_then(|(id, nth)| Some((id, nth.parse::<usize>().ok()?)));
        place.ok_or_else(not_ours)
    });
    let after = after.transpose()?;
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for member in app.supervisor.members_of(&caller.tenant) {
        let Some(rules) = member.rules() else {
            unknown.push(member.key.id.clone());
            continue;
        };
        for (nth, rule) in rules.iter().enumerate() {
            if after.is_none_or(|after| (member.key.id.as_str(), nth) > after) {
                found.push((Arc::clone(&member), nth, rule.clone()));
            }
        }
    }
    let next_cursor = cut(&mut found, limit, |(member, nth, _)| {
        format!("{}.{nth}", member.key.id)
    });
    let rules = found
        .iter()
        .map(|(member, _, rule)| rule_body(&app, member, rule));
    Ok(Answer(RuleList {
        next: next_page(next_cursor.as_deref()),
        rules: rules.collect(),
        unknown,
        next_cursor,
    }))
}

fn rule_body(app: &App, member: &Member, rule: &AlertRule) -> RuleBody {
    let all = &app.supervisor.shared.alerts;
    let known = all.is_known(&member.key, rule);
    RuleBody {
        pipeline_id: member.key.id.clone(),
        rule: rule.id(),
        severity: rule.severity.word(),
        resolve_after: show_duration(rule.resolve_after),
        state: match all.state(&member.key, rule) {
            None | Some(AlertState::Calm) if !known => "unknown",
            state => state.unwrap_or(AlertState::Calm).word(),
        },
        known,
        notify: rule.notify.clone(),
        unknown_notifiers: unknown_of(app, &member.key.tenant, rule),
    }
}

fn unknown_of(app: &App, tenant: &str, rule: &AlertRule) -> Vec<String> {
    let notify = &app.supervisor.shared.notify;
    let unknown = |name: &&String| notify.find(tenant, name).is_none();
    rule.notify.iter().filter(unknown).cloned().collect()
}

/// Who can be told. Notifiers stand in the server's file.
#[derive(Debug, Serialize, ToSchema)]
struct NotifierList {
    notifiers: Vec<NotifierBody>,
}

/// Somebody who can be told; nothing that is secret.
#[derive(Debug, Serialize, ToSchema)]
struct NotifierBody {
    name: String,
    /// `webhook`, `slack` or `email`.
    r#type: &'static str,
    /// The host that messages go to.
    host: String,
    /// Whether what is sent goes over TLS.
    tls: bool,
    /// Messages that wait for it.
    waiting: i64,
    /// What came of it last.
    last: Option<DeliveryRow>,
}

#[utoipa::path(get, path = "/notifiers", tag = "alerts",
    responses((status = 200, body = NotifierList)))]
async fn notifiers(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Answer<NotifierList>, Failure> {
    let waiting = app.store.waiting_deliveries(caller.tenant.clone()).await?;
    let mut list = NotifierList {
        notifiers: Vec::new(),
    };
    for notifier in &app.supervisor.shared.notify.notifiers {
        if notifier.tenant != caller.tenant {
            continue;
        }
        let (tenant, name) = (caller.tenant.clone(), Some(notifier.name.clone()));
        let last = app.store.deliveries(tenant, name, page(Some(1), None)?);
        let waits = waiting.iter().find(|(name, _)| *name == notifier.name);
        list.notifiers.push(NotifierBody {
            name: notifier.name.clone(),
            r#type: notifier.way.word(),
            host: notifier.way.host().to_owned(),
            tls: notifier.way.is_tls(),
            waiting: waits.map_or(0, |(_, count)| *count),
            last: last.await?.pop(),
        });
    }
    Ok(Answer(list))
}

#[utoipa::path(post, path = "/notifiers/{name}/test", tag = "alerts",
    params(("name" = String, Path)),
    responses((status = 200, description = "The message was sent, once; `state` tells whether it was taken",
        body = DeliveryRow), (status = 404, body = Problem)))]
async fn test_notifier(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
) -> Result<Answer<DeliveryRow>, Failure> {
    let shared = &app.supervisor.shared;
    let found = shared.notify.find(&caller.tenant, &name);
    let notifier = found.ok_or_else(|| Failure::not_found("notifier"))?;
    Ok(Answer(notify::test(shared, notifier, &caller.name).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeliveriesParams {
    /// Only those for this notifier.
    notifier: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of messages that were sent or wait, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryList {
    deliveries: Vec<DeliveryRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/alerts/deliveries", tag = "alerts", params(DeliveriesParams),
    responses((status = 200, body = DeliveryList), (status = 400, body = Problem)))]
async fn deliveries(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<DeliveriesParams>,
) -> Result<Answer<DeliveryList>, Failure> {
    let page = page(params.limit, params.cursor.as_deref())?;
    let found = app.store.deliveries(caller.tenant, params.notifier, page);
    let deliveries = found.await?;
    let next_cursor = next(&deliveries, page, |row| row.number);
    Ok(Answer(DeliveryList {
        next: next_page(next_cursor.as_deref()),
        deliveries,
        next_cursor,
    }))
}
