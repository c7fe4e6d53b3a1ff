//! The oracle: are the rows of two databases the same?
//!
//! Each table is read on both sides as the text of its columns, in the order of those texts, and
//! merged, so that memory does not grow with the table and a table without a key is compared as a
//! multiset. Text is what a type's own output function says, under settings that are the same on
//! both sides; long values are compared by their MD5. Nothing of Tidemark's own code takes part.
//!
//! Each side is read in one repeatable-read transaction. The caller sees to it that both sides are
//! at the same point, or asks again until a deadline ([`Comparison::wait_until_identical`]).
//!
//! - [`columns`]: which tables and columns there are, and how they become text
//! - [`outcome`]: what was found, readable

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use futures_util::future::try_join;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, RowStream};

mod columns;
mod outcome;

use crate::wait::wait_for;

use columns::{Column, Side};
pub use outcome::{Difference, Outcome, TableOutcome};

/// A table's schema and name.
pub type Name = (String, String);

/// What is compared with what.
pub struct Comparison<'a> {
    source: &'a Client,
    target: &'a Client,
    only: Option<BTreeSet<Name>>,
    schemas: BTreeMap<String, String>,
    tables: BTreeMap<Name, Name>,
    columns: BTreeMap<(Name, String), String>,
    skipped: BTreeSet<(Name, String)>,
    kept: BTreeSet<(Name, String)>,
    filters: BTreeMap<Name, String>,
    differences_max: usize,
}

/// Both sides say the same about these.
const SETTINGS: &str = "
    SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD';
    SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 3;
    SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; SET LOCAL search_path = '';
    SET LOCAL xmloption = 'content'; SET LOCAL statement_timeout = 0;
    SET LOCAL row_security = off; SET LOCAL work_mem = '64MB'";

