//! Changes at random, of rows and of shapes, from a seed that tells the same story again (but for its
//! timing): tables of any make, values that are equal and not the same, several transactions at once and
//! some of them in vain, while the pipeline is killed and cut off. Whatever the status calls streaming is
//! equal, row by row.
//!
//! A test run has a short one, of a seed that has found a run which began again for ever; `SEED=7
//! SOAK_MINUTES=10` goes on with one seed after the other, and `STORY=file` has the statements written.
//!
//! Seeds differ in what is carried as well: all of it, rows that a filter lets through, or tables that
//! have another schema on the target. And by their thousands in much else.
//!
//! - [`besides`]: masks, other names, prepared transactions, foreign keys, policies, rows in quarantine
//! - [`carried`]: which rows, and where to
//! - [`faults`]: what goes wrong meanwhile, and what is asked of the run
//! - [`judged`]: whether what the program says is true
//! - [`kinds`]: types and values
//! - [`model`]: the tables of the source as they are
//! - [`statements`]: what is done to them

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidemark_lab::server::PostgresServer;
use tidemark_lab::{Proxy, Random, wait_for};
use tokio_postgres::Client;

use crate::stage::{PATIENCE, Running, Stage};
use besides::Besides;
use carried::Carried;
use model::Table;
use statements::Maker;

mod besides;
mod carried;
mod faults;
mod judged;
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
    let mut seed = number("SEED").unwrap_or(102);
    let began = Instant::now();
    let mut told = BTreeMap::new();
    loop {
        say(&format!(
            "{:7.1} s  SEED={seed}",
            began.elapsed().as_secs_f64()
        ));
        let mut story = Story::begin(seed).await;
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
    /// Whether the run is to be killed at a fail point.
    is_armed: bool,
    /// Whether any table was to be loaded where its old rows are.
    is_loaded_in_place: bool,
    carried: Carried,
    besides: Besides,
    /// Transactions that are prepared and have not ended.
    prepared: Vec<String>,
}

impl Drop for Story {
    /// A story that ends in a panic is told.
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&self.story());
        }
    }
}

