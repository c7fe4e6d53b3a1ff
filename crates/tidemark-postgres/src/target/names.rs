//! Names on the target: of tables, of what is made beside them, and of the types they need.
//!
//! Schemas follow the tables: if all carried tables of a source schema go to one schema of the
//! target, its types and sequences go there too; if they go to several, or if no table of that
//! schema is carried, types and sequences keep the name they have on the source.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;
use tidemark_core::target::Place;

use crate::wire::quote_qualified;

/// `"schema"."table"`.
pub(super) fn quoted(name: &TableName) -> String {
    quote_qualified(&name.schema, &name.name)
}

/// The table that rows of a load go to.
pub(super) fn table_at(mapping: &TableMapping, place: Place) -> TableName {
    match place {
        Place::InPlace => mapping.target.clone(),
        Place::Beside => beside(&mapping.target),
    }
}

/// The table beside `table` in which a resync collects rows until the swap: `tidemark_beside_` and
/// twelve hexadecimal digits of a hash of the table's name, so that the name is never too long and
/// can be found again.
pub(super) fn beside(table: &TableName) -> TableName {
    TableName::new(
        table.schema.clone(),
        format!("tidemark_beside_{}", short_hash(&table.unquoted())),
    )
}

/// Twelve hexadecimal digits.
pub(super) fn short_hash(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let first = hash.first_chunk().expect("a SHA-256 hash has 32 bytes");
    let number = u64::from_be_bytes(*first) >> 16;
    format!("{number:012x}")
}

/// Where schemas of the source lie on the target, for types and sequences.
#[derive(Clone, Debug, Default)]
pub(super) struct Schemas {
    renamed: BTreeMap<String, String>,
}

impl Schemas {
    /// By the rule of the module's text, from the schemas of each table on source and target.
    pub(super) fn of<S: Into<String>>(tables: impl IntoIterator<Item = (S, S)>) -> Schemas {
        let mut targets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (source, target) in tables {
            targets
                .entry(source.into())
                .or_default()
                .insert(target.into());
        }
        let renamed = targets
            .into_iter()
            .filter_map(|(source, mut goes)| {
                let target = goes.pop_first()?;
                (goes.is_empty() && source != target).then_some((source, target))
            })
            .collect();
        Schemas { renamed }
    }

    /// By the same rule, from the tables of a pipeline.
    pub(super) fn of_tables(tables: &[TableMapping]) -> Schemas {
        let pair =
            |table: &TableMapping| (table.source().schema.clone(), table.target.schema.clone());
        Schemas::of(tables.iter().map(pair))
    }

    /// The target name of a type or sequence.
    pub(super) fn target(&self, source: &TableName) -> TableName {
        match self.renamed.get(&source.schema) {
            Some(schema) => TableName::new(schema.clone(), source.name.clone()),
            None => source.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_their_schema_only_where_it_goes_to_one_place() {
        let schemas = Schemas::of([
            ("public", "dw"),
            ("public", "dw"),
            ("app", "one"),
            ("app", "two"),
            ("same", "same"),
        ]);
        for (source, target) in [
            ("public", "dw"),
            ("app", "app"),
            ("same", "same"),
            ("types", "types"),
        ] {
            let found = schemas.target(&TableName::new(source, "mood"));
            assert_eq!(found, TableName::new(target, "mood"));
        }
    }

    #[test]
    fn the_name_beside_is_short_and_the_same_every_time() {
        let long = TableName::new("s", "x".repeat(63));
        let name = beside(&long);
        assert_eq!(name, beside(&long));
        assert_eq!(name.schema, "s");
        assert!(name.name.len() <= 40, "{name}");
        assert_ne!(name, beside(&TableName::new("s", "y")));
    }
}
