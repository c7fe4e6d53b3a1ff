//! A cutover by a server. The server asks back where others would notice what comes next, and takes
//! everything back when nobody agrees, or whoever asked goes away.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    CutoverArgs, Ended, Hook, Kept, Report, Wishes, answer, answer_of_abort, confirm_abort,
    consent, writers,
};
use crate::invocation::Invocation;
use crate::output::{Consent, Outcome};
use crate::problem::Failure;
use crate::remote::There;

pub(super) async fn run(
    invocation: &Invocation,
    there: &There,
    arguments: &CutoverArgs,
) -> Outcome {
    let wishes = &arguments.wishes;
    if let Some(Kept::In(file)) = &arguments.reverse {
        let text = format!(
            "the server keeps the way back itself: --reverse without {}",
            file.display()
        );
        return Err(Failure::usage(text));
    }
    if arguments.abort {
        return abort(invocation, there).await;
    }
    let asked = json!({
        "fence": wishes.fence,
        "silence_seconds": wishes.silence.as_secs_f64(),
        "patience_seconds": wishes.patience.as_secs_f64(),
        "max_downtime_seconds": wishes.max_downtime.as_secs_f64(),
        "sequence_margin": wishes.sequence_margin,
        "stop_writers": wishes.stop_writers,
        "start_writers": wishes.start_writers,
        "reverse": arguments.reverse.is_some(),
    });
    if arguments.dry_run {
        let body = json!({ "cutover": asked, "dry_run": true });
        let told = there.tell("cutover", &body);
        let told = tokio::select! {
            told = told => told?,
            late = invocation.late() => return Err(late),
            name = invocation.signals.stop() => return Err(Failure::interrupted(name)),
        };
        return answer(ended(there, told, None)?, arguments);
    }
    let is_agreed = invocation.talk.consent == Consent::Given;
    let confirm = is_agreed.then_some(there.name.as_str());
    let body = json!({ "cutover": asked, "confirm": confirm });
    let operation = there.begin("cutover", &body).await?;
    let mut following = Following::new(invocation, there, wishes, &operation);
    let failure = tokio::select! {
        done = following.follow() => done.err(),
        late = invocation.late() => Some(late),
        name = invocation.signals.stop() =>
            Some(Failure::Signalled(name.exit(), "interrupted".to_owned())),
    };
    if failure.is_some() {
        following.gives_up = true;
        // One that is over by now stays as it is.
        there.server.cancel(&operation).await?;
        following.follow().await?;
    }
    let over = there.server.over(&operation).await?;
    if over.data["steps"].is_null() {
        // It was refused before it began.
        return Err(over.refusal().into());
    }
    let is_done = over.is_done();
    let mut ended = ended(there, over.data, failure)?;
    if is_done {
        ended.failure = None;
    }
    answer(ended, arguments)
}

/// What a cutover wants of whoever follows it.
#[derive(Deserialize)]
struct Asks {
    /// In words.
    asks: Option<String>,
    /// Which of our commands is to be run.
    runs: Option<Hook>,
    /// How far a comparison is, while there is one.
    comparing: Option<String>,
}

/// How often that is said.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Follows a cutover.
struct Following<'a> {
    invocation: &'a Invocation,
    there: &'a There,
    wishes: &'a Wishes,
    operation: &'a str,
    /// How many steps were said.
    said: usize,
    /// When something was said last.
    said_at: Instant,
    /// What was answered last: the server may still show that.
    answered: Option<String>,
    /// Nothing is agreed to any more; all there is to do is to start the writers again.
    gives_up: bool,
}

