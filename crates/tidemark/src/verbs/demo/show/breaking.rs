//! Breaking the demo on purpose: kill the worker, cut the wire, freeze the target, change a table,
//! let it meet a row that the target refuses. After each the same proof: both sides compared at one
//! position, what was written meanwhile, and how many rows are lost, doubled or different.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::control::{Command, ResyncStrategy};
use tidemark_core::schema::TableName;
use tidemark_core::status::{TableStatus, TableStatusState};
use tidemark_core::verify::compare::{Outcome, Report};
use tidemark_core::verify::difference::DifferenceKind;
use tidemark_lab::traffic::TrafficReport;
use tokio::sync::mpsc::UnboundedSender;

use super::{Show, is_caught_up};
use crate::demo::orders::{Break, Order, Reply};
use crate::output::numbers::{counted, duration, grouped};
use crate::output::style::Style;
use crate::problem::Failure;
use crate::standing::Standing;
use crate::verbs::control;

/// How long the target is cut off or frozen.
const OUT_FOR: Duration = Duration::from_secs(10);

impl Show<'_> {
    /// Carries an order out and answers it.
    pub(super) async fn obey(&mut self, order: Order) {
        let said = Said {
            replies: order.replies,
        };
        let before = self.written();
        let done = match order.what {
            Break::Kill => self.kill(&said).await,
            Break::Network => self.cut(&said).await,
            Break::Freeze => self.freeze(&said).await,
            Break::Ddl => self.alter(&said).await,
            Break::Poison => self.poison(&said).await,
        };
        let reply = match done {
            Ok(seen) => self.prove(&said, before, seen).await,
            Err(failure) => Err(failure),
        };
        said.reply(reply.unwrap_or_else(|failure| {
            Reply::Failed(match failure {
                Failure::Error(err) => err.to_string(),
                other => other.text(Style::PLAIN, None),
            })
        }));
    }

    async fn kill(&mut self, said: &Said) -> Result<Value, Failure> {
        let Some(worker) = self.worker.as_mut() else {
            return Ok(json!({}));
        };
        let killed = worker.pid();
        worker.kill9().await?;
        said.tick(&format!(
            "killed    kill -9 {}, the process that runs the pipeline",
            killed.unwrap_or_default()
        ));
        let started = self.replace_worker().await?.pid();
        said.tick(&format!(
            "started   pid {}, from the checkpoint",
            started.unwrap_or_default()
        ));
        // A report of the killed process may still be fresh: the new one reports its own pid.
        self.goes_on(said, |standing| {
            matches!(
                &standing.life,
                crate::standing::Life::Running(owner) if Some(owner.pid) == started
            )
        })
        .await?;
        Ok(json!({ "killed_pid": killed, "started_pid": started }))
    }

    async fn cut(&mut self, said: &Said) -> Result<Value, Failure> {
        self.servers.wire()?.refuse();
        let time = duration(OUT_FOR);
        said.tick(&format!(
            "cut       the target cannot be reached for {time}"
        ));
        tokio::time::sleep(OUT_FOR).await;
        self.servers.wire()?.accept();
        said.tick("healed    the target can be reached again");
        self.goes_on(said, |_| true).await?;
        Ok(json!({ "cut_seconds": OUT_FOR.as_secs() }))
    }

    async fn freeze(&mut self, said: &Said) -> Result<Value, Failure> {
        self.servers.freeze_target()?;
        let time = duration(OUT_FOR);
        said.tick(&format!(
            "frozen    every process of the target stands still for {time} (SIGSTOP)"
        ));
        tokio::time::sleep(OUT_FOR).await;
        self.servers.thaw_target()?;
        said.tick("thawed    the target goes on");
        self.goes_on(said, |_| true).await?;
        Ok(json!({ "frozen_seconds": OUT_FOR.as_secs() }))
    }

    /// Until the stream has caught up, and what else is wanted.
    async fn goes_on(
        &mut self,
        said: &Said,
        is_wanted: impl Fn(&Standing) -> bool,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        self.wait_for("the stream to go on", |standing| {
            is_wanted(standing) && is_caught_up(standing)
        })
        .await?;
        let time = duration(began.elapsed());
        said.tick(&format!("stream    caught up {time} later"));
        Ok(())
    }

    /// A new column on a busy table, filled for every row that is there.
    async fn alter(&mut self, said: &Said) -> Result<Value, Failure> {
        self.altered += 1;
        let column = format!("note_{}", self.altered);
        let sql =
            format!("ALTER TABLE customers ADD COLUMN {column} text DEFAULT 'added under load'");
        self.servers.change_source(&sql).await?;
        said.tick(&format!("altered   {sql}"));
        // The target learns of it with the next change of the table.
        let change = format!("UPDATE customers SET {column} = 'seen' WHERE id = 1");
        self.servers.change_source(&change).await?;
        let began = Instant::now();
        let arrived = format!(
            "SELECT (count(*) FILTER (WHERE column_name = '{column}'))::text \
             FROM information_schema.columns WHERE table_schema = 'dw' AND table_name = 'customers'"
        );
        while self.servers.ask_target(&arrived).await? != "1" {
            if began.elapsed() > super::PATIENCE {
                return Err(Error::transient(
                    codes::CLI_NO_ANSWER,
                    format!("column {column} did not arrive on the target"),
                )
                .into());
            }
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
        said.tick(&format!(
            "applied   the target has {column} {} later",
            duration(began.elapsed())
        ));
        Ok(json!({ "column": column }))
    }

    /// A row that the target refuses: its table goes aside, the others stream on; then the cause goes
    /// and the table comes back.
    async fn poison(&mut self, said: &Said) -> Result<Value, Failure> {
        const REFUSE: &str = "ALTER TABLE dw.customers ADD CONSTRAINT no_poison \
                              CHECK (name NOT LIKE 'poison%') NOT VALID";
        const POISON: &str = "UPDATE customers SET name = 'poison ' || name WHERE id = 1";
        const CURE: [&str; 2] = [
            "UPDATE customers SET name = substr(name, 8) WHERE id = 1 AND name LIKE 'poison%'",
            "ALTER TABLE dw.customers DROP CONSTRAINT IF EXISTS no_poison",
        ];
        let table = TableName::new("public", "customers");
        let name = table.to_string();
        let is_set_aside = |t: &TableStatus| t.state == TableStatusState::Quarantined;
        self.servers.change_target(REFUSE).await?;
        self.servers.change_source(POISON).await?;
        said.tick("poisoned  a row of customers has a name that the target refuses");
        let aside = self
            .wait_for("the table to go aside", |standing| {
                let tables = &standing.status.tables;
                tables.iter().any(|t| t.source == name && is_set_aside(t))
            })
            .await?;
        said.tick("set aside customers is in quarantine, and its changes are kept in order");
        let position = aside.status.processed_lsn;
        let moved = self
            .wait_for("the other tables to stream on", |standing| {
                standing.status.processed_lsn > position && is_caught_up(standing)
            })
            .await?;
        let others = moved.status.tables.iter().filter(|t| !is_set_aside(t));
        let streaming = others.filter(|t| t.state == TableStatusState::Streaming);
        let streaming = streaming.count() as u64;
        said.tick(&format!(
            "others    {} streamed on meanwhile",
            counted(streaming, "table")
        ));
        self.servers.change_source(CURE[0]).await?;
        self.servers.change_target(CURE[1]).await?;
        let resync = Command::Resync {
            tables: vec![table],
            strategy: ResyncStrategy::Swap,
        };
        let answer = control::ask(&self.opened, &resync).await?;
        control::answered(&self.opened, &answer)?;
        let began = Instant::now();
        self.wait_for("the table to come back", |standing| {
            let tables = &standing.status.tables;
            let is_back = |t: &TableStatus| t.state == TableStatusState::Streaming;
            tables.iter().any(|t| t.source == name && is_back(t)) && is_caught_up(standing)
        })
        .await?;
        said.tick(&format!(
            "cured     tidemark resync shop --table {name}: it streams again {} later",
            duration(began.elapsed())
        ));
        Ok(json!({ "table": name, "others_streaming": streaming }))
    }

    async fn prove(
        &mut self,
        said: &Said,
        before: TrafficReport,
        seen: Value,
    ) -> Result<Reply, Failure> {
        let (report, took) = self.verify().await?;
        let written = self.written();
        let proof = Proof {
            changes: written.changes - before.changes,
            transactions: written.committed - before.committed,
            ..Proof::of(&report)
        };
        let is_identical = report.is_identical();
        said.say(&format!(
            "{}  {}",
            if is_identical {
                "✓ verified"
            } else {
                "✗ verified"
            },
            proof.text(&report, took)
        ));
        Ok(Reply::Done {
            is_identical,
            data: proof.data(&report, &seen),
        })
    }
}

