//! A cutover: the verb's own steps, with this server in the place of the person at the command line.
//!
//! Whoever asked agrees beforehand, or is asked while it waits; it is given up when somebody cancels it,
//! nobody agrees, or the server ends, and then it takes everything back before anything else goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tidemark_core::catalogue::codes;
use tidemark_core::config::{PipelineConfig, name_of_way_back};
use tidemark_core::{Error, Result};
use tokio::sync::{RwLock, RwLockReadGuard, oneshot, watch};

use super::actions::Operation;
use super::{Member, Supervisor, open};
use crate::store::{Desired, DesiredState, Done, Key, NewPipeline};
use crate::systems::{Company, CutoverWishes, Hook};

/// How long somebody may take to agree.
const AGREED_WITHIN: Duration = Duration::from_mins(15);
/// How long what was done may take to be taken back when the server ends.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(20);
/// How long a command may take that starts the writers again, when the server ends.
const RUN_WITHIN_AT_THE_END: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Cutovers that are under way.
pub(super) struct Cutovers {
    ending: watch::Sender<bool>,
    /// Held by each; whoever has it alone knows that there is none.
    underway: RwLock<()>,
}

impl Default for Cutovers {
    fn default() -> Cutovers {
        Cutovers {
            ending: watch::Sender::new(false),
            underway: RwLock::default(),
        }
    }
}

impl Cutovers {
    /// Has all of them given up and taken back.
    pub(super) async fn end(&self) {
        self.ending.send_replace(true);
        let over = tokio::time::timeout(TAKEN_BACK_WITHIN, self.underway.write());
        if over.await.is_err() {
            tracing::error!("a cutover was not taken back: a fence may be left on its source");
        }
    }
}

/// A pipeline has one cutover at a time.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Supervisor {
    /// Held until a cutover is over, and that is written down; the server waits for it when it ends.
    pub(crate) async fn cutover_is_under_way(&self) -> RwLockReadGuard<'_, ()> {
        self.cutovers.underway.read().await
    }

    /// Carries a cutover out. What it has come to is written down as the operation's data all along.
    pub(crate) async fn cut_over(
        self: &Arc<Self>,
        member: &Arc<Member>,
        wishes: &CutoverWishes,
        operation: Operation<'_>,
    ) -> Result<Done> {
        if *self.cutovers.ending.borrow() {
            return Err(ends());
        }
        let cutting_over = member.cutting_over();
        if cutting_over.swap(true, Ordering::SeqCst) {
            let text = format!("a cutover of {} is under way", member.key.id);
            return Err(Error::definite(codes::API_CONFLICT, text));
        }
        let _turn = Turn(cutting_over);
        self.may_cut_over(member, wishes)?;
        let opened = open(&self.shared, member).await?;
        let company = Asker {
            supervisor: self,
            member,
            operation: operation.id,
            by: operation.by,
            wishes,
            report: Mutex::default(),
            cancelled: tokio::sync::Mutex::new(operation.cancelled),
        };
        let (report, refusal) = self
            .shared
            .systems
            .cutover(&opened, wishes, &company)
            .await?;
        let seconds = report["write_downtime_seconds"].as_f64();
        company.write(report.clone()).await;
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let seconds = seconds.unwrap_or_default();
        Ok(Done {
            text: format!(
                "{} is cut over: the target may be written to. Writes stood still for {seconds:.1} s",
                member.key.id
            ),
            data: Some(report),
        })
    }

    /// Refuses at once what can be told at once.
    pub(crate) fn may_cut_over(&self, member: &Member, wishes: &CutoverWishes) -> Result<()> {
        let name = name_of_way_back(&member.key.id);
        let key = Key::new(member.key.tenant.as_str(), name.as_str());
        if wishes.reverse && self.member(&key).is_some() {
            let text = format!("there is a pipeline {name} already");
            return Err(Error::definite(codes::CUTOVER_NO_WAY_BACK, text)
                .first_action("delete that one, or leave out the way back"));
        }
        Ok(())
    }

    /// Takes a fence down that a cutover left.
    pub(super) async fn lower_fence(&self, member: &Member) -> Result<Done> {
        let opened = open(&self.shared, member).await?;
        let systems = &self.shared.systems;
        let was_fenced = systems.is_fenced(&opened).await?;
        if was_fenced {
            systems.lower_fence(&opened).await?;
        }
        let text = if was_fenced {
            "the source takes writes again"
        } else {
            "the source is not fenced: nothing to take down"
        };
        Ok(Done {
            text: text.to_owned(),
            data: Some(json!({ "pipeline": member.key.id, "lowered": was_fenced })),
        })
    }
}

fn ends() -> Error {
    Error::definite(codes::CUTOVER_GIVEN_UP, "the server ends")
}

/// The server, in the place of a person.
struct Asker<'a> {
    supervisor: &'a Arc<Supervisor>,
    member: &'a Arc<Member>,
    operation: &'a str,
    by: &'a str,
    wishes: &'a CutoverWishes,
    /// What was told last.
    report: Mutex<Value>,
    cancelled: tokio::sync::Mutex<Option<oneshot::Receiver<String>>>,
}