impl<'a> Following<'a> {
    fn new(
        invocation: &'a Invocation,
        there: &'a There,
        wishes: &'a Wishes,
        operation: &'a str,
    ) -> Following<'a> {
        Following {
            invocation,
            there,
            wishes,
            operation,
            said: 0,
            said_at: Instant::now(),
            answered: None,
            gives_up: false,
        }
    }

    /// Says each step once it is done, and does what is asked of us, until it is over.
    async fn follow(&mut self) -> Result<(), Failure> {
        let server = &self.there.server;
        loop {
            let now = server.now(self.operation).await?;
            if !now.data.is_null() {
                let strange = |err| server.strange(&err);
                let asks: Asks = serde_json::from_value(now.data.clone()).map_err(strange)?;
                let is_over = now.is_over();
                let (report, _) = Report::of_data(now.data).map_err(strange)?;
                for line in report.lines(self.said) {
                    self.invocation.talk.say(&line);
                    self.said += 1;
                    self.said_at = Instant::now();
                }
                if let Some(how_far) = &asks.comparing
                    && self.said_at.elapsed() >= TELL_EVERY
                {
                    self.invocation.talk.say(&format!("  {how_far}"));
                    self.said_at = Instant::now();
                }
                if is_over {
                    return Ok(());
                }
                if asks.asks.is_some() && asks.asks != self.answered {
                    self.answer(asks).await?;
                }
            } else if now.is_over() {
                return Ok(());
            }
            tokio::time::sleep(crate::remote::LOOK_EVERY).await;
        }
    }

    async fn answer(&mut self, asks: Asks) -> Result<(), Failure> {
        let (there, wishes) = (self.there, self.wishes);
        // What is run here is what was said here, whatever the server says.
        let command = match asks.runs {
            Some(Hook::StopWriters) => wishes.stop_writers.as_ref(),
            Some(Hook::StartWriters) => wishes.start_writers.as_ref(),
            None => None,
        };
        if self.gives_up && asks.runs != Some(Hook::StartWriters) {
            return Ok(());
        }
        let effect = asks.asks.clone().unwrap_or_default();
        self.answered = asks.asks;
        match (asks.runs, command) {
            (None, _) => consent(self.invocation, &there.name, effect).await?,
            (Some(hook), Some(command)) => {
                let ran = writers::run(&self.invocation.talk, hook, command, &there.name);
                let ran = tokio::select! {
                    ran = ran => ran,
                    () = self.is_asked_no_more(), if hook == Hook::StopWriters => return Ok(()),
                };
                if ran.is_err() && hook == Hook::StartWriters {
                    // The server tells what that leaves.
                    return Ok(there.server.cancel(self.operation).await?);
                }
                ran?;
            }
            (Some(_), None) => {
                let text = "it asks for a command that was not given";
                return Err(there.server.strange(&text).into());
            }
        }
        there.server.agree(self.operation, &there.name).await?;
        Ok(())
    }

    /// Returns once the server does not wait any more for what it was given last: it has given the cutover up.
    async fn is_asked_no_more(&self) {
        let server = &self.there.server;
        loop {
            tokio::time::sleep(crate::remote::LOOK_EVERY).await;
            // One that does not answer may wait all the same.
            let Ok(now) = server.now(self.operation).await else {
                continue;
            };
            let is_over = now.is_over();
            let asks = serde_json::from_value::<Asks>(now.data);
            if is_over || asks.is_ok_and(|asks| asks.asks != self.answered) {
                return;
            }
        }
    }
}

/// What a server tells; `failure` is why it was given up from here, if it was.
fn ended(there: &There, told: Value, failure: Option<Failure>) -> Result<Ended, Failure> {
    let told = Report::of_data(told).map_err(|err| there.server.strange(&err))?;
    let (report, refusal) = told;
    let failure = failure.or_else(|| refusal.map(Failure::from));
    Ok(Ended { report, failure })
}

async fn abort(invocation: &Invocation, there: &There) -> Outcome {
    let told = there.tell("abort", &json!({ "dry_run": true })).await?;
    if told["fenced"] == true {
        confirm_abort(invocation, &there.name).await?;
        there.act("abort", &json!({})).await?;
    }
    Ok(answer_of_abort(
        &there.name,
        &there.name,
        told["fenced"] == true,
    ))
}
