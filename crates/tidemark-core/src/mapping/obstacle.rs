//! Which indexes, checks and foreign keys of the source cannot hold on the target, because of what the
//! mapping does to columns and rows. They are not made, and `plan` says so; finding out at the end of
//! a long load would be too late.

use super::{ColumnMapping, TableMapping, TargetType};
use crate::mask::Mask;
use crate::schema::{Check, ForeignKey, Index, IndexKind, TableName};

impl TableMapping {
    /// Why an index or a constraint behind it cannot be made; `None` if it can.
    pub fn index_obstacle(&self, index: &Index) -> Option<String> {
        let named = index
            .columns
            .iter()
            .filter_map(|column| column.column.as_deref());
        let left_out = named
            .clone()
            .chain(index.included.iter().map(String::as_str))
            .find(|name| self.carried(name).is_none() && !self.is_generated(name));
        if let Some(name) = left_out {
            return Some(format!("column {name} is not carried"));
        }
        let is_unique = index.kind != IndexKind::Plain;
        let merged = named.clone().find(|name| {
            self.carried(name)
                .is_some_and(|column| merges(column, index.is_nulls_not_distinct))
        });
        if let Some(name) = merged.filter(|_| is_unique) {
            return Some(format!(
                "column {name} is masked, and different values become one"
            ));
        }
        // What expressions speak of is in the source's words and not taken apart here.
        let has_expression = index.predicate.is_some()
            || index.exclusion.is_some()
            || index
                .columns
                .iter()
                .any(|column| column.expression.is_some());
        let changed = self.changed_column().filter(|_| has_expression)?;
        Some(format!(
            "it has an expression, which may speak of column {changed}"
        ))
    }

    /// Why a check cannot be made; `None` if it can.
    pub fn check_obstacle(&self, check: &Check) -> Option<String> {
        check
            .columns
            .iter()
            .find_map(|name| match self.carried(name) {
                Some(column) if column.mask.is_some() => Some(format!("column {name} is masked")),
                None if !self.is_generated(name) => Some(format!("column {name} is not carried")),
                _ => None,
            })
    }

    /// Why a foreign key of this table cannot be made; `None` if it can. `tables` are all of the
    /// pipeline.
    pub fn foreign_key_obstacle(
        &self,
        key: &ForeignKey,
        tables: &[TableMapping],
    ) -> Option<String> {
        let Some(referenced) = tables
            .iter()
            .find(|table| *table.source() == key.references)
        else {
            return Some(format!("{} is not carried", key.references));
        };
        if referenced.filter.is_some() {
            return Some(format!(
                "{} is filtered: rows that it points to may be missing",
                key.references
            ));
        }
        key.columns
            .iter()
            .zip(&key.referenced_columns)
            .find_map(|(from, to)| self.pair_obstacle(from, referenced, to))
    }

    /// Why values of one column do not find their partners in the other.
    fn pair_obstacle(&self, from: &str, referenced: &TableMapping, to: &str) -> Option<String> {
        let absent = |name: &str, table: &TableName| {
            Some(format!("column {name} of {table} is not carried"))
        };
        let Some(mine) = self.carried(from) else {
            return absent(from, self.source()).filter(|_| !self.is_generated(from));
        };
        let Some(theirs) = referenced.carried(to) else {
            return absent(to, referenced.source()).filter(|_| !referenced.is_generated(to));
        };
        // NULL points to nothing, and may.
        let is_fine = mine.mask == Some(Mask::Null) || mine.mask == theirs.mask;
        (!is_fine).then(|| {
            format!(
                "{from} and {} of {} are not masked alike",
                to,
                referenced.source()
            )
        })
    }

    fn carried(&self, source: &str) -> Option<&ColumnMapping> {
        self.columns
            .iter()
            .find(|column| self.source_column(column) == source)
    }

    /// Generated columns are not carried: the target computes them.
    fn is_generated(&self, source: &str) -> bool {
        let generated = |default: &_| matches!(default, crate::schema::ColumnDefault::Generated(_));
        let mut columns = self.schema.columns.iter();
        columns.any(|column| column.name == source && generated(&column.default))
    }

    /// A column that is left out, or of another type than on the source.
    fn changed_column(&self) -> Option<&str> {
        let columns = self
            .schema
            .columns
            .iter()
            .map(|column| column.name.as_str());
        columns.into_iter().find(|name| match self.carried(name) {
            Some(column) => column.target_type != TargetType::AsSource,
            None => !self.is_generated(name),
        })
    }
}

