//! The loop behind the side door: commands in, status out, beside the line and never on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::pipeline::Commander;
use crate::pipeline::observe::PipelineEvent;
use crate::status::Status;
use crate::target::Target;

use super::{Answer, CommandId, Control};

/// How often commands are looked for that the target has told nothing of.
const COMMANDS_EVERY: Duration = Duration::from_secs(1);

/// How often while somebody speaks, who may hold the pipeline meanwhile; and how long after the last
/// word.
const SPOKEN_TO_EVERY: Duration = Duration::from_millis(20);
const SPOKEN_TO_FOR: Duration = Duration::from_secs(2);

/// How often the status is left in the target at most, and how often where it says nothing new: whoever
/// reads it there must not take a pipeline that rests for one that hangs.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const REPORT_AGAIN_EVERY: Duration = Duration::from_secs(3);

/// A board that several readers share.
pub type SharedBoard = Arc<Mutex<Board>>;

/// Folds events into the board and hands each on to `listener`. Ends with the pipeline.
pub async fn watch(
    board: SharedBoard,
    mut events: mpsc::UnboundedReceiver<PipelineEvent>,
    mut listener: impl FnMut(PipelineEvent),
) {
    while let Some(event) = events.recv().await {
        board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(&event, Instant::now());
        listener(event);
    }
}

/// Serves the side door until told to stop: passes commands to the pipeline and their answers back,
/// leaves the status in the target. A target that does not answer is asked again; that is not an
/// error of the pipeline, which notices by itself.
pub async fn serve(
    target: Arc<dyn Target>,
    commander: Commander,
    board: SharedBoard,
    mut stop: watch::Receiver<bool>,
) {
    let mut door = Door {
        commander,
        board,
        control: None,
        asked: Vec::new(),
        answers: JoinSet::new(),
        answered: VecDeque::new(),
        spoken_at: None,
        reported: None,
    };
    loop {
        tokio::select! {
            () = door.knock() => {}
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
        if door.serve_once(target.as_ref()).await.is_ok() {
            let mut board = door.board.lock().unwrap_or_else(PoisonError::into_inner);
            board.target_answered(Instant::now());
        } else {
            door.control = None;
        }
    }
    drop(door.last_word(target.as_ref()).await);
}

struct Door {
    commander: Commander,
    board: SharedBoard,
    control: Option<Box<dyn Control>>,
    /// Commands that were passed on and are not answered yet.
    asked: Vec<CommandId>,
    answers: JoinSet<(CommandId, Answer)>,
    /// Answers that the target does not have yet.
    answered: VecDeque<(CommandId, Answer)>,
    /// When a command or an answer went through last.
    spoken_at: Option<Instant>,
    /// What was reported last, and when.
    reported: Option<(Instant, Status)>,
}

impl Door {
    /// Waits until there may be something to do. Cancel-safe.
    async fn knock(&mut self) {
        let pause = self.pause();
        tokio::select! {
            () = sleep(pause) => {}
            Some(answered) = self.answers.join_next() => self.answered.extend(answered.ok()),
            () = called(&mut self.control) => {}
        }
    }

    fn pause(&self) -> Duration {
        let is_lately = |at: Instant| at.elapsed() < SPOKEN_TO_FOR;
        if self.spoken_at.is_some_and(is_lately) {
            SPOKEN_TO_EVERY
        } else {
            COMMANDS_EVERY
        }
    }

    async fn serve_once(&mut self, target: &dyn Target) -> crate::Result<()> {
        while let Some(answered) = self.answers.try_join_next() {
            self.answered.extend(answered.ok());
        }
        self.pass_back(target).await?;
        self.pass_on(target).await?;
        let reported = self.reported.as_ref();
        if reported.is_none_or(|(at, _)| at.elapsed() >= REPORT_EVERY) {
            let status = self.status();
            let is_due = reported.is_none_or(|(at, last)| {
                at.elapsed() >= REPORT_AGAIN_EVERY || status.has_news_after(last)
            });
            if is_due {
                self.report(target, status).await?;
            }
        }
        Ok(())
    }

    /// Every answer, and the final status. The pipeline is over, so no answer is long in coming.
    async fn last_word(&mut self, target: &dyn Target) -> crate::Result<()> {
        self.pass_on(target).await?;
        while let Some(answered) = self.answers.join_next().await {
            self.answered.extend(answered.ok());
        }
        self.pass_back(target).await?;
        let status = self.status();
        self.report(target, status).await
    }

    async fn control(&mut self, target: &dyn Target) -> crate::Result<&mut dyn Control> {
        let control = match &mut self.control {
            Some(control) => control,
            none => none.insert(target.control().await?),
        };
        Ok(control.as_mut())
    }

    async fn pass_on(&mut self, target: &dyn Target) -> crate::Result<()> {
        for (id, command) in self.control(target).await?.commands().await? {
            if self.asked.contains(&id) {
                continue;
            }
            self.asked.push(id);
            self.spoken_at = Some(Instant::now());
            let commander = self.commander.clone();
            self.answers
                .spawn(async move { (id, commander.ask(command).await) });
        }
        Ok(())
    }

    async fn pass_back(&mut self, target: &dyn Target) -> crate::Result<()> {
        while let Some((id, answer)) = self.answered.front().cloned() {
            self.control(target).await?.answer(id, &answer).await?;
            self.answered.pop_front();
            self.asked.retain(|asked| *asked != id);
            self.spoken_at = Some(Instant::now());
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.status(Instant::now())
    }

    async fn report(&mut self, target: &dyn Target, status: Status) -> crate::Result<()> {
        self.control(target).await?.report(&status).await?;
        self.reported = Some((Instant::now(), status));
        Ok(())
    }
}

/// Waits for a word of the target that somebody has sent a command; for ever where it is silent.
async fn called(control: &mut Option<Box<dyn Control>>) {
    if let Some(open) = control {
        match open.called().await {
            Ok(()) => return,
            // The next look opens another.
            Err(_) => *control = None,
        }
    }
    std::future::pending::<()>().await;
}
