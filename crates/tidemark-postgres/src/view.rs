//! One instant of either side, for verification: digests computed inside the database.
//!
//! A row's hash is made of its values alone, never of column order, types' oids or physical form, so
//! that equal data give equal digests on every server (`view/hash.rs` says how). Rows are summed, so
//! their order does not matter, while a row that is there twice counts twice.
//!
//! The source's view reads through the mapping (columns, filter, masks), the target's reads what is
//! there. Both are one repeatable-read transaction. A table is let go of after each query.

use std::collections::HashMap;

use async_trait::async_trait;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::mapping::{ColumnMapping, TableMapping};
use tidemark_core::schema::TableName;
use tidemark_core::verify::look::{Limits, ShownRow, Which};
use tidemark_core::verify::{Digest, RowDigest, RowText, View};
use tidemark_core::{Context as _, Error, Result};

use crate::source::select;
use crate::wire::{Connection, ResultSet, Row, quote_ident, quote_qualified};
use crate::{config, error, shown};

mod hash;
mod look;
mod packed;

use hash::{Form, Hashed, TextBytes, Use};

/// See the module's text.
pub struct PgView {
    connection: Connection,
    side: Side,
}

enum Side {
    Source,
    /// With what is known of the target's tables by now.
    Target(HashMap<TableName, TargetTable>),
}

/// A table as the target has it.
struct TargetTable {
    is_partitioned: bool,
    /// Base type of each column.
    types: HashMap<String, u32>,
}

/// Rows of a table on one side: where they are and what they hold.
struct Rows {
    from: String,
    conditions: Vec<String>,
    /// In the mapping's order.
    values: Vec<Hashed>,
    /// Positions in `values`.
    key: Vec<usize>,
}

impl PgView {
    /// A view of the source; the connection is in a transaction at the instant.
    pub(crate) fn of_source(connection: Connection) -> PgView {
        PgView {
            connection,
            side: Side::Source,
        }
    }

    /// A view of the target as it is now.
    pub async fn of_target(mut connection: Connection) -> Result<PgView> {
        let begin = format!(
            "{SETTINGS}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             SELECT pg_current_snapshot()"
        );
        connection.run(&begin).await?;
        Ok(PgView {
            connection,
            side: Side::Target(HashMap::new()),
        })
    }

    async fn rows_of(&mut self, mapping: &TableMapping, range: &Chunk) -> Result<Rows> {
        let key = mapping.key.clone();
        let text = TextBytes::of(self.connection.parameter("server_encoding"));
        match &mut self.side {
            Side::Source => {
                select::set_salts(&mut self.connection, mapping).await?;
                let value = |carried: &ColumnMapping| Hashed {
                    sql: select::expression(mapping, carried),
                    form: Form::of(mapping, carried),
                    text,
                };
                Ok(Rows {
                    from: select::from(mapping, range),
                    conditions: select::conditions(mapping, range)?,
                    values: mapping.columns.iter().map(value).collect(),
                    key,
                })
            }
            Side::Target(known) => {
                if !known.contains_key(&mapping.target) {
                    let table = read_target(&mut self.connection, &mapping.target).await?;
                    known.insert(mapping.target.clone(), table);
                }
                let table = &known[&mapping.target];
                let value = |carried: &ColumnMapping| {
                    let name = quote_ident(&carried.target);
                    let form = Form::of(mapping, carried);
                    let actual = table.types.get(&carried.target).copied();
                    Hashed {
                        sql: form.fitted(&name, actual),
                        form,
                        text,
                    }
                };
                let target = quote_qualified(&mapping.target.schema, &mapping.target.name);
                let only = if table.is_partitioned { "" } else { "ONLY " };
                let condition = select::target_condition(mapping, range)?;
                Ok(Rows {
                    from: format!("FROM {only}{target}"),
                    conditions: condition.into_iter().collect(),
                    values: mapping.columns.iter().map(value).collect(),
                    key,
                })
            }
        }
    }

    fn unreadable(&self) -> Error {
        let side = match self.side {
            Side::Source => config::Side::Source,
            Side::Target(_) => config::Side::Target,
        };
        error::protocol(side, "digests that cannot be read")
    }

    /// Reads rows of a table, and lets go of it: a savepoint that is rolled back gives the table's lock
    /// back, so that whoever wants to change the table waits for one query and not for all.
    async fn query(&mut self, mapping: &TableMapping, sql: &str) -> Result<ResultSet> {
        self.query_with(mapping, "", sql).await
    }

