//! The stage: two servers with the same settings, and the programs that are measured on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tidemark_lab::server::quoted;
use tidemark_lab::{Installation, PostgresServer};

use crate::meter::wait_and_watch;

/// Settings of both servers, where they are not the defaults. All contestants meet the same.
pub(crate) const SERVER_SETTINGS: [(&str, &str); 17] = [
    ("wal_level", "logical"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "on"),
    ("shared_buffers", "1GB"),
    ("maintenance_work_mem", "256MB"),
    ("max_wal_size", "32GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("max_slot_wal_keep_size", "24GB"),
    ("max_worker_processes", "20"),
    ("max_logical_replication_workers", "10"),
    // Else the launcher may let a subscription wait for five seconds, which says nothing of speed.
    ("wal_retrieve_retry_interval", "200ms"),
    ("wal_sender_timeout", "10min"),
    ("wal_receiver_timeout", "10min"),
    ("dynamic_shared_memory_type", "mmap"),
];

/// Two servers, a directory for files, and the programs.
pub(crate) struct Stage {
    pub(crate) source: PostgresServer,
    pub(crate) target: PostgresServer,
    pub(crate) tidemark: PathBuf,
    directory: tempfile::TempDir,
}

/// A database on the stage. `source` and `target` may have one of the same name.
#[derive(Clone, Copy)]
pub(crate) struct Database<'a> {
    pub(crate) server: &'a PostgresServer,
    pub(crate) name: &'a str,
}

impl Stage {
    /// Starts both servers. Their major is that of the client programs, so that all of these work.
    pub(crate) async fn start(tidemark: &Path) -> Result<Stage> {
        let major = client_major()?;
        let server = || {
            let builder = PostgresServer::builder().major(major);
            SERVER_SETTINGS
                .iter()
                .fold(builder, |b, (n, v)| b.setting(n, v))
        };
        let tidemark = tidemark
            .canonicalize()
            .with_context(|| format!("no program at {}", tidemark.display()))?;
        Ok(Stage {
            source: server().start().await?,
            target: server().start().await?,
            tidemark,
            directory: tempfile::tempdir()?,
        })
    }

    pub(crate) fn on_source<'a>(&'a self, name: &'a str) -> Database<'a> {
        Database {
            server: &self.source,
            name,
        }
    }

    pub(crate) fn on_target<'a>(&'a self, name: &'a str) -> Database<'a> {
        Database {
            server: &self.target,
            name,
        }
    }

    /// A file of the run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the servers are.
    pub(crate) fn version(&self) -> &Installation {
        self.source.installation()
    }

    /// Writes everything out, so that a contestant does not pay for what went before it.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.source.execute("CHECKPOINT").await?;
        self.target.execute("CHECKPOINT").await
    }
}

impl Database<'_> {
    /// Makes it, after removing what was there; `template` is another one on the same server.
    pub(crate) async fn make(&self, template: Option<&str>) -> Result<()> {
        self.drop().await?;
        let client = self.server.client().await?;
        let name = quoted(self.name);
        let template = quoted(template.unwrap_or("template0"));
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
        client
            .batch_execute(&sql)
            .await
            .with_context(|| format!("create database {name}"))
    }

    /// Removes it, its slots and its sessions.
    pub(crate) async fn drop(&self) -> Result<()> {
        let client = self.server.client().await?;
        let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                     WHERE database = $1 AND NOT active";
        client.execute(slots, &[&self.name]).await?;
        let name = quoted(self.name);
        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        client
            .batch_execute(&sql)
            .await
            .with_context(|| format!("drop database {name}"))
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        self.server.execute_in(self.name, sql).await
    }

    /// Writes a backlog, no commit waiting for the disk, and behind it the marker that shows its end.
    pub(crate) async fn make_backlog(&self, sql: &str) -> Result<()> {
        let client = self.server.client_to(self.name).await?;
        client.batch_execute("SET synchronous_commit = off").await?;
        client
            .batch_execute(sql)
            .await
            .context("make the backlog")?;
        client.batch_execute("SET synchronous_commit = on").await?;
        client
            .batch_execute("UPDATE bench_marker SET n = 1")
            .await?;
        Ok(())
    }

    /// The only value of the only row, as text.
    pub(crate) async fn value(&self, sql: &str) -> Result<String> {
        let client = self.server.client_to(self.name).await?;
        let sql = format!("SELECT coalesce(({sql})::text, '')");
        let row = client
            .query_one(&sql, &[])
            .await
            .context("ask for a value")?;
        Ok(row.get(0))
    }

    /// By TCP over loopback: the way of every contestant.
    pub(crate) fn url(&self) -> String {
        self.server.url_to(self.name)
    }

    /// The same for libpq, as a subscription wants it.
    pub(crate) fn conninfo(&self) -> String {
        let port = self.server.port();
        format!(
            "host=127.0.0.1 port={port} user=postgres dbname={}",
            self.name
        )
    }

    /// `psql` for one command, which reports errors and reads no start-up file.
    pub(crate) fn psql(&self, sql: &str) -> Command {
        let mut command = program("psql");
        command.args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.url(),
            "-c",
            sql,
        ]);
        command
    }
}

/// A program that shall not see our environment's idea of a server.
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Whether a program is on this machine.
pub(crate) fn version_of(name: &str) -> Option<String> {
    let output = Command::new(name).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let text = if text.trim().is_empty() {
        String::from_utf8_lossy(&output.stderr)
    } else {
        text
    };
    output.status.success().then(|| {
        let line = text.lines().find(|l| l.contains(name)).unwrap_or_default();
        line.trim().to_owned()
    })
}

fn client_major() -> Result<u32> {
    let version = version_of("pg_dump").context("pg_dump is not on this machine")?;
    let number = version
        .split_whitespace()
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
    number
        .and_then(|n| n.split('.').next()?.parse().ok())
        .with_context(|| format!("no version in {version:?}"))
}

/// Runs a program to its end, with what it said going to a file, and tells the most memory it had.
pub(crate) fn complete(command: &mut Command, log: &Path) -> Result<u64> {
    let mut child = begin(command, log)?;
    let (status, peak) = wait_and_watch(&mut child)?;
    if !status.success() {
        bail!("{}: {status}: {}", name(command), last_lines(log));
    }
    Ok(peak)
}

/// Starts a program with what it says going to a file.
pub(crate) fn begin(command: &mut Command, log: &Path) -> Result<Child> {
    let file = std::fs::File::create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    command
        .spawn()
        .with_context(|| format!("start {}", name(command)))
}

/// Runs `left | right`.
pub(crate) fn pipe(left: &mut Command, right: &mut Command) -> Result<()> {
    left.stdout(Stdio::piped());
    let mut first = left
        .spawn()
        .with_context(|| format!("start {}", name(left)))?;
    let between = first.stdout.take().context("the first has no output")?;
    right.stdin(between).stdout(Stdio::null());
    let second = right
        .spawn()
        .with_context(|| format!("start {}", name(right)));
    let statuses = (second?.wait()?, first.wait()?);
    if !statuses.0.success() || !statuses.1.success() {
        bail!(
            "{} | {}: {} and {}",
            name(left),
            name(right),
            statuses.1,
            statuses.0
        );
    }
    Ok(())
}

fn name(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The end of what a program said.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}
