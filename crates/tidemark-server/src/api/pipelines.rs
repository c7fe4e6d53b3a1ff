//! Pipelines: listed, defined, changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::config::changes;
use tidemark_core::status::{HEALTHS, Health, STATES};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actions::begin;
use super::auth::{Caller, Role};
use super::bodies::{PipelineBody, etag};
use super::extract::{DefinitionText, Params, Patch, Route, known_word, to_toml};
use super::lists::{cut, next_page, not_ours};
use super::merge::{merge, refuse_masks, tree, unmask};
use super::problem::{Failure, Problem};
use crate::store::{DesiredState, Key, Level, NewPipeline, OperationRow};
use crate::supervisor::actions::{Action, Remains};
use crate::supervisor::{Member, View, desired_first, open_definition};
use crate::systems::Opened;

/// Items of a page, by default and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, put, patch, delete))
}

/// How many items a page has.
pub(super) fn limit(wanted: Option<usize>) -> Result<usize, Failure> {
    let limit = wanted.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    let text = format!("limit is 1 to {LIMIT_MAX}");
    Err(Failure::new(codes::API_MALFORMED, text))
}

/// The pipeline of a caller.
pub(super) fn member(app: &App, caller: &Caller, id: &str) -> Result<Arc<Member>, Failure> {
    let key = Key::new(caller.tenant.as_str(), id);
    app.supervisor
        .member(&key)
        .ok_or_else(|| Failure::not_found("pipeline"))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// Only those in this state.
    state: Option<String>,
    /// Only those of this health.
    health: Option<String>,
    /// Only those with this tag. Where it is not known whether one has it, see `not_known`.
    tag: Option<String>,
    /// Only those whose name holds this.
    q: Option<String>,
    /// `worst`, the default, or `name`.
    sort: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of pipelines, worst first unless asked otherwise, then by name.
#[derive(Debug, Serialize, ToSchema)]
struct PipelineList {
    pipelines: Vec<PipelineBody>,
    /// All that were asked for, by health.
    counts: BTreeMap<String, usize>,
    total: usize,
    /// Those that may have the tag that was asked for and are not listed, since their definition could
    /// not be read since the server was started.
    not_known: Vec<String>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// Worst first.
pub(super) fn rank(health: Health) -> u8 {
    match health {
        Health::Error => 0,
        Health::Unknown => 1,
        Health::Warning => 2,
        Health::Notice => 3,
        Health::Ok => 4,
    }
}

#[utoipa::path(get, path = "/pipelines", tag = "pipelines", params(ListParams),
    responses((status = 200, body = PipelineList), (status = 400, body = Problem)))]
async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Answer<PipelineList>, Failure> {
    let limit = limit(params.limit)?;
    known_word("state", params.state.as_ref(), &STATES)?;
    known_word("health", params.health.as_ref(), &HEALTHS)?;
    known_word("sort", params.sort.as_ref(), &["worst", "name"])?;
    let is_by_name = params.sort.as_deref() == Some("name");
    let after = params.cursor.as_deref().map(position).transpose()?;
    let mut found: Vec<((u8, String), Arc<Member>, View)> = Vec::new();
    let mut counts = BTreeMap::new();
    let mut not_known = Vec::new();
    for member in app.supervisor.members_of(&caller.tenant) {
        let view = member.view();
        let health = crate::supervisor::word_of(&view.status.health);
        let is = |wanted: &Option<String>, word: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == word)
        };
        let is_named = params
            .q
            .as_ref()
            .is_none_or(|q| member.key.id.contains(q.as_str()));
        if !(is(&params.state, &view.state) && is(&params.health, &health) && is_named) {
            continue;
        }
        if let Some(tag) = &params.tag {
            let Some(tags) = member.tags() else {
                not_known.push(member.key.id.clone());
                continue;
            };
            if !tags.contains(tag) {
                continue;
            }
        }
        *counts.entry(health).or_insert(0) += 1;
        let rank = if is_by_name {
            0
        } else {
            rank(view.status.health)
        };
        let place = (rank, member.key.id.clone());
        found.push((place, member, view));
    }
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let total = found.len();
    let mut page: Vec<_> = found
        .into_iter()
        .filter(|(place, ..)| after.as_ref().is_none_or(|after| place > after))
        .take(limit + 1)
        .collect();
    let next_cursor = cut(&mut page, limit, |((rank, id), ..)| format!("{rank}.{id}"));
    let next = next_page(next_cursor.as_deref());
    let pipelines = page
        .iter()
        .map(|(_, member, view)| PipelineBody::of(member, view));
    Ok(Answer(PipelineList {
        pipelines: pipelines.collect(),
        counts,
        total,
        not_known,
        next_cursor,
        next,
    }))
}