    /// The same with settings, which are undone with the savepoint.
    async fn query_with(
        &mut self,
        mapping: &TableMapping,
        settings: &str,
        sql: &str,
    ) -> Result<ResultSet> {
        let doing = match self.side {
            Side::Source => format!("compare {} on the source", mapping.source()),
            Side::Target(_) => format!("compare {} on the target", mapping.target),
        };
        let begin = format!("SAVEPOINT tidemark_view; {settings}");
        self.connection.run(&begin).await?;
        let read = self.read(mapping, sql).await;
        let let_go = "ROLLBACK TO SAVEPOINT tidemark_view; RELEASE SAVEPOINT tidemark_view";
        let let_go = self.connection.run(let_go).await;
        let set = read.context(|| doing)?;
        let_go?;
        Ok(set)
    }

    async fn read(&mut self, mapping: &TableMapping, sql: &str) -> Result<ResultSet> {
        let set = self.connection.query(sql, &[]).await?;
        let table = match self.side {
            Side::Source => mapping.source(),
            Side::Target(_) => &mapping.target,
        };
        if shown::shows(&mut self.connection, table).await? {
            return Ok(set);
        }
        Err(Error::data(
            codes::TABLE_REWRITTEN,
            "the table was emptied, rewritten or replaced after the position of the comparison",
        ))
    }
}

/// What a session that compares has set. A table is read by one statement, so the server may use more than one
/// process; that each of them compiles it first (`jit`) costs more than it gives: a range of a million rows
/// by buckets took 5.6 s with it and 2.3 s without (PostgreSQL 15).
pub(crate) const SETTINGS: &str = "SET row_security = off; SET jit = off";

/// A bucket takes some 200 bytes while rows are grouped. With the default of 4 MB the rows of a large range
/// would be written to disk and read again.
const GROUPS_IN_MEMORY: &str = "SELECT set_config('work_mem', '64MB', true) \
    WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')";

/// Kind and columns of a target table, domains as what they are made of.
async fn read_target(connection: &mut Connection, name: &TableName) -> Result<TargetTable> {
    let set = connection
        .query(
            "SELECT c.relkind = 'p', a.attname, \
                    CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
                  AND NOT a.attisdropped \
             LEFT JOIN pg_type t ON t.oid = a.atttypid \
             WHERE n.nspname = $1 AND c.relname = $2",
            &[Some(&name.schema), Some(&name.name)],
        )
        .await?;
    let mut table = TargetTable {
        is_partitioned: false,
        types: HashMap::new(),
    };
    for row in &set.rows {
        table.is_partitioned = row.get_bool(0)?;
        if let (Some(column), Some(type_id)) = (row.opt(1)?, row.opt(2)?) {
            table.types.insert(column, type_id);
        }
    }
    Ok(table)
}

impl Rows {
    fn all(&self) -> String {
        select::where_all(&self.from, &self.conditions)
    }

    fn limited_by(&self, condition: &str) -> String {
        let mut conditions = self.conditions.clone();
        conditions.push(condition.to_owned());
        select::where_all(&self.from, &conditions)
    }

    /// That the key is one of these.
    fn sought(&self, mapping: &TableMapping, keys: &[Vec<String>]) -> String {
        let value = |at: &usize| {
            let value = self.values[*at].sql.clone();
            select::sought(mapping, &mapping.columns[*at], value)
        };
        let values: Vec<String> = self.key.iter().map(value).collect();
        select::these_rows(&values, keys)
    }

    fn row_hash(&self, which: Use) -> String {
        hash::row(&self.values.iter().collect::<Vec<_>>(), which)
    }

    /// By the key; by the whole row where there is none.
    fn bucket(&self, bucket_count: u32) -> String {
        let hash = if self.key.is_empty() {
            self.row_hash(Use::Bucket)
        } else {
            let key: Vec<&Hashed> = self.key.iter().map(|at| &self.values[*at]).collect();
            hash::row(&key, Use::Bucket)
        };
        format!("({hash} & {}) % {}", i64::MAX, bucket_count.max(1))
    }
}

#[async_trait]
impl View for PgView {
    async fn count(&mut self, mapping: &TableMapping, range: &Chunk) -> Result<u64> {
        let rows = self.rows_of(mapping, range).await?;
        let sql = format!("SELECT count(*) {}", rows.all());
        self.query(mapping, &sql).await?.one()?.get(0)
    }

    async fn digest(&mut self, mapping: &TableMapping, range: &Chunk) -> Result<Digest> {
        let rows = self.rows_of(mapping, range).await?;
        let sql = format!(
            "SELECT count(*), sum({}) {}",
            rows.row_hash(Use::Digest),
            rows.all()
        );
        let set = self.query(mapping, &sql).await?;
        digest(set.one()?, 0)
    }

