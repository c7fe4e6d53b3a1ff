//! Changes at random, of rows and of shapes, from a seed that tells the same story again (but for its
//! timing): tables of any make, values that are equal and not the same, several transactions at once and
//! some of them in vain, while the pipeline is killed and cut off. Whatever the status calls streaming is
//! equal, row by row.
//!
//! A test run has a short one, of a seed that has found rows twice; `make soak MINUTES=10 SEED=7` goes on
//! with one seed after the other.
//!
//! - [`kinds`]: types and values
//! - [`model`]: the tables of the source as they are
//! - [`statements`]: what is done to them

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::{Proxy, Random, wait_for};
use tokio_postgres::Client;

use crate::stage::{PATIENCE, Running, Stage};
use model::Table;
use statements::Maker;

mod kinds;
mod model;
mod statements;

/// Rounds of one seed, each with a look at all rows.
const ROUNDS: u64 = 3;
const STEPS: u64 = 250;
const TABLES: u64 = 6;
const WRITERS: usize = 3;

/// Nobody waits long for anybody: who must is refused, and goes on with something else.
const SETTINGS: &str = "SET lock_timeout = '30ms'; SET statement_timeout = '20s'; \
    SET client_min_messages = 'error'";

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_random_come_out_equal() {
    let number = |name: &str| std::env::var_os(name)?.to_str()?.parse().ok();
    let minutes: Option<u64> = number("SOAK_MINUTES");
    let mut seed = number("SEED").unwrap_or(2);
    let began = Instant::now();
    let mut told = BTreeMap::new();
    loop {
        say(&format!(
            "{:7.1} s  SEED={seed}",
            began.elapsed().as_secs_f64()
        ));
        let story = Story::begin(seed).await;
        for (reason, count) in story.goes_on().await {
            *told.entry(reason).or_insert(0) += count;
        }
        seed += 1;
        let end = minutes.map_or(Duration::ZERO, Duration::from_mins);
        if began.elapsed() >= end {
            break;
        }
    }
    for (reason, count) in told {
        say(&format!("{count:5} set aside: {reason}"));
    }
}

/// The harness shows what a test prints.
#[expect(
    clippy::print_stdout,
    reason = "a person waits for a soak and reads along"
)]
fn say(text: &str) {
    println!("{text}");
}

/// Who writes to the source.
struct Writer {
    client: Client,
    is_open: bool,
    savepoints: u32,
}

struct Story {
    seed: u64,
    make: Maker,
    stage: Stage,
    source_wire: Proxy,
    target_wire: Proxy,
    writers: Vec<Writer>,
    tables: Vec<Table>,
    told: Vec<String>,
    /// Tables that are set aside by now.
    aside: Vec<String>,
    /// Why tables were.
    reasons: BTreeMap<String, u64>,
}

impl Story {
    async fn begin(seed: u64) -> Story {
        let server = PostgresServer::shared().await.unwrap();
        let name = format!("random_{seed}");
        let stage = Stage::new(&name).await;
        let small = format!(
            "ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'",
            stage.source_name
        );
        stage.source_sql(&small).await;
        stage.source_sql(kinds::TYPES).await;
        stage.target_sql("CREATE EXTENSION citext").await;
        stage
            .source_sql("CREATE TABLE marks (id int PRIMARY KEY)")
            .await;
        let source_wire = Proxy::start(server.port()).await.unwrap();
        let target_wire = Proxy::start(server.port()).await.unwrap();
        let source = server.url_through(source_wire.address(), &stage.source_name);
        let target = server.url_through(target_wire.address(), &stage.target_name);
        let lines = "[target]\non_schema_change = \"apply\"\n[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n\
            [verify]\nafter_load = \"off\"\n[stream]\nbatch_rows = 300\n";
        stage.write_between(&source, &target, lines);
        let mut story = Story {
            seed,
            make: Maker::new(Random::new(seed)),
            stage,
            source_wire,
            target_wire,
            writers: Vec::new(),
            tables: Vec::new(),
            told: Vec::new(),
            aside: Vec::new(),
            reasons: BTreeMap::new(),
        };
        for at in 0..TABLES {
            let sql = story.make.create(&format!("t{at}"));
            story.stage.source_sql(&sql).await;
            story.told.push(sql);
        }
        for _ in 0..WRITERS {
            let writer = story.writer().await;
            story.writers.push(writer);
        }
        story.look().await;
        story
    }

    async fn writer(&self) -> Writer {
        let client = self.stage.source_server.client_to(&self.stage.source_name);
        let client = client.await.unwrap();
        client.batch_execute(SETTINGS).await.unwrap();
        Writer {
            client,
            is_open: false,
            savepoints: 0,
        }
    }

