//! Tables that have another shape by now and to which nobody writes. The log announces a table before the
//! next change of its rows, and for these there is none: their rows may have been written anew, or have got
//! a column, and nothing says so. So what a look at the catalog found is taken for an announcement, once
//! the stream has passed the end that the log had then: whatever the log had to say came before. So it is
//! with types: values that were written before a label was renamed have its old name in the log.

use std::sync::Arc;

use crate::checkpoint::{KnownShape, TableState};
use crate::error::{Context, ErrorKind, Result};
use crate::event::{StreamColumn, StreamTable};
use crate::pipeline::typed::keep_names;
use crate::position::Position;
use crate::schema::{
    Column, ColumnDefault, ObjectKind, ReplicaIdentity, SchemaObject, SourceSchema, TableSchema,
};

use super::Stream;

/// What a look at the catalog found, and where the log ended after it.
pub(super) struct Looked {
    pub(super) schema: SourceSchema,
    pub(super) head: Position,
}

impl Stream<'_> {
    /// Follows the tables of the last look whose shape nobody has announced.
    pub(super) async fn follow_idle(&mut self) -> Result<()> {
        let assembled = self.assembler.assembled();
        let is_passed = |looked: &mut Looked| looked.head <= assembled;
        if !self.assembler.is_at_boundary() {
            return Ok(());
        }
        let Some(looked) = self.looked.take_if(is_passed) else {
            return Ok(());
        };
        self.follow_types(&looked.schema).await?;
        for schema in &looked.schema.tables {
            let Some(route) = self.assembler.router.named(&schema.name) else {
                continue;
            };
            let entry = self.assembler.router.route(route);
            let is_it = entry.source_id == schema.id;
            if entry.is_away && is_it && self.assembler.router.find(schema.id) == Some(route) {
                let table = Arc::new(announcement(schema));
                self.reshape(route, &table).await?;
                continue;
            }
            let is_followed = entry.state == TableState::Streaming
                && is_it
                && self.assembler.router.has_passed(&schema.name)
                && !self.resyncs.is_under_way(route);
            if !is_followed || is_known(&entry.shape, schema) {
                continue;
            }
            let table = Arc::new(announcement(schema));
            // What came after the look will be announced, or found by the next one.
            let now = self.engine.source.shape_of(&table).await;
            let now = now.context(|| format!("read what became of {}", schema.name))?;
            if now.storage == schema.storage && now.attributes == schema.attributes {
                self.reshape(route, &table).await?;
            }
        }
        Ok(())
    }
}

impl Stream<'_> {
    /// Has the types on the target follow those that are not as they were at the last look.
    async fn follow_types(&mut self, schema: &SourceSchema) -> Result<()> {
        let changes = |kind| matches!(kind, ObjectKind::Enum | ObjectKind::Composite);
        let objects = schema.objects.iter();
        let is_other =
            |object: &&SchemaObject| changes(object.kind) && !self.types.contains(object);
        let objects: Vec<SchemaObject> = objects.filter(is_other).cloned().collect();
        if objects.is_empty() || !self.engine.follows_types() {
            return Ok(());
        }
        let schema = SourceSchema {
            tables: schema.tables.clone(),
            objects,
            ..SourceSchema::default()
        };
        match self.engine.make_types_alike(&schema).await {
            Ok(tables) => self.release_followed(&tables),
            Err(err) if err.kind() == ErrorKind::Transient => return Err(err),
            // A value that does not fit stops its table, and says why.
            Err(err) => tracing::warn!(code = %err.code(), "{err}"),
        }
        let is_older = |known: &SchemaObject| schema.objects.iter().all(|o| o.name != known.name);
        self.types.retain(is_older);
        self.types.extend(schema.objects);
        Ok(())
    }
}

/// Whether a table is as it was known, but for the names of its types. How its columns are counted was not
/// always recorded.
fn is_known(known: &KnownShape, schema: &TableSchema) -> bool {
    let mut found = KnownShape::of_table(schema);
    keep_names(&mut found.types, &known.types);
    if known.attributes.is_empty() {
        found.attributes.clear();
    }
    *known == found
}

/// A table as the log would announce it.
fn announcement(schema: &TableSchema) -> StreamTable {
    let is_announced = |column: &&Column| !matches!(column.default, ColumnDefault::Generated(_));
    let announced = schema.columns.iter().filter(is_announced);
    let columns: Vec<StreamColumn> = announced
        .map(|column| StreamColumn {
            name: column.name.clone(),
            type_id: column.type_id,
            type_modifier: column.type_modifier,
        })
        .collect();
    let mut identity = schema.identity.clone();
    if let ReplicaIdentity::Key(key) = &mut identity {
        let place = |at: &usize| {
            let name = &schema.columns[*at].name;
            columns.iter().position(|column| column.name == *name)
        };
        *key = key.iter().filter_map(place).collect();
    }
    StreamTable {
        id: schema.id,
        name: schema.name.clone(),
        columns,
        identity,
    }
}
