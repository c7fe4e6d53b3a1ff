//! Pipelines: listed, defined, changed, asked to act.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::catalogue::codes;
use tidemark_core::config::changes;
use tidemark_core::control::ResyncStrategy;
use tidemark_core::finding::Side;
use tidemark_core::quarantine::Chosen;
use tidemark_core::schema::TableName;
use tidemark_core::status::{HEALTHS, Health, STATES};
use tidemark_core::verify::compare::Depth;
use tracing::Instrument as _;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::bodies::{PipelineBody, etag};
use super::extract::{DefinitionText, Json, Params, Route, known_word, table_names, to_toml};
use super::guard::{Caller, Role};
use super::merge::{merge, refuse_masks, unmask};
use super::problem::{Failure, Problem};
use crate::store::{DesiredState, Done, Key, Level, NewPipeline, OperationRow};
use crate::supervisor::actions::{Action, Operation, may};
use crate::supervisor::mending::Statement;
use crate::supervisor::verify::effect_of_repair;
use crate::supervisor::{Member, Supervisor, View, desired_first, open, open_definition};
use crate::systems::{Asked, CutoverWishes, Definition, Opened, Reconciling};

/// Items of a page, by default and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, put, patch, delete))
        .routes(routes!(act))
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
    /// Only those whose name holds this.
    q: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of pipelines, worst first, then by name.
#[derive(Debug, Serialize, ToSchema)]
struct PipelineList {
    pipelines: Vec<PipelineBody>,
    /// All that were asked for, by health.
    counts: BTreeMap<String, usize>,
    total: usize,
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
    let after = params.cursor.as_deref().map(position).transpose()?;
    let mut found: Vec<((u8, String), Arc<Member>, View)> = Vec::new();
    let mut counts = BTreeMap::new();
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
        *counts.entry(health).or_insert(0) += 1;
        let place = (rank(view.status.health), member.key.id.clone());
        found.push((place, member, view));
    }
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let total = found.len();
    let mut page: Vec<_> = found
        .into_iter()
        .filter(|(place, ..)| after.as_ref().is_none_or(|after| place > after))
        .take(limit + 1)
        .collect();
    let has_more = page.len() > limit;
    page.truncate(limit);
    let last = page.last().filter(|_| has_more).map(|(place, ..)| place);
    let next_cursor = last.map(|(rank, id)| format!("{rank}.{id}"));
    let next = next_cursor
        .as_ref()
        .map(|cursor| format!("/api/v1/pipelines?limit={limit}&cursor={cursor}"));
    let pipelines = page
        .iter()
        .map(|(_, member, view)| PipelineBody::of(member, view));
    Ok(Answer(PipelineList {
        pipelines: pipelines.collect(),
        counts,
        total,
        next_cursor,
        next,
    }))
}

fn position(cursor: &str) -> Result<(u8, String), Failure> {
    let parts = cursor
        .split_once('.')
        .and_then(|(rank, id)| Some((rank.parse().ok()?, id.to_owned())));
    parts.ok_or_else(|| Failure::new(codes::API_MALFORMED, "this is no cursor of ours"))
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
    let place = app.supervisor.shared.place(&caller.tenant);
    let definition = Definition { text, place };
    let shared = &app.supervisor.shared;
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
    let opened = opened(&app, &caller, text.clone()).await?;
    if params.dry_run {
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
    let member = if caller.is_own() {
        app.supervisor.add(new).await?
    } else {
        let max = app.tenant_pipelines_max;
        app.supervisor.add_within(max, new).await?
    };
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
    let Some(tag) = headers.get(header::IF_MATCH) else {
        return Err(Failure::new(
            codes::API_NO_IF_MATCH,
            "the request has no If-Match",
        ));
    };
    let tags = tag.to_str().unwrap_or_default();
    let is_present = tags
        .split(',')
        .any(|tag| tag.trim() == "*" || tag.trim() == etag(&row));
    if is_present {
        Ok(row.version)
    } else {
        Err(Failure::new(
            codes::API_CHANGED,
            "it is not as it was when it was read",
        ))
    }
}

async fn change(
    app: &App,
    caller: &Caller,
    member: &Arc<Member>,
    version: i64,
    text: String,
    is_dry: bool,
) -> Result<Response, Failure> {
    let opened = opened(app, caller, text.clone()).await?;
    if opened.config.name != member.key.id {
        let text = format!("it is named {}; a name stays", member.key.id);
        return Err(Failure::new(codes::API_CONFLICT, text));
    }
    if is_dry {
        let plan = app.supervisor.shared.systems.plan(&opened).await?;
        return Ok(Answer(plan).into_response());
    }
    let mode = opened.config.mode.name().to_owned();
    app.supervisor
        .redefine(member, version, mode, Some(text))
        .await?;
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
    request_body(content = Value, description = "What changes (RFC 7396); `null` removes"),
    responses((status = 200, body = PipelineBody), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem),
        (status = 428, body = Problem), (status = 503, body = Problem)))]
