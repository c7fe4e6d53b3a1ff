//! The way in for commands, and their answers.

use tokio::sync::{mpsc, oneshot};

use crate::control::{Answer, Command};
use crate::error::Result;

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
}

impl Commander {
    /// Sends a command and waits for its answer. A pipeline that has ended answers so.
    pub async fn ask(&self, command: Command) -> Answer {
        let (reply, answer) = oneshot::channel();
        let ended = || refusal("the pipeline has ended");
        let interrupted = || refusal("the pipeline was interrupted before it had done that");
        if self.sender.send(Request { command, reply }).await.is_err() {
            return ended();
        }
        answer.await.unwrap_or_else(|_| interrupted())
    }
}

impl Lasting {
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

/// Answers requests while there is nothing that could serve them; returns when told to stop.
pub(super) async fn stop_requested(requests: &mut mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request.command {
            Command::Stop => {
                answer(request.reply, accepted("stops"));
                return;
            }
            _ => answer(
                request.reply,
                refusal("not while the pipeline loads or connects; try again"),
            ),
        }
    }
    // Nobody can ask any more: wait for ever, the other branch of the select ends it.
    std::future::pending::<()>().await;
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
