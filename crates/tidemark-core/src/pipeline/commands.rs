//! The way in for commands, and their answers.

use tokio::sync::{mpsc, oneshot};

use crate::control::{Answer, Command};
use crate::error::Result;

use super::stop::StopAsked;
use super::{Lasting, Outcome};

/// A command on its way to the pipeline, with where its answer goes.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// The way in for commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commander {
    pub(super) sender: mpsc::Sender<Request>,
    pub(super) stop_asked: StopAsked,
}

impl Commander {
    /// Sends a command and waits for its answer. A pipeline that has ended answers so.
    pub async fn ask(&self, command: Command) -> Answer {
        let (reply, answer) = oneshot::channel();
        let ended = || refusal("the pipeline has ended");
        let interrupted = || refusal("the pipeline was interrupted before it had done that");
        if matches!(command, Command::Stop) {
            self.stop_asked.start();
        }
        if self.sender.send(Request { command, reply }).await.is_err() {
            return ended();
        }
        answer.await.unwrap_or_else(|_| interrupted())
    }

    /// Whether the pipeline has not ended.
    pub(crate) fn is_heard(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Lasting {
    /// Takes down who asked for a stop while nobody heard requests.
    pub(super) fn hear_stops(&mut self, requests: &mut mpsc::Receiver<Request>) {
        while let Ok(Request { command, reply }) = requests.try_recv() {
            if matches!(command, Command::Stop) {
                self.stops.push(reply);
            }
        }
    }

    /// Tells those who asked for a stop how it ended.
    pub(super) fn answer_stops(&mut self, ended: &Result<Outcome>) {
        let said = match ended {
            Ok(Outcome {
                position: Some(position),
                ..
            }) => accepted(format!("stopped at {position}")),
            Ok(_) => accepted("stopped"),
            Err(err) => Answer {
                code: Some(err.code().to_string()),
                ..refusal(err.to_string())
            },
        };
        for reply in self.stops.drain(..) {
            answer(reply, said.clone());
        }
    }
}

/// What a person asked of a pipeline that connects, loads, or waits to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    Stop,
    Pause,
    /// Of a pipeline that was paused before it lost a side.
    Resume,
    /// Of nobody: the stream ended in order to begin anew.
    Again,
}

/// Answers requests while a pipeline connects or loads; returns when told to stop, to pause, or to go
/// on where it was paused before.
pub(super) async fn interrupted(
    requests: &mut mpsc::Receiver<Request>,
    is_paused: bool,
) -> Interruption {
    while let Some(Request { command, reply }) = requests.recv().await {
        let said = match command {
            Command::Stop => {
                answer(reply, accepted("stops"));
                return Interruption::Stop;
            }
            Command::Pause { tables } if tables.is_empty() && is_paused => {
                accepted("it is paused already")
            }
            Command::Pause { tables } if tables.is_empty() => {
                let text = "paused; the source keeps its log meanwhile, and of a load the tables that are in";
                answer(reply, accepted(text));
                return Interruption::Pause;
            }
            Command::Resume { tables } if tables.is_empty() && is_paused => {
                answer(reply, accepted("goes on"));
                return Interruption::Resume;
            }
            Command::Resume { tables } if tables.is_empty() => accepted("it is not paused"),
            _ => refusal("not while the pipeline loads or connects; try again"),
        };
        answer(reply, said);
    }
    // Nobody can ask any more: wait for ever, the other branch of the select ends it.
    std::future::pending().await
}

/// Answers requests while a pipeline stands still between attempts; `true` when told to go on,
/// `false` when told to stop.
pub(super) async fn resumed(requests: &mut mpsc::Receiver<Request>) -> bool {
    while let Some(Request { command, reply }) = requests.recv().await {
        let said = match command {
            Command::Stop => {
                answer(reply, accepted("stops"));
                return false;
            }
            Command::Resume { tables } if tables.is_empty() => {
                answer(reply, accepted("goes on"));
                return true;
            }
            Command::Pause { tables } if tables.is_empty() => accepted("it is paused already"),
            _ => refusal("it is paused; resume it first"),
        };
        answer(reply, said);
    }
    std::future::pending().await
}

pub(super) fn answer(reply: oneshot::Sender<Answer>, answer: Answer) {
    // Whoever asked may be gone; the command is carried out all the same.
    drop(reply.send(answer));
}

pub(super) fn accepted(text: impl Into<String>) -> Answer {
    Answer {
        ok: true,
        text: text.into(),
        code: None,
    }
}

pub(super) fn refusal(text: impl Into<String>) -> Answer {
    Answer {
        ok: false,
        text: text.into(),
        code: None,
    }
}
