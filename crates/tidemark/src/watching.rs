//! `--watch`: the same answer again and again, in place on a terminal, one after the other elsewhere.

use std::time::Duration;

use clap::Args;

use crate::invocation::Invocation;
use crate::output::Outcome;

/// How often.
pub(crate) const EVERY: Duration = Duration::from_secs(2);

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Once, or until a signal ends the invocation.
pub(crate) async fn repeat(
    invocation: &Invocation,
    watch: Watch,
    mut once: impl AsyncFnMut() -> Outcome,
) -> Outcome {
    if !watch.watch {
        return once().await;
    }
    loop {
        let answer = once().await?;
        invocation.talk.watch(&answer);
        tokio::time::sleep(EVERY).await;
    }
}

impl Watch {
    /// Whether it was asked for. Ctrl-C is then the way to end, and nothing to speak of.
    pub(crate) fn is_on(self) -> bool {
        self.watch
    }
}
