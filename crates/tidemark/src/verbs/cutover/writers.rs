//! Whoever writes to the source is made to stop: by a command, by a fence, or by the person who is
//! asked to.

use std::process::Stdio;

use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::Side;

use super::{Cutover, Fence, Hook};
use crate::output::numbers::counted;
use crate::problem::Failure;
use crate::systems;

impl Cutover<'_> {
    /// Stops the writers; says how.
    pub(super) async fn stop_writers(&self) -> Result<String, Failure> {
        let mut said = Vec::new();
        if let Some(command) = &self.wishes.stop_writers {
            self.undo().stopped = true;
            self.company.runs(Hook::StopWriters, command).await?;
            said.push("stopped by the command".to_owned());
        }
        if self.wishes.fence {
            said.push(self.fence().await?);
        }
        if said.is_empty() {
            let effect = format!(
                "Stop everything that writes to {} now. From here on the source must stay as it is \
                 until this is done or given up.",
                systems::address(&self.opened.config, Side::Source)?.0
            );
            self.company.agrees(effect).await?;
            said.push("stopped by hand".to_owned());
        }
        Ok(said.join(", "))
    }

    async fn fence(&self) -> Result<String, Failure> {
        let config = &self.opened.config;
        let is_fenced = systems::is_fenced(config, Side::Source);
        let fence = if self.in_time(is_fenced).await? {
            Fence::Found
        } else {
            Fence::Ours
        };
        self.undo().fence = Some(fence);
        let raised = self.in_time(systems::raise_fence(config)).await?;
        let ended = counted(raised.ended as u64, "session");
        if raised.left.is_empty() {
            return Ok(format!("the source is read-only by default, {ended} ended"));
        }
        Ok(format!(
            "the source is read-only by default, {ended} ended; not ended: {}",
            raised.left.join(", ")
        ))
    }
}

/// Runs a command of whoever is here. What it prints goes where talk goes.
pub(super) async fn run(command: &str, pipeline: &str) -> Result<(), Failure> {
    let failed = |how: String| Error::definite(codes::CUTOVER_HOOK, format!("`{command}` {how}"));
    let status = tokio::process::Command::new("sh")
        .args(["-c", command])
        .env("TIDEMARK_PIPELINE", pipeline)
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|err| failed(format!("could not be run: {err}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(format!("ended with {status}")).into())
    }
}