impl<'a> Comparison<'a> {
    /// All ordinary and partitioned tables of the source with those of the same name in the target.
    pub fn new(source: &'a Client, target: &'a Client) -> Comparison<'a> {
        Comparison {
            source,
            target,
            only: None,
            schemas: BTreeMap::new(),
            tables: BTreeMap::new(),
            columns: BTreeMap::new(),
            skipped: BTreeSet::new(),
            kept: BTreeSet::new(),
            filters: BTreeMap::new(),
            differences_max: 10,
        }
    }

    /// Only this table and others named so.
    #[must_use]
    pub fn only(mut self, schema: &str, table: &str) -> Self {
        self.only
            .get_or_insert_default()
            .insert(name(schema, table));
        self
    }

    /// The target has this schema under another name.
    #[must_use]
    pub fn schema(mut self, source: &str, target: &str) -> Self {
        self.schemas.insert(source.to_owned(), target.to_owned());
        self
    }

    /// The target has this table elsewhere.
    #[must_use]
    pub fn table(mut self, source: (&str, &str), target: (&str, &str)) -> Self {
        self.tables
            .insert(name(source.0, source.1), name(target.0, target.1));
        self
    }

    /// The target has this column under another name.
    #[must_use]
    pub fn column(mut self, table: (&str, &str), source: &str, target: &str) -> Self {
        let key = (name(table.0, table.1), source.to_owned());
        self.columns.insert(key, target.to_owned());
        self
    }

    /// This column of the source is masked or left out: not compared, and need not exist.
    #[must_use]
    pub fn skip_column(mut self, table: (&str, &str), column: &str) -> Self {
        self.skipped
            .insert((name(table.0, table.1), column.to_owned()));
        self
    }

    /// This column is in the target only, by the name of its table on the source: not compared, and
    /// must be there.
    #[must_use]
    pub fn kept_column(mut self, table: (&str, &str), column: &str) -> Self {
        self.kept
            .insert((name(table.0, table.1), column.to_owned()));
        self
    }

    /// Only the source rows for which this SQL holds are expected in the target.
    #[must_use]
    pub fn filter(mut self, table: (&str, &str), sql: &str) -> Self {
        self.filters.insert(name(table.0, table.1), sql.to_owned());
        self
    }

    /// How many differences a table lists; all are counted.
    #[must_use]
    pub fn differences_max(mut self, differences_max: usize) -> Self {
        self.differences_max = differences_max;
        self
    }

    /// Compares once.
    pub async fn run(&self) -> Result<Outcome> {
        for client in [self.source, self.target] {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            client.batch_execute(&format!("{begin};{SETTINGS}")).await?;
        }
        let outcome = self.run_in_transactions().await;
        for client in [self.source, self.target] {
            client.batch_execute("ROLLBACK").await?;
        }
        outcome
    }

    /// Compares until both sides are identical, and fails at the deadline with what differs.
    pub async fn wait_until_identical(&self, deadline: Duration) -> Result<Outcome> {
        // A table or column that is not there yet is an outcome; an error may pass as well.
        wait_for(deadline, "both sides to be identical", || async {
            let outcome = self.run().await?;
            if outcome.is_identical() {
                return Ok(Some(outcome));
            }
            anyhow::bail!("not identical:\n{outcome}");
        })
        .await
    }

    async fn run_in_transactions(&self) -> Result<Outcome> {
        let source = columns::tables(self.source).await?;
        let target = columns::tables(self.target).await?;
        if let Some(only) = &self.only {
            let missing: Vec<_> = only
                .iter()
                .filter(|name| !source.contains_key(name))
                .collect();
            ensure!(missing.is_empty(), "the source has no tables {missing:?}");
        }
        let mut tables = Vec::new();
        for (source_name, source_columns) in &source {
            if self
                .only
                .as_ref()
                .is_some_and(|only| !only.contains(source_name))
            {
                continue;
            }
            let target_name = self.target_name(source_name);
            let mut outcome = TableOutcome::new(source_name, &target_name);
            if let Some(target_columns) = target.get(&target_name) {
                let pairs = self.pair(source_name, source_columns, target_columns, &mut outcome);
                self.compare_rows(source_name, &target_name, &pairs, &mut outcome)
                    .await
                    .with_context(|| format!("compare {source_name:?}"))?;
            } else {
                outcome.add(Difference::Structure(
                    "the table is not in the target".to_owned(),
                ));
            }
            tables.push(outcome);
        }
        Ok(Outcome { tables })
    }

    fn target_name(&self, source: &Name) -> Name {
        if let Some(target) = self.tables.get(source) {
            return target.clone();
        }
        let schema = self.schemas.get(&source.0).unwrap_or(&source.0);
        (schema.clone(), source.1.clone())
    }

    /// Pairs the columns by name; what has no partner is a difference of its own.
    fn pair(
        &self,
        table: &Name,
        source: &[Column],
        target: &[Column],
        outcome: &mut TableOutcome,
    ) -> Vec<(Column, Column)> {
        let mut pairs = Vec::new();
        let mut known = BTreeSet::new();
        for column in source {
            let key = (table.clone(), column.name.clone());
            let target_name = self.columns.get(&key).unwrap_or(&column.name);
            known.insert(target_name.as_str());
            if self.skipped.contains(&key) {
                continue;
            }
            match target.iter().find(|c| &c.name == target_name) {
                Some(partner) => pairs.push((column.clone(), partner.clone())),
                None => outcome.add(Difference::Structure(format!(
                    "column {target_name} is not in the target"
                ))),
            }
        }
        let is_kept = |column: &str| self.kept.contains(&(table.clone(), column.to_owned()));
        for (_, column) in self.kept.iter().filter(|(of, _)| of == table) {
            let is_there = target.iter().any(|c| c.name == *column);
            if !is_there || known.contains(column.as_str()) {
                let text = format!("column {column} is not in the target only");
                outcome.add(Difference::Structure(text));
            }
        }
        let surplus = target.iter().filter(|c| !known.contains(c.name.as_str()));
        for column in surplus.filter(|c| !is_kept(&c.name)) {
            let text = format!("column {} is in the target only", column.name);
            outcome.add(Difference::Structure(text));
        }
        pairs
    }

    async fn compare_rows(
        &self,
        source: &Name,
        target: &Name,
        pairs: &[(Column, Column)],
        outcome: &mut TableOutcome,
    ) -> Result<()> {
        let filter = self.filters.get(source).map(String::as_str);
        let of_source = Side::of(self.source).await?;
        let of_target = Side::of(self.target).await?;
        let source_sql = of_source.select(source, pairs.iter().map(|(s, _)| s), filter);
        let target_sql = of_target.select(target, pairs.iter().map(|(_, t)| t), None);
        // Both at once, since each sorts before its first row.
        let (left, right) = (
            Rows::open(self.source, &source_sql),
            Rows::open(self.target, &target_sql),
        );
        let (mut left, mut right) = try_join(left, right).await?;
        let (mut missing, mut surplus) = (Vec::new(), Vec::new());
        loop {
            match (&left.head, &right.head) {
                (None, None) => break,
                (Some(l), Some(r)) if l == r => {
                    outcome.source_rows += 1;
                    outcome.target_rows += 1;
                    left.advance().await?;
                    right.advance().await?;
                }
                (Some(l), r) if r.as_ref().is_none_or(|r| l < r) => {
                    outcome.source_rows += 1;
                    keep(
                        &mut missing,
                        left.advance().await?,
                        self.differences_max,
                        outcome,
                    );
                }
                _ => {
                    outcome.target_rows += 1;
                    keep(
                        &mut surplus,
                        right.advance().await?,
                        self.differences_max,
                        outcome,
                    );
                }
            }
        }
        outcome.tell(pairs, missing, surplus);
        Ok(())
    }
}

