//! The source's log: slot, publication, stream, on every major that this machine can start.

use std::collections::HashMap;
use std::time::Duration;

use tidemark_core::event::{Block, CellKind, Event, OldRow, Op, Row, StreamTable};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::TableName;
use tidemark_core::source::ChangeStream;
use tidemark_core::{Error, Result};
use tidemark_lab::PostgresServer;
use tidemark_lab::server::PostgresServerBuilder;
use tidemark_lab::skip::major_or_skip;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::source::{PgSource, PgSourceOptions};
use tidemark_postgres::wire::{Connection, Role};
use tokio::sync::OnceCell;

mod in_progress;
mod publication;
mod refusals;
mod sequences;
mod slot;
mod stream;

/// How long a test waits for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// One server for each major, shared by all tests of the process.
pub(crate) async fn server(test: &str, major: u32) -> Option<&'static PostgresServer> {
    static SERVERS: [OnceCell<Option<PostgresServer>>; 5] = [const { OnceCell::const_new() }; 5];
    let place = usize::try_from(major - 14).unwrap();
    let start = || async {
        // The smallest there is, so that small transactions are streamed in progress.
        let builder = major_or_skip(test, major)?
            .setting("logical_decoding_work_mem", "64kB")
            .setting("max_prepared_transactions", "10");
        Some(builder.start().await.unwrap())
    };
    let server = SERVERS[place].get_or_init(start).await.as_ref();
    if server.is_none() {
        // Said by the first one; each test must say it for itself.
        major_or_skip(test, major);
    }
    server
}

/// Runs each of the named tests on the oldest major, the distribution's and the newest; with `all`
/// on every one, for what servers tell in different words.
macro_rules! on_majors {
    (@major $name:ident $major:literal $($test:ident)*) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $test() {
                    let name = concat!(module_path!(), "::", stringify!($test));
                    if let Some(server) = crate::source::server(name, $major).await {
                        super::$test(server).await;
                    }
                }
            )*
        }
    };
    (all $($test:ident)*) => {
        on_majors!($($test)*);
        on_majors!(@major pg16 16 $($test)*);
        on_majors!(@major pg17 17 $($test)*);
    };
    ($($test:ident)*) => {
        on_majors!(@major pg14 14 $($test)*);
        on_majors!(@major pg15 15 $($test)*);
        on_majors!(@major pg18 18 $($test)*);
    };
}
pub(crate) use on_majors;

/// A database of a test's own and a pipeline that reads it.
pub(crate) struct Fixture<'a> {
    pub(crate) server: &'a PostgresServer,
    pub(crate) database: String,
    /// An ordinary session for the test's own statements.
    pub(crate) sql: Connection,
    pub(crate) options: PgSourceOptions,
}