/// What the comparison counted, beside what was written on the source meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Proof {
    changes: u64,
    transactions: u64,
    source_rows: u64,
    target_rows: u64,
    lost: u64,
    doubled: u64,
    different: u64,
}

impl Proof {
    /// Rows that are missing on the target are lost; rows that the source does not have (any more, or
    /// as often) are doubled.
    fn of(report: &Report) -> Proof {
        let mut proof = Proof::default();
        for table in &report.tables {
            proof.source_rows += table.source_rows;
            proof.target_rows += table.target_rows;
            for difference in &table.differences {
                match difference.kind {
                    DifferenceKind::Missing => proof.lost += 1,
                    DifferenceKind::Extra => proof.doubled += 1,
                    DifferenceKind::Changed => proof.different += 1,
                }
            }
            // Past the end of the list nothing is known but that they differ.
            proof.different += table
                .different
                .saturating_sub(table.differences.len() as u64);
        }
        proof
    }

    fn text(&self, report: &Report, took: Duration) -> String {
        let mut lines = vec![
            format!(
                "both sides read at {}   {}",
                report.position,
                duration(took)
            ),
            format!(
                "written on the source meanwhile: {} in {}",
                counted(self.changes, "change"),
                counted(self.transactions, "transaction")
            ),
            format!(
                "rows on the source {} · in the target {}",
                grouped(self.source_rows),
                grouped(self.target_rows)
            ),
            format!(
                "lost {} · doubled {} · different {}",
                grouped(self.lost),
                grouped(self.doubled),
                grouped(self.different)
            ),
        ];
        lines.extend(
            report
                .tables
                .iter()
                .filter_map(|table| match &table.outcome {
                    Outcome::NotCompared(why) => {
                        Some(format!("not compared: {}: {why}", table.source))
                    }
                    Outcome::Identical | Outcome::Different => None,
                }),
        );
        lines.join("\n            ")
    }

