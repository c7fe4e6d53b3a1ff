//! A run from its claim to its end, one step at a time: what was done is looked up where it is durable,
//! so that a step may be taken again by the next server.

use std::sync::Arc;

use tidemark_core::checkpoint::{Checkpoint, TableState};
use tidemark_core::control::{Command, ResyncStrategy};
use tidemark_core::pipeline::plan::Mode;
use tidemark_core::{Result, clock};

use super::{BY, shown};
use crate::alerts;
use crate::store::{Desired, DesiredState, Entry, Key, Level, NewDelivery, RunState, ScheduleRun};
use crate::supervisor::actions::{answered, ask};
use crate::supervisor::{Member, Shared, Supervisor, open};

/// Tables that are named in a sentence.
const NAMED: usize = 3;

/// Whether a pipeline goes on after its load.
pub(super) fn streams(member: &Member) -> bool {
    member.row().mode != Mode::FullLoadOnly.name()
}

/// Ends the work on a pipeline, whatever becomes of it.
struct AtWork {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.shared.schedules.lock().at_work.remove(&self.key);
    }
}

/// Takes the next step of a pipeline's first run that has not ended, in a task of its own: sides that do
/// not answer keep nobody else.
pub(super) fn go_on(supervisor: &Arc<Supervisor>, member: &Arc<Member>) {
    let shared = &supervisor.shared;
    let Some(run) = shared.schedules.open(&member.key).into_iter().next() else {
        return;
    };
    if !shared.schedules.lock().at_work.insert(member.key.clone()) {
        return;
    }
    let at_work = AtWork {
        shared: Arc::clone(shared),
        key: member.key.clone(),
    };
    let member = Arc::clone(member);
    supervisor.beside(async move {
        if let Err(err) = step(&at_work.shared, &member, run).await {
            // The next round takes it again.
            let pipeline = member.key.id.as_str();
            tracing::debug!(pipeline, error = %err, "a scheduled load is not looked at");
        }
    });
}

async fn step(shared: &Arc<Shared>, member: &Arc<Member>, run: ScheduleRun) -> Result<()> {
    let desired = member.row().desired;
    let is_off = matches!(desired.state, DesiredState::Stopped | DesiredState::Draft);
    if is_off && member.alive().is_none() {
        let why = format!(
            "{} is {} by {}",
            member.key.id,
            desired.state.word(),
            desired.by
        );
        return end(shared, run, RunState::Stopped, Some(why)).await;
    }
    let is_failed = member.alive().is_none() && member.view().state == "failed";
    let has_begun = run.state != RunState::Queued;
    if is_failed && desired.state == DesiredState::Running && (has_begun || streams(member)) {
        return end(shared, run, RunState::Failed, member.view().reason).await;
    }
    match (run.state, streams(member)) {
        (RunState::Queued, false) => begin_load(shared, member, run, is_failed).await,
        (RunState::Queued, true) => begin_resync(shared, member, run).await,
        (_, false) => look_at_load(shared, member, run).await,
        (_, true) => look_at_resync(shared, member, run).await,
    }
}

/// A full load alone is started: it loads everything beside what is there, and swaps.
async fn begin_load(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    run: ScheduleRun,
    is_failed: bool,
) -> Result<()> {
    let _wanting = shared.wanting.lock().await;
    let desired = member.row().desired.state;
    let is_taken = member.alive().is_some() || member.is_leaving();
    if is_taken || (desired != DesiredState::Completed && !is_failed) {
        return Ok(());
    }
    let due = format!("due {}", shown(run.due_us));
    let wanted = Desired::now(DesiredState::Running, run.by.as_str(), Some(due));
    let told = said(&run, Level::Info, "begins");
    let began = ScheduleRun {
        state: RunState::Running,
        began_us: Some(clock::now_us()),
        ..run
    };
    // The run and what is wanted of the pipeline move together: there is none without the other.
    let schedules = &shared.schedules;
    schedules
        .set(began, Some(wanted.clone()), Some(told))
        .await?;
    member.is_told(wanted);
    Ok(())
}

async fn look_at_load(shared: &Arc<Shared>, member: &Arc<Member>, run: ScheduleRun) -> Result<()> {
    if member.alive().is_some() || member.row().desired.state != DesiredState::Completed {
        return Ok(());
    }
    let opened = open(shared, member).await?;
    let checkpoint = opened.target.checkpoint().await?;
    let (state, why) = verdict(checkpoint.as_ref());
    end(shared, run, state, why).await
}