impl Asker<'_> {
    async fn write(&self, report: Value) {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&report);
        let store = &self.supervisor.shared.store;
        let written = store.tell_operation(self.operation.to_owned(), report);
        if let Err(err) = written.await {
            tracing::warn!(code = %err.code(), error = %err, "a step is not written down");
        }
        let news = &self.supervisor.shared.news;
        let key = &self.member.key;
        let data = json!({
            "id": self.operation, "pipeline_id": key.id, "kind": "cutover", "state": "running",
        });
        news.say(&key.tenant, &key.id, crate::news::Topic::Operations, &data);
    }

    /// Asks whoever wants it, and waits for so long: whether they agreed.
    async fn ask(&self, effect: &str, runs: Option<Hook>, within: Duration) -> bool {
        let agreed = self.supervisor.asks(self.operation);
        self.write(self.asking(Some(effect), runs)).await;
        let agreed = tokio::time::timeout(within, agreed).await;
        self.supervisor.asks_no_more(self.operation);
        self.write(self.asking(None, None)).await;
        agreed.is_ok_and(|agreed| agreed.is_ok())
    }

    /// The report with what is asked beside it, or not any more.
    fn asking(&self, effect: Option<&str>, runs: Option<Hook>) -> Value {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = report.clone();
        report["asks"] = json!(effect);
        report["runs"] = json!(runs);
        report
    }

    fn way_back(&self, name: &str) -> Key {
        Key::new(self.member.key.tenant.as_str(), name)
    }

    /// What is said of a way back, by which it is known again.
    fn why_back(&self) -> String {
        let name = &self.member.key.id;
        format!("made by the cutover of {name}; once it is started it copies back")
    }
}

#[async_trait]
impl Company for Asker<'_> {
    async fn hears(&self, report: Value) {
        self.write(report).await;
    }

    async fn agrees(&self, effect: String) -> Result<()> {
        if self.wishes.is_agreed || self.ask(&effect, None, AGREED_WITHIN).await {
            return Ok(());
        }
        let minutes = AGREED_WITHIN.as_secs() / 60;
        let text = format!("nobody agreed within {minutes} minutes");
        Err(Error::definite(codes::CLI_CONSENT, text))
    }

    async fn runs(&self, hook: Hook, command: &str) -> Result<()> {
        let (what, within) = match hook {
            Hook::StopWriters => ("stops the writers", AGREED_WITHIN),
            // Everything stands still until then, for nothing if nobody is there any more.
            Hook::StartWriters => ("starts the writers again", self.wishes.patience),
        };
        let mut ending = self.supervisor.cutovers.ending.subscribe();
        let ends = async {
            _ = ending.wait_for(|is_ending| *is_ending).await;
            tokio::time::sleep(RUN_WITHIN_AT_THE_END).await;
        };
        let effect = format!("Run `{command}`, which {what}, and confirm that it is done.");
        let has_run = tokio::select! {
            has_run = self.ask(&effect, Some(hook), within) => has_run,
            () = ends => false,
        };
        if has_run {
            return Ok(());
        }
        let text = format!("nobody said that `{command}` has run");
        Err(Error::definite(codes::CUTOVER_HOOK, text))
    }

    async fn keeps(&self, way_back: &PipelineConfig, definition: String) -> Result<()> {
        let new = NewPipeline {
            key: self.way_back(&way_back.name),
            mode: way_back.mode.name().to_owned(),
            definition: Some(definition),
            file: None,
            desired: Desired::now(DesiredState::Stopped, self.by, Some(self.why_back())),
            by: self.by.to_owned(),
        };
        self.supervisor.add_within(new).await.map(drop)
    }

    async fn forgets(&self, way_back: &str) -> Result<()> {
        match self.supervisor.member(&self.way_back(way_back)) {
            Some(member) if member.row().desired.reason == Some(self.why_back()) => {
                self.supervisor.forget(&member).await
            }
            _ => Ok(()),
        }
    }

    async fn stops(&self) -> Result<()> {
        let why = Some("cut over".to_owned());
        let stopped = Desired::now(DesiredState::Stopped, self.by, why);
        self.supervisor.desire(self.member, stopped).await?;
        while self.member.is_busy() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn gives_up(&self) -> Error {
        let mut ending = self.supervisor.cutovers.ending.subscribe();
        let cancelled = async {
            let mut cancelled = self.cancelled.lock().await;
            let heard = match cancelled.as_mut() {
                Some(cancelled) => cancelled.await.ok(),
                None => None,
            };
            match heard {
                Some(by) => by,
                // Nobody can any more.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            by = cancelled => Error::definite(codes::CUTOVER_GIVEN_UP, format!("cancelled by {by}")),
            _ = ending.wait_for(|is_ending| *is_ending) => ends(),
        }
    }
}
