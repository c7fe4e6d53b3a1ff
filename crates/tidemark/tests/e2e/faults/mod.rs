//! What breaks around a pipeline, and in it: networks, servers, disks, signals, clocks, whoever else
//! writes. `catalogue.toml` lists it; a test is named after the row that it shows.
//!
//! Most of it happens to the same [`Rig`]: real servers with a wire on each side, three kinds of
//! writers on the source, somebody who adds up the bank on the target all the while. Afterwards the
//! oracle is always the same.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::traffic::bank::BankReader;
use tidemark_lab::{Proxy, wait_for};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::asks::text;
use crate::oracle;
use crate::stage::{PATIENCE, Running, Stage};
use crate::writers::Writers;

mod clocks;
mod failover;
mod load;
mod machine;
mod majors;
mod memory;
mod network;
mod rights;
mod servers;
mod signals;
mod soak;
mod source;
mod stops;
mod target;
mod undecided;
mod waits;

/// A pipeline that is written to and watched.
struct Rig {
    stage: Stage,
    source_wire: Proxy,
    target_wire: Proxy,
    writers: Writers,
    reader: JoinHandle<BankReader>,
}

impl Rig {
    /// On servers that others use as well.
    async fn new(name: &str) -> Rig {
        let server = PostgresServer::shared().await.unwrap();
        Rig::on(server, server, name).await
    }

    async fn on(
        source: &'static PostgresServer,
        target: &'static PostgresServer,
        name: &str,
    ) -> Rig {
        let stage = Stage::on(source, target, name).await;
        let source_wire = Proxy::start(source.port()).await.unwrap();
        let target_wire = Proxy::start(target.port()).await.unwrap();
        let lines = oracle::strict_file(&stage);
        let source_url = source.url_through(source_wire.address(), &stage.source_name);
        let target_url = target.url_through(target_wire.address(), &stage.target_name);
        stage.write_between(&source_url, &target_url, &lines);
        let writers = Writers::start(&stage).await;
        let reader = oracle::watch_the_bank(&stage);
        Rig {
            stage,
            source_wire,
            target_wire,
            writers,
            reader,
        }
    }

    /// A run that has come to the stream, with something new from it.
    async fn streams(&self) -> Running {
        let run = self.stage.start(&["run", "FILE"]);
        oracle::comes_through(&self.stage).await;
        self.something_new_arrives().await;
        run
    }

    async fn something_new_arrives(&self) {
        oracle::something_new_arrives(&self.stage).await;
    }

    /// Waits until the source is so many transfers ahead of the target.
    async fn backlog(&self, wanted: i64) {
        let count = "SELECT count(*) FROM bank_transfers";
        let there = text(&self.stage.target, count).await.unwrap();
        let there: i64 = there.parse().unwrap();
        wait_for(PATIENCE, "a backlog on the source", || async {
            let here: i64 = text(&self.stage.source, count).await?.parse()?;
            Ok((here > there + wanted).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Sessions of the test itself, after a server has gone and come back.
    async fn connect_again(&mut self) {
        self.stage.connect_again().await;
    }

    /// The oracle.
    async fn ends_well(self, run: Running) {
        let mut reader = self.reader.await.unwrap();
        timeout(PATIENCE, reader.sees_a_change())
            .await
            .unwrap_or_else(|_| panic!("nobody saw the bank move\n{}", self.stage.log()))
            .unwrap();
        self.writers.rest().await;
        oracle::comes_through(&self.stage).await;
        let name = self.stage.name.clone();
        oracle::ends_well(&self.stage, run, reader, &name).await;
    }
}

pub(crate) async fn own_server(settings: &[(&str, &str)]) -> &'static PostgresServer {
    let mut builder = PostgresServer::builder();
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    Box::leak(Box::new(builder.start().await.unwrap()))
}

/// How often a run of this stage went on after an error.
fn retries(stage: &Stage) -> usize {
    stage.log().matches("; tries again in ").count()
}

/// The program in place of a shell that has done this first.
fn limited(stage: &Stage, first: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{first} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_tidemark"))
        .args(["run"])
        .arg(stage.file())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .current_dir(stage.directory());
    command
}
