//! What a person can ask of a pipeline, through the engine's own way in for commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::control::anew::loaded_anew;
use tidemark_core::control::{Answer, Command, HoldId, ResyncStrategy};
use tidemark_core::quarantine::Chosen;
use tidemark_core::schema::TableName;
use tidemark_core::verify::compare::{self, Depth, Request};
use tidemark_core::words::counted;
use tidemark_core::{Error, Result};

use tokio::sync::oneshot;

use super::mending::Statement;
use super::verify::Kept;
use super::{Alive, Member, Supervisor, open, verify};
use crate::store::{Desired, DesiredState, Done, Level};
use crate::systems::{CutoverWishes, Opened};

/// How long a command may take until the engine has answered: it may be in a large transaction.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);
/// How long a run may take to end in order; longer than the life of the pipeline gives it.
const STOP_WITHIN: Duration = Duration::from_mins(1);
/// How long the target may take to see that a run has ended.
pub(super) const FREE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a resync may take.
const RESYNC_WITHIN: Duration = Duration::from_hours(24 * 7);

/// An action.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Start,
    Pause(Vec<TableName>),
    Resume(Vec<TableName>),
    Stop,
    Resync(Vec<TableName>, ResyncStrategy),
    Verify(Vec<TableName>, Depth),
    /// Applies rows in quarantine again; tables that are set aside go on with it.
    Retry(Chosen),
    /// Tables that are set aside go on; rows that are refused go aside one by one.
    Skip(Vec<TableName>),
    /// Discards rows in quarantine.
    Drop(Chosen),
    /// Has what this comparison found to differ copied anew.
    Repair(i64),
    /// Brings tables to the source's state, and the log on from there where all are meant.
    Reconcile(Vec<TableName>),
    /// Tells how tables differ, by kind.
    Report(Vec<TableName>),
    /// Sets the target's sequences to the source's values.
    Sequences,
    /// Runs remedies of checks.
    Fix(Vec<Statement>),
    /// Makes the target the database that is written to.
    CutOver(CutoverWishes),
    /// Takes down a fence that a cutover left.
    Abort,
    /// Stops it, removes what was made for it on both sides, and forgets it.
    Delete(Remains),
}

/// What a deletion may leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// Nothing: until everything is removed it is not deleted.
    Nothing,
    /// What was made on a side from which it cannot be removed, such as one that is gone for ever.
    Unremovable,
}

impl Action {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Action::Start => "start",
            Action::Pause(_) => "pause",
            Action::Resume(_) => "resume",
            Action::Stop => "stop",
            Action::Resync(..) => "resync",
            Action::Verify(..) => "verify",
            Action::Retry(_) => "retry",
            Action::Skip(_) => "skip",
            Action::Drop(_) => "drop",
            Action::Repair(_) => "repair",
            Action::Reconcile(_) | Action::Report(_) => "reconcile",
            Action::Sequences => "sequences",
            Action::Fix(_) => "fix",
            Action::CutOver(_) => "cutover",
            Action::Abort => "abort",
            Action::Delete(_) => "delete",
        }
    }

    /// Whether it can be given up: it only looks, or takes back what it has done. What the pipeline was told
    /// to do is for the pipeline to end.
    pub(crate) fn can_be_cancelled(&self) -> bool {
        matches!(
            self,
            Action::Verify(..) | Action::Report(_) | Action::CutOver(_)
        )
    }
}

/// By which an action is known.
pub(crate) struct Operation<'a> {
    pub(crate) id: &'a str,
    /// Who asked.
    pub(crate) by: &'a str,
    /// Of a cutover: hears by whom it is cancelled.
    pub(crate) cancelled: Option<oneshot::Receiver<String>>,
}