async fn patch(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<ChangeParams>,
    headers: HeaderMap,
    Json(patch): Json<Value>,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let member = member(&app, &caller, &id)?;
    let version = may_change(&member, &headers)?;
    let old = app.supervisor.shared.definition(&member.row()).await?;
    let text = to_toml(&merge(&old.text, patch)?)?;
    change(&app, &caller, &member, version, text, params.dry_run).await
}

#[utoipa::path(delete, path = "/pipelines/{id}", tag = "pipelines",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, description = "It is in the list until everything that was made for it on \
        both sides is removed", body = OperationRow), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 428, body = Problem)))]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let member = member(&app, &caller, &id)?;
    may_change(&member, &headers)?;
    begin(&app, &caller, member, Action::Delete).await
}

/// What an action is about.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActBody {
    /// Tables of the source, as `schema.table`; none for all.
    #[serde(default)]
    pub(super) tables: Vec<String>,
    /// Of rows in quarantine (`retry`, `drop`) only the one of this key.
    key: Option<Vec<String>>,
    /// `swap` (readers see the old rows until the switch) or `truncate`.
    strategy: Option<Strategy>,
    /// `deep` or `counts`.
    depth: Option<Depths>,
    /// Of `repair`: what this verification found, the last one of every value, is copied anew.
    verification: Option<i64>,
    /// Of `reconcile`: compare alone, and tell in `data` what differs by kind.
    #[serde(default)]
    report: bool,
    /// Of `fix`: statements that a check has given as safe to run, as they were seen.
    #[serde(default)]
    statements: Vec<StatementBody>,
    /// Of `cutover`: how.
    #[serde(default)]
    cutover: CutoverBody,
    /// Of `cutover`: the pipeline's name, which agrees to everything beforehand. Without it the operation
    /// asks while it waits, see `asks` in its `data` and `/operations/{id}/confirm`.
    confirm: Option<String>,
    /// Only tell what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// How a cutover is to be done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct CutoverBody {
    /// Have the source refuse writes, and end the sessions of its clients. Without it somebody stops the
    /// writers when the operation asks for that.
    fence: bool,
    /// How long the source must be silent, up to an hour.
    silence_seconds: f64,
    /// How long writers may take to stop, and the pipeline to drain, up to a day.
    patience_seconds: f64,
    /// The target's sequences are set so many values ahead of the source's.
    sequence_margin: u32,
}

impl Default for CutoverBody {
    fn default() -> CutoverBody {
        CutoverBody {
            fence: false,
            silence_seconds: 3.0,
            patience_seconds: 60.0,
            sequence_margin: 1_000,
        }
    }
}

impl CutoverBody {
    fn wishes(&self, is_agreed: bool) -> Result<CutoverWishes, Failure> {
        let time = |seconds: f64, max: Duration| {
            let time = Duration::try_from_secs_f64(seconds).ok();
            time.filter(|time| *time <= max).ok_or_else(|| {
                let text = format!("times are 0 to {} seconds", max.as_secs());
                Failure::new(codes::API_MALFORMED, text)
            })
        };
        Ok(CutoverWishes {
            fence: self.fence,
            silence: time(self.silence_seconds, Duration::from_hours(1))?,
            patience: time(self.patience_seconds, Duration::from_hours(24))?,
            sequence_margin: self.sequence_margin,
            is_agreed,
        })
    }
}

/// A remedy of a check.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StatementBody {
    on: OnSide,
    sql: String,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OnSide {
    Source,
    Target,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    Swap,
    Truncate,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Depths {
    Deep,
    Counts,
}

#[utoipa::path(post, path = "/pipelines/{id}/actions/{action}", tag = "pipelines",
    params(("id" = String, Path),
        ("action" = String, Path, description = "start, pause, resume, stop, resync, \
            reconcile, verify, repair, retry, skip, drop, sequences, fix, cutover or abort (of a cutover that has left \
            the source fenced)")),
    request_body = ActBody,
    responses((status = 202, body = OperationRow), (status = 200, description = "The effect", body = Value),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
async fn act(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, action)): Route<(String, String)>,
    Json(body): Json<ActBody>,
) -> Result<Response, Failure> {
    ask(&app, &caller, &id, &action, body).await
}

