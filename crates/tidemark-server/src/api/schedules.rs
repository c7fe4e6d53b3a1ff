//! When pipelines are loaded anew, what became of it, and what a person may say to it.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tidemark_core::clock;
use tidemark_core::schedule::Schedule;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::extract::{Params, Route};
use super::pipelines::{limit, member};
use super::problem::{Failure, Problem};
use crate::schedules::{Known, Schedules, definition};
use crate::store::ScheduleRun;
use crate::supervisor::Member;

/// How many times to come are told.
const NEXT: usize = 5;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(runs))
        .routes(routes!(act))
}

/// All schedules, by pipeline. Schedules stand in the pipelines' definitions.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleList {
    schedules: Vec<ScheduleBody>,
    /// Pipelines whose definition could not be read since the server was started, so that it is not known
    /// whether they have a schedule.
    unknown: Vec<String>,
}

/// When a pipeline is loaded anew.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleBody {
    pipeline_id: String,
    /// As the definition says it.
    full_load: String,
    /// Whose clock counts; `null` with an interval.
    timezone: Option<String>,
    /// `skip` or `queue`.
    overlap: &'static str,
    /// `run_once` or `skip`.
    missed: &'static str,
    /// Nothing begins by itself while it is paused.
    paused: Option<PausedBody>,
    /// The next five times.
    next: Vec<NextBody>,
    /// The newest run, whatever became of it.
    last: Option<ScheduleRunBody>,
    /// The last time that was due, where it brought no run and nobody said that it should not.
    missed_run: Option<ScheduleRunBody>,
    /// Runs that have not ended.
    open: Vec<ScheduleRunBody>,
}

/// By whom a schedule is paused.
#[derive(Debug, Serialize, ToSchema)]
struct PausedBody {
    by: String,
    /// RFC 3339.
    since: String,
}

/// A time to come.
#[derive(Debug, Serialize, ToSchema)]
struct NextBody {
    /// RFC 3339, in UTC.
    at: String,
    /// As the clock of the schedule's zone shows it.
    local: String,
    /// Who left it out.
    skipped_by: Option<String>,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleRunBody {
    /// By which it is known: when it was due, RFC 3339.
    due_at: String,
    /// `queued`, `starting`, `running`, `completed`, `failed`, `stopped`, `skipped` or `missed`.
    state: &'static str,
    /// `schedule`, or who asked for it or left it out.
    by: String,
    /// RFC 3339.
    began_at: Option<String>,
    /// RFC 3339.
    ended_at: Option<String>,
    /// In a sentence.
    reason: Option<String>,
}

/// The newest runs, the last one first.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleRunList {
    runs: Vec<ScheduleRunBody>,
}

fn run_body(run: ScheduleRun) -> ScheduleRunBody {
    ScheduleRunBody {
        due_at: clock::rfc3339(run.due_us),
        state: run.state.word(),
        by: run.by,
        began_at: run.began_us.map(clock::rfc3339),
        ended_at: run.ended_us.map(clock::rfc3339),
        reason: run.reason,
    }
}

fn body(schedules: &Schedules, member: &Member, schedule: &Schedule) -> ScheduleBody {
    let key = &member.key;
    let next = schedules.next(key, schedule, clock::now_us(), NEXT);
    let next = next.into_iter().map(|(at, skipped_by)| NextBody {
        at: clock::rfc3339(at),
        local: schedule.show(at),
        skipped_by,
    });
    let paused = schedules.paused(key).map(|(by, since)| PausedBody {
        by,
        since: clock::rfc3339(since),
    });
    ScheduleBody {
        pipeline_id: key.id.clone(),
        full_load: schedule.text.clone(),
        timezone: schedule.zone().map(str::to_owned),
        overlap: schedule.overlap.word(),
        missed: schedule.missed.word(),
        paused,
        next: next.collect(),
        last: schedules.last(key).map(run_body),
        missed_run: schedules.missed(key).map(run_body),
        open: schedules.open(key).into_iter().map(run_body).collect(),
    }
}

#[utoipa::path(get, path = "/schedules", tag = "schedules",
    responses((status = 200, body = ScheduleList)))]
async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer<ScheduleList> {
    let schedules = &app.supervisor.shared.schedules;
    let mut list = ScheduleList {
        schedules: Vec::new(),
        unknown: Vec::new(),
    };
    for member in app.supervisor.members_of(&caller.tenant) {
        definition(&app.supervisor.shared, &member).await;
        match schedules.of(&member.key) {
            Known::Unread => list.unknown.push(member.key.id.clone()),
            Known::Without => {}
            Known::With(schedule) => list.schedules.push(body(schedules, &member, &schedule)),
        }
    }
    Answer(list)
}

/// The schedule of a pipeline that has one.
async fn scheduled(
    app: &App,
    caller: &Caller,
    id: &str,
) -> Result<(Arc<Member>, Arc<Schedule>), Failure> {
    let member = member(app, caller, id)?;
    match definition(&app.supervisor.shared, &member).await {
        Some(schedule) => Ok((member, schedule)),
        None => Err(Failure::not_found("schedule")),
    }
}

#[utoipa::path(get, path = "/pipelines/{id}/schedule", tag = "schedules",
    params(("id" = String, Path)),
    responses((status = 200, body = ScheduleBody), (status = 404, body = Problem)))]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<ScheduleBody>, Failure> {
    let (member, schedule) = scheduled(&app, &caller, &id).await?;
    let schedules = &app.supervisor.shared.schedules;
    Ok(Answer(body(schedules, &member, &schedule)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RunsParams {
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

#[utoipa::path(get, path = "/pipelines/{id}/schedule/runs", tag = "schedules",
    params(("id" = String, Path), RunsParams),
    responses((status = 200, body = ScheduleRunList), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
async fn runs(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
    Params(params): Params<RunsParams>,
) -> Result<Answer<ScheduleRunList>, Failure> {
    let limit = limit(params.limit)?;
    let member = member(&app, &caller, &id)?;
    let runs = app.store.schedule_runs(&member.key, clock::now_us(), limit);
    Ok(Answer(ScheduleRunList {
        runs: runs.await?.into_iter().map(run_body).collect(),
    }))
}

#[utoipa::path(post, path = "/pipelines/{id}/schedule/actions/{action}", tag = "schedules",
    params(("id" = String, Path),
        ("action" = String, Path, description = "run (now), skip (the next time), pause or resume")),
    responses((status = 200, body = ScheduleBody), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn act(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, action)): Route<(String, String)>,
) -> Result<Answer<ScheduleBody>, Failure> {
    caller.needs(Role::Operator)?;
    let (member, schedule) = scheduled(&app, &caller, &id).await?;
    let schedules = &app.supervisor.shared.schedules;
    let (key, by, now_us) = (&member.key, caller.name.as_str(), clock::now_us());
    match action.as_str() {
        "run" => drop(schedules.run_now(&member, by, now_us).await?),
        "skip" => drop(schedules.skip_next(key, &schedule, by, now_us).await?),
        "pause" => schedules.pause(key, &schedule, by, now_us).await?,
        "resume" => schedules.resume(key, now_us).await?,
        _ => return Err(Failure::not_found("action")),
    }
    Ok(Answer(body(schedules, &member, &schedule)))
}