    /// Goes on to the end; gives why tables were set aside.
    async fn goes_on(mut self) -> BTreeMap<String, u64> {
        for _ in 0..60 {
            self.step().await;
        }
        let mut run = self.stage.start(&["run", "FILE"]);
        for round in 0..ROUNDS {
            for _ in 0..STEPS {
                self.step().await;
                if self.make.chance(2) {
                    run = self.fault(run).await;
                }
            }
            run = self.settles(run, round).await;
        }
        self.load_what_is_aside().await;
        run = self.settles(run, ROUNDS).await;
        run.terminate().await;
        self.stage.clear().await;
        self.reasons
    }

    /// The tables as they are by now.
    async fn look(&mut self) {
        if let Ok(tables) = model::read(&self.stage.source).await {
            self.tables = tables;
        }
    }

    async fn step(&mut self) {
        let at = usize::try_from(self.make.below(WRITERS as u64)).unwrap();
        let is_open = self.writers[at].is_open;
        match self.make.below(10) {
            0 | 1 if is_open => {
                let end = if self.make.chance(75) {
                    "COMMIT"
                } else {
                    "ROLLBACK"
                };
                self.run(at, end).await;
                self.writers[at].is_open = false;
                self.writers[at].savepoints = 0;
                self.look().await;
            }
            2 if is_open => {
                self.writers[at].savepoints += 1;
                let name = self.writers[at].savepoints;
                self.run(at, &format!("SAVEPOINT s{name}")).await;
            }
            3 if is_open && self.writers[at].savepoints > 0 => {
                let word = if self.make.chance(60) {
                    "ROLLBACK TO"
                } else {
                    "RELEASE"
                };
                let name = 1 + self.make.below(u64::from(self.writers[at].savepoints));
                self.run(at, &format!("{word} s{name}")).await;
            }
            0..=3 if !is_open => {
                self.run(at, "BEGIN").await;
                self.writers[at].is_open = true;
            }
            4 if self.make.chance(60) => self.alter(at).await,
            _ => self.write(at).await,
        }
    }

    async fn write(&mut self, at: usize) {
        let Some(table) = self.make.pick(&self.tables).cloned() else {
            return;
        };
        let sql = self.make.write(&table, &self.tables);
        self.guarded(at, &sql).await;
    }

    async fn alter(&mut self, at: usize) {
        let Some(table) = self.make.pick(&self.tables).cloned() else {
            return;
        };
        if self.make.chance(8) && !self.writers[at].is_open {
            self.run(at, &format!("VACUUM FULL {}", table.name)).await;
            return;
        }
        let sql = self.make.alter(&table, &self.tables);
        if self.guarded(at, &sql).await
            && let Ok(tables) = model::read(&self.writers[at].client).await
        {
            self.tables = tables;
        }
    }

    /// A statement by itself, or undone alone where it is refused.
    async fn guarded(&mut self, at: usize, sql: &str) -> bool {
        if !self.writers[at].is_open {
            return self.run(at, sql).await;
        }
        self.run(at, "SAVEPOINT g").await;
        let is_done = self.run(at, sql).await;
        let end = if is_done {
            "RELEASE g"
        } else {
            "ROLLBACK TO g"
        };
        self.run(at, end).await;
        is_done
    }

    async fn run(&mut self, at: usize, sql: &str) -> bool {
        let done = self.writers[at].client.batch_execute(sql).await;
        let said = match &done {
            Ok(()) => String::new(),
            Err(err) => {
                let db = err.as_db_error();
                let db = db.unwrap_or_else(|| panic!("SEED={}: {err}: {sql}", self.seed));
                format!("  -- {}", db.message())
            }
        };
        self.told.push(format!("{at}: {sql};{said}"));
        done.is_ok()
    }

    async fn fault(&mut self, mut run: Running) -> Running {
        assert!(run.is_running(), "SEED={}\n{}", self.seed, run.log());
        let table = self.make.pick(&self.tables).map(|table| table.name.clone());
        let table = format!("public.{}", table.unwrap_or_default());
        match self.make.below(6) {
            0 | 1 => {
                run.kill9().await;
                run = self.stage.start(&["run", "FILE"]);
            }
            2 => self.source_wire.cut(),
            3 => self.target_wire.cut(),
            4 => {
                self.asks(&["resync", "FILE", "--table", &table, "--yes", "--no-wait"])
                    .await;
            }
            _ => self.asks(&["pause", "FILE", "--table", &table]).await,
        }
        self.told.push("-- a fault".to_owned());
        run
    }

    /// Asks the run for something. It may be waiting for writers of ours, who wait for the answer.
    async fn asks(&self, arguments: &[&str]) {
        let asked = self.stage.command(arguments).output();
        drop(tokio::time::timeout(Duration::from_secs(1), asked).await);
    }