/// Whether a mask makes one of different values, so that they are not unique any more.
fn merges(column: &ColumnMapping, is_nulls_not_distinct: bool) -> bool {
    match &column.mask {
        None | Some(Mask::Hash { .. }) => false,
        Some(Mask::Null) => is_nulls_not_distinct,
        Some(Mask::Redact { .. } | Mask::Partial | Mask::Fixed { .. }) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;
    use crate::mapping::Rules;
    use crate::mapping::fixture::table;
    use crate::schema::IndexColumn;

    /// `id, email, phone, note`: email hashed, phone redacted, note left out.
    fn customers() -> TableMapping {
        let schema = table(
            "public.customers",
            &[
                ("id", "bigint"),
                ("email", "text"),
                ("phone", "text"),
                ("note", "text"),
            ],
        );
        let mut mapping = Rules::default().map_table(&schema).unwrap();
        mapping.columns.truncate(3);
        mapping.columns[1].mask = Some(Mask::Hash {
            salt: Secret::new("x"),
        });
        mapping.columns[2].mask = Some(Mask::Redact { constant: "***" });
        mapping
    }

    fn index(kind: IndexKind, columns: &[&str]) -> Index {
        Index {
            name: "i".to_owned(),
            kind,
            method: "btree".to_owned(),
            columns: columns
                .iter()
                .map(|name| IndexColumn {
                    column: Some((*name).to_owned()),
                    expression: None,
                    options: String::new(),
                })
                .collect(),
            included: Vec::new(),
            predicate: None,
            is_nulls_not_distinct: false,
            deferral: String::new(),
            exclusion: None,
            parameters: String::new(),
        }
    }

    #[test]
    fn indexes_over_what_is_gone_or_merged_are_not_made() {
        let customers = customers();
        for (kind, columns, expected) in [
            (IndexKind::Unique, &["email"][..], None),
            (IndexKind::Plain, &["phone"], None),
            (
                IndexKind::UniqueConstraint,
                &["id", "phone"],
                Some("column phone is masked, and different values become one"),
            ),
            (
                IndexKind::Plain,
                &["note"],
                Some("column note is not carried"),
            ),
        ] {
            let found = customers.index_obstacle(&index(kind, columns));
            assert_eq!(found.as_deref(), expected, "{columns:?}");
        }
        let mut partial = index(IndexKind::Plain, &["id"]);
        partial.predicate = Some("(note IS NULL)".to_owned());
        let found = customers.index_obstacle(&partial).unwrap();
        assert!(found.contains("may speak of column note"), "{found}");
        let mut null = customers.clone();
        null.columns[2].mask = Some(Mask::Null);
        let mut unique = index(IndexKind::Unique, &["phone"]);
        assert_eq!(null.index_obstacle(&unique), None);
        unique.is_nulls_not_distinct = true;
        assert!(null.index_obstacle(&unique).is_some());
    }

    #[test]
    fn checks_over_masked_columns_are_not_made() {
        let customers = customers();
        let check = |column: &str| Check {
            name: "c".to_owned(),
            definition: String::new(),
            columns: vec![column.to_owned()],
        };
        assert_eq!(customers.check_obstacle(&check("id")), None);
        assert!(customers.check_obstacle(&check("email")).is_some());
        assert!(customers.check_obstacle(&check("note")).is_some());
    }

    #[test]
    fn foreign_keys_need_both_ends_alike() {
        let customers = customers();
        let schema = table(
            "public.orders",
            &[("id", "bigint"), ("who", "bigint"), ("mail", "text")],
        );
        let mut orders = Rules::default().map_table(&schema).unwrap();
        let key = |from: &str, to: &str| ForeignKey {
            name: "f".to_owned(),
            columns: vec![from.to_owned()],
            references: customers.source().clone(),
            referenced_columns: vec![to.to_owned()],
            options: String::new(),
        };
        let all = [customers.clone()];
        assert_eq!(orders.foreign_key_obstacle(&key("who", "id"), &all), None);
        assert!(
            orders
                .foreign_key_obstacle(&key("who", "id"), &[])
                .is_some()
        );
        assert!(
            orders
                .foreign_key_obstacle(&key("mail", "email"), &all)
                .is_some()
        );
        orders.columns[2].mask = customers.columns[1].mask.clone();
        assert_eq!(
            orders.foreign_key_obstacle(&key("mail", "email"), &all),
            None
        );
        orders.columns[2].mask = Some(Mask::Null);
        assert_eq!(
            orders.foreign_key_obstacle(&key("mail", "email"), &all),
            None
        );
        let mut filtered = customers.clone();
        let filter = crate::filter::Filter::bind("id > 5", &filtered.schema).unwrap();
        filtered.filter = Some(filter);
        assert!(
            orders
                .foreign_key_obstacle(&key("who", "id"), &[filtered])
                .is_some()
        );
    }
}
