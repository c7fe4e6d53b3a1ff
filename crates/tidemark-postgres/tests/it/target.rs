//! What tests of the target share: a database of their own, a source to copy from, and a way to
//! copy that is not the pipeline's.

use std::time::Duration;

use async_trait::async_trait;
use tidemark_core::Result;
use tidemark_core::checkpoint::{
    Chunk, LoadPhase, SourceIdentity, TableCheckpoint, TableState, Unit,
};
use tidemark_core::mapping::{Rules, TableMapping};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::{SourceSchema, TableName};
use tidemark_core::source::{RowBlock, RowFormat, RowStream};
use tidemark_core::target::{
    Existing, LoadStart, LoadUnit, LoadedPart, Owner, Place, Prepared, Replace, TypeChanges,
};
use tidemark_core::tidemark::{Seen, Tidemark};
use tidemark_lab::{Comparison, PostgresServer};
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::target::PgTarget;
use tidemark_postgres::wire::{CopyOut, quote_ident, quote_qualified};

use crate::lab;

/// An empty database on the shared server.
pub(crate) struct Database {
    pub(crate) server: &'static PostgresServer,
    pub(crate) name: String,
}

impl Database {
    pub(crate) async fn new() -> Database {
        let server = PostgresServer::shared().await.unwrap();
        let name = server.fresh_database("target").await.unwrap();
        Database { server, name }
    }

    pub(crate) fn target(&self, pipeline: &str) -> PgTarget {
        target_at(&self.server.url_to(&self.name), pipeline)
    }

    /// A target whose pipeline is acquired and whose load has started with these tables.
    pub(crate) async fn started(&self, pipeline: &str, tables: &[&str]) -> PgTarget {
        let target = self.target(pipeline);
        target.acquire(&owner(1)).await.unwrap();
        target.start_load(&start(tables)).await.unwrap();
        target
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.server.execute_in(&self.name, sql).await.unwrap();
    }

    /// What a query gives: rows by line, cells parted by `|`.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let text = self.server.psql(&self.name, sql).await.unwrap();
        text.trim_end().to_owned()
    }
}

/// A target whose load has started with these tables.
pub(crate) async fn started_at(url: &str, pipeline: &str, mappings: &[TableMapping]) -> PgTarget {
    let target = target_at(url, pipeline);
    target.acquire(&owner(1)).await.unwrap();
    let mut start = start(&[]);
    start.tables = mappings.iter().map(recorded).collect();
    target.start_load(&start).await.unwrap();
    target
}

pub(crate) fn target_at(url: &str, pipeline: &str) -> PgTarget {
    PgTarget::new(ConnectConfig::parse(url, Side::Target).unwrap(), pipeline)
}

pub(crate) fn owner(pid: u32) -> Owner {
    Owner {
        host: "host-a".to_owned(),
        pid,
        lease: None,
    }
}

pub(crate) fn at(lsn: u64) -> Position {
    Position::PgLsn(Lsn(lsn))
}

pub(crate) fn start(tables: &[&str]) -> LoadStart {
    LoadStart {
        identity: SourceIdentity {
            system: "7301".to_owned(),
            timeline: 1,
            database: "shop".to_owned(),
        },
        position: at(0x10_0000),
        phase: LoadPhase::Loading,
        tables: tables.iter().map(|table| known(table)).collect(),
    }
}

pub(crate) fn known(table: &str) -> TableCheckpoint {
    TableCheckpoint {
        source: TableName::new("public", table),
        target: TableName::new("public", table),
        source_id: 4_000_000_000,
        state: TableState::Loading,
        reason: None,
        units: Vec::new(),
        shape: None,
    }
}

/// A source, a target, and tables on their way from one to the other.
pub(crate) struct Pair {
    pub(crate) source: lab::Database,
    pub(crate) database: Database,
    pub(crate) target: PgTarget,
    pub(crate) schema: SourceSchema,
    pub(crate) mappings: Vec<TableMapping>,
}

impl Pair {
    /// A source where `script` was run, and a target whose load has started.
    pub(crate) async fn new(script: &str, rules: Rules) -> Pair {
        let source = lab::database(script).await;
        Pair::of(source, rules).await
    }

    pub(crate) async fn of(source: lab::Database, mut rules: Rules) -> Pair {
        if rules.selection.include.is_empty() {
            rules.selection = lab::selecting(&["*.*"]);
        }
        let mut connection = source.connect().await;
        let schema = tidemark_postgres::schema::describe(&mut connection, &rules.selection)
            .await
            .unwrap();
        let mappings = rules.map(&schema).unwrap();
        let database = Database::new().await;
        let url = database.server.url_to(&database.name);
        let target = started_at(&url, "shop", &mappings).await;
        Pair {
            source,
            database,
            target,
            schema,
            mappings,
        }
    }