    /// All that is open ends, the pipeline catches up, and what it says is true. Then it runs again.
    async fn settles(&mut self, run: Running, round: u64) -> Running {
        for at in 0..WRITERS {
            if self.writers[at].is_open {
                self.run(at, "COMMIT").await;
                self.writers[at].is_open = false;
                self.writers[at].savepoints = 0;
            }
        }
        let mark = format!("INSERT INTO marks VALUES ({round})");
        self.stage.source_sql(&mark).await;
        self.look().await;
        run.kill9().await;
        let mut states = self.caught_up().await;
        for _ in 0..4 {
            let is_under_way = |state: &str| matches!(state, "resyncing" | "loading" | "paused");
            if !states.values().any(|(state, _)| is_under_way(state)) {
                break;
            }
            let run = self.stage.start(&["run", "FILE"]);
            for (table, (state, _)) in &states {
                if state == "paused" {
                    self.resume(table).await;
                }
            }
            run.terminate().await;
            states = self.caught_up().await;
        }
        self.judge(&states, round).await;
        self.stage.start(&["run", "FILE"])
    }

    /// As soon as the run takes it.
    async fn resume(&self, table: &str) {
        let resume = ["resume", "FILE", "--table", table];
        let resumed = wait_for(PATIENCE, "the table to go on", || async {
            Ok((self.stage.run(&resume).await.code == Some(0)).then_some(()))
        });
        let resumed = resumed.await;
        resumed.unwrap_or_else(|err| panic!("SEED={} {err:#}\n{}", self.seed, self.stage.log()));
    }

    /// Brings the target to what the source has by now; the state of each table, and its reason.
    async fn caught_up(&mut self) -> BTreeMap<String, (String, String)> {
        let ran = self
            .stage
            .run(&["run", "FILE", "--until", "caught-up"])
            .await;
        self.told.push(ran.stderr.clone());
        // 3: tables are set aside.
        let has_ended = matches!(ran.code, Some(0 | 3));
        assert!(
            has_ended,
            "SEED={} {}\n{}",
            self.seed,
            self.story(),
            ran.stderr
        );
        let tables = self
            .stage
            .run(&["tables", "FILE", "--json"])
            .await
            .expect(0);
        let tables = tables.json()["data"]["tables"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = tables.as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| {
                (
                    text(&row["source"]),
                    (text(&row["state"]), text(&row["reason"])),
                )
            })
            .collect()
    }

    async fn judge(&mut self, states: &BTreeMap<String, (String, String)>, round: u64) {
        let mut comparison = self.stage.comparison().only("public", "marks");
        let mut aside = Vec::new();
        self.aside.clear();
        for table in &self.tables {
            let state = states.get(&format!("public.{}", table.name));
            let Some((state, reason)) = state else {
                panic!(
                    "SEED={}: nobody carries {}: {states:?}",
                    self.seed, table.name
                );
            };
            if state == "streaming" {
                comparison = comparison.only("public", &table.name);
            } else {
                assert_eq!(state, "quarantined", "SEED={} {}", self.seed, table.name);
                self.aside.push(table.name.clone());
                aside.push(format!("{}: {reason}", table.name));
            }
        }
        let outcome = comparison.run().await.unwrap();
        assert!(
            outcome.is_identical(),
            "SEED={} round {round}: {outcome}\naside: {aside:#?}\n{}",
            self.seed,
            self.story()
        );
        if !aside.is_empty() {
            say(&self.story());
        }
        for reason in aside {
            say(&format!("SEED={} round {round}: {reason}", self.seed));
            let code = reason.split(": ").nth(1).unwrap_or_default().to_owned();
            *self.reasons.entry(code).or_insert(0) += 1;
        }
    }

    /// As a person would do about it.
    async fn load_what_is_aside(&mut self) {
        for table in std::mem::take(&mut self.aside) {
            let table = format!("public.{table}");
            let resync = ["resync", "FILE", "--table", &table, "--yes"];
            // Until the run takes it.
            let asked = wait_for(PATIENCE, "the load of a table", || async {
                let ran = self.stage.run(&resync).await;
                Ok((ran.code != Some(1)).then_some(()))
            });
            drop(asked.await);
        }
    }

    /// What was done, to a file where one is wished for.
    fn story(&self) -> String {
        let told = self.told.join("\n");
        match std::env::var_os("STORY") {
            Some(path) => {
                std::fs::write(&path, format!("{told}\n\n{}", self.stage.log())).unwrap();
                format!("the story is in {}", path.display())
            }
            None => "set STORY=file to have the story written".to_owned(),
        }
    }
}