    fn data(&self, report: &Report, seen: &Value) -> Value {
        json!({
            "lsn": report.position,
            "changes": self.changes,
            "transactions": self.transactions,
            "source_rows": self.source_rows,
            "target_rows": self.target_rows,
            "lost": self.lost,
            "doubled": self.doubled,
            "different": self.different,
            "seen": seen,
        })
    }
}

/// Where the answers to an order go; whoever gave it may have left.
struct Said {
    replies: UnboundedSender<Reply>,
}

impl Said {
    fn reply(&self, reply: Reply) {
        drop(self.replies.send(reply));
    }

    fn say(&self, text: &str) {
        self.reply(Reply::Said(text.to_owned()));
    }

    fn tick(&self, text: &str) {
        self.say(&format!("✓ {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::position::{Lsn, Position};
    use tidemark_core::verify::compare::TableReport;
    use tidemark_core::verify::difference::Difference;

    #[test]
    fn every_row_that_differs_is_lost_doubled_or_different() {
        let difference = |kind| Difference {
            key: vec!["1".to_owned()],
            kind,
        };
        let table = TableReport {
            source: TableName::new("public", "t"),
            target: TableName::new("dw", "t"),
            position: Position::PgLsn(Lsn(0x1A)),
            is_counted: true,
            outcome: Outcome::Different,
            source_rows: 10,
            target_rows: 11,
            different: 7,
            differences: vec![
                difference(DifferenceKind::Missing),
                difference(DifferenceKind::Extra),
                difference(DifferenceKind::Extra),
                difference(DifferenceKind::Changed),
            ],
        };
        let report = Report {
            position: Position::PgLsn(Lsn(0x1A)),
            tables: vec![table],
        };
        let proof = Proof::of(&report);
        assert_eq!((proof.lost, proof.doubled, proof.different), (1, 2, 4));
        assert_eq!((proof.source_rows, proof.target_rows), (10, 11));
        let text = proof.text(&report, Duration::from_secs(2));
        assert!(text.contains("both sides read at 0/1A"), "{text}");
        assert!(
            text.ends_with("\n            lost 1 · doubled 2 · different 4"),
            "{text}"
        );
    }
}