/// Has an action done, or tells what it would do.
pub(super) async fn ask(
    app: &Arc<App>,
    caller: &Caller,
    id: &str,
    action: &str,
    body: ActBody,
) -> Result<Response, Failure> {
    caller.needs(Role::Operator)?;
    let member = member(app, caller, id)?;
    let is_dry = body.dry_run;
    if body.confirm.as_deref().is_some_and(|typed| typed != id) {
        let text = "`confirm` is the pipeline's name";
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    let action = action_of(action, body)?;
    if matches!(action, Action::Fix(_)) {
        // It runs statements on databases.
        caller.needs(Role::Admin)?;
    }
    may(&member, &action)?;
    if is_dry {
        return effect(app, &member, &action).await;
    }
    begin(app, caller, member, action).await
}

fn action_of(action: &str, body: ActBody) -> Result<Action, Failure> {
    let tables = table_names(&body.tables)?;
    Ok(match action {
        "start" => Action::Start,
        "pause" => Action::Pause(tables),
        "resume" => Action::Resume(tables),
        "stop" => Action::Stop,
        "resync" => Action::Resync(
            tables,
            match body.strategy {
                Some(Strategy::Truncate) => ResyncStrategy::Truncate,
                Some(Strategy::Swap) | None => ResyncStrategy::Swap,
            },
        ),
        "verify" => Action::Verify(
            tables,
            match body.depth {
                Some(Depths::Counts) => Depth::Counts,
                Some(Depths::Deep) | None => Depth::Deep,
            },
        ),
        "retry" => Action::Retry(Chosen {
            tables,
            key: body.key,
        }),
        "skip" if tables.is_empty() => {
            let text = "which tables are to go on is said in `tables`";
            return Err(Failure::new(codes::API_MALFORMED, text));
        }
        "skip" => Action::Skip(tables),
        "drop" => Action::Drop(Chosen {
            tables,
            key: body.key,
        }),
        "repair" => Action::Repair(body.verification.ok_or_else(|| {
            let text = "which comparison is meant is said in `verification`";
            Failure::new(codes::API_MALFORMED, text)
        })?),
        "reconcile" if body.report => Action::Report(tables),
        "reconcile" => Action::Reconcile(tables),
        "sequences" => Action::Sequences,
        "cutover" => Action::CutOver(body.cutover.wishes(body.confirm.is_some())?),
        "abort" => Action::Abort,
        "fix" => Action::Fix(body.statements.into_iter().map(statement).collect()),
        _ => return Err(Failure::not_found("action")),
    })
}

fn statement(body: StatementBody) -> Statement {
    Statement {
        on: match body.on {
            OnSide::Source => Side::Source,
            OnSide::Target => Side::Target,
        },
        sql: body.sql,
    }
}

/// What an action would do, with objects and rows.
async fn effect(app: &App, member: &Arc<Member>, action: &Action) -> Result<Response, Failure> {
    if matches!(action, Action::Retry(_) | Action::Skip(_) | Action::Drop(_)) {
        return super::quarantine::effect(app, member, action).await;
    }
    let shared = &app.supervisor.shared;
    let systems = &shared.systems;
    let said = match action {
        Action::Resync(wanted, strategy) => {
            return effect_of_resync(app, member, wanted, *strategy).await;
        }
        Action::Reconcile(tables) => {
            let opened = open(shared, member).await?;
            let asked = Reconciling::Effect;
            systems.reconcile(&opened, tables, asked).await?
        }
        Action::Sequences => {
            let opened = open(shared, member).await?;
            systems.sequences(&opened, Asked::Tell).await?
        }
        Action::Repair(number) => effect_of_repair(member, *number).await?,
        Action::CutOver(wishes) => {
            let opened = open(shared, member).await?;
            systems.rehearse(&opened, wishes).await?
        }
        Action::Abort => {
            let opened = open(shared, member).await?;
            let fenced = systems.is_fenced(&opened).await?;
            json!({ "pipeline_id": member.key.id, "action": action.word(), "fenced": fenced })
        }
        _ => json!({ "pipeline_id": member.key.id, "action": action.word() }),
    };
    Ok(Answer(said).into_response())
}

async fn effect_of_resync(
    app: &App,
    member: &Member,
    wanted: &[TableName],
    strategy: ResyncStrategy,
) -> Result<Response, Failure> {
    let opened = open(&app.supervisor.shared, member).await?;
    let rules = &opened.config.rules;
    let schema = opened.source.describe(rules.selection()).await?;
    let checkpoint = opened.target.checkpoint().await?;
    let mut tables = Vec::new();
    for mapping in rules.map(&schema)? {
        let source = mapping.source();
        if !wanted.is_empty() && !wanted.contains(source) {
            continue;
        }
        let known = checkpoint
            .iter()
            .flat_map(|found| &found.tables)
            .find(|t| t.source == *source);
        let loaded: Option<u64> = known.map(|table| table.units.iter().map(|unit| unit.rows).sum());
        tables.push(json!({
            "source": source.to_string(), "target": mapping.target.to_string(),
            "rows_estimated": mapping.schema.rows, "size_bytes": mapping.schema.bytes,
            "rows_loaded_before": loaded,
        }));
    }
    let swap = strategy == ResyncStrategy::Swap;
    let body = json!({
        "pipeline_id": member.key.id,
        "action": "resync",
        "strategy": if swap { "swap" } else { "truncate" },
        "tables": tables,
        "readers": if swap {
            "see the old rows until the switch"
        } else {
            "see an empty, then a growing table"
        },
        "others": "keep streaming; the position does not move back",
    });
    Ok(Answer(body).into_response())
}

/// Begins an action that goes on after the answer.
pub(super) async fn begin(
    app: &Arc<App>,
    caller: &Caller,
    member: Arc<Member>,
    action: Action,
) -> Result<Response, Failure> {
    let id = super::guard::new_id()?;
    let word = action.word();
    let store = app.store.clone();
    store
        .begin_operation(&member.key, id.clone(), word, caller.name.clone())
        .await?;
    let by = caller.name.clone();
    let (supervisor, operation) = (Arc::clone(&app.supervisor), id.clone());
    tell_operation(&supervisor, &member, &operation, word, "running");
    let cancelled = action
        .can_be_cancelled()
        .then(|| supervisor.can_be_cancelled(&operation));
    // One that has to take something back hears it by itself.
    let (dropped, cancelled) = match action {
        Action::CutOver(_) => (None, cancelled),
        _ => (cancelled, None),
    };
    let span = crate::logs::span_of_operation(&member.key, &operation);
    let acting = async move {
        let _underway = match &action {
            Action::CutOver(_) => Some(supervisor.cutover_is_under_way().await),
            _ => None,
        };
        let by_whom = async {
            match dropped {
                Some(dropped) => dropped.await,
                None => std::future::pending().await,
            }
        };
        let asked = Operation {
            id: &operation,
            by: &by,
            cancelled,
        };
        let ended = tokio::select! {
            biased;
            done = supervisor.act(&member, action, asked) => Ended::Done(done),
            Ok(by) = by_whom => Ended::Cancelled(by),
        };
        supervisor.is_over(&operation);
        end(&supervisor, &member, operation, word, &by, ended).await;
    };
    tokio::spawn(acting.instrument(span));
    let found = store.operation(caller.tenant.clone(), id.clone()).await?;
    let place = format!("/api/v1/operations/{id}");
    let body = Answer(found.ok_or_else(|| Failure::not_found("operation"))?);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], body).into_response())
}

