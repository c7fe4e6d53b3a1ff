//! What tests of the target share: a database of their own, and tables described by hand.

use tidemark_core::checkpoint::{LoadPhase, SourceIdentity, TableCheckpoint, TableState};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::TableName;
use tidemark_core::target::{LoadStart, Owner};
use tidemark_lab::PostgresServer;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::target::PgTarget;

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
        self.target_at(&self.server.url_to(&self.name), pipeline)
    }

    pub(crate) fn target_at(&self, url: &str, pipeline: &str) -> PgTarget {
        PgTarget::new(ConnectConfig::parse(url, Side::Target).unwrap(), pipeline)
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

pub(crate) fn owner(pid: u32) -> Owner {
    Owner {
        host: "host-a".to_owned(),
        pid,
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
        columns: None,
    }
}
