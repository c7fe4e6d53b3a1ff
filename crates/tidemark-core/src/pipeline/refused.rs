//! A table whose change the target refused: what it rests on is looked at once more, then it is set aside.

use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{Reason, TableState, TableStateChange};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::TableMapping;
use crate::schema::{ObjectKind, SourceSchema, TableName};
use crate::selection::Selection;
use crate::target::{Loosened, Occasion, TypeChanges};

use super::observe::PipelineEvent;
use super::options::OnSchemaChange;
use super::reconcile;
use super::resync::What;
use super::{Engine, Run, state_change};

/// SQLSTATE of a row that a foreign key refuses.
const FOREIGN_KEY_VIOLATION: &str = "23503";

/// SQLSTATE of a text that is no value of its type, such as a label that an enumeration lacks.
pub(super) const NOT_OF_ITS_TYPE: &str = "22P02";

impl Run {
    /// Notes the table of a data error for the next attempt, which parks its changes. `false` where
    /// the error names no table of ours, so that nothing can be set aside.
    pub(super) async fn set_aside(&mut self, err: &Error) -> bool {
        let name = match self.table_of(err).await {
            Ok(Some(name)) => name,
            Ok(None) => return false,
            // The target does not answer, which the next attempt says.
            Err(_) => return true,
        };
        if !self.engine.sets_aside(&name) {
            return false;
        }
        self.lasting.skips.retain(|skipped| *skipped != name);
        let is_known = self.states.iter().any(|change| change.table == name);
        self.states.push(TableStateChange {
            table: name.clone(),
            target: name,
            source_id: 0,
            state: TableState::Quarantined,
            reason: Some(Reason::of(err)),
        });
        !is_known
    }

    /// The table that an error is about. Its name does not tell where the schema's ends: both may have dots.
    async fn table_of(&self, err: &Error) -> Result<Option<TableName>> {
        let Some(name) = err.table_name() else {
            return Ok(None);
        };
        let recorded = self.engine.target.checkpoint().await?;
        let tables = recorded.into_iter().flat_map(|recorded| recorded.tables);
        let mut names = tables.map(|table| table.source);
        Ok(names.find(|table| table.to_string() == name))
    }

    /// What a table rests on changes in no log: a type gets a label or an attribute, a constraint goes.
    /// Whether the target lacked something of this that it has now, so that the row may well be taken. A
    /// side that does not answer has the next attempt say so.
    pub(super) async fn follows_what_it_rests_on(&mut self, err: &Error) -> bool {
        if !self.engine.follows_additions() {
            return false;
        }
        let table = match self.table_of(err).await {
            Ok(Some(table)) => table,
            Ok(None) => return false,
            Err(_) => return true,
        };
        let typed = self.engine.follow_types(&table).await;
        let loosened = self.engine.loosen_for(&table, err.sqlstate_code()).await;
        let has_followed = |followed: &Result<bool>| match followed {
            Ok(has_followed) => *has_followed,
            Err(err) => err.kind() == ErrorKind::Transient,
        };
        has_followed(&typed)
            || has_followed(&loosened)
            || (typed.is_ok() && self.is_of_older_types(&table, err).await)
    }

    /// A value that is none of a type, although the type is the source's of now: it was written before a
    /// label was renamed, or an attribute went, and the target has followed that already. The table is
    /// loaded anew, by which all that is older is left out.
    async fn is_of_older_types(&mut self, table: &TableName, err: &Error) -> bool {
        if err.sqlstate_code() != Some(NOT_OF_ITS_TYPE) {
            return false;
        }
        let engine = Arc::clone(&self.engine);
        let Ok(described) = engine.source.describe(&Selection::of(table)).await else {
            return false;
        };
        let changes = |kind| matches!(kind, ObjectKind::Enum | ObjectKind::Composite);
        let has_types = described.objects.iter().any(|object| changes(object.kind));
        let mapping = engine.carried(&described).pop().filter(|_| has_types);
        let Some(mapping) = mapping else {
            return false;
        };
        let recorded = engine.target.checkpoint().await.ok().flatten();
        let tables = recorded.into_iter().flat_map(|recorded| recorded.tables);
        let mut streaming = tables.filter(|known| known.state == TableState::Streaming);
        if !streaming.any(|known| known.source == *table) {
            return false;
        }
        let text = "a type has changed since a value was written: the table is loaded anew";
        let table = table.clone();
        engine.observer.say(PipelineEvent::SchemaChanged {
            table,
            text: text.to_owned(),
        });
        let what = What::Table(reconcile::strategy(&mapping));
        let reason = Some(Reason::plain(what.reason()));
        let change = state_change(&mapping, TableState::Resyncing, reason);
        self.states.push(change);
        true
    }
}