fn name(schema: &str, table: &str) -> Name {
    (schema.to_owned(), table.to_owned())
}

fn keep(kept: &mut Vec<RowText>, row: Option<RowText>, max: usize, outcome: &mut TableOutcome) {
    outcome.different += 1;
    if let Some(row) = row
        && kept.len() < max
    {
        kept.push(row);
    }
}

/// The rows of one side, one ahead.
struct Rows {
    stream: Pin<Box<RowStream>>,
    head: Option<RowText>,
}

impl Rows {
    async fn open(client: &Client, sql: &str) -> Result<Rows> {
        let none: [&str; 0] = [];
        let stream = client
            .query_raw(sql, none)
            .await
            .with_context(|| sql.to_owned())?;
        let mut rows = Rows {
            stream: Box::pin(stream),
            head: None,
        };
        rows.advance().await?;
        Ok(rows)
    }

    /// Goes on by one and returns the row that was at the head.
    async fn advance(&mut self) -> Result<Option<RowText>> {
        let next = self.stream.try_next().await?;
        let next = next.map(|row| row.try_get::<_, RowText>(0)).transpose()?;
        let before = std::mem::replace(&mut self.head, next);
        if let (Some(before), Some(now)) = (&before, &self.head) {
            // A merge over a wrong order would invent differences.
            ensure!(before <= now, "rows are not in the order of their bytes");
        }
        Ok(before)
    }
}

/// The texts of a row's columns, ordered as `text[] COLLATE "C"` is: NULL last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowText(Vec<Cell>);

/// A column's text; the order of the variants is that of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Text(Vec<u8>),
    Null,
}

impl<'a> FromSql<'a> for RowText {
    fn from_sql(
        ty: &Type,
        raw: &'a [u8],
    ) -> Result<RowText, Box<dyn std::error::Error + Sync + Send>> {
        let cells = Vec::<Option<RawText>>::from_sql(ty, raw)?;
        let cell = |cell: Option<RawText>| cell.map_or(Cell::Null, |text| Cell::Text(text.0));
        Ok(RowText(cells.into_iter().map(cell).collect()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }
}

/// Text as bytes, since a database in `SQL_ASCII` holds any.
struct RawText(Vec<u8>);

impl<'a> FromSql<'a> for RawText {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> Result<RawText, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawText(raw.to_vec()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}