impl Supervisor {
    /// Carries an action out and says what came of it.
    ///
    /// It may be dropped halfway where it only looks; a cutover hears by itself that it is cancelled.
    pub(crate) async fn act(
        self: &Arc<Self>,
        member: &Arc<Member>,
        action: Action,
        operation: Operation<'_>,
    ) -> Result<Done> {
        may(member, &action)?;
        let by = operation.by;
        let said = match action {
            Action::Resync(tables, strategy) => return resync(member, tables, strategy).await,
            Action::Verify(tables, depth) => {
                let kept = self.verify(member, &tables, depth).await?;
                return Ok(compared(&kept));
            }
            Action::Repair(number) => {
                let alive = running(member)?;
                let repaired = verify::repair(&self.shared, member, &alive, number).await?;
                return Ok(compared(&repaired));
            }
            Action::Reconcile(tables) => return self.reconcile(member, &tables, by).await,
            Action::Report(tables) => return self.report(member, &tables).await,
            Action::Sequences => return self.set_sequences(member).await,
            Action::Fix(statements) => return self.fix(member, &statements).await,
            Action::CutOver(wishes) => return self.cut_over(member, &wishes, operation).await,
            Action::Abort => return self.lower_fence(member).await,
            Action::Pause(tables) if !tables.is_empty() => {
                told(member, Command::Pause { tables }).await
            }
            Action::Resume(tables) if !tables.is_empty() => {
                told(member, Command::Resume { tables }).await
            }
            Action::Retry(chosen) => told(member, Command::Retry(chosen)).await,
            Action::Skip(tables) => told(member, Command::Skip { tables }).await,
            Action::Drop(chosen) => told(member, Command::Discard(chosen)).await,
            Action::Delete(remains) => self.delete(member, remains, by).await,
            Action::Start | Action::Stop | Action::Pause(_) | Action::Resume(_) => {
                self.turn(member, &action, by).await
            }
        };
        said.map(Done::from)
    }

    /// Has the whole pipeline start, pause, go on or stop.
    async fn turn(&self, member: &Arc<Member>, action: &Action, by: &str) -> Result<String> {
        let id = member.key.id.as_str();
        let wanted = |state| Desired::now(state, by, None);
        let desired = member.row().desired.state;
        match action {
            Action::Start if desired == DesiredState::Paused => {
                let text = format!("{id} is paused");
                Err(Error::definite(codes::API_CONFLICT, text).first_action("resume it"))
            }
            Action::Start => {
                // One that runs may be about to stop.
                if desired == DesiredState::Running && member.alive().is_some() {
                    return Ok(format!("{id} runs already"));
                }
                self.desire(member, wanted(DesiredState::Running)).await?;
                Ok(format!("{id} starts"))
            }
            Action::Pause(_) => {
                let tables = Vec::new();
                let said = match member.alive() {
                    Some(alive) => answered(ask(&alive, Command::Pause { tables }).await)?,
                    None => format!("{id} is paused"),
                };
                self.desire(member, wanted(DesiredState::Paused)).await?;
                Ok(said)
            }
            Action::Resume(_) => {
                let tables = Vec::new();
                let said = match member.alive() {
                    Some(alive) => answered(ask(&alive, Command::Resume { tables }).await)?,
                    None => format!("{id} goes on"),
                };
                self.desire(member, wanted(DesiredState::Running)).await?;
                Ok(said)
            }
            _ => {
                self.stop(member, by).await?;
                Ok(format!("{id} is stopped"))
            }
        }
    }

    /// Compares both sides.
    async fn verify(
        &self,
        member: &Arc<Member>,
        tables: &[TableName],
        depth: Depth,
    ) -> Result<Kept> {
        match member.alive() {
            Some(alive) if alive.opened.config.mode.streams() => {
                verify::verify(&self.shared, member, &alive, tables, depth).await
            }
            _ => self.verify_still(member, tables, depth).await,
        }
    }

