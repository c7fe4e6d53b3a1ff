//! Databases of the lab for these tests, and our own connections to them.

use tidemark_core::checkpoint::Chunk;
use tidemark_core::mapping::{Rules, TableMapping};
use tidemark_core::schema::{SourceSchema, TableSchema};
use tidemark_core::selection::{Pattern, Selection};
use tidemark_core::source::{RowFormat, SnapshotReader};
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

/// The plain mapping of a table: every column that is not generated, under its own name.
pub(crate) fn mapping(schema: &SourceSchema, name: &str) -> TableMapping {
    Rules::default().map_table(table(schema, name)).unwrap()
}

/// The rows of a chunk in text form, each with the end of its line; in binary form the payloads of its
/// `CopyData` messages, each of several rows.
pub(crate) async fn read(
    reader: &mut dyn SnapshotReader,
    mapping: &TableMapping,
    chunk: &Chunk,
    format: RowFormat,
) -> tidemark_core::Result<Vec<Vec<u8>>> {
    let mut rows = reader.read(mapping, chunk, format).await?;
    let mut bytes = Vec::new();
    while let Some(block) = rows.next().await? {
        bytes.extend_from_slice(&block.bytes);
    }
    let mut payloads = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((head, _)) = rest.split_first_chunk::<5>() {
        assert_eq!(head[0], b'd');
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        payloads.push(rest[5..=length].to_vec());
        rest = &rest[length + 1..];
    }
    Ok(match format {
        RowFormat::PgCopyBinary => payloads,
        RowFormat::PgCopyText => {
            let text = payloads.concat();
            let rows = text.split_inclusive(|byte| *byte == b'\n');
            rows.map(<[u8]>::to_vec).collect()
        }
    })
}

/// [`read`] in text form, as lines.
pub(crate) async fn lines(
    reader: &mut dyn SnapshotReader,
    mapping: &TableMapping,
    chunk: &Chunk,
) -> Vec<String> {
    let payloads = read(reader, mapping, chunk, RowFormat::PgCopyText).await;
    let line = |payload| String::from_utf8(payload).unwrap().trim_end().to_owned();
    payloads.unwrap().into_iter().map(line).collect()
}
