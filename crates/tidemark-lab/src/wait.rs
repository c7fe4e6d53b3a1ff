//! Conditions with a deadline: what tests use instead of sleeping.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks `condition` until it answers with something, and fails at the deadline naming `what`.
/// An error of the condition counts as "not yet" and is told when the deadline has passed.
pub async fn wait_for<T, F, Fut>(deadline: Duration, what: &str, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let started = Instant::now();
    loop {
        let last = match condition().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= deadline {
            match last {
                Some(error) => {
                    return Err(error.context(format!("waited {deadline:?} in vain for {what}")));
                }
                None => bail!("waited {deadline:?} in vain for {what}"),
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// As [`wait_for`], for a condition that only is or is not so.
pub async fn wait_until<F, Fut>(deadline: Duration, what: &str, mut condition: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    wait_for(deadline, what, || {
        let answer = condition();
        async move { Ok(answer.await?.then_some(())) }
    })
    .await
}