    async fn bucket_digests(
        &mut self,
        mapping: &TableMapping,
        range: &Chunk,
        bucket_count: u32,
    ) -> Result<Vec<Digest>> {
        let rows = self.rows_of(mapping, range).await?;
        let grouped = format!(
            "SELECT {} AS n, count(*) AS c, sum({}) AS s {} GROUP BY 1",
            rows.bucket(bucket_count),
            rows.row_hash(Use::Digest),
            rows.all()
        );
        let sql = packed::buckets_sql(&grouped, bucket_count);
        let set = self.query_with(mapping, GROUPS_IN_MEMORY, &sql).await?;
        let packed: String = set.one()?.get(0)?;
        packed::buckets(&packed, bucket_count).ok_or_else(|| self.unreadable())
    }

    async fn bucket_rows(
        &mut self,
        mapping: &TableMapping,
        range: &Chunk,
        buckets: &[u32],
        bucket_count: u32,
    ) -> Result<Vec<RowDigest>> {
        let rows = self.rows_of(mapping, range).await?;
        let key: Vec<String> = rows
            .key
            .iter()
            .map(|at| format!(", {}", rows.values[*at].printed()))
            .collect();
        let buckets: Vec<String> = buckets.iter().map(u32::to_string).collect();
        let in_buckets = format!(
            "{} = ANY('{{{}}}'::int8[])",
            rows.bucket(bucket_count),
            buckets.join(",")
        );
        let sql = format!(
            "SELECT {}{} {}",
            packed::hash_sql(&rows.row_hash(Use::Digest)),
            key.join(""),
            rows.limited_by(&in_buckets),
        );
        let set = self.query(mapping, &sql).await?;
        let mut out = Vec::with_capacity(set.rows.len());
        for row in &set.rows {
            let key = (1..row.len()).map(|cell| Ok(row.opt(cell)?.unwrap_or_default()));
            let hash: String = row.get(0)?;
            out.push(RowDigest {
                key: key.collect::<Result<_>>()?,
                hash: packed::hash(&hash).ok_or_else(|| self.unreadable())?,
            });
        }
        out.sort_unstable();
        Ok(out)
    }

    async fn rows(&mut self, mapping: &TableMapping, keys: &[Vec<String>]) -> Result<Vec<RowText>> {
        if keys.is_empty() || mapping.key.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.rows_of(mapping, &Chunk::Whole).await?;
        let wanted = rows.sought(mapping, keys);
        let key = rows.key.iter().map(|at| rows.values[*at].printed());
        let values = rows.values.iter().map(Hashed::shown);
        let columns: Vec<String> = key.chain(values).collect();
        let sql = format!("SELECT {} {}", columns.join(", "), rows.limited_by(&wanted));
        let set = self.query(mapping, &sql).await?;
        let key_len = rows.key.len();
        set.rows
            .iter()
            .map(|row| {
                let key = (0..key_len).map(|cell| Ok(row.opt(cell)?.unwrap_or_default()));
                Ok(RowText {
                    key: key.collect::<Result<_>>()?,
                    values: (key_len..row.len())
                        .map(|cell| row.opt(cell))
                        .collect::<Result<_>>()?,
                })
            })
            .collect()
    }

    async fn shown(
        &mut self,
        mapping: &TableMapping,
        which: Which<'_>,
        limits: &Limits,
    ) -> Result<Vec<ShownRow>> {
        let rows = self.rows_of(mapping, &Chunk::Whole).await?;
        let Some(sql) = look::sql(mapping, &rows, &self.side, which, limits) else {
            return Ok(Vec::new());
        };
        let settings = look::settings(limits);
        let set = self.query_with(mapping, &settings, &sql).await?;
        let key_len = rows.key.len();
        let row = |row: &Row| look::row(row, key_len, limits).ok_or_else(|| self.unreadable());
        set.rows.iter().map(row).collect()
    }
}

/// Count and sum, from a cell on. No row at all gives NULL for a sum.
fn digest(row: &Row, at: usize) -> Result<Digest> {
    Ok(Digest {
        rows: row.get(at)?,
        sum: modulo(row.opt(at + 1)?),
    })
}

/// `sum(int8)` is an exact `numeric`; what counts is its rest modulo 2^64.
fn modulo(sum: Option<i128>) -> u64 {
    let rest = sum.unwrap_or(0).rem_euclid(1 << 64);
    u64::try_from(rest).expect("a rest modulo 2^64 is a u64")
}
