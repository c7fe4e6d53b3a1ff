//! The loop behind the side door: commands in, status out, beside the line and never on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::pipeline::Commander;
use crate::pipeline::observe::PipelineEvent;
use crate::target::Target;

use super::{Answer, CommandId, Control};

/// How often commands are looked for.
const COMMANDS_EVERY: Duration = Duration::from_millis(250);

/// How often while somebody speaks, who may hold the pipeline meanwhile; and how long after the last
/// word.
const SPOKEN_TO_EVERY: Duration = Duration::from_millis(20);
const SPOKEN_TO_FOR: Duration = Duration::from_secs(2);

/// How often the status is left in the target.
const REPORT_EVERY: Duration = Duration::from_secs(1);

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
        spoken_at: None,
    };
    let mut reported = None;
    loop {
        tokio::select! {
            () = sleep(door.pause()) => {}
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
        let is_due = reported.is_none_or(|at: Instant| at.elapsed() >= REPORT_EVERY);
        if door.serve_once(target.as_ref(), is_due).await.is_ok() {
            if is_due {
                reported = Some(Instant::now());
            }
        } else {
            door.control = None;
        }
    }
    // The last word: answers that are ready, and the final status.
    drop(door.serve_once(target.as_ref(), true).await);
}

struct Door {
    commander: Commander,
    board: SharedBoard,
    control: Option<Box<dyn Control>>,
    /// Commands that were passed on and are not answered yet.
    asked: Vec<CommandId>,
    answers: JoinSet<(CommandId, Answer)>,
    /// When a command or an answer went through last.
    spoken_at: Option<Instant>,
}

impl Door {
    fn pause(&self) -> Duration {
        let is_lately = |at: Instant| at.elapsed() < SPOKEN_TO_FOR;
        if self.spoken_at.is_some_and(is_lately) {
            SPOKEN_TO_EVERY
        } else {
            COMMANDS_EVERY
        }
    }

    async fn serve_once(&mut self, target: &dyn Target, report: bool) -> crate::Result<()> {
        let control = match &mut self.control {
            Some(control) => control,
            none => none.insert(target.control().await?),
        };
        while let Some(answered) = self.answers.try_join_next() {
            let Ok((id, answer)) = answered else { continue };
            control.answer(id, &answer).await?;
            self.asked.retain(|asked| *asked != id);
            self.spoken_at = Some(Instant::now());
        }
        for (id, command) in control.commands().await? {
            if self.asked.contains(&id) {
                continue;
            }
            self.asked.push(id);
            self.spoken_at = Some(Instant::now());
            let commander = self.commander.clone();
            self.answers
                .spawn(async move { (id, commander.ask(command).await) });
        }
        if report {
            let status = {
                let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
                board.status(Instant::now())
            };
            control.report(&status).await?;
        }
        Ok(())
    }
}
