//! What values of user-defined types are made of, and what domains demand of them.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::Result;
use tidemark_core::schema::{DomainRule, Member, MemberKind, SchemaObject, TableName, TypeMembers};

use super::super::{Oids, Tables, table_name};
use super::Types;
use crate::wire::Connection;

/// A label's oid and an attribute's number stay with it when it is renamed. Row types of tables follow
/// their tables.
const MEMBERS: &str = "SELECT t.oid, n.nspname, t.typname, t.typtype, m.number, m.name \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted \
    JOIN pg_namespace n ON n.oid = t.typnamespace \
    CROSS JOIN LATERAL ( \
      SELECT e.oid::int8, e.enumlabel, e.enumsortorder FROM pg_enum e \
      WHERE t.typtype = 'e' AND e.enumtypid = t.oid \
      UNION ALL SELECT a.attnum, a.attname, a.attnum \
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
      WHERE t.typtype = 'c' AND c.oid = t.typrelid AND c.relkind = 'c' \
        AND a.attnum > 0 AND NOT a.attisdropped) AS m (number, name, place) \
    ORDER BY t.oid, m.place";

/// `typnotnull`, the check constraints, and the default.
const RULES: &str = "SELECT t.oid, format_type(t.oid, NULL), c.conname, \
        replace(pg_get_constraintdef(c.oid), ' NOT VALID', '') \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted AND t.typtype = 'd' \
    JOIN pg_constraint c ON c.contypid = t.oid AND c.contype = 'c' \
    UNION ALL SELECT t.oid, format_type(t.oid, NULL), NULL, 'NOT NULL' \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted AND t.typtype = 'd' \
    WHERE t.typnotnull \
    UNION ALL SELECT t.oid, format_type(t.oid, NULL), NULL, 'DEFAULT ' || pg_get_expr(t.typdefaultbin, 0) \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted AND t.typtype = 'd' \
    WHERE t.typdefaultbin IS NOT NULL \
    ORDER BY 1, 3 NULLS FIRST, 4";

impl Types {
    /// Gives the tables the members of their types, and the tables whose row types they have.
    pub(in super::super) async fn add_members(
        &self,
        connection: &mut Connection,
        tables: &mut Tables,
    ) -> Result<()> {
        let members = self.members(connection).await?;
        for table in tables.values_mut() {
            let columns = table.columns.iter().map(|column| column.type_id);
            let below = self.below(columns);
            let of = members.iter().filter(|known| below.contains(&known.id));
            table.types = of.cloned().collect();
            table.rests_on = self.rows_below(&below);
        }
        Ok(())
    }

    /// The members of all that have some.
    pub(in super::super) async fn members(
        &self,
        connection: &mut Connection,
    ) -> Result<Vec<TypeMembers>> {
        let oids = self.made_by_users(&['e', 'c']);
        if oids.is_empty() {
            return Ok(Vec::new());
        }
        let oids = Oids::of(oids);
        let set = connection.query(MEMBERS, &[Some(oids.param())]).await?;
        let mut types: Vec<TypeMembers> = Vec::new();
        for row in &set.rows {
            let id: u32 = row.get(0)?;
            if types.last().is_none_or(|last| last.id != id) {
                types.push(TypeMembers {
                    id,
                    name: table_name(row, 1, 2)?,
                    kind: match row.get::<char>(3)? {
                        'e' => MemberKind::Labels,
                        _ => MemberKind::Attributes,
                    },
                    members: Vec::new(),
                });
            }
            if let Some(known) = types.last_mut() {
                known.members.push(Member {
                    number: row.get(4)?,
                    name: row.get(5)?,
                });
            }
        }
        Ok(types)
    }

    /// Gives the tables what domains demand of their values.
    pub(in super::super) async fn add_rules(
        &self,
        connection: &mut Connection,
        tables: &mut Tables,
    ) -> Result<()> {
        let oids = self.made_by_users(&['d']);
        if oids.is_empty() {
            return Ok(());
        }
        let oids = Oids::of(oids);
        let set = connection.query(RULES, &[Some(oids.param())]).await?;
        let mut rules: BTreeMap<u32, Vec<DomainRule>> = BTreeMap::new();
        for row in &set.rows {
            rules.entry(row.get(0)?).or_default().push(DomainRule {
                type_name: row.get(1)?,
                name: row.opt(2)?,
                demand: row.get(3)?,
                columns: Vec::new(),
            });
        }
        for table in tables.values_mut() {
            let mut of: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            for column in &table.columns {
                for below in self.below([column.type_id]) {
                    if rules.contains_key(&below) {
                        of.entry(below).or_default().push(column.name.clone());
                    }
                }
            }
            let with_columns = of.into_iter().flat_map(|(oid, columns)| {
                let with = move |rule: &DomainRule| DomainRule {
                    columns: columns.clone(),
                    ..rule.clone()
                };
                rules[&oid].iter().map(with)
            });
            table.domains = with_columns.collect();
        }
        Ok(())
    }

    /// Those of these kinds that no extension and no server has brought.
    fn made_by_users(&self, kinds: &[char]) -> Vec<u32> {
        let types = self.by_oid.iter().filter(|(_, found)| {
            let is_ours = found.extension.is_none() && found.name.schema != "pg_catalog";
            kinds.contains(&found.kind) && is_ours && found.name.schema != "information_schema"
        });
        types.map(|(oid, _)| *oid).collect()
    }

    /// The tables whose rows are among these types.
    fn rows_below(&self, below: &BTreeSet<u32>) -> Vec<TableName> {
        let rows = below.iter().filter_map(|oid| self.by_oid.get(oid));
        let rows = rows.filter(|found| found.relation_kind.is_some_and(|kind| kind != 'c'));
        rows.map(|found| found.name.clone()).collect()
    }

    /// Gives the tables those of the types that have rows of other tables in them.
    pub(in super::super) fn add_late_types(
        &self,
        objects: &[(u32, SchemaObject)],
        tables: &mut Tables,
    ) {
        let is_late = |oid: u32| !self.rows_below(&self.below([oid])).is_empty();
        let late: Vec<_> = objects.iter().filter(|(oid, _)| is_late(*oid)).collect();
        for table in tables.values_mut().filter(|_| !late.is_empty()) {
            let below = self.below(table.columns.iter().map(|column| column.type_id));
            let of = late.iter().filter(|(oid, _)| below.contains(oid));
            table.late_types = of.map(|(_, object)| object.clone()).collect();
        }
    }

    /// These types and all that they rest on.
    fn below(&self, types: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for oid in types {
            self.visit(oid, &mut seen, &mut order);
        }
        seen
    }
}
