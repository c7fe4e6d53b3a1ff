//! The apply connection: statements in flight, what is expected of each, and what came back.
//!
//! Nothing here waits for a single statement. Messages are queued; [`Session::pump`] writes them
//! once there are enough and takes in the answers that are there, [`Session::finish`] writes the
//! rest and waits for all answers. The server answers in order, so a queue of [`Expected`] says what
//! each answer is about: an error is thereby traced to the change that caused it.
//!
//! Statements are prepared once for each table and [`Shape`], named, and closed when they were not
//! used for longest or when an error leaves it open whether the server ever saw them.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;

use bytes::{BufMut, Bytes};
use tidemark_core::batch::{Batch, LARGE_BYTES};
use tidemark_core::catalogue::codes;
use tidemark_core::event::Cell;
use tidemark_core::{Error, Result};

use super::rows::value;
use super::shape::{self, Shape, Sql};
use super::table::TargetTable;
use crate::config::Side;
use crate::error;
use crate::wire::{Connection, DataRow, Format, Reply, ResultSet, ServerError, TransactionStatus};

/// Queued bytes from which it pays to write.
const PUMP_BYTES: usize = 128 * 1024;

/// Statements kept prepared. Each costs the server memory for its plan, some tens of kilobytes.
const STATEMENTS_MAX: usize = 500;

/// The server drops the connection over a message of 1 GiB (PostgreSQL 15, `PQ_LARGE_MESSAGE_LIMIT`).
const MESSAGE_BYTES_MAX: usize = 0x3FFF_FFF0;

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The transaction, the checkpoint, our own schema.
    Own,
    /// Whether tables without hooks still are.
    Hooks,
    /// One change: the table's and the item's places in the batch.
    Change { table: u32, item: u32 },
    /// Many changes of a table at once; `slot` is where the count goes in [`Outcome::counts`].
    Set { table: u32, slot: u32 },
    /// A statement whose rows are wanted, in [`Outcome::rows`].
    Rows,
    /// The end of what one `Sync` covers.
    Sync,
}

/// An answer that is to come: what about, and how many rows it ought to count.
#[derive(Clone, Copy, Debug)]
struct Expected {
    step: Step,
    rows: u64,
}

/// What the answers said.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The first refusal, and what was refused.
    pub(super) refused: Option<(Step, Box<ServerError>)>,
    /// Rows counted by each [`Step::Set`].
    pub(super) counts: Vec<u64>,
    /// For each change that counted otherwise than expected: its table and by how much.
    pub(super) surprises: Vec<(u32, u64)>,
    /// Rows of [`Step::Rows`].
    pub(super) rows: Vec<DataRow>,
}

/// Which statement it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum StatementKey {
    /// Of a table, by its number.
    Table(u32, Shape),
    /// Of our own, by its text.
    Own(&'static str),
}

#[derive(Debug)]
struct Prepared {
    number: u32,
    used: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    expected: VecDeque<Expected>,
    outcome: Outcome,
    statements: HashMap<StatementKey, Prepared>,
    /// Made since all answers were last in: after an error the server may not know them.
    unconfirmed: Vec<StatementKey>,
    clock: u64,
    next_number: u32,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Session {
        Session {
            connection,
            expected: VecDeque::new(),
            outcome: Outcome::default(),
            statements: HashMap::new(),
            unconfirmed: Vec::new(),
            clock: 0,
            next_number: 0,
        }
    }

    /// Asks something in a round trip of its own, after what is queued.
    pub(super) async fn query(&mut self, sql: &str, params: &[Option<&str>]) -> Result<ResultSet> {
        self.settled().await?.query(sql, params).await
    }

    /// The connection, after what is queued.
    pub(super) async fn settled(&mut self) -> Result<&mut Connection> {
        if !self.expected.is_empty() {
            self.sync();
            if let Some((_, said)) = self.finish().await?.refused {
                return Err(error::classify(Side::Target, *said));
            }
        }
        Ok(&mut self.connection)
    }

    /// Whether an earlier future was dropped in the middle of a flight.
    pub(super) fn is_adrift(&self) -> bool {
        !self.expected.is_empty() || self.connection.ready_expected() > 0
    }