    async fn stop(&self, member: &Member, by: &str) -> Result<()> {
        let state = match member.row().desired.state {
            DesiredState::Draft => return Ok(()),
            _ => DesiredState::Stopped,
        };
        self.desire(member, Desired::now(state, by, None)).await?;
        let wants_otherwise = || {
            let desired = member.row().desired;
            let runs = matches!(desired.state, DesiredState::Running | DesiredState::Paused);
            runs.then_some(desired.by)
        };
        let gone = async {
            while member.is_busy() && wants_otherwise().is_none() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(STOP_WITHIN, gone)
            .await
            .map_err(|_| Error::transient(codes::API_TIMEOUT, "the run has not ended yet"))?;
        match wants_otherwise() {
            None => Ok(()),
            Some(by) => {
                let text = format!("{by} wants {} to run meanwhile", member.key.id);
                Err(Error::definite(codes::API_CONFLICT, text))
            }
        }
    }

    /// A full load has no log to meet in: both sides are compared as they are now.
    async fn verify_still(
        &self,
        member: &Arc<Member>,
        tables: &[TableName],
        depth: Depth,
    ) -> Result<Kept> {
        let opened = open(&self.shared, member).await?;
        let rules = &opened.config.rules;
        let schema = opened.source.describe(rules.selection()).await?;
        let mut mappings: Vec<_> = rules.map(&schema)?.into_iter().map(Arc::new).collect();
        mappings.retain(|table| tables.is_empty() || tables.contains(table.source()));
        let request = Request {
            tables: mappings,
            depth,
            differences_max: 10_000,
            hold: HoldId::random(),
            progress: Arc::default(),
        };
        let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
        let began = Instant::now();
        let report = compare::verify_still(source, target, &request).await?;
        let took = began.elapsed();
        verify::keep(&self.shared, member, tables, &report, depth, took).await
    }

    /// Removed only when everything that was made for it is: until then it stays in the list.
    async fn delete(&self, member: &Arc<Member>, remains: Remains, by: &str) -> Result<String> {
        let was_draft = {
            // From here on nobody else deletes it, or has it run.
            let _wanting = self.shared.wanting.lock().await;
            if member.leaves(true) {
                return Err(leaving(member));
            }
            member.row().desired.state == DesiredState::Draft
        };
        let deleted = self.remove(member, was_draft, remains, by).await;
        if deleted.is_err() {
            member.leaves(false);
        }
        deleted
    }

    /// Whoever runs it at this moment keeps it. The session of a run that has just ended here may be
    /// there for a moment longer.
    async fn acquire(&self, opened: &Opened) -> Result<()> {
        let began = Instant::now();
        loop {
            match opened.target.acquire(&self.shared.owner).await {
                Err(err) if err.code() == codes::TARGET_OWNED && began.elapsed() < FREE_WITHIN => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                acquired => return acquired.map(|_| ()),
            }
        }
    }

    async fn remove(
        &self,
        member: &Arc<Member>,
        was_draft: bool,
        remains: Remains,
        by: &str,
    ) -> Result<String> {
        self.stop(member, by).await?;
        let mut removed = Vec::new();
        let mut left = Vec::new();
        if !was_draft {
            match open(&self.shared, member).await {
                Ok(opened) => (removed, left) = self.unmake(&opened, remains).await?,
                Err(err) if remains == Remains::Unremovable => left.push(err.to_string()),
                Err(err) => return Err(err),
            }
        }
        self.note(
            member,
            Level::Info,
            "definition",
            "deleted",
            Some(by.to_owned()),
        );
        self.forget(member).await?;
        let mut said = format!("{} is deleted", member.key.id);
        if !removed.is_empty() {
            said = format!("{said}; removed {}", removed.join(", "));
        }
        if !left.is_empty() {
            said = format!("{said}; left what it could not remove: {}", left.join("; "));
        }
        Ok(said)
    }

    /// Removes what was made for it on both sides: says what, and why the rest is still there.
    async fn unmake(
        &self,
        opened: &Opened,
        remains: Remains,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let mut left = Vec::new();
        let mut leave = |err: Error| {
            // Who runs it elsewhere would have nothing to go on with.
            if remains == Remains::Nothing || err.code() == codes::TARGET_OWNED {
                return Err(err);
            }
            left.push(err.to_string());
            Ok(())
        };
        let is_ours = match self.acquire(opened).await {
            Ok(()) => true,
            Err(err) => leave(err).map(|()| false)?,
        };
        let mut removed = Vec::new();
        match opened.source.release().await {
            Ok(found) => removed = found,
            Err(err) => leave(err)?,
        }
        if is_ours && let Err(err) = opened.target.forget().await {
            leave(err)?;
        }
        Ok((removed, left))
    }
}

/// What whoever wants something of it is told from then on.
pub(super) fn leaving(member: &Member) -> Error {
    let text = format!("{} is being deleted", member.key.id);
    Error::definite(codes::API_CONFLICT, text).first_action("wait until it is gone")
}

/// Whether an action fits the pipeline's state; what can be told at once is refused at once.
pub(crate) fn may(member: &Member, action: &Action) -> Result<()> {
    if member.is_leaving() {
        return Err(leaving(member));
    }
    let desired = member.row().desired.state;
    let state = member.view().state;
    let conflict = |text: String, then: &str| {
        Err(Error::definite(codes::API_CONFLICT, text).first_action(then))
    };
    let id = &member.key.id;
    let wants_to_run = matches!(desired, DesiredState::Running | DesiredState::Paused);
    match action {
        Action::Pause(tables) | Action::Resume(tables) if tables.is_empty() && !wants_to_run => {
            conflict(format!("{id} is {state}"), "start it")
        }
        Action::Pause(tables) | Action::Resume(tables)
            if !tables.is_empty() && member.alive().is_none() =>
        {
            conflict(
                format!("{id} is {state}: its tables stand still"),
                "start it",
            )
        }
        Action::Resync(..)
        | Action::Retry(_)
        | Action::Skip(_)
        | Action::Drop(_)
        | Action::Repair(_)
            if member.alive().is_none() =>
        {
            conflict(format!("{id} is {state}"), "start it")
        }
        Action::Verify(..) if member.alive().is_none() && desired != DesiredState::Completed => {
            let text = format!("{id} is {state}: both sides have no position in common");
            conflict(text, "start it")
        }
        Action::Reconcile(_) if desired == DesiredState::Paused => {
            conflict(format!("{id} is paused"), "resume it")
        }
        _ => Ok(()),
    }
}

fn compared(kept: &Kept) -> Done {
    let Kept {
        number,
        result,
        text,
    } = kept;
    Done {
        text: format!("verification {number}: {text}"),
        data: Some(json!({ "verification": number, "result": result })),
    }
}

fn running(member: &Member) -> Result<Alive> {
    member.alive().ok_or_else(|| {
        let text = format!("{} does not run", member.key.id);
        Error::definite(codes::API_CONFLICT, text).first_action("start it")
    })
}

/// Says a command to the run, and what it answers.
async fn told(member: &Member, command: Command) -> Result<String> {
    let alive = running(member)?;
    answered(ask(&alive, command).await)
}

pub(crate) async fn ask(alive: &Alive, command: Command) -> Answer {
    let asked = alive.commander.ask(command);
    tokio::time::timeout(ANSWER_WITHIN, asked)
        .await
        .unwrap_or_else(|_| Answer {
            ok: false,
            text: "the pipeline did not answer in time".to_owned(),
            code: Some(codes::API_TIMEOUT.to_string()),
        })
}

pub(crate) fn answered(answer: Answer) -> Result<String> {
    if answer.ok {
        return Ok(answer.text);
    }
    let code = answer.code.as_deref().and_then(Code::parse);
    Err(Error::definite(
        code.unwrap_or(codes::CLI_REFUSED),
        answer.text,
    ))
}

/// Asks for it, and waits until the tables stream again.
async fn resync(member: &Member, tables: Vec<TableName>, strategy: ResyncStrategy) -> Result<Done> {
    let alive = running(member)?;
    let mappings = verify::tables(&alive, &tables).await?;
    let names: Vec<TableName> = mappings
        .iter()
        .map(|table| table.source().clone())
        .collect();
    let command = Command::Resync {
        tables: names.clone(),
        strategy,
    };
    answered(ask(&alive, command).await)?;
    let copied = loaded_anew(alive.opened.target.as_ref(), &alive.commander, &names);
    let rows = tokio::time::timeout(RESYNC_WITHIN, copied)
        .await
        .map_err(|_| Error::transient(codes::API_TIMEOUT, "the resync is not over yet"))??;
    Ok(Done {
        text: format!("{} copied anew, {rows} rows", counted(names.len(), "table")),
        data: Some(json!({ "tables": names.len(), "rows": rows })),
    })
}
