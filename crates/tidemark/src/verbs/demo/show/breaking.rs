//! Breaking the demo on purpose: kill the worker, cut the wire, change a table; after each the same
//! proof, that source and target are identical at one position.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::{Show, is_caught_up};
use crate::demo::orders::{Break, Order, Reply};
use crate::demo::worker::Worker;
use crate::output::numbers::{duration, grouped};
use crate::output::style::Style;
use crate::problem::Failure;

/// How long the target is cut off.
const CUT_FOR: Duration = Duration::from_secs(10);

impl Show<'_> {
    /// Carries an order out and answers it.
    pub(super) async fn obey(&mut self, order: Order) {
        let said = Said {
            replies: order.replies,
        };
        let done = match order.what {
            Break::Kill => self.kill(&said).await,
            Break::Network => self.cut(&said).await,
            Break::Ddl => self.alter(&said).await,
        };
        let reply = match done {
            Ok(data) => self.prove(&said, data).await,
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
            return Ok(Value::Null);
        };
        let killed = worker.pid();
        worker.kill9().await?;
        said.tick(&format!("killed    kill -9 {}", killed.unwrap_or_default()));
        let worker = Worker::start(&self.opened.file)?;
        let started = worker.pid();
        self.worker = Some(worker);
        said.tick(&format!(
            "started   pid {}, from the checkpoint",
            started.unwrap_or_default()
        ));
        let began = Instant::now();
        // A report of the killed process may still be fresh: the new one reports its own pid.
        self.wait_for("the stream to go on", |standing| {
            let is_new = matches!(
                &standing.life,
                crate::standing::Life::Running(owner) if Some(owner.pid) == started
            );
            is_new && is_caught_up(standing)
        })
        .await?;
        said.tick(&format!(
            "stream    caught up {} later",
            duration(began.elapsed())
        ));
        Ok(json!({ "killed_pid": killed, "started_pid": started }))
    }

    async fn cut(&mut self, said: &Said) -> Result<Value, Failure> {
        self.servers.wire.refuse();
        said.tick(&format!(
            "cut       the target cannot be reached for {}",
            duration(CUT_FOR)
        ));
        tokio::time::sleep(CUT_FOR).await;
        self.servers.wire.accept();
        said.tick("healed    the target can be reached again");
        let began = Instant::now();
        self.wait_for("the stream to go on", is_caught_up).await?;
        said.tick(&format!(
            "stream    caught up {} later",
            duration(began.elapsed())
        ));
        Ok(json!({ "cut_seconds": CUT_FOR.as_secs() }))
    }

    /// A new column on a busy table, filled for every row that is there.
    async fn alter(&mut self, said: &Said) -> Result<Value, Failure> {
        let named = Instant::now().elapsed().as_nanos() + u128::from(self.changes());
        let column = format!("note_{named}");
        let sql =
            format!("ALTER TABLE customers ADD COLUMN {column} text DEFAULT 'added under load'");
        self.servers.change_source(&sql).await?;
        said.tick(&format!("altered   {sql}"));
        // The target learns of it with the next change of the table.
        self.servers
            .change_source(&format!(
                "UPDATE customers SET {column} = 'seen' WHERE id = 1"
            ))
            .await?;
        let began = Instant::now();
        let arrived = format!(
            "SELECT (count(*) FILTER (WHERE column_name = '{column}'))::text \
             FROM information_schema.columns WHERE table_schema = 'dw' AND table_name = 'customers'"
        );
        while self.servers.ask_target(&arrived).await? != "1" {
            if began.elapsed() > super::PATIENCE {
                return Err(tidemark_core::Error::transient(
                    tidemark_core::catalogue::codes::CLI_NO_ANSWER,
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

    async fn prove(&mut self, said: &Said, data: Value) -> Result<Reply, Failure> {
        let (report, took) = self.verify().await?;
        let (glyph, word) = if report.is_identical() {
            ("✓", "identical")
        } else {
            ("✗", "different")
        };
        said.say(&format!(
            "{glyph} verified  {} rows: {word} at {}   {}",
            grouped(report.rows()),
            report.position,
            duration(took)
        ));
        let data = json!({ "what": data, "lsn": report.position, "rows": report.rows() });
        Ok(Reply::Done {
            is_identical: report.is_identical(),
            data,
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
