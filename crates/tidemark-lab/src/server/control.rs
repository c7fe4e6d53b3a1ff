//! Starts, stops, kills, freezes and measures a server.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::builder::write_as_account;
use super::{Auth, PostgresServer};
use crate::installation;
use crate::process::{self, ServerProcess};
use crate::wait::wait_until;

/// The ways to stop a server (PostgreSQL 15, 19.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits for the clients to leave.
    Smart,
    /// Ends the sessions, lets walsenders send what is left.
    Fast,
    /// As a crash, but orderly for the operating system.
    Immediate,
}

const START_TIMEOUT: Duration = Duration::from_mins(1);
const STOP_TIMEOUT: Duration = Duration::from_mins(1);

impl PostgresServer {
    /// Starts a server that was stopped or killed, on the port it had.
    pub async fn start(&self) -> Result<()> {
        if self.postmaster_pid().is_some() {
            return Ok(());
        }
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.directory().join("log"))?;
        let program = self.installation.program("postgres");
        let mut command = installation::command(program, &self.data_directory());
        command.arg("-D").arg(self.data_directory());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        own_group(&mut command);
        let child = command.spawn().context("start postgres")?;
        let pid = child.id();
        *self.postmaster() = Some(child);
        let ready = wait_until(
            START_TIMEOUT,
            "the server to accept connections",
            || async { Ok(self.is_ready(pid) || self.postmaster_has_ended()?) },
        );
        ready.await?;
        if self.is_ready(pid) {
            return Ok(());
        }
        self.postmaster().take();
        bail!("the server does not start: {}", last_lines(&self.log()))
    }

    /// Stops it; its data stays until it is dropped.
    pub async fn stop(&self, how: Shutdown) -> Result<()> {
        let signal = match how {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        let Some(pid) = self.postmaster_pid() else {
            return Ok(());
        };
        kill(pid, signal)?;
        self.wait_for_the_end(&[pid]).await
    }

    /// Kills the postmaster and all its processes, as the kernel does when memory runs out.
    pub async fn kill9(&self) -> Result<()> {
        let pids = self.pids();
        for pid in &pids {
            // One that has just ended needs no killing.
            drop(kill(*pid, Signal::KILL));
        }
        self.wait_for_the_end(&pids).await
    }

    /// Stops it fast and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.stop(Shutdown::Fast).await?;
        self.start().await
    }

    /// Lets every process of it stand still. Its sockets stay open and accept, and nobody answers.
    pub fn freeze(&self) -> Result<()> {
        let Some(postmaster) = self.postmaster_pid() else {
            return Ok(());
        };
        // The postmaster first, and only then a look at its children: so no new one escapes.
        kill(postmaster, Signal::STOP)?;
        let children = process::children(postmaster).into_iter();
        children
            .map(|pid| kill(pid, Signal::STOP))
            .try_for_each(unless_ended)
    }

    /// Ends [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<()> {
        self.pids()
            .into_iter()
            .rev()
            .map(|pid| kill(pid, Signal::CONT))
            .try_for_each(unless_ended)
    }

    /// Whether its postmaster runs.
    pub fn is_running(&self) -> bool {
        self.postmaster_pid().is_some()
    }

    /// CPU time and memory of its processes, now.
    pub fn processes(&self) -> Vec<ServerProcess> {
        let Some(postmaster) = self.postmaster_pid() else {
            return Vec::new();
        };
        self.pids()
            .into_iter()
            .filter_map(|pid| process::measure(pid, postmaster))
            .collect()
    }

    /// CPU time of its live processes of one role, such as `walsender`.
    pub fn cpu_seconds(&self, role: &str) -> f64 {
        let processes = self.processes();
        processes
            .iter()
            .filter(|p| p.role == role)
            .map(|p| p.cpu_seconds)
            .sum()
    }

    /// Replaces `pg_hba.conf` by these lines and then the lab's own, and makes it hold.
    pub async fn set_access_rules(&self, first: &[&str]) -> Result<()> {
        let method = match &self.auth {
            Auth::Trust => "trust",
            Auth::Scram { .. } => "scram-sha-256",
        };
        let mut lines: Vec<String> = first.iter().map(|line| (*line).to_owned()).collect();
        // The lab's own way in is the socket; it stays open whatever a test forbids.
        lines.insert(
            0,
            format!("local all,replication {} {method}", super::SUPERUSER),
        );
        lines.push(format!("local all,replication all {method}"));
        lines.push(format!("host all,replication all all {method}"));
        write_as_account(
            &self.data_directory().join("pg_hba.conf"),
            &lines.join("\n"),
        )?;
        self.reload().await
    }

    /// Makes changed files and `ALTER SYSTEM` hold.
    pub async fn reload(&self) -> Result<()> {
        let client = self.client().await?;
        // A session started from now on sees the new rules only once the postmaster has read them,
        // which it does before it tells its children; our own session is such a child.
        let loaded = "SELECT extract(epoch FROM pg_conf_load_time())::text";
        let before: String = client.query_one(loaded, &[]).await?.get(0);
        client.execute("SELECT pg_reload_conf()", &[]).await?;
        wait_until(START_TIMEOUT, "the settings to be read", || async {
            let now: String = client.query_one(loaded, &[]).await?.get(0);
            Ok(now != before)
        })
        .await
    }

    pub(super) fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn postmaster_pid(&self) -> Option<u32> {
        let pid = self.postmaster().as_ref().map(Child::id)?;
        process::is_alive(pid).then_some(pid)
    }

    /// The postmaster and then its children.
    fn pids(&self) -> Vec<u32> {
        let Some(postmaster) = self.postmaster_pid() else {
            return Vec::new();
        };
        let mut pids = vec![postmaster];
        pids.extend(process::children(postmaster));
        pids
    }

    fn postmaster_has_ended(&self) -> Result<bool> {
        match self.postmaster().as_mut() {
            Some(child) => Ok(child.try_wait()?.is_some()),
            None => Ok(true),
        }
    }

    async fn wait_for_the_end(&self, pids: &[u32]) -> Result<()> {
        wait_until(STOP_TIMEOUT, "the server to end", || async {
            Ok(self.postmaster_has_ended()? && !pids.iter().any(|pid| process::is_alive(*pid)))
        })
        .await?;
        self.postmaster().take();
        Ok(())
    }

    /// Line 8 of postmaster.pid says so (PostgreSQL 15, src/include/utils/pidfile.h).
    fn is_ready(&self, pid: u32) -> bool {
        let file = self.data_directory().join("postmaster.pid");
        let Ok(text) = std::fs::read_to_string(file) else {
            return false;
        };
        let mut lines = text.lines();
        let is_ours = lines.next() == Some(&pid.to_string());
        is_ours
            && lines
                .nth(6)
                .is_some_and(|status| status.starts_with("ready"))
    }
}

fn kill(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no such pid")?;
    kill_process(raw, signal).with_context(|| format!("signal process {pid}"))
}

/// A session that ended between a look and a signal needs none.
fn unless_ended(signalled: Result<()>) -> Result<()> {
    match signalled {
        Err(error) if error.downcast_ref() == Some(&rustix::io::Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Ctrl-C at the terminal is for the owner, which then stops the server itself.
fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

pub(super) fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines
        .get(lines.len().saturating_sub(8)..)
        .unwrap_or_default()
        .join("\n")
}