    /// Whether the server was in a transaction at its last answer.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.connection.transaction_status() != TransactionStatus::Idle
    }

    /// The number of the prepared statement for this shape of a table, prepared if need be.
    pub(super) fn statement(&mut self, table: &TargetTable, shape: &Shape) -> Result<u32> {
        let key = StatementKey::Table(table.number, shape.clone());
        self.prepared(key, || shape::sql(table, shape))
    }

    /// The number of a prepared statement of our own.
    pub(super) fn own_statement(&mut self, text: &'static str) -> Result<u32> {
        self.prepared(StatementKey::Own(text), || Sql {
            text: text.to_owned(),
            types: Vec::new(),
        })
    }

    fn prepared(&mut self, key: StatementKey, sql: impl FnOnce() -> Sql) -> Result<u32> {
        self.clock += 1;
        if let Some(known) = self.statements.get_mut(&key) {
            known.used = self.clock;
            return Ok(known.number);
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.close_oldest()?;
        }
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        let sql = sql();
        self.connection
            .send_parse(&statement_name(number), &sql.text, &sql.types)?;
        self.unconfirmed.push(key.clone());
        let used = self.clock;
        self.statements.insert(key, Prepared { number, used });
        Ok(number)
    }

    fn close_oldest(&mut self) -> Result<()> {
        let oldest = self.statements.iter().min_by_key(|(_, known)| known.used);
        match oldest.map(|(key, _)| key.clone()) {
            Some(key) => self.close(&key),
            None => Ok(()),
        }
    }

    /// Closing a statement that does not exist is no error (PostgreSQL 15, 55.2.3).
    fn close(&mut self, key: &StatementKey) -> Result<()> {
        match self.statements.remove(key) {
            Some(known) => self
                .connection
                .send_close_statement(&statement_name(known.number)),
            None => Ok(()),
        }
    }

    /// Closes all statements of a table.
    pub(super) fn forget_table(&mut self, table: u32) -> Result<()> {
        let is_of_table =
            |key: &&StatementKey| matches!(key, StatementKey::Table(number, _) if *number == table);
        let keys: Vec<StatementKey> = self
            .statements
            .keys()
            .filter(is_of_table)
            .cloned()
            .collect();
        keys.iter().try_for_each(|key| self.close(key))
    }

    /// Begins to run a prepared statement with `count` parameters.
    pub(super) fn bind(&mut self, statement: u32, count: usize) -> Bind<'_> {
        let start = self.begin_bind(|name| {
            write!(name, "t{statement}").expect("a buffer takes any text");
        });
        let out = self.connection.output();
        // All parameters as text.
        out.put_i16(0);
        self.binding(start, count)
    }

    /// A Bind up to the name of its statement; gives where it begins.
    fn begin_bind(&mut self, name: impl FnOnce(&mut bytes::BytesMut)) -> usize {
        let out = self.connection.output();
        let start = out.len();
        out.put_u8(b'B');
        out.put_i32(0);
        // The unnamed portal.
        out.put_u8(0);
        name(out);
        out.put_u8(0);
        start
    }

    fn binding(&mut self, start: usize, count: usize) -> Bind<'_> {
        let count = u16::try_from(count).expect("two rows of 1,600 columns at most");
        self.connection.output().put_u16(count);
        Bind {
            session: self,
            start,
            attached: 0,
        }
    }

    /// Queues a statement without parameters or rows, by its text.
    pub(super) fn run(&mut self, sql: &str, step: Step) -> Result<()> {
        self.connection.send_parse("", sql, &[])?;
        self.connection.send_bind("", Format::Text, [])?;
        self.connection.send_execute()?;
        self.expect(step, 0);
        Ok(())
    }

    /// Queues a statement by its text, with parameters in their binary form, the last one in pieces that
    /// are not copied.
    pub(super) fn run_binary(
        &mut self,
        sql: &str,
        types: &[u32],
        params: &[&[u8]],
        last: &[Bytes],
        step: Step,
    ) -> Result<()> {
        self.connection.send_parse("", sql, types)?;
        let start = self.begin_bind(|_| {});
        let out = self.connection.output();
        // All parameters in binary.
        out.put_i16(1);
        out.put_i16(1);
        let mut bind = self.binding(start, params.len() + 1);
        for param in params {
            bind.value(Some(param));
        }
        bind.attach_all(last);
        bind.execute(step, 0)
    }

    /// Queues COPY data: `write` appends to the message it is given.
    pub(super) fn copy_data(&mut self, write: impl FnOnce(&mut bytes::BytesMut)) {
        let out = self.connection.output();
        let start = out.len();
        out.put_u8(b'd');
        out.put_i32(0);
        write(out);
        patch_length(out, start, 0);
    }

    /// Ends a COPY that a statement of `step` began.
    pub(super) fn copy_done(&mut self) {
        self.connection.send_copy_done();
    }

    /// Queues a `Sync`.
    pub(super) fn sync(&mut self) {
        self.connection.send_sync();
        self.expect(Step::Sync, 0);
    }

    fn expect(&mut self, step: Step, rows: u64) {
        self.expected.push_back(Expected { step, rows });
    }

    /// A place for the count of a set operation.
    pub(super) fn count_slot(&mut self) -> u32 {
        self.outcome.counts.push(0);
        u32::try_from(self.outcome.counts.len() - 1).expect("fewer sets than rows")
    }

    /// Whether the server has refused something in this flight: what follows is in vain.
    pub(super) fn is_refused(&self) -> bool {
        self.outcome.refused.is_some()
    }

    /// Writes when enough is queued, and takes in what has come back.
    pub(super) async fn pump(&mut self) -> Result<()> {
        if self.connection.queued_bytes() < PUMP_BYTES {
            return Ok(());
        }
        self.connection.flush().await?;
        while let Some(reply) = self.connection.buffered_reply()? {
            self.take(reply)?;
        }
        Ok(())
    }

    /// Writes all.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.connection.flush().await
    }

    /// Writes all and waits for all answers.
    pub(super) async fn finish(&mut self) -> Result<Outcome> {
        while self.connection.ready_expected() > 0 {
            let reply = self.connection.next_reply().await?;
            self.take(reply)?;
        }
        let outcome = std::mem::take(&mut self.outcome);
        let unconfirmed = std::mem::take(&mut self.unconfirmed);
        if outcome.refused.is_some() {
            unconfirmed.iter().try_for_each(|key| self.close(key))?;
        }
        Ok(outcome)
    }

    fn take(&mut self, reply: Reply) -> Result<()> {
        match reply {
            Reply::Complete(_) => {
                let affected = reply.affected();
                let expected = self.expected.pop_front().ok_or_else(out_of_step)?;
                self.count(expected, affected);
            }
            Reply::Row(row) if self.expected.front().map(|next| next.step) == Some(Step::Rows) => {
                self.outcome.rows.push(row);
            }
            Reply::Error(said) => {
                if said.ends_session() {
                    return Err(error::classify(Side::Target, *said));
                }
                let step = self.expected.front().map_or(Step::Own, |next| next.step);
                self.outcome.refused.get_or_insert((step, said));
            }
            Reply::Ready(_) => loop {
                // What the server skipped after an error has no answers.
                match self.expected.pop_front() {
                    Some(expected) if expected.step == Step::Sync => break,
                    Some(_) => {}
                    None => return Err(out_of_step()),
                }
            },
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, expected: Expected, affected: u64) {
        match expected.step {
            Step::Change { table, .. } if affected != expected.rows => {
                let difference = affected.abs_diff(expected.rows);
                self.outcome.surprises.push((table, difference));
            }
            Step::Set { slot, .. } => {
                if let Some(count) = self.outcome.counts.get_mut(slot as usize) {
                    *count = affected;
                }
            }
            _ => {}
        }
    }
}