/// How an operation ended.
enum Ended {
    Done(tidemark_core::Result<Done>),
    /// By whom.
    Cancelled(String),
}

/// Writes the end of an operation down, and tells it.
async fn end(
    supervisor: &Supervisor,
    member: &Member,
    operation: String,
    word: &'static str,
    by: &str,
    ended: Ended,
) {
    let store = &supervisor.shared.store;
    let note = |level: Level, text: String, by: &str| {
        if level == Level::Info {
            tracing::info!(by, "{text}");
        } else {
            tracing::warn!(by, "{text}");
        }
        supervisor.note(member, level, "action", text, Some(by.to_owned()));
    };
    let id = operation.clone();
    let (state, written) = match ended {
        Ended::Done(Ok(done)) => {
            note(Level::Info, done.text.clone(), by);
            ("succeeded", store.end_operation(id, Ok(done)).await)
        }
        Ended::Done(Err(err)) => {
            // A row that was refused again is named to who asked, not to everybody.
            let text = if err.code() == codes::ROW_QUARANTINED {
                format!("{word}: rows stay in quarantine")
            } else {
                format!("{word}: {err}")
            };
            note(Level::Warn, text, by);
            ("failed", store.end_operation(id, Err(err)).await)
        }
        Ended::Cancelled(by) => {
            note(Level::Info, format!("{word}: cancelled"), &by);
            let text = format!("cancelled by {by}");
            ("cancelled", store.cancel_operation(id, text).await)
        }
    };
    if let Err(err) = written {
        tracing::warn!(code = %err.code(), error = %err, "an operation's end is not written down");
    }
    tell_operation(supervisor, member, &operation, word, state);
}

fn tell_operation(
    supervisor: &Supervisor,
    member: &Member,
    operation: &str,
    word: &str,
    state: &str,
) {
    let (tenant, id) = (&member.key.tenant, &member.key.id);
    let data = json!({ "id": operation, "pipeline_id": id, "kind": word, "state": state });
    let news = &supervisor.shared.news;
    news.say(tenant, id, crate::news::Topic::Operations, &data);
}