fn position(cursor: &str) -> Result<(u8, String), Failure> {
    let parts = cursor
        .split_once('.')
        .and_then(|(rank, id)| Some((rank.parse().ok()?, id.to_owned())));
    parts.ok_or_else(not_ours)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CreateParams {
    /// Only tell what would happen.
    #[serde(default)]
    dry_run: bool,
    /// Start it at once.
    #[serde(default)]
    start: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ChangeParams {
    /// Only tell what would happen.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteParams {
    /// Delete it even where a side cannot be reached, and tell what is left there: a slot that nobody
    /// reads keeps its source's log.
    #[serde(default)]
    abandon: bool,
}

fn answer(status: StatusCode, member: &Member, more: &[(HeaderName, String)]) -> Response {
    let body = PipelineBody::of(member, &member.view());
    let tag = body.etag.clone();
    let mut response = (status, [(header::ETAG, tag)], Answer(body)).into_response();
    for (name, value) in more {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name.clone(), value);
        }
    }
    response
}

async fn opened(app: &App, caller: &Caller, text: String) -> Result<Opened, Failure> {
    let shared = &app.supervisor.shared;
    let definition = shared.define(&caller.tenant, text);
    let opened = open_definition(shared, definition).await?;
    let named = opened.config.alerts.iter().flat_map(|rule| &rule.notify);
    shared.notify.check(&caller.tenant, named)?;
    Ok(opened)
}

#[utoipa::path(post, path = "/pipelines", tag = "pipelines", params(CreateParams),
    request_body(content((Value = "application/json"), (String = "application/toml"))),
    responses((status = 201, body = PipelineBody), (status = 200, description = "The plan", body = Value),
        (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<CreateParams>,
    DefinitionText(text): DefinitionText,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    refuse_masks(&text)?;
    // What it names stays until it is kept.
    let held = app.supervisor.shared.endpoints.hold().await;
    let opened = opened(&app, &caller, text.clone()).await?;
    if params.dry_run {
        drop(held);
        let plan = app.supervisor.shared.systems.plan(&opened).await?;
        return Ok(Answer(plan).into_response());
    }
    let state = if params.start {
        DesiredState::Running
    } else {
        DesiredState::Draft
    };
    let new = NewPipeline {
        key: Key::new(caller.tenant.as_str(), opened.config.name.as_str()),
        mode: opened.config.mode.name().to_owned(),
        definition: Some(text),
        file: None,
        desired: desired_first(state, &caller.name),
        by: caller.name.clone(),
    };
    let member = app.supervisor.add_within(new).await?;
    member.set_tags(&opened.config.tags);
    let text = "the pipeline was defined";
    app.supervisor
        .note(&member, Level::Info, "definition", text, Some(caller.name));
    let place = format!("/api/v1/pipelines/{}", member.key.id);
    Ok(answer(
        StatusCode::CREATED,
        &member,
        &[(header::LOCATION, place)],
    ))
}

#[utoipa::path(get, path = "/pipelines/{id}", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, body = PipelineBody), (status = 404, body = Problem)))]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Response, Failure> {
    let member = member(&app, &caller, &id)?;
    Ok(answer(StatusCode::OK, &member, &[]))
}

/// Refuses a change of what a file has, and one that is not based on what is there.
fn may_change(member: &Member, headers: &HeaderMap) -> Result<i64, Failure> {
    let row = member.row();
    if let Some(file) = &row.file {
        let text = format!("{} is defined by {file}", row.key.id);
        return Err(Failure::new(codes::API_FILE_MANAGED, text));
    }
    if_matches(headers, &etag(&row))?;
    Ok(row.version)
}

/// Refuses a change that is not based on what is there.
pub(super) fn if_matches(headers: &HeaderMap, present: &str) -> Result<(), Failure> {
    let Some(tag) = headers.get(header::IF_MATCH) else {
        return Err(Failure::new(
            codes::API_NO_IF_MATCH,
            "the request has no If-Match",
        ));
    };
    let mut tags = tag.to_str().unwrap_or_default().split(',').map(str::trim);
    if tags.any(|tag| tag == "*" || tag == present) {
        return Ok(());
    }
    Err(Failure::new(
        codes::API_CHANGED,
        "it is not as it was when it was read",
    ))
}