fn statement_name(number: u32) -> String {
    format!("t{number}")
}

fn out_of_step() -> Error {
    error::protocol(Side::Target, "an answer to nothing that was asked")
}

/// Writes the length of the message that begins at `start`, what is attached to it included.
fn patch_length(out: &mut bytes::BytesMut, start: usize, attached: usize) {
    let length = out.len() - start - 1 + attached;
    let length = u32::try_from(length).expect("checked against MESSAGE_BYTES_MAX");
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

/// A statement that is being given its parameters, in order.
pub(super) struct Bind<'a> {
    session: &'a mut Session,
    start: usize,
    /// Bytes of large values that are sent from where they are.
    attached: usize,
}

impl Bind<'_> {
    /// The next parameter; `None` is NULL.
    pub(super) fn value(&mut self, value: Option<&[u8]>) {
        let out = self.session.connection.output();
        match value {
            None => out.put_i32(-1),
            Some(bytes) => {
                // Longer ones are caught when the message ends.
                out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                out.put_slice(bytes);
            }
        }
    }

    /// The next parameter, a value of a batch.
    pub(super) fn cell(&mut self, batch: &Batch, cell: Cell) {
        match batch.large(cell) {
            Some(large) => self.attach(large),
            None => self.value(value(batch, cell)),
        }
    }

    /// The next parameter, which is not copied if it is large.
    pub(super) fn attach(&mut self, value: &Bytes) {
        self.attach_all(std::slice::from_ref(value));
    }

    fn attach_all(&mut self, pieces: &[Bytes]) {
        let connection = &mut self.session.connection;
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let shown = u32::try_from(length).unwrap_or(u32::MAX);
        connection.output().put_u32(shown);
        for piece in pieces {
            if piece.len() < LARGE_BYTES {
                connection.output().put_slice(piece);
            } else {
                self.attached += piece.len();
                connection.attach(piece.clone());
            }
        }
    }

    /// The next parameter, whose text `write` appends.
    pub(super) fn written(&mut self, write: impl FnOnce(&mut bytes::BytesMut)) {
        let out = self.session.connection.output();
        let start = out.len();
        out.put_u32(0);
        write(out);
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Queues the statement, which ought to count `rows` rows. Results, if any, come as text.
    pub(super) fn execute(self, step: Step, rows: u64) -> Result<()> {
        self.session.connection.output().put_i16(0);
        self.end(step, rows)
    }

    /// Queues the statement; results come in their binary form.
    pub(super) fn execute_binary(self, step: Step) -> Result<()> {
        let out = self.session.connection.output();
        out.put_i16(1);
        out.put_i16(1);
        self.end(step, 0)
    }

    fn end(self, step: Step, rows: u64) -> Result<()> {
        let out = self.session.connection.output();
        if out.len() - self.start + self.attached > MESSAGE_BYTES_MAX {
            self.session.connection.take_back(self.start);
            return Err(Error::data(
                codes::TARGET_VALUE,
                "a row is larger than the server takes in one statement (1 GiB)",
            ));
        }
        patch_length(out, self.start, self.attached);
        self.session.connection.send_execute()?;
        self.session.expect(step, rows);
        Ok(())
    }
}