/// A pipeline that streams copies its tables anew beside the old ones, and goes on streaming.
async fn begin_resync(shared: &Arc<Shared>, member: &Arc<Member>, run: ScheduleRun) -> Result<()> {
    let Some(alive) = member.alive() else {
        return Ok(());
    };
    if run.state == RunState::Queued && member.view().state != "streaming" {
        return Ok(());
    }
    let told = (run.state == RunState::Queued).then(|| said(&run, Level::Info, "begins"));
    let mut run = ScheduleRun {
        state: RunState::Starting,
        began_us: run.began_us.or_else(|| Some(clock::now_us())),
        ..run
    };
    shared.schedules.set(run.clone(), None, told).await?;
    let command = Command::Resync {
        tables: Vec::new(),
        strategy: ResyncStrategy::Swap,
    };
    if let Err(err) = answered(ask(&alive, command).await) {
        return end(shared, run, RunState::Failed, Some(err.to_string())).await;
    }
    run.state = RunState::Running;
    shared.schedules.set(run, None, None).await
}

async fn look_at_resync(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    mut run: ScheduleRun,
) -> Result<()> {
    let Some(alive) = member.alive() else {
        return Ok(());
    };
    let Some(checkpoint) = alive.opened.target.checkpoint().await? else {
        return Ok(());
    };
    let mut tables = checkpoint.tables.iter();
    let is_copied = tables.any(|table| table.state == TableState::Resyncing);
    match run.state {
        // Whether the engine was asked before the server ended is seen in the target.
        RunState::Starting if is_copied => {
            run.state = RunState::Running;
            shared.schedules.set(run, None, None).await
        }
        RunState::Starting => begin_resync(shared, member, run).await,
        _ if is_copied => Ok(()),
        _ => {
            let (state, why) = verdict(Some(&checkpoint));
            let letters = match state {
                RunState::Completed => alerts::of_load(shared, member, &member.view().status)?,
                _ => Vec::new(),
            };
            let ended = end_and_send(shared, run, state, why, letters).await;
            shared.notify.wake();
            ended
        }
    }
}

/// A load counts as good when every table is in.
fn verdict(checkpoint: Option<&Checkpoint>) -> (RunState, Option<String>) {
    let Some(checkpoint) = checkpoint else {
        let why = "the target does not know of a load";
        return (RunState::Failed, Some(why.to_owned()));
    };
    let is_aside = |state| matches!(state, TableState::Unloaded | TableState::Quarantined);
    let mut tables = checkpoint.tables.iter();
    let aside: Vec<String> = tables
        .by_ref()
        .filter(|table| is_aside(table.state))
        .map(|table| match &table.reason {
            Some(reason) => format!("{} ({reason})", table.source),
            None => table.source.to_string(),
        })
        .collect();
    if aside.is_empty() {
        return (RunState::Completed, None);
    }
    let more = match aside.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = aside[..aside.len().min(NAMED)].join(", ");
    (RunState::Failed, Some(format!("not in: {named}{more}")))
}

async fn end(
    shared: &Arc<Shared>,
    run: ScheduleRun,
    state: RunState,
    reason: Option<String>,
) -> Result<()> {
    end_and_send(shared, run, state, reason, Vec::new()).await
}

async fn end_and_send(
    shared: &Arc<Shared>,
    run: ScheduleRun,
    state: RunState,
    reason: Option<String>,
    letters: Vec<NewDelivery>,
) -> Result<()> {
    let now_us = clock::now_us();
    let took = run
        .began_us
        .map(|began| (now_us - began).max(0) as f64 / 1e6);
    let (level, what) = match (state, took, &reason) {
        (RunState::Completed, Some(took), _) => (Level::Info, format!("is in after {took:.1} s")),
        (RunState::Completed, None, _) => (Level::Info, "is in".to_owned()),
        (RunState::Stopped, _, Some(why)) => (Level::Warn, format!("was stopped: {why}")),
        (_, _, Some(why)) => (Level::Error, format!("failed: {why}")),
        (_, _, None) => (Level::Error, "failed".to_owned()),
    };
    let told = said(&run, level, &what);
    let ended = ScheduleRun {
        state,
        ended_us: Some(now_us),
        // That it was late stays said.
        reason: reason.or_else(|| run.reason.clone()),
        ..run
    };
    let schedules = &shared.schedules;
    schedules
        .set_and_send(ended, None, Some(told), letters)
        .await
}

/// What is told of a run.
fn said(run: &ScheduleRun, level: Level, what: &str) -> Entry {
    let whose = if run.by == BY {
        "the load that was due"
    } else {
        "the load asked for at"
    };
    let text = format!("{whose} {} {what}", shown(run.due_us));
    Entry {
        by: Some(run.by.clone()),
        ..Entry::plain(&run.key, level, "schedule", text)
    }
}
