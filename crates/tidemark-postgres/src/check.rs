//! What stands in the way on a source, each with its remedy.
//!
//! Asked in a handful of queries, whatever the number of tables, and nothing is changed. Statements
//! are given with names as the server quotes them, so that they can be run as they are printed. What
//! is fine is told too: a person sees what was looked at.
//!
//! - `server`: version, settings, the role
//! - `tables`: privileges, policies, how old rows are told apart
//! - `log`: slot, publication, how much log is kept
//! - `waiting`: transactions that a new slot has to wait for
//!
//! Two things are looked at on this machine: the directories that large transactions, and the log of a target
//! that stands still, will need later.

use std::path::Path;
use std::time::Duration;

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::config::Create;
use tidemark_core::finding::{Finding, Fix, Report, Side};
use tidemark_core::mapping::TableMapping;
use tidemark_core::source::WillStream;

use crate::config::{ConnectConfig, SslMode};
use crate::cutover::fence;
use crate::source::{RelayOptions, spool};
use crate::wire::{Connection, Role};

mod log;
mod server;
mod tables;
mod waiting;

/// What is checked, for whom.
#[derive(Clone, Copy, Debug)]
pub struct SourceCheck<'a> {
    /// Where the source is.
    pub connect: &'a ConnectConfig,
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The slot's name.
    pub slot: &'a str,
    /// The publication's name.
    pub publication: &'a str,
    /// Whether we make what is missing of the two.
    pub create: Create,
    /// What is to be copied.
    pub tables: &'a [TableMapping],
    /// Whether the log will be read.
    pub will_stream: WillStream,
    /// Transactions that have been open for longer are named.
    pub long_transaction: Duration,
    /// Where transactions in progress will be put aside.
    pub spool_dir: &'a Path,
    /// Where the log is kept while the target does not keep up.
    pub relay: Option<&'a RelayOptions>,
}

impl SourceCheck<'_> {
    /// See the module's text.
    pub async fn run(&self) -> Result<Vec<Finding>> {
        let mut report = Report::of(Side::Source);
        let mut connection = Connection::connect(self.connect, Role::Ordinary).await?;
        report.pass(
            codes::SOURCE_UNREACHABLE,
            reached(self.connect, &connection),
        );
        if connection.is_pooled() {
            report.fail(
                codes::SOURCE_POOLER,
                "a connection pooler answers in place of the server",
                "Neither a change stream nor the load's snapshot passes through it.",
                [Fix::text(
                    "give the address of the server itself in source.url",
                )],
            );
        } else {
            report.pass(codes::SOURCE_POOLER, "no pooler in between");
        }
        let facts = server::read(&mut connection, self).await?;
        server::check(&mut report, &facts, self).await?;
        if facts.is_supported() {
            let owns = tables::check(&mut connection, &mut report, &facts, self).await?;
            if self.will_stream == WillStream::Yes {
                log::check(&mut connection, &mut report, &facts, owns, self).await?;
                waiting::check(&mut connection, &mut report, self).await?;
                fence(&mut connection, &mut report, self.pipeline).await?;
                spool_dir(&mut report, self.spool_dir).await;
                if let Some(relay) = self.relay {
                    relay_dir(&mut report, relay, self.pipeline).await;
                }
            }
        }
        connection.close().await;
        Ok(report.into_findings())
    }
}

/// How a server was reached.
pub(crate) fn reached(config: &ConnectConfig, connection: &Connection) -> String {
    let is_verified = |host| {
        let mode = config.ssl_mode_for(host);
        matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull)
    };
    let verified = config.hosts.iter().all(is_verified);
    let how = match (connection.is_encrypted(), verified) {
        (true, true) => "TLS verified",
        (true, false) => "TLS, the server's certificate is not verified",
        (false, _) => "without TLS",
    };
    format!("reachable, {how}")
}

/// What a cutover that is killed leaves behind.
async fn fence(connection: &mut Connection, report: &mut Report, pipeline: &str) -> Result<()> {
    if fence::is_raised_at(connection).await? {
        report.warn(
            codes::SOURCE_FENCED,
            "the database is read-only by default, as a cutover makes it",
            "Applications cannot write to it. A cutover under way takes that back if it is given up; one \
             that was killed did not, and one that is done leaves it so.",
            [Fix::text(format!(
                "tidemark cutover {pipeline} --abort, if no cutover is under way and none is done"
            ))],
        );
    }
    Ok(())
}

/// A large transaction must not be the first to find out.
async fn spool_dir(report: &mut Report, directory: &Path) {
    match spool::try_directory(directory.to_path_buf()).await {
        Ok(()) => report.pass(
            codes::SPOOL_FAILED,
            format!("{} can be written", directory.display()),
        ),
        Err(error) => report.fail(
            codes::SPOOL_FAILED,
            error.to_string(),
            "Large transactions wait there for their commit.",
            [Fix::text(error.action())],
        ),
    }
}

/// A target that stands still must not be the first to find out.
async fn relay_dir(report: &mut Report, relay: &RelayOptions, pipeline: &str) {
    match relay.try_directory(pipeline).await {
        Err(error) => report.fail(
            codes::RELAY_FAILED,
            error.to_string(),
            "The source's log is kept there while the target does not keep up.",
            [Fix::text(error.action())],
        ),
        Ok(room) => {
            let directory = relay.directory.display();
            report.pass(codes::RELAY_FAILED, format!("{directory} can be written"));
            let found = format!(
                "{directory} has room for {} MB, relay_max is {} MB",
                room / 1_000_000,
                relay.bytes_max / 1_000_000
            );
            if room >= relay.bytes_max {
                report.pass(codes::RELAY_ROOM, found);
                return;
            }
            report.warn(
                codes::RELAY_ROOM,
                found,
                "Once the disk is full the source keeps its log as without a relay log, and other \
                 programs find no room either.",
                [Fix::text(
                    "set source.postgres.relay_dir to a larger disk, or relay_max to what this one has",
                )],
            );
        }
    }
}

/// A setting that takes effect when the configuration is read again.
fn alter_system(name: &str, value: &str) -> Fix {
    Fix::sql(format!(
        "ALTER SYSTEM SET {name} = '{value}';\nSELECT pg_reload_conf()"
    ))
}