impl Story {
    async fn begin(seed: u64) -> Story {
        let (carried, besides) = (Carried::of(seed), Besides::of(seed));
        let target_server = PostgresServer::shared().await.unwrap();
        let server = match besides {
            Besides::Prepared => preparing_server().await,
            _ => target_server,
        };
        let name = format!("random_{seed}");
        let stage = Stage::on(server, target_server, &name).await;
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
        let target_wire = Proxy::start(target_server.port()).await.unwrap();
        let source = server.url_through(source_wire.address(), &stage.source_name);
        let mut target = target_server.url_through(target_wire.address(), &stage.target_name);
        if besides == Besides::Unprivileged {
            let grant = format!(
                "CREATE ROLE {name} LOGIN; GRANT CREATE ON DATABASE {} TO {name}; \
                 GRANT CREATE ON SCHEMA public TO {name}",
                stage.target_name
            );
            stage.target_sql(&grant).await;
            let direct = target_server.url_with(&name, None, &stage.target_name);
            let port = format!("127.0.0.1:{}/", target_server.port());
            target = direct.replace(&port, &format!("{}/", target_wire.address()));
        }
        let (of_target, of_tables) = carried.lines();
        let (more, of_stream) = besides.lines(carried);
        let policy = besides.policy();
        let lines = format!(
            "[target]\non_schema_change = \"{policy}\"\n{of_target}[tables]\ninclude = [\"public.*\"]\n\
             new_tables = \"add\"\n{of_tables}{more}[verify]\nafter_load = \"off\"\n[stream]\n\
             batch_rows = 300\n{of_stream}"
        );
        stage.write_between(&source, &target, &lines);
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
            is_armed: false,
            is_loaded_in_place: false,
            carried,
            besides,
            prepared: Vec::new(),
        };
        story.make.cascades = besides.has_references();
        story.make.hidden = besides.hidden();
        for at in 0..TABLES {
            let sql = story.make.create(&format!("t{at}"));
            story.stage.source_sql(&sql).await;
            story.told.push(sql);
        }
        if let Some(tables) = besides.tables() {
            story.stage.source_sql(tables).await;
            story.told.push(tables.to_owned());
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
    async fn goes_on(&mut self) -> BTreeMap<String, u64> {
        for _ in 0..60 {
            self.step().await;
        }
        // A slot waits for all of them.
        self.end_prepared(self.prepared.len()).await;
        let mut run = self.start();
        for round in 0..ROUNDS {
            for _ in 0..STEPS {
                self.step().await;
                if self.make.chance(2) {
                    run = self.fault(run).await;
                }
            }
            run = self.settles(run, round).await;
            if round == 0 {
                self.besides.plant(&self.stage).await;
            }
        }
        self.besides.uproot(&self.stage).await;
        self.load_what_is_aside().await;
        run = self.settles(run, ROUNDS).await;
        run.terminate().await;
        self.nothing_is_left().await;
        self.stage.clear().await;
        std::mem::take(&mut self.reasons)
    }

    /// The tables as they are by now.
    async fn look(&mut self) {
        if let Ok(tables) = model::read(&self.stage.source).await {
            self.tables = tables;
        }
    }

    async fn step(&mut self) {
        if !self.prepared.is_empty() && self.make.chance(8) {
            self.end_prepared(1).await;
        }
        let at = usize::try_from(self.make.below(WRITERS as u64)).unwrap();
        let is_open = self.writers[at].is_open;
        match self.make.below(10) {
            0 | 1 if is_open => {
                let end = if self.make.chance(75) {
                    "COMMIT"
                } else {
                    "ROLLBACK"
                };
                if self.besides == Besides::Prepared && self.make.chance(40) {
                    self.prepare(at).await;
                } else {
                    self.run(at, end).await;
                }
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

    /// What is prepared keeps its locks, and ends by itself later.
    async fn prepare(&mut self, at: usize) {
        let name = format!("p{}", self.told.len());
        if self.run(at, &format!("PREPARE TRANSACTION '{name}'")).await {
            self.prepared.push(name);
        }
    }

    /// So many of those that are prepared end, one way or the other.
    async fn end_prepared(&mut self, count: usize) {
        for _ in 0..count {
            let idle = self.writers.iter().position(|writer| !writer.is_open);
            let Some(name) = self.prepared.first().cloned() else {
                return;
            };
            let Some(at) = idle else { return };
            let end = if self.make.chance(70) {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            self.run(at, &format!("{end} PREPARED '{name}'")).await;
            self.prepared.remove(0);
            self.look().await;
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

    /// All that is open ends, the pipeline catches up, and what it says is true. Then it runs again.
    async fn settles(&mut self, run: Running, round: u64) -> Running {
        for at in 0..WRITERS {
            if self.writers[at].is_open {
                self.run(at, "COMMIT").await;
                self.writers[at].is_open = false;
                self.writers[at].savepoints = 0;
            }
        }
        self.end_prepared(self.prepared.len()).await;
        let mark = format!("INSERT INTO marks VALUES ({round})");
        self.stage.source_sql(&mark).await;
        self.look().await;
        self.end(run).await;
        let mut states = self.caught_up().await;
        for _ in 0..4 {
            let is_under_way = |state: &str| matches!(state, "resyncing" | "loading" | "paused");
            if !states.values().any(|said| is_under_way(&said.state)) {
                break;
            }
            let run = self.start();
            for (table, said) in &states {
                if said.state == "paused" {
                    self.resume(table).await;
                }
            }
            run.terminate().await;
            states = self.caught_up().await;
        }
        self.judge(&states, round).await;
        self.start()
    }

    /// As a person would do about it.
    async fn load_what_is_aside(&mut self) {
        if self.besides == Besides::Planted {
            self.insists(&["retry", "FILE"]).await;
        }
        for table in std::mem::take(&mut self.aside) {
            let table = format!("public.{table}");
            self.insists(&["resync", "FILE", "--table", &table, "--yes"])
                .await;
        }
    }

    /// Asks until the run takes it: it may still be about to start.
    async fn insists(&mut self, arguments: &[&str]) {
        let taken = wait_for(PATIENCE, "the run to take it", || async {
            let mut ran = self.stage.run(arguments).await;
            // What is said to do first, where the target has columns that the source does not have.
            if ran.stderr.contains("TM2048") {
                let in_place = [arguments, &["--strategy", "truncate"]].concat();
                ran = self.stage.run(&in_place).await;
            }
            let is_taken = matches!(ran.code, Some(0 | 3));
            Ok(is_taken.then_some(ran.stdout))
        });
        let said = taken.await;
        let said =
            said.unwrap_or_else(|err| panic!("SEED={} {err:#}\n{}", self.seed, self.story()));
        self.told
            .push(format!("-- {}: {said}", arguments.join(" ")));
    }

    /// What was done, to a file where one is wished for.
    fn story(&self) -> String {
        let told = self.told.join("\n");
        match std::env::var_os("STORY") {
            Some(path) => {
                let text = format!("{told}\n\n{}", self.stage.log());
                match std::fs::write(&path, text) {
                    Ok(()) => format!("the story is in {}", path.display()),
                    Err(err) => format!("the story cannot be written: {err}"),
                }
            }
            None => "set STORY=file to have the story written".to_owned(),
        }
    }
}

/// A server whose transactions may be prepared.
async fn preparing_server() -> &'static PostgresServer {
    let server = PostgresServer::builder()
        .setting("max_prepared_transactions", "20")
        .start()
        .await
        .unwrap();
    Box::leak(Box::new(server))
}
