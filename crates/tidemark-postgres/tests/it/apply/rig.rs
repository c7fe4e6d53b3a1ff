//! A target with tables, an applier for it, and batches written by hand.

use std::sync::Arc;

use tidemark_core::Result;
use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::checkpoint::CheckpointUpdate;
use tidemark_core::event::{CellKind, OldRow, Op, Row};
use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::position::Position;
use tidemark_core::schema::{Column, ReplicaIdentity, TableName, TableSchema, ValueClass};
use tidemark_core::target::{Applied, Applier};
use tidemark_postgres::target::{PgApplier, PgTarget};

use crate::target::{Database, at};

/// A value that is NULL.
pub(crate) const NULL: &str = "\u{1}null";
/// A value that the log left out.
pub(crate) const UNCHANGED: &str = "\u{1}unchanged";

/// A database, a pipeline's target in it, and its applier.
pub(crate) struct Rig {
    pub(crate) database: Database,
    pub(crate) target: PgTarget,
    pub(crate) applier: PgApplier,
    position: u64,
}

impl Rig {
    /// A database made by these statements.
    pub(crate) async fn new(sql: &str) -> Rig {
        let database = Database::new().await;
        database.run(sql).await;
        let target = database.started("apply", &[]).await;
        Rig::of(database, target).await
    }

    /// An applier for a pipeline that has started.
    pub(crate) async fn of(database: Database, target: PgTarget) -> Rig {
        let applier = target.applier().await.unwrap();
        Rig {
            database,
            target,
            applier,
            position: 0x20_0000,
        }
    }

    /// Applies a batch as a transaction of its own.
    pub(crate) async fn apply(&mut self, batch: &Batch) -> Result<Applied> {
        self.applier.begin().await?;
        let early = self.applier.apply(batch).await?;
        let late = self.commit().await?;
        Ok(sum(early, late))
    }

    /// Commits the next position.
    pub(crate) async fn commit(&mut self) -> Result<Applied> {
        self.position += 0x100;
        let update = CheckpointUpdate {
            position: Some(at(self.position)),
            ..CheckpointUpdate::default()
        };
        self.applier.commit(&update).await
    }

    /// The position of the last commit.
    pub(crate) fn position(&self) -> Position {
        at(self.position)
    }

    /// The position that the target has.
    pub(crate) async fn checkpoint(&self) -> Position {
        let found = self.target.checkpoint().await.unwrap();
        found.unwrap().position
    }

    /// Rows of a query, cells parted by `|`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        let text = self.database.value(sql).await;
        text.lines().map(str::to_owned).collect()
    }
}

fn sum(a: Applied, b: Applied) -> Applied {
    let mut conflicts = a.conflicts;
    conflicts.extend(b.conflicts);
    Applied {
        inserts: a.inserts + b.inserts,
        updates: a.updates + b.updates,
        deletes: a.deletes + b.deletes,
        conflicts,
        ..Applied::default()
    }
}

/// A table of the schema public with these columns; key columns end in `*`.
pub(crate) fn table(name: &str, columns: &[&str]) -> TableMapping {
    let names: Vec<&str> = columns
        .iter()
        .map(|column| column.trim_end_matches('*'))
        .collect();
    let key: Vec<usize> = (0..columns.len())
        .filter(|i| columns[*i].ends_with('*'))
        .collect();
    let identity = if key.is_empty() {
        ReplicaIdentity::Full
    } else {
        ReplicaIdentity::Key(key.clone())
    };
    let mapped = |source: usize| ColumnMapping {
        source,
        target: names[source].to_owned(),
        mask: None,
        target_type: TargetType::AsSource,
    };
    TableMapping {
        schema: TableSchema {
            columns: names.iter().map(|name| column(name)).collect(),
            primary_key: key.clone(),
            identity,
            ..TableSchema::bare(TableName::new("public", name), 1)
        },
        target: TableName::new("public", name),
        columns: (0..names.len()).map(mapped).collect(),
        key,
        filter: None,
        on_row_error: tidemark_core::quarantine::OnRowError::StopTable,
    }
}

fn column(name: &str) -> Column {
    Column {
        class: ValueClass::Text,
        is_binary_portable: true,
        ..Column::bare(name, "text", 25)
    }
}

/// A batch that is being written.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) batch: Batch,
}

impl Log {
    pub(crate) fn new() -> Log {
        Log::default()
    }

    pub(crate) fn insert<S: AsRef<str>>(&mut self, table: &Arc<TableMapping>, new: &[S]) {
        self.change(table, Op::Insert, None::<(Old, &[S])>, Some(new));
    }

    pub(crate) fn update<S: AsRef<str>>(&mut self, table: &Arc<TableMapping>, new: &[S]) {
        self.change(table, Op::Update, None::<(Old, &[S])>, Some(new));
    }

    /// An update with an old row (a key, or all of it).
    pub(crate) fn replace<S: AsRef<str>>(
        &mut self,
        table: &Arc<TableMapping>,
        old: (Old, &[S]),
        new: &[S],
    ) {
        self.change(table, Op::Update, Some(old), Some(new));
    }

    pub(crate) fn delete<S: AsRef<str>>(&mut self, table: &Arc<TableMapping>, old: (Old, &[S])) {
        self.change(table, Op::Delete, Some(old), None);
    }

    fn change<S: AsRef<str>>(
        &mut self,
        table: &Arc<TableMapping>,
        op: Op,
        old: Option<(Old, &[S])>,
        new: Option<&[S]>,
    ) {
        let old = old.map(|(kind, cells)| match kind {
            Old::Key => OldRow::Key(self.row(cells)),
            Old::Full => OldRow::Full(self.row(cells)),
        });
        let new = new.map(|cells| self.row(cells));
        let table = self.batch.table(table);
        self.batch.push(Item::Change(Change {
            table,
            op,
            old,
            new,
        }));
    }

    fn row<S: AsRef<str>>(&mut self, cells: &[S]) -> Row {
        let begin = self.batch.begin_row();
        for cell in cells {
            match cell.as_ref() {
                NULL => self.batch.push_cell(CellKind::Null, b""),
                UNCHANGED => self.batch.push_cell(CellKind::Unchanged, b""),
                text => self.batch.push_cell(CellKind::Text, text.as_bytes()),
            }
        }
        self.batch.end_row(begin)
    }
}

/// How much of an old row the log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    Key,
    Full,
}
