//! Conditions with a deadline: what tests use instead of sleeping.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Rests between two looks are at least and at most so long.
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_millis(500);
/// A rest is so many times as long as the look before it, so that tests which wait, and ask by starting a
/// program, leave the processors to what they wait for.
const RESTS_PER_LOOK: u32 = 3;

/// Asks `condition` until it answers with something, and fails at the deadline naming `what`.
/// An error of the condition counts as "not yet" and is told when the deadline has passed.
pub async fn wait_for<T, F, Fut>(deadline: Duration, what: &str, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let started = Instant::now();
    loop {
        let looked = Instant::now();
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
        let rest = looked.elapsed().saturating_mul(RESTS_PER_LOOK);
        tokio::time::sleep(rest.clamp(REST_MIN, REST_MAX)).await;
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
