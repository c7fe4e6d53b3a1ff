//! What goes wrong while tables change, and what is asked of the run meanwhile.

use std::time::Duration;

use tidemark_core::failpoint;
use tidemark_lab::wait_for;

use super::Story;
use super::besides::Besides;
use crate::asks::text;
use crate::stage::{PATIENCE, Running};

/// A comparison takes longer than what is only asked.
const COMPARED: Duration = Duration::from_secs(4);
const ASKED: Duration = Duration::from_secs(1);

impl Story {
    /// Something goes wrong, or is asked for.
    pub(super) async fn fault(&mut self, mut run: Running) -> Running {
        if !run.is_running() {
            let log = run.log();
            assert!(self.is_armed, "SEED={} {}\n{log}", self.seed, self.story());
            self.told.push("-- was killed at a fail point".to_owned());
            run = self.start();
        }
        let table = self.make.pick(&self.tables).map(|table| table.name.clone());
        let table = format!("public.{}", table.unwrap_or_default());
        let of_table = ["FILE", "--table", &table, "--yes", "--no-wait"];
        let fault = match self.make.below(14) {
            0 | 1 => {
                run.kill9().await;
                run = self.start();
                "killed"
            }
            2 => {
                self.source_wire.cut();
                "source cut"
            }
            3 => {
                self.target_wire.cut();
                "target cut"
            }
            4 | 5 => {
                // The story's own open transactions may hold what it waits for on the source.
                let code = run.terminate().await;
                // 3: tables are set aside. By a signal: it was not yet ready for this one, or is at a fail
                // point.
                let is_ended = matches!(code, Some(0 | 3) | None);
                let log = self.stage.log();
                assert!(
                    is_ended,
                    "SEED={} {code:?} {}\n{log}",
                    self.seed,
                    self.story()
                );
                run = self.start();
                "stopped"
            }
            6..=8 => {
                run.kill9().await;
                run = self.start_armed();
                "a fail point"
            }
            9 if self.besides == Besides::Planted => {
                self.asks(ASKED, &["retry", "FILE"]).await;
                "retry"
            }
            10 if self.besides == Besides::Planted => {
                self.asks(ASKED, &["skip", "FILE", "--table", &table]).await;
                "skip"
            }
            9 => {
                self.asks(ASKED, &["pause", "FILE", "--table", &table])
                    .await;
                "paused"
            }
            10 => {
                let resync = [&["resync"][..], &of_table, &["--strategy", "truncate"]].concat();
                self.asks(ASKED, &resync).await;
                self.is_loaded_in_place = true;
                "resync in place"
            }
            11 => {
                self.asks(ASKED, &[&["resync"][..], &of_table].concat())
                    .await;
                "resync"
            }
            12 => {
                let reconcile = ["reconcile", "FILE", "--table", &table, "--yes"];
                self.asks(ASKED, &reconcile).await;
                "reconcile"
            }
            _ => {
                let verify = ["verify", "FILE", "--deep", "--table", &table, "--json"];
                let said = self.asks(COMPARED, &verify).await;
                let is_alarm = said.contains("\"result\":\"different\"");
                assert!(!is_alarm, "SEED={} {}: {said}", self.seed, self.story());
                "verify"
            }
        };
        self.told.push(format!("-- {fault}: {table}"));
        run
    }

    pub(super) fn start(&mut self) -> Running {
        self.is_armed = false;
        self.stage.start(&["run", "FILE"])
    }

    /// A run that is killed when it comes to a step, if it does.
    fn start_armed(&mut self) -> Running {
        self.is_armed = true;
        let point = self.make.pick(failpoint::ALL).copied();
        let point = point.map_or("", failpoint::FailPoint::name);
        let nth = 1 + self.make.below(3);
        self.told.push(format!("-- {point}:{nth}"));
        let mut command = self.stage.command(&["run", "FILE"]);
        command.env("TIDEMARK_FAILPOINT", format!("{point}:{nth}"));
        self.stage.spawn(command)
    }

    /// SIGKILL, where it still runs.
    pub(super) async fn end(&mut self, mut run: Running) {
        if run.is_running() {
            run.kill9().await;
        } else {
            let log = run.log();
            assert!(self.is_armed, "SEED={} {}\n{log}", self.seed, self.story());
        }
    }

    /// Asks for something, and gives the answer. Who does not answer may be waiting for writers of ours, who
    /// wait for the answer: nobody waits any longer, and whoever asked is killed.
    async fn asks(&self, limit: Duration, arguments: &[&str]) -> String {
        let asked = self.stage.command(arguments).output();
        let answered = tokio::time::timeout(limit, asked).await;
        let output = answered.ok().and_then(Result::ok);
        output.map_or_else(String::new, |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// As soon as the run takes it.
    pub(super) async fn resume(&self, table: &str) {
        let resume = ["resume", "FILE", "--table", table];
        let resumed = wait_for(PATIENCE, "the table to go on", || async {
            Ok((self.stage.run(&resume).await.code == Some(0)).then_some(()))
        });
        let resumed = resumed.await;
        resumed.unwrap_or_else(|err| panic!("SEED={} {err:#}\n{}", self.seed, self.stage.log()));
    }

    /// Slots that were made for a moment, and sessions of the pipeline, are gone with the run.
    pub(super) async fn nothing_is_left(&self) {
        let left = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND temporary";
        let gone = wait_for(PATIENCE, "temporary slots to be gone", || async {
            Ok((text(&self.stage.source, left).await? == "0").then_some(()))
        });
        gone.await
            .unwrap_or_else(|err| panic!("SEED={} {err:#}", self.seed));
        assert_eq!(self.stage.slots().await.len(), 1, "SEED={}", self.seed);
    }
}
