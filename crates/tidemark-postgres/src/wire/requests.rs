//! Statements with an answer: one round trip each.

use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tidemark_core::{Error, Result};

use super::connection::Connection;
use super::pipeline::Reply;
use super::rows::{ResultSet, Row};
use crate::error;

/// What an answer may take in memory: more than any catalog has, and not all that a server can send.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// What a row or a statement's end takes besides its bytes.
const ITEM_BYTES: usize = 128;

impl Connection {
    /// Runs one or more statements by the simple protocol; one result set each, values as text.
    /// Several statements are one transaction unless they say otherwise.
    ///
    /// Not cancel-safe: a dropped future leaves the connection refusing further requests.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<ResultSet>> {
        self.begin_request()?;
        self.send_query(sql)?;
        self.result_sets().await
    }

    /// [`Connection::simple`] for statements of which only the success matters.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        self.simple(sql).await.map(drop)
    }

    /// Runs one statement by the extended protocol, in one round trip. Parameters and results are
    /// text; parameter types are the server's guess, so cast in the statement (`$1::int8`) where it
    /// cannot guess right.
    ///
    /// Not cancel-safe: a dropped future leaves the connection refusing further requests.
    pub async fn query(&mut self, sql: &str, params: &[Option<&str>]) -> Result<ResultSet> {
        self.query_typed(sql, &[], params).await
    }

    /// [`Connection::query`] with the types of its parameters, by their object ids.
    pub async fn query_typed(
        &mut self,
        sql: &str,
        types: &[u32],
        params: &[Option<&str>],
    ) -> Result<ResultSet> {
        self.begin_request()?;
        self.send_parse("", sql, types)?;
        self.queue(|out| {
            let write = |param: Option<&str>, out: &mut bytes::BytesMut| match param {
                None => Ok(IsNull::Yes),
                Some(text) => {
                    out.extend_from_slice(text.as_bytes());
                    Ok(IsNull::No)
                }
            };
            frontend::bind("", "", [], params.iter().copied(), write, [], out).map_err(
                |error| match error {
                    frontend::BindError::Conversion(error) => std::io::Error::other(error),
                    frontend::BindError::Serialization(error) => error,
                },
            )?;
            frontend::describe(b'P', "", out)?;
            frontend::execute("", 0, out)
        })?;
        self.send_sync();
        let mut sets = self.result_sets().await?;
        sets.pop()
            .ok_or_else(|| error::protocol(self.side, "no answer to a query"))
    }

    /// [`Connection::query`] for statements without rows: how many rows they wrote.
    pub async fn execute(&mut self, sql: &str, params: &[Option<&str>]) -> Result<u64> {
        Ok(self.query(sql, params).await?.affected())
    }

    /// Reads answers up to `ReadyForQuery`. An error of the server wins over results before it.
    pub(crate) async fn result_sets(&mut self) -> Result<Vec<ResultSet>> {
        let mut sets = Vec::new();
        let mut columns = None;
        let mut rows = Vec::new();
        let mut failure: Option<Error> = None;
        let mut room = ANSWER_BYTES_MAX;
        loop {
            let reply = self.next_reply().await?;
            let taken = match &reply {
                Reply::Row(data) => ITEM_BYTES + data.bytes(),
                _ => ITEM_BYTES,
            };
            room = room
                .checked_sub(taken)
                .ok_or_else(|| error::protocol(self.side, "an answer without an end"))?;
            match reply {
                Reply::Ready(_) => return failure.map_or(Ok(sets), Err),
                Reply::Columns(described) => columns = Some(described),
                Reply::Row(data) => {
                    let columns = columns.get_or_insert_with(|| [].into());
                    rows.push(Row::new(std::sync::Arc::clone(columns), data, self.side));
                }
                Reply::Complete(tag) => sets.push(ResultSet {
                    columns: columns.take().unwrap_or_else(|| [].into()),
                    rows: std::mem::take(&mut rows),
                    tag,
                }),
                Reply::Error(said) => {
                    // After FATAL the server closes without a ReadyForQuery.
                    let last = said.ends_session();
                    let error = error::classify(self.side, *said);
                    if last {
                        return Err(error);
                    }
                    failure.get_or_insert(error);
                }
                Reply::CopyIn => {
                    self.queue(|out| frontend::copy_fail("not asked for", out))?;
                    failure.get_or_insert(error::protocol(self.side, "COPY as a plain statement"));
                }
                Reply::CopyOut { .. } => {
                    failure.get_or_insert(error::protocol(self.side, "COPY as a plain statement"));
                }
                Reply::CopyBoth => {
                    return Err(error::protocol(
                        self.side,
                        "replication as a plain statement",
                    ));
                }
                Reply::Step | Reply::CopyData(_) | Reply::CopyDone => {}
            }
        }
    }
}
