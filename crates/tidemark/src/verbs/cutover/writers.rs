//! Whoever writes to the source is made to stop: by a command, by a fence, or by the person who is
//! asked to.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::Side;

use super::{Cutover, Fence, Hook};
use crate::output::Talk;
use crate::output::numbers::{counted, duration};
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
                 until this is done or given up. That is {} from now at the latest (--max-downtime), \
                 whenever you answer.",
                systems::address(&self.opened.config, Side::Source)?.0,
                duration(self.wishes.max_downtime)
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

/// Runs a command of whoever is here. What it prints goes where talk goes. One that stops the writers and is
/// given up ends with all that it has started: whatever of it went on would stop writers that are there again.
/// At a terminal its shell alone ends: what asks there (for a password) has to be in our group of processes.
pub(super) async fn run(
    talk: &Talk,
    hook: Hook,
    command: &str,
    pipeline: &str,
) -> Result<(), Failure> {
    let failed = |how: String| Error::definite(codes::CUTOVER_HOOK, format!("`{command}` {how}"));
    let mut shell = tokio::process::Command::new("sh");
    shell
        .args(["-c", command])
        .env("TIDEMARK_PIPELINE", pipeline)
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true);
    let is_apart = hook == Hook::StopWriters && std::fs::File::open("/dev/tty").is_err();
    if is_apart {
        shell.process_group(0);
    }
    let not_run = |err| failed(format!("could not be run: {err}"));
    let mut child = shell.spawn().map_err(not_run)?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group {
        leader: id.filter(|_| is_apart).and_then(Pid::from_raw),
        command,
        talk,
    };
    let status = child.wait().await.map_err(not_run)?;
    group.leader = None;
    if status.success() {
        Ok(())
    } else {
        Err(failed(format!("ended with {status}")).into())
    }
}

/// A command and all that it has started, until it has ended.
struct Group<'a> {
    leader: Option<Pid>,
    command: &'a str,
    talk: &'a Talk,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // Nobody has waited for the leader, so its number is nobody else's.
        let Some(leader) = self.leader else {
            return;
        };
        if kill_process_group(leader, Signal::KILL).is_ok() {
            let command = self.command;
            self.talk.say(&format!(
                "`{command}` had not ended: it was killed with all that it had started here"
            ));
        }
    }
}
