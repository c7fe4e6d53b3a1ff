//! A table whose change the target refused: what it rests on is looked at once more, then it is set aside.

use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{TableState, TableStateChange};
use crate::error::{Error, Result};
use crate::mapping::TableMapping;
use crate::schema::TableName;
use crate::selection::Selection;

use super::observe::PipelineEvent;
use super::options::OnSchemaChange;
use super::{Engine, Run};

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
            reason: Some(format!("{}: {err}", err.code())),
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

    /// What was added to a type (a label of an enumeration, an attribute) is in no log. A value that the
    /// target refused may be one: whether its types lacked something that they have now.
    pub(super) async fn types_have_grown(&self, err: &Error) -> bool {
        let options = &self.engine.options;
        let follows = matches!(
            options.on_schema_change,
            OnSchemaChange::Apply | OnSchemaChange::ApplyAdditive
        );
        if !follows || !options.create_tables {
            return false;
        }
        let Ok(Some(table)) = self.table_of(err).await else {
            return false;
        };
        let Ok((_, true)) = self.engine.mapping_of_now(&table).await else {
            return false;
        };
        let text = "a type has more than it had: done on the target too".to_owned();
        self.engine
            .observer
            .say(PipelineEvent::SchemaChanged { table, text });
        true
    }
}

impl Engine {
    /// How a table is carried as it is now, what it rests on made; and whether types that it rests on have
    /// got what they lacked.
    pub(super) async fn mapping_of_now(
        &self,
        name: &TableName,
    ) -> Result<(Arc<TableMapping>, bool)> {
        let schema = self.source.describe(&Selection::of(name)).await?;
        let Some(table) = schema.tables.iter().find(|table| table.name == *name) else {
            let gone = format!("the source has no table {name} any more");
            return Err(Error::data(codes::MAPPING_NO_TABLE, gone).table(name.to_string()));
        };
        let mapping = Arc::new(self.rules.map_table(table)?);
        let mut has_grown = false;
        if self.options.create_tables {
            let tables = std::slice::from_ref(mapping.as_ref());
            has_grown = self.target.prepare_objects(&schema, tables).await?;
        }
        Ok((mapping, has_grown))
    }
}
