//! Many pipelines in one process: its memory, and how fast its API answers.
//!
//! Two hundred pipelines stream, of which one in twenty has anything to do; three hundred more have loaded
//! and rest. Each has twenty tables. They are spread over databases of fifty pipelines, on servers of
//! their own that allow so many sessions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidemark_lab::PostgresServer;
use tidemark_lab::http::Request;

use crate::meter::Cost;
use crate::report::{Contest, Contestant, Latency};
use crate::served::Served;
use crate::settings::Settings;
use crate::stage::{Database, SERVER_SETTINGS, Stage};

const STREAMING: u64 = 200;
const RESTING: u64 = 300;
const TABLES: u64 = 20;
/// Pipelines in a database.
const TOGETHER: u64 = 50;
/// Pipelines that begin at once.
const AT_ONCE: u64 = 10;
/// Of so many pipelines that stream one has traffic.
const BUSY: u64 = 20;
/// How long memory is watched.
const WATCHED_FOR: Duration = Duration::from_secs(30);

/// What so many sessions need besides.
const MORE: [(&str, &str); 5] = [
    ("shared_buffers", "256MB"),
    ("max_connections", "3000"),
    ("max_wal_senders", "450"),
    ("max_replication_slots", "450"),
    ("max_locks_per_transaction", "256"),
];

/// Measures once: nothing of it is a race.
pub(crate) async fn measure(stage: &Stage, settings: &Settings) -> Result<Contest> {
    let mut contest = Contest::new("fleet");
    let major = stage.source.major();
    let server = || {
        let builder = PostgresServer::builder().major(major);
        let all = SERVER_SETTINGS.iter().chain(&MORE);
        all.fold(builder, |builder, (name, value)| {
            builder.setting(name, value)
        })
    };
    let fleet = Fleet {
        stage,
        settings,
        source: server().start().await?,
        target: server().start().await?,
    };
    contest.add(Contestant::Tidemark, fleet.measure().await);
    Ok(contest)
}

struct Fleet<'a> {
    stage: &'a Stage,
    settings: &'a Settings,
    source: PostgresServer,
    target: PostgresServer,
}

impl Fleet<'_> {
    async fn measure(&self) -> Result<Cost> {
        let (streaming, resting) = (
            self.settings.scaled(STREAMING),
            self.settings.scaled(RESTING),
        );
        let all = streaming + resting;
        for number in (0..all).step_by(usize::try_from(TOGETHER)?) {
            self.make_tables(number, all.min(number + TOGETHER)).await?;
        }
        let served = Served::start(self.stage).await?;
        let began = Instant::now();
        let (mode, state) = ("full_load_and_cdc", "streaming");
        self.begin(&served, 0..streaming, mode, state).await?;
        let resident = self.watch(&served, streaming).await?;
        let (mode, state) = ("full_load_only", "completed");
        self.begin(&served, streaming..all, mode, state).await?;
        let wall_s = began.elapsed().as_secs_f64();
        let latency = self.ask(&served).await?;
        served.stop()?;
        Ok(Cost {
            wall_s,
            peak_rss_bytes: resident,
            latency: Some(latency),
            ..Cost::default()
        })
    }

    /// The tables of some pipelines, in a database of theirs on the source, and an empty one on the target.
    async fn make_tables(&self, from: u64, to: u64) -> Result<()> {
        let name = database_of(from);
        on(&self.target, &name).make(None).await?;
        let source = on(&self.source, &name);
        source.make(None).await?;
        for pipeline in from..to {
            let schema = schema_of(pipeline);
            let tables = (0..TABLES).map(|table| {
                format!(
                    "CREATE TABLE {schema}.t{table} (id bigint PRIMARY KEY, note text); \
                     INSERT INTO {schema}.t{table} SELECT i, 'row ' || i FROM generate_series(1, 10) i;"
                )
            });
            let sql = format!("CREATE SCHEMA {schema}; {}", tables.collect::<String>());
            source.execute(&sql).await?;
        }
        Ok(())
    }

    /// A few at a time, so that they do not wait for each other's snapshots.
    async fn begin(
        &self,
        served: &Served,
        numbers: std::ops::Range<u64>,
        mode: &str,
        state: &str,
    ) -> Result<()> {
        for number in numbers.clone() {
            let (database, schema) = (database_of(number), schema_of(number));
            let source = on(&self.source, &database);
            let target = on(&self.target, &database);
            let sides = [&source, &target];
            served
                .begin(&format!("fleet_{schema}"), mode, sides, &schema)
                .await?;
            if (number + 1) % AT_ONCE == 0 || number + 1 == numbers.end {
                let so_far = usize::try_from(number + 1)?;
                let states = ["streaming", "catching_up", state];
                served.all_are(&states, so_far).await?;
                crate::announce(&format!("fleet, of which {so_far} are there"))?;
            }
        }
        Ok(())
    }

    /// The most memory, while some pipelines have traffic.
    async fn watch(&self, served: &Served, streaming: u64) -> Result<u64> {
        let mut most = 0;
        let began = Instant::now();
        let mut row = 100_u64;
        while began.elapsed() < WATCHED_FOR {
            for number in (0..streaming).step_by(usize::try_from(BUSY)?) {
                let (database, schema) = (database_of(number), schema_of(number));
                let sql = format!(
                    "INSERT INTO {schema}.t0 SELECT i, 'more' FROM generate_series({row}, {}) i",
                    row + 99
                );
                on(&self.source, &database).execute(&sql).await?;
            }
            row += 100;
            most = most.max(served.resident());
        }
        Ok(most)
    }

    /// How long answers take; of all routes the one that is slowest.
    async fn ask(&self, served: &Served) -> Result<Latency> {
        let first = format!("fleet_{}", schema_of(0));
        let routes = [
            "/monitoring/overview".to_owned(),
            "/pipelines?limit=500".to_owned(),
            "/pipelines".to_owned(),
            format!("/pipelines/{first}"),
            format!("/pipelines/{first}/tables"),
            format!("/monitoring/pipelines/{first}/lag"),
        ];
        let count = usize::try_from(self.settings.scaled(500).max(50))?;
        let mut worst: Option<Latency> = None;
        for route in routes {
            let mut millis = Vec::with_capacity(count);
            for _ in 0..count {
                let request = Request::new("GET", &format!("/api/v1{route}"));
                let asked = Instant::now();
                served.ask(request).await?;
                millis.push(asked.elapsed().as_secs_f64() * 1000.0);
            }
            millis.sort_by(f64::total_cmp);
            let at = |share: usize| millis[(count - 1) * share / 100];
            let latency = Latency {
                p50_ms: at(50),
                p99_ms: at(99),
                worst_ms: at(100),
            };
            if worst.is_none_or(|worst| worst.p99_ms < latency.p99_ms) {
                worst = Some(latency);
            }
        }
        worst.context("nothing was asked")
    }
}

fn on<'a>(server: &'a PostgresServer, name: &'a str) -> Database<'a> {
    Database { server, name }
}

fn database_of(pipeline: u64) -> String {
    format!("fleet_{}", pipeline / TOGETHER)
}

fn schema_of(pipeline: u64) -> String {
    format!("p{pipeline}")
}
