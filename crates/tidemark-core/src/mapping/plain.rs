//! Rules to mappings, without the exceptions: every selected table under its own name. The rules'
//! exceptions (renames, columns left out, filters, masks) are laid over it where rules are bound.

use super::{ColumnMapping, Rules, TableMapping, TargetType};
use crate::error::Result;
use crate::schema::{ColumnDefault, ReplicaIdentity, SourceSchema, TableSchema};
use crate::selection::Selection;

impl Rules {
    /// Which tables.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The mappings of all selected tables.
    pub fn map(&self, schema: &SourceSchema) -> Result<Vec<TableMapping>> {
        schema
            .tables
            .iter()
            .map(|table| self.map_table(table))
            .collect()
    }

    /// The mapping of one table.
    pub fn map_table(&self, table: &TableSchema) -> Result<TableMapping> {
        let is_carried =
            |index: &usize| !matches!(table.columns[*index].default, ColumnDefault::Generated(_));
        let carried: Vec<usize> = (0..table.columns.len()).filter(is_carried).collect();
        let key = match &table.identity {
            ReplicaIdentity::Key(key) => key,
            ReplicaIdentity::Full | ReplicaIdentity::Nothing => &table.primary_key,
        };
        Ok(TableMapping {
            target: table.name.clone(),
            key: key
                .iter()
                .filter_map(|k| carried.iter().position(|c| c == k))
                .collect(),
            columns: carried
                .iter()
                .map(|source| ColumnMapping {
                    source: *source,
                    target: table.columns[*source].name.clone(),
                    mask: None,
                    target_type: TargetType::AsSource,
                })
                .collect(),
            filter: None,
            schema: table.clone(),
        })
    }
}