impl<'a> Fixture<'a> {
    pub(crate) async fn new(server: &'a PostgresServer, schema: &str) -> Fixture<'a> {
        let database = server.fresh_database("log").await.unwrap();
        server.execute_in(&database, schema).await.unwrap();
        let connect = config(server, &database);
        let sql = Connection::connect(&connect, Role::Ordinary).await.unwrap();
        Fixture {
            server,
            // Slots are the whole server's, so the pipeline has the database's name.
            options: PgSourceOptions::new(connect, &database),
            database,
            sql,
        }
    }

    /// The source, its publication of these tables of the schema `public`, and its slot made.
    pub(crate) async fn streaming(
        server: &'a PostgresServer,
        schema: &str,
        tables: &[&str],
    ) -> (Fixture<'a>, PgSource, Position) {
        let mut fixture = Fixture::new(server, schema).await;
        let source = fixture.source();
        source.announce(&names(tables)).await.unwrap();
        let position = fixture.make_slot().await;
        (fixture, source, position)
    }

    pub(crate) fn source(&self) -> PgSource {
        PgSource::new(self.options.clone()).unwrap()
    }

    /// Another session of the test.
    pub(crate) async fn session(&self) -> Connection {
        let connect = config(self.server, &self.database);
        Connection::connect(&connect, Role::Ordinary).await.unwrap()
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        run(&mut self.sql, sql).await;
    }

    /// The slot, made without a snapshot.
    pub(crate) async fn make_slot(&mut self) -> Position {
        let sql = "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')";
        let slot = self.options.slot.clone();
        let set = self.sql.query(sql, &[Some(&slot)]).await.unwrap();
        Position::PgLsn(set.one().unwrap().get(0).unwrap())
    }

    /// The end of the log.
    pub(crate) async fn head(&mut self) -> Position {
        let set = self
            .sql
            .query("SELECT pg_current_wal_insert_lsn()", &[])
            .await;
        Position::PgLsn(set.unwrap().one().unwrap().get(0).unwrap())
    }

    /// What the server holds for confirmed.
    pub(crate) async fn confirmed(&mut self) -> Position {
        let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1";
        let slot = self.options.slot.clone();
        let set = self.sql.query(sql, &[Some(&slot)]).await.unwrap();
        Position::PgLsn(set.one().unwrap().get(0).unwrap())
    }

    /// The first value of a query's first row.
    pub(crate) async fn ask(&mut self, sql: &str) -> Option<String> {
        let set = self.sql.query(sql, &[]).await.unwrap();
        let row = set.rows.first()?;
        row.opt_str(0).unwrap().map(str::to_owned)
    }
}

/// A server of the same major for one test alone: where others' transactions would be in the way.
pub(crate) fn another(server: &PostgresServer) -> PostgresServerBuilder {
    PostgresServer::builder()
        .installation(server.installation().clone())
        .setting("max_prepared_transactions", "10")
}

fn config(server: &PostgresServer, database: &str) -> ConnectConfig {
    ConnectConfig::parse(&server.url_to(database), Side::Source).unwrap()
}

/// Statements of a test, with the schema `public` in reach.
pub(crate) async fn run(session: &mut Connection, sql: &str) {
    let sql = format!("SET search_path = public; {sql}");
    session.run(&sql).await.unwrap();
}

/// One statement, which may be one that no transaction block allows.
pub(crate) async fn run_alone(session: &mut Connection, sql: &str) {
    session.run(sql).await.unwrap();
}

pub(crate) fn names(tables: &[&str]) -> Vec<TableName> {
    tables
        .iter()
        .map(|table| TableName::new("public", *table))
        .collect()
}

/// A stream and what it told so far, as short lines.
pub(crate) struct Tail {
    pub(crate) stream: Box<dyn ChangeStream>,
    tables: HashMap<u32, StreamTable>,
    /// Lines not yet taken by the test.
    lines: Vec<String>,
    /// The end of the last transaction or boundary.
    pub(crate) reached: Position,
    /// The largest block so far.
    pub(crate) block_bytes_max: usize,
    /// Whether descriptions of tables are told.
    pub(crate) tell_tables: bool,
    is_open: bool,
}

impl Tail {
    pub(crate) async fn open(source: &PgSource, after: Position) -> Tail {
        Tail::new(source.changes(after).await.unwrap(), after)
    }

    pub(crate) fn new(stream: Box<dyn ChangeStream>, after: Position) -> Tail {
        Tail {
            stream,
            tables: HashMap::new(),
            lines: Vec::new(),
            reached: after,
            block_bytes_max: 0,
            tell_tables: false,
            is_open: false,
        }
    }