impl Engine {
    /// Whether what takes nothing away from the target's rows is followed by itself.
    pub(super) fn follows_additions(&self) -> bool {
        matches!(
            self.options.on_schema_change,
            OnSchemaChange::Apply | OnSchemaChange::ApplyAdditive
        )
    }

    /// How far types of the target follow those of the source.
    pub(super) fn type_changes(&self) -> TypeChanges {
        match self.options.on_schema_change {
            OnSchemaChange::Apply => TypeChanges::All,
            OnSchemaChange::ApplyAdditive => TypeChanges::Renames,
            OnSchemaChange::StopTable | OnSchemaChange::Fail | OnSchemaChange::Ignore => {
                TypeChanges::Demands
            }
        }
    }

    /// Whether types of the target follow those of the source.
    pub(super) fn follows_types(&self) -> bool {
        self.options.create_tables && self.follows_additions()
    }

    /// Has the types of a table follow the source's; whether there was something to follow.
    pub(super) async fn follow_types(&self, table: &TableName) -> Result<bool> {
        if !self.follows_types() {
            return Ok(false);
        }
        let (_, have_followed) = self.mapping_of_now(table).await?;
        if have_followed {
            let text = "a type is not as it was: done on the target too".to_owned();
            let table = table.clone();
            self.observer
                .say(PipelineEvent::SchemaChanged { table, text });
        }
        Ok(have_followed)
    }

    /// Takes off the target what may have refused a row of this table and is gone on the source; whether
    /// there was something. A foreign key may be another table's.
    async fn loosen_for(&self, table: &TableName, sqlstate: Option<&str>) -> Result<bool> {
        let schema = self.source.describe(self.rules.selection()).await?;
        let tables = self.carried(&schema);
        let of = match sqlstate {
            Some(FOREIGN_KEY_VIOLATION) => tables.iter().map(|t| t.source().clone()).collect(),
            _ => vec![table.clone()],
        };
        let loosened = self.loosen(&tables, &of, Occasion::Refusal).await?;
        Ok(!loosened.gone.is_empty())
    }

    /// How the tables of the source are carried as they are now. One that cannot be any more is told
    /// where its turn comes.
    pub(super) fn carried(&self, schema: &SourceSchema) -> Vec<TableMapping> {
        let tables = schema.tables.iter();
        let tables = tables.filter_map(|table| self.rules.map_table(table).ok());
        tables.collect()
    }

    /// Takes constraints off the target that are gone on the source, and says so.
    pub(super) async fn loosen(
        &self,
        tables: &[TableMapping],
        of: &[TableName],
        occasion: Occasion,
    ) -> Result<Loosened> {
        if !self.follows_additions() {
            return Ok(Loosened::default());
        }
        let loosened = self.target.loosen(tables, of, occasion).await?;
        for (table, text) in &loosened.gone {
            let text = format!("{text} on the source: done on the target too");
            let table = table.clone();
            self.observer
                .say(PipelineEvent::SchemaChanged { table, text });
        }
        Ok(loosened)
    }

    /// How a table is carried as it is now, what it rests on made; and whether types that it rests on have
    /// followed the source's. One that cannot is a matter of this table, not of the others.
    pub(super) async fn mapping_of_now(
        &self,
        name: &TableName,
    ) -> Result<(Arc<TableMapping>, bool)> {
        let schema = self.source.describe(&Selection::of(name)).await?;
        let Some(table) = schema.tables.iter().find(|table| table.name == *name) else {
            return Err(match schema.why_not_carried(name) {
                Some(why) => {
                    let text = format!("{name} cannot be copied any more: {why}");
                    Error::data(codes::TABLE_NOT_CARRIED, text).table(name.to_string())
                }
                None => no_table(name),
            });
        };
        let mapping = Arc::new(self.rules.map_table(table)?);
        let mut have_followed = false;
        if self.options.create_tables {
            let tables = std::slice::from_ref(mapping.as_ref());
            let changes = self.type_changes();
            let made = self.prepare_objects(&schema, tables, changes).await;
            have_followed = made.map_err(|err| match err.kind() {
                ErrorKind::Transient => err,
                _ => err.with_kind(ErrorKind::Data).table(name.to_string()),
            })?;
        }
        Ok((mapping, have_followed))
    }
}

/// A table was there when it was last looked for.
pub(super) fn no_table(name: &TableName) -> Error {
    let gone = format!("the source has no table {name} any more");
    Error::data(codes::MAPPING_NO_TABLE, gone).table(name.to_string())
}