    pub(crate) fn mapping(&self, name: &str) -> &TableMapping {
        self.mappings
            .iter()
            .find(|mapping| mapping.source().name == name)
            .unwrap()
    }

    pub(crate) async fn prepare(&self, table: &str, existing: Existing) -> Result<Prepared> {
        let mapping = self.mapping(table);
        self.target
            .prepare(mapping, existing, Place::InPlace, &[whole()])
            .await
    }

    /// Everything in, but for foreign keys.
    pub(crate) async fn load_all(&self) {
        self.target
            .prepare_objects(&self.schema, &self.mappings, TypeChanges::Additions, &[])
            .await
            .unwrap();
        for mapping in &self.mappings {
            let units = [whole()];
            let prepared =
                self.target
                    .prepare(mapping, Existing::LoadIfEmpty, Place::InPlace, &units);
            let format = prepared.await.unwrap().format;
            self.copy(mapping, Place::InPlace, format).await.unwrap();
        }
    }

    /// Copies all rows as one unit.
    pub(crate) async fn copy(
        &self,
        mapping: &TableMapping,
        place: Place,
        format: RowFormat,
    ) -> Result<LoadedPart> {
        let mut connection = self.source.connect().await;
        let columns: Vec<String> = mapping
            .columns
            .iter()
            .map(|column| quote_ident(mapping.source_column(column)))
            .collect();
        let from = mapping.source();
        let sql = format!(
            "COPY (SELECT {} FROM {}) TO STDOUT (FORMAT {})",
            columns.join(", "),
            quote_qualified(&from.schema, &from.name),
            match format {
                RowFormat::PgCopyBinary => "binary",
                RowFormat::PgCopyText => "text",
            }
        );
        let mut rows = Rows(connection.copy_out(&sql).await.unwrap());
        let unit = whole();
        let unit = LoadUnit {
            unit: &unit,
            tidemark: &tidemark(),
            format,
            place,
            replace: Replace::Nothing,
        };
        let mut loader = self.target.loader().await.unwrap();
        loader.load(mapping, &unit, &mut rows, &|_| {}).await
    }

    pub(crate) async fn comparison_of<T>(&self, check: impl AsyncFnOnce(Comparison<'_>) -> T) -> T {
        let source = self
            .source
            .server
            .client_to(&self.source.name)
            .await
            .unwrap();
        let target = self
            .database
            .server
            .client_to(&self.database.name)
            .await
            .unwrap();
        check(Comparison::new(&source, &target)).await
    }

    /// Same names, same rows.
    pub(crate) async fn assert_identical(&self) {
        let outcome = self
            .comparison_of(async |comparison| comparison.run().await.unwrap())
            .await;
        let mut different = outcome.tables.iter().filter(|table| !table.is_identical());
        assert!(outcome.is_identical(), "{:?}", different.next());
    }
}

/// What a test's own COPY gives, as the source gives it.
pub(crate) struct Rows<'a>(pub(crate) CopyOut<'a>);

#[async_trait]
impl RowStream for Rows<'_> {
    async fn next(&mut self) -> Result<Option<RowBlock>> {
        let block = self.0.next_block().await?;
        Ok(block.map(|block| RowBlock {
            bytes: block.frames,
            rows: block.rows,
        }))
    }
}

pub(crate) fn whole() -> Unit {
    Unit {
        number: 0,
        chunk: Chunk::Whole,
        tidemark: None,
        is_loaded: false,
        rows: 0,
    }
}

pub(crate) fn tidemark() -> Tidemark {
    Tidemark {
        seen: Seen::Before(at(0x10_0000)),
        after: at(0x10_0000),
    }
}

fn recorded(mapping: &TableMapping) -> TableCheckpoint {
    TableCheckpoint {
        source: mapping.source().clone(),
        target: mapping.target.clone(),
        ..known("")
    }
}

#[tokio::test]
async fn sessions_that_nobody_has_a_use_for_are_ended() {
    let database = Database::new().await;
    let target = database.started("idle_sessions", &[]).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let (one, two, three) = tokio::join!(
        target.checkpoint(),
        target.checkpoint(),
        target.checkpoint()
    );
    assert!(one.unwrap() == two.unwrap() && three.is_ok());
    // The lock has one of its own.
    assert_eq!(database.value(sessions).await, "4");
    tidemark_lab::wait_for(Duration::from_mins(1), "idle sessions to end", || async {
        Ok((database.value(sessions).await == "1").then_some(()))
    })
    .await
    .unwrap();
    target.checkpoint().await.unwrap();
}
