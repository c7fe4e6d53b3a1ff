//! What a pipeline is asked to do: what that would do first, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tidemark_core::catalogue::codes;
use tidemark_core::control::ResyncStrategy;
use tidemark_core::finding::Side;
use tidemark_core::pipeline::going_on::GoingOn;
use tidemark_core::quarantine::Chosen;
use tidemark_core::schema::TableName;
use tidemark_core::verify::compare::Depth;
use tracing::Instrument as _;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::extract::{Json, Route, table_names};
use super::pipelines::member;
use super::problem::{Failure, Problem};
use crate::store::{Done, Level, OperationRow};
use crate::supervisor::actions::{Action, Operation, may};
use crate::supervisor::mending::Statement;
use crate::supervisor::verify::effect_of_repair;
use crate::supervisor::{Member, Supervisor, open};
use crate::systems::{Asked, CutoverWishes, Reconciling};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(act))
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
    /// How long writers may stand still before it is given up, up to a day.
    max_downtime_seconds: f64,
    /// The target's sequences are set so many values ahead of the source's.
    sequence_margin: u32,
    /// Whoever asks stops the writers with this command, on their own machine: the operation asks for that
    /// (`runs` in its `data`) even where `confirm` was given, and goes on once it is confirmed.
    stop_writers: Option<String>,
    /// And starts them again with this one: asked for if the cutover is given up.
    start_writers: Option<String>,
    /// Make a pipeline that copies back, named like this one with `_back`, which does not run yet. Not
    /// where a file has the pipeline. Needs the role admin.
    reverse: bool,
}

impl Default for CutoverBody {
    fn default() -> CutoverBody {
        CutoverBody {
            fence: false,
            silence_seconds: 3.0,
            patience_seconds: 60.0,
            max_downtime_seconds: 3_600.0,
            sequence_margin: 1_000,
            stop_writers: None,
            start_writers: None,
            reverse: false,
        }
    }
}

impl CutoverBody {
    fn wishes(self, is_agreed: bool) -> Result<CutoverWishes, Failure> {
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
            max_downtime: time(self.max_downtime_seconds, Duration::from_hours(24))?,
            sequence_margin: self.sequence_margin,
            stop_writers: self.stop_writers,
            start_writers: self.start_writers,
            reverse: self.reverse,
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
    let is_for_admins = match &action {
        // It runs statements on databases.
        Action::Fix(_) => true,
        // It defines a pipeline.
        Action::CutOver(wishes) => wishes.reverse,
        _ => false,
    };
    if is_for_admins {
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
            app.supervisor.may_cut_over(member, wishes)?;
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
    for mapping in GoingOn::of(rules, &schema, checkpoint.as_ref())?.all() {
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
    let id = super::auth::new_id()?;
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
            let level = if done.is_negative() {
                Level::Warn
            } else {
                Level::Info
            };
            note(level, done.text.clone(), by);
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
