//! Databases of the lab for these tests, and our own connections to them.

use tidemark_core::schema::{SourceSchema, TableSchema};
use tidemark_core::selection::{Pattern, Selection};
use tidemark_lab::PostgresServer;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::schema::describe;
use tidemark_postgres::wire::{Connection, Role};

/// A database of its own on the shared server.
pub(crate) struct Database {
    pub(crate) server: &'static PostgresServer,
    pub(crate) name: String,
}

/// A fresh database in which `script` was run.
pub(crate) async fn database(script: &str) -> Database {
    let server = PostgresServer::shared().await.unwrap();
    let name = server.fresh_database("t").await.unwrap();
    let database = Database { server, name };
    database.run(script).await;
    database
}

impl Database {
    /// Runs statements as superuser.
    pub(crate) async fn run(&self, sql: &str) {
        self.server.execute_in(&self.name, sql).await.unwrap();
    }

    pub(crate) fn config(&self, side: Side) -> ConnectConfig {
        ConnectConfig::parse(&self.server.url_to(&self.name), side).unwrap()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.config(Side::Source), Role::Ordinary)
            .await
            .unwrap()
    }

    pub(crate) async fn describe(&self, patterns: &[&str]) -> SourceSchema {
        describe(&mut self.connect().await, &selecting(patterns))
            .await
            .unwrap()
    }
}

/// `schema.table` patterns.
pub(crate) fn selecting(patterns: &[&str]) -> Selection {
    let include = patterns
        .iter()
        .map(|pattern| Pattern::parse(pattern).unwrap())
        .collect();
    Selection {
        include,
        exclude: Vec::new(),
    }
}

/// The table `schema.name`.
pub(crate) fn table<'a>(schema: &'a SourceSchema, name: &str) -> &'a TableSchema {
    let mut tables = schema.tables.iter();
    tables
        .find(|table| table.name.to_string() == name)
        .unwrap_or_else(|| panic!("no table {name}"))
}
