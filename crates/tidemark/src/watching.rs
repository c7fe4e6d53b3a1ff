//! `--watch`: the same answer again and again, in place on a terminal, one after the other elsewhere.

use std::time::Duration;

use clap::Args;
use tidemark_core::ErrorKind;

use crate::invocation::Invocation;
use crate::output::{Outcome, Verdict};
use crate::problem::Failure;

/// How often.
pub(crate) const EVERY: Duration = Duration::from_secs(2);

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// What ends a watch besides a signal: an answer with this verdict.
pub(crate) type EndsAt = Option<Verdict>;

/// Once, or until it is as wanted, or until a signal ends the invocation. A side that cannot be
/// reached for a while does not end a watch: that is what one watches for. Where nothing is waited for it
/// ends with its reader (`| head`).
pub(crate) async fn repeat(
    invocation: &Invocation,
    watch: Watch,
    ends_at: EndsAt,
    mut once: impl AsyncFnMut() -> Outcome,
) -> Outcome {
    if !watch.watch {
        return once().await;
    }
    loop {
        match once().await {
            Ok(answer) if Some(answer.verdict) == ends_at => {
                invocation.talk.screen.clear();
                return Ok(answer);
            }
            Ok(answer) => {
                invocation.talk.watch(&answer);
                if ends_at.is_none() && invocation.talk.screen.is_unheard() {
                    return Ok(answer);
                }
            }
            Err(Failure::Error(err)) if err.kind() == ErrorKind::Transient => {
                invocation.talk.watch_failure(&Failure::Error(err));
            }
            failed => {
                invocation.talk.screen.clear();
                return failed;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Watch {
    /// Whether it was asked for. Ctrl-C is then the way to end, and nothing to speak of.
    pub(crate) fn is_on(self) -> bool {
        self.watch
    }
}
