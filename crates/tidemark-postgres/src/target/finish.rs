//! What is made behind the rows of one table: primary key, constraints, indexes, checks, statistics.
//!
//! Everything may be repeated: what is there under its name stays. A name that another relation of
//! the schema has already (two schemas of the source in one of the target) gets a hash behind it.
//! Beside the table that it will replace, names are the final ones with a hash, and
//! [`super::swap`] gives them back.

use std::collections::BTreeMap;

use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{Check, Index, IndexKind, TableName};
use tidemark_core::target::Place;
use tidemark_core::{Context, Result};

use super::catalog;
use super::create;
use super::names::{quoted, short_hash, table_at};
use super::wording;
use crate::wire::{Connection, quote_ident};

/// Index builds sort; the server's default of 64 MB makes them spill.
const SETTINGS: &str = "SELECT set_config('maintenance_work_mem', '256MB', false) \
     WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < 268435456";

/// One table whose rows are in.
pub(super) struct Finish<'a> {
    pub(super) mapping: &'a TableMapping,
    pub(super) place: Place,
    pub(super) pipeline: &'a str,
}

/// What the table has already.
struct Present {
    /// Its constraints and indexes.
    own: Vec<String>,
    /// Relations of the schema.
    taken: Vec<String>,
    has_primary_key: bool,
}

impl Finish<'_> {
    pub(super) async fn run(&self, connection: &mut Connection) -> Result<()> {
        connection.simple(SETTINGS).await?;
        let name = table_at(self.mapping, self.place);
        let schemas = catalog::schemas(connection, self.pipeline, self.mapping).await?;
        let moved = catalog::moved(connection, &schemas, create::texts(self.mapping)).await?;
        let mut present = present(connection, &name).await?;
        let (keys, others): (Vec<&Index>, Vec<&Index>) = self
            .mapping
            .schema
            .indexes
            .iter()
            .partition(|index| index.kind == IndexKind::PrimaryKey);
        for index in keys.into_iter().chain(others) {
            if self.mapping.index_obstacle(index).is_some() {
                continue;
            }
            let final_name = self.name_for(&index.name, &present, &name);
            if present.own.contains(&final_name)
                || (index.kind == IndexKind::PrimaryKey && present.has_primary_key)
            {
                continue;
            }
            let sql = self.index_sql(index, &final_name, &name, &moved);
            connection
                .run(&sql)
                .await
                .context(|| format!("make {}", index.name))?;
            present.taken.push(final_name);
        }
        for check in &self.mapping.schema.checks {
            let is_there = present.own.contains(&check.name);
            if is_there || self.mapping.check_obstacle(check).is_some() || self.is_renamed(check) {
                continue;
            }
            let definition = wording::replace(&check.definition, &moved);
            let (table, constraint) = (quoted(&name), quote_ident(&check.name));
            let sql = format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} {definition}");
            connection
                .run(&sql)
                .await
                .context(|| format!("make check {}", check.name))?;
        }
        connection.run(&format!("ANALYZE {}", quoted(&name))).await
    }

    /// Expressions name columns as the source does.
    fn is_renamed(&self, check: &Check) -> bool {
        check.columns.iter().any(|column| {
            self.mapping
                .target_column(column)
                .is_some_and(|to| to != column)
        })
    }

    /// The name that an index goes by here.
    fn name_for(&self, wanted: &str, present: &Present, table: &TableName) -> String {
        let is_foreign = present.taken.iter().any(|name| name == wanted)
            && !present.own.iter().any(|n| n == wanted);
        if self.place == Place::InPlace && !is_foreign {
            return wanted.to_owned();
        }
        aliased(wanted, table)
    }

    fn index_sql(
        &self,
        index: &Index,
        name: &str,
        table: &TableName,
        moved: &BTreeMap<TableName, TableName>,
    ) -> String {
        let (table, name) = (quoted(table), quote_ident(name));
        if let Some(exclusion) = &index.exclusion {
            let definition = wording::replace(exclusion, moved);
            return format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}");
        }
        let keys = self.keys(index, moved);
        let included = self.included(index);
        let nulls = if index.is_nulls_not_distinct {
            " NULLS NOT DISTINCT"
        } else {
            ""
        };
        let constraint = |kind: &str, nulls: &str| {
            let deferral = &index.deferral;
            format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} {kind}{nulls} ({keys}){included} {deferral}"
            )
        };
        match index.kind {
            IndexKind::PrimaryKey => constraint("PRIMARY KEY", ""),
            IndexKind::UniqueConstraint => constraint("UNIQUE", nulls),
            IndexKind::Unique | IndexKind::Plain | IndexKind::Exclusion => {
                let unique = if index.kind == IndexKind::Unique {
                    "UNIQUE "
                } else {
                    ""
                };
                let method = quote_ident(&index.method);
                let predicate = match &index.predicate {
                    Some(text) => format!(" WHERE {}", wording::replace(text, moved)),
                    None => String::new(),
                };
                format!(
                    "CREATE {unique}INDEX {name} ON {table} USING {method} \
                     ({keys}){included}{nulls}{predicate}"
                )
            }
        }
    }

    fn keys(&self, index: &Index, moved: &BTreeMap<TableName, TableName>) -> String {
        let key = |key: &tidemark_core::schema::IndexColumn| {
            let what = match (&key.column, &key.expression) {
                (Some(column), _) => quote_ident(self.target_name(column)),
                (None, Some(expression)) => format!("({})", wording::replace(expression, moved)),
                (None, None) => String::new(),
            };
            format!("{what} {}", wording::replace(&key.options, moved))
                .trim_end()
                .to_owned()
        };
        index.columns.iter().map(key).collect::<Vec<_>>().join(", ")
    }

    fn included(&self, index: &Index) -> String {
        if index.included.is_empty() {
            return String::new();
        }
        let names: Vec<String> = index
            .included
            .iter()
            .map(|name| quote_ident(self.target_name(name)))
            .collect();
        format!(" INCLUDE ({})", names.join(", "))
    }

    /// Generated columns are not carried and keep their name.
    fn target_name<'a>(&'a self, column: &'a str) -> &'a str {
        self.mapping.target_column(column).unwrap_or(column)
    }
}