    /// Reads until everything that commits before `position` has come; gives what was told since the
    /// last call. Commits are not told, their transactions are: `begin`, changes.
    pub(crate) async fn until(&mut self, position: Position) -> Vec<String> {
        let reading = async {
            while self.reached < position {
                self.read_block().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("the stream comes this far");
        std::mem::take(&mut self.lines)
    }

    /// Reads until a line of this beginning is told; gives it.
    pub(crate) async fn until_line(&mut self, beginning: &str) -> String {
        let reading = async {
            loop {
                if let Some(at) = self
                    .lines
                    .iter()
                    .position(|line| line.starts_with(beginning))
                {
                    return self.lines.drain(..=at).next_back().unwrap();
                }
                self.read_block().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("the line comes")
    }

    /// Reads until the stream ends.
    pub(crate) async fn until_error(&mut self) -> Error {
        let reading = async {
            loop {
                if let Err(error) = self.read_block().await {
                    return error;
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("the stream ends")
    }

    /// What was told and not yet taken.
    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    pub(crate) async fn read_block(&mut self) -> Result<()> {
        let block = self.stream.next().await?;
        self.block_bytes_max = self.block_bytes_max.max(block.bytes.len());
        assert!(!block.events.is_empty(), "a block without events");
        for event in &block.events {
            self.tell(&block, event);
        }
        Ok(())
    }

    fn tell(&mut self, block: &Block, event: &Event) {
        match event {
            Event::Begin(begin) => {
                assert!(!self.is_open, "a transaction inside another");
                assert!(begin.commit >= self.reached, "commits ascend");
                self.is_open = true;
                self.lines.push("begin".to_owned());
            }
            Event::Table(table) => {
                let before = self.tables.insert(table.id, StreamTable::clone(table));
                // Servers may repeat themselves.
                if self.tell_tables && before.as_ref() != Some(&**table) {
                    let columns: Vec<&str> = table
                        .columns
                        .iter()
                        .map(|column| column.name.as_str())
                        .collect();
                    let (name, columns) = (&table.name, columns.join(","));
                    self.lines
                        .push(format!("table {name} ({columns}) {:?}", table.identity));
                }
            }
            Event::Change(change) => {
                assert!(self.is_open, "a change outside of a transaction");
                let name = &self.tables[&change.table].name.name;
                let old = match change.old {
                    None => String::new(),
                    Some(OldRow::Key(row)) => format!(" key({})", show(block, row)),
                    Some(OldRow::Full(row)) => format!(" old({})", show(block, row)),
                };
                let new = change
                    .new
                    .map_or(String::new(), |row| format!(" {}", show(block, row)));
                let op = match change.op {
                    Op::Insert => "insert",
                    Op::Update => "update",
                    Op::Delete => "delete",
                };
                self.lines.push(format!("{op} {name}{old}{new}"));
            }
            Event::Truncate(truncate) => {
                let tables: Vec<&str> = truncate
                    .tables
                    .iter()
                    .map(|id| self.tables[id].name.name.as_str())
                    .collect();
                let cascade = if truncate.cascade { " cascade" } else { "" };
                let restart = if truncate.restart_identity {
                    " restart identity"
                } else {
                    ""
                };
                self.lines
                    .push(format!("truncate {}{cascade}{restart}", tables.join(",")));
            }
            Event::Commit { end } => {
                assert!(self.is_open && *end > self.reached, "ends ascend");
                self.is_open = false;
                self.reached = *end;
                // PostgreSQL 14 sends transactions that hold nothing for us.
                if self.lines.last().is_some_and(|line| line == "begin") {
                    self.lines.pop();
                }
            }
            Event::Quiet { position } => {
                assert!(!self.is_open, "a boundary inside a transaction");
                assert!(*position > self.reached, "boundaries ascend");
                self.reached = *position;
            }
            Event::Heartbeat { written_at_us } => {
                self.lines.push(format!("heartbeat {written_at_us}"));
            }
            Event::Undecided { .. } | Event::Decided(_) | Event::Withdrawn => {
                panic!("{event:?}, which nobody has asked for")
            }
        }
        assert!(
            block.head >= self.reached,
            "the head is not behind what has come"
        );
    }
}

/// Values with a comma between: `-` is NULL, `~` unchanged; long ones by their length.
fn show(block: &Block, row: Row) -> String {
    let value = |cell: &tidemark_core::event::Cell| match cell.kind {
        CellKind::Null => "-".to_owned(),
        CellKind::Unchanged => "~".to_owned(),
        CellKind::Text => match String::from_utf8_lossy(block.value(*cell)).as_ref() {
            long if long.len() > 40 => format!("{} bytes", long.len()),
            short => short.to_owned(),
        },
    };
    let values: Vec<String> = block.row(row).iter().map(value).collect();
    values.join(",")
}

/// Waits until a query answers so.
pub(crate) async fn wait_for_answer(fixture: &mut Fixture<'_>, sql: &str, expected: &str) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while fixture.ask(sql).await.as_deref() != Some(expected) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain for {expected} of {sql}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A position some bytes further.
pub(crate) fn plus(position: Position, bytes: u64) -> Position {
    let Position::PgLsn(lsn) = position;
    Position::PgLsn(Lsn(lsn.0 + bytes))
}