/// What a pipeline has copied stands on its target and its slot: with another of them it begins anew, and
/// what was there is nothing that it could go back to. So nobody changes them in passing.
pub(super) fn refuse_another_ground(member: &Member, new: &Opened) -> Result<(), Failure> {
    let Some(alive) = member.alive() else {
        return Ok(());
    };
    if member.view().status.full_load_lsn.is_none() {
        return Ok(());
    }
    let old = &alive.opened;
    let what = if old.config.mode != new.config.mode {
        "pipeline.mode"
    } else if old.config.source.postgres.slot != new.config.source.postgres.slot {
        "source.postgres.slot"
    } else if old.target_address != new.target_address {
        "target.url"
    } else {
        return Ok(());
    };
    let text = format!("{what} is not changed while {} runs", member.key.id);
    let action = "stop it first, and it begins anew; or define another pipeline beside it";
    Err(Error::definite(codes::API_CONFLICT, text)
        .first_action(action)
        .into())
}

async fn change(
    app: &App,
    caller: &Caller,
    member: &Arc<Member>,
    version: i64,
    text: String,
    is_dry: bool,
) -> Result<Response, Failure> {
    let held = app.supervisor.shared.endpoints.hold().await;
    let opened = opened(app, caller, text.clone()).await?;
    if opened.config.name != member.key.id {
        let text = format!("it is named {}; a name stays", member.key.id);
        return Err(Failure::new(codes::API_CONFLICT, text));
    }
    if is_dry {
        drop(held);
        let plan = app.supervisor.shared.systems.plan(&opened).await?;
        return Ok(Answer(plan).into_response());
    }
    refuse_another_ground(member, &opened)?;
    let mode = opened.config.mode.name().to_owned();
    app.supervisor
        .redefine(member, version, mode, Some(text))
        .await?;
    member.set_tags(&opened.config.tags);
    Ok(answer(StatusCode::OK, member, &[]))
}

#[utoipa::path(put, path = "/pipelines/{id}", tag = "pipelines",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header), ChangeParams),
    request_body(content((Value = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = PipelineBody), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem),
        (status = 428, body = Problem), (status = 503, body = Problem)))]
async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<ChangeParams>,
    headers: HeaderMap,
    DefinitionText(text): DefinitionText,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let member = member(&app, &caller, &id)?;
    let version = may_change(&member, &headers)?;
    let old = app.supervisor.shared.definition(&member.row()).await?;
    let text = unmask(&text, &old.text)?;
    if !params.dry_run && changes(&old.text, &text).is_empty() {
        // What is said already changes nothing, and nothing that runs stops for it.
        return Ok(answer(StatusCode::OK, &member, &[]));
    }
    change(&app, &caller, &member, version, text, params.dry_run).await
}

#[utoipa::path(patch, path = "/pipelines/{id}", tag = "pipelines",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header), ChangeParams),
    request_body(content((Value = "application/merge-patch+json"), (Value = "application/json")),
        description = "What changes (RFC 7396); `null` removes"),
    responses((status = 200, body = PipelineBody), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem),
        (status = 428, body = Problem), (status = 503, body = Problem)))]
async fn patch(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<ChangeParams>,
    headers: HeaderMap,
    Patch(patch): Patch,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let member = member(&app, &caller, &id)?;
    let version = may_change(&member, &headers)?;
    let old = app.supervisor.shared.definition(&member.row()).await?;
    let merged = merge(&old.text, patch)?;
    if !params.dry_run && merged == tree(&old.text)? {
        // As with `put`; its text, with what a person wrote beside it, stays.
        return Ok(answer(StatusCode::OK, &member, &[]));
    }
    let text = to_toml(&merged)?;
    change(&app, &caller, &member, version, text, params.dry_run).await
}

#[utoipa::path(delete, path = "/pipelines/{id}", tag = "pipelines",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header), DeleteParams),
    responses((status = 202, description = "It is in the list until everything that was made for it on \
        both sides is removed", body = OperationRow), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 428, body = Problem)))]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<DeleteParams>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let member = member(&app, &caller, &id)?;
    may_change(&member, &headers)?;
    let remains = if params.abandon {
        Remains::Unremovable
    } else {
        Remains::Nothing
    };
    begin(&app, &caller, member, Action::Delete(remains)).await
}