/// A name with a hash of its table behind it.
pub(super) fn aliased(wanted: &str, table: &TableName) -> String {
    let hash = short_hash(&format!("{table} {wanted}"));
    // 63 bytes at most; a name is cut between characters.
    let end = wanted
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .rfind(|end| *end <= 49);
    format!(
        "{}_{hash}",
        wanted.get(..end.unwrap_or(0)).unwrap_or_default()
    )
}

async fn present(connection: &mut Connection, table: &TableName) -> Result<Present> {
    let found = connection
        .query(
            "SELECT i.relname, x.indrelid = t.oid, x.indisprimary AND x.indrelid = t.oid \
             FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace \
             JOIN pg_class i ON i.relnamespace = n.oid LEFT JOIN pg_index x ON x.indexrelid = i.oid \
             WHERE n.nspname = $1 AND t.relname = $2 \
             UNION ALL \
             SELECT k.conname, true, k.contype = 'p' FROM pg_class t \
             JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_constraint k ON k.conrelid = t.oid \
             WHERE n.nspname = $1 AND t.relname = $2",
            &[Some(&table.schema), Some(&table.name)],
        )
        .await?;
    let mut present = Present {
        own: Vec::new(),
        taken: Vec::new(),
        has_primary_key: false,
    };
    for row in &found.rows {
        let name: String = row.get(0)?;
        if row.opt::<String>(1)?.as_deref() == Some("t") {
            present.own.push(name.clone());
        }
        present.has_primary_key |= row.opt::<String>(2)?.as_deref() == Some("t");
        present.taken.push(name);
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_hash_stay_within_63_bytes() {
        let table = TableName::new("public", "t");
        let long = "ü".repeat(31);
        let name = aliased(&long, &table);
        assert!(name.len() <= 63, "{name}");
        assert!(name.starts_with("üüü"));
        assert_ne!(aliased("a", &table), aliased("b", &table));
        assert_ne!(
            aliased("a", &table),
            aliased("a", &TableName::new("public", "u"))
        );
    }
}
