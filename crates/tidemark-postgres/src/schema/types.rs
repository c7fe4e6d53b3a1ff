//! Types: what kind of values they hold, whether their bytes may be passed on, how they are made.
//!
//! All types that the tables' columns rest on are read in one query that follows domains, arrays,
//! ranges and composite types down to base types.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::Result;
use tidemark_core::schema::{
    Column, ColumnDefault, NotCarried, ObjectKind, SchemaObject, TableName, ValueClass,
};
use tidemark_core::source::StreamedColumn;

use super::Oids;
use crate::wire::Connection;

pub(super) mod builtins;
mod definitions;
mod members;

pub use builtins::{builtin, is_order_safe};

pub(crate) use builtins::FIRST_USER_OID;

/// One row of `pg_type`.
#[derive(Clone, Debug)]
pub(super) struct Type {
    name: TableName,
    /// `typtype`: b, c, d, e, m, p, r.
    kind: char,
    is_array: bool,
    element: u32,
    base: u32,
    /// Range of a multirange, subtype of a range.
    range_of: u32,
    has_binary_form: bool,
    /// The kind of relation whose rows a composite type describes.
    relation_kind: Option<char>,
    attributes: Vec<u32>,
    extension: Option<String>,
}

/// Types by oid.
#[derive(Debug, Default)]
pub(super) struct Types {
    by_oid: BTreeMap<u32, Type>,
}

/// Extensions whose base types send nothing of the catalog: text, or fields without oids
/// (their `_send` functions, contrib of PostgreSQL 15).
const PORTABLE_EXTENSIONS: [&str; 3] = ["citext", "hstore", "ltree"];

/// The types of the columns of the tables in `$1`.
pub(super) async fn read(connection: &mut Connection, oids: &Oids) -> Result<Types> {
    let start = "SELECT DISTINCT a.atttypid FROM unnest($1::oid[]) AS wanted \
                 JOIN pg_attribute a ON a.attrelid = wanted \
                 WHERE a.attnum > 0 AND NOT a.attisdropped";
    closure(connection, start, oids).await
}

/// These types and what they rest on.
pub(super) async fn of(connection: &mut Connection, types: &[u32]) -> Result<Types> {
    let oids = Oids::of(types.iter().copied());
    closure(connection, "SELECT unnest($1::oid[])", &oids).await
}

async fn closure(connection: &mut Connection, start: &str, oids: &Oids) -> Result<Types> {
    let sql = format!(
        "WITH RECURSIVE used (oid) AS ( \
           {start} \
           UNION \
           SELECT next.oid FROM used JOIN pg_type t ON t.oid = used.oid \
           LEFT JOIN pg_range r ON r.rngtypid = t.oid OR r.rngmultitypid = t.oid \
           CROSS JOIN LATERAL ( \
             SELECT t.typbasetype WHERE t.typtype = 'd' \
             UNION ALL SELECT t.typelem WHERE t.typelem <> 0 \
             UNION ALL SELECT r.rngsubtype WHERE t.typtype = 'r' \
             UNION ALL SELECT r.rngtypid WHERE t.typtype = 'm' \
             UNION ALL SELECT a.atttypid FROM pg_attribute a \
                       WHERE t.typtype = 'c' AND a.attrelid = t.typrelid \
                         AND a.attnum > 0 AND NOT a.attisdropped) AS next (oid)) \
         SELECT t.oid, n.nspname, t.typname, t.typtype, \
                t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0, t.typelem, \
                t.typbasetype, CASE t.typtype WHEN 'r' THEN r.rngsubtype \
                                              WHEN 'm' THEN r.rngtypid ELSE 0 END, \
                t.typsend <> 0 AND t.typreceive <> 0, c.relkind, \
                ARRAY(SELECT a.atttypid FROM pg_attribute a \
                      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid \
                        AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)::text[], \
                e.extname \
         FROM used JOIN pg_type t ON t.oid = used.oid JOIN pg_namespace n ON n.oid = t.typnamespace \
         LEFT JOIN pg_class c ON t.typtype = 'c' AND c.oid = t.typrelid \
         LEFT JOIN pg_range r ON r.rngtypid = t.oid OR r.rngmultitypid = t.oid \
         LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid \
              AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' \
         LEFT JOIN pg_extension e ON e.oid = d.refobjid"
    );
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    let mut by_oid = BTreeMap::new();
    for row in &set.rows {
        let attributes = super::constraints::text_array(row.get_str(10)?);
        let found = Type {
            name: super::table_name(row, 1, 2)?,
            kind: row.get(3)?,
            is_array: row.get_bool(4)?,
            element: row.get(5)?,
            base: row.get(6)?,
            range_of: row.get(7)?,
            has_binary_form: row.get_bool(8)?,
            relation_kind: row.opt(9)?,
            attributes: attributes
                .iter()
                .filter_map(|oid| oid.parse().ok())
                .collect(),
            extension: row.opt(11)?,
        };
        by_oid.insert(row.get(0)?, found);
    }
    Ok(Types { by_oid })
}

impl Types {
    /// What kind of values a type holds: that of a domain's base type.
    pub(super) fn class(&self, oid: u32) -> ValueClass {
        match self.by_oid.get(&oid) {
            Some(found) if found.kind == 'd' => self.class(found.base),
            Some(found) if found.kind == 'e' => ValueClass::Enum,
            Some(found) if found.extension.as_deref() == Some("citext") => ValueClass::Text,
            _ => builtins::class(oid),
        }
    }

    /// See [`Column::is_binary_portable`].
    ///
    /// Enumerations travel as their labels; ranges and multiranges add flags to their bounds; domains
    /// are sent as their base type. Arrays and composite types carry the oids of what they hold
    /// (PostgreSQL 15: `enum_send`, `range_send`, `array_send`, `record_send`), which are the same
    /// everywhere for types that come with the server.
    pub(super) fn is_binary_portable(&self, oid: u32) -> bool {
        let Some(found) = self.by_oid.get(&oid) else {
            return false;
        };
        if !found.has_binary_form {
            return false;
        }
        match found.kind {
            'b' if found.is_array => {
                found.element < builtins::FIRST_USER_OID && self.is_binary_portable(found.element)
            }
            'b' if found.name.schema == "pg_catalog" => {
                !builtins::is_catalog_reference(oid) && !builtins::is_receive_faulty(oid)
            }
            'b' => found
                .extension
                .as_deref()
                .is_some_and(|name| PORTABLE_EXTENSIONS.contains(&name)),
            'd' => self.is_binary_portable(found.base),
            'e' => true,
            'r' | 'm' => self.is_binary_portable(found.range_of),
            _ => false,
        }
    }

    /// A column of which only its type is known, its type's name still missing.
    pub(super) fn bare_column(&self, name: &str, type_id: u32) -> Column {
        Column {
            name: name.to_owned(),
            number: 0,
            type_name: String::new(),
            type_id,
            type_modifier: -1,
            class: self.class(type_id),
            is_not_null: false,
            default: ColumnDefault::None,
            collation: None,
            is_binary_portable: self.is_binary_portable(type_id),
            is_toastable: true,
            comment: None,
        }
    }

    /// Whether the type is there.
    pub(super) fn has(&self, type_id: u32) -> bool {
        self.by_oid.contains_key(&type_id)
    }

    /// Gives the columns that the catalog does not have in this form the name of their type.
    pub(super) async fn name_bare_columns(
        &self,
        connection: &mut Connection,
        columns: &mut [StreamedColumn],
    ) -> Result<()> {
        let bare: Vec<String> = columns
            .iter()
            .map(|column| &column.column)
            .enumerate()
            .filter(|(_, column)| column.type_name.is_empty())
            .map(|(index, column)| {
                let (type_id, modifier) = (column.type_id, column.type_modifier);
                format!("({index}, {type_id}, {modifier})")
            })
            .collect();
        if bare.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT n, format_type(oid::oid, modifier) FROM (VALUES {}) AS v (n, oid, modifier)",
            bare.join(", ")
        );
        let set = connection.query(&sql, &[]).await?;
        for row in &set.rows {
            let index: usize = row.get(0)?;
            if let Some(column) = columns.get_mut(index) {
                column.column.type_name = row.get(1)?;
            }
        }
        Ok(())
    }

    /// Oids of the types, for a parameter.
    pub(super) fn oids(&self) -> Oids {
        Oids::of(self.by_oid.keys().copied())
    }

    /// What must be made for the tables, by its number and each after what it rests on, and what cannot be.
    pub(super) async fn definitions(
        &self,
        connection: &mut Connection,
    ) -> Result<(Vec<(u32, SchemaObject)>, Vec<NotCarried>)> {
        let mut made = definitions::read(connection, &self.oids()).await?;
        let mut objects = Vec::new();
        for oid in self.in_order() {
            if let Some(object) = made.remove(&oid) {
                objects.push((oid, object));
            }
        }
        let mut not_carried: Vec<NotCarried> =
            self.by_oid.values().filter_map(Type::obstacle).collect();
        let odd_ranges = objects
            .iter()
            .map(|(_, object)| object)
            .filter(|object| object.kind == ObjectKind::Range)
            .filter(|object| object.definition.contains(definitions::CANONICAL_LOST));
        not_carried.extend(odd_ranges.map(|object| {
            NotCarried {
                kind: "range type".to_owned(),
                name: object.name.to_string(),
                note: "its canonical function is not carried; make the type on the target first"
                    .to_owned(),
            }
        }));
        objects.retain(|(_, object)| !object.definition.contains(definitions::CANONICAL_LOST));
        Ok((objects, not_carried))
    }

    /// Every type after those it rests on.
    fn in_order(&self) -> Vec<u32> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for oid in self.by_oid.keys() {
            self.visit(*oid, &mut seen, &mut order);
        }
        order
    }

    fn visit(&self, oid: u32, seen: &mut BTreeSet<u32>, order: &mut Vec<u32>) {
        let Some(found) = self.by_oid.get(&oid) else {
            return;
        };
        if !seen.insert(oid) {
            return;
        }
        let below = [found.element, found.base, found.range_of];
        for next in below.iter().chain(&found.attributes) {
            self.visit(*next, seen, order);
        }
        order.push(oid);
    }
}

impl Type {
    /// Why the type cannot be made, if so.
    fn obstacle(&self) -> Option<NotCarried> {
        let is_ours = self.extension.is_none() && self.name.schema != "pg_catalog";
        let (kind, note) = match (self.kind, self.relation_kind) {
            ('b', _) if !self.is_array && is_ours => (
                "base type",
                "it belongs to no extension; make it on the target first",
            ),
            ('c', Some('c')) => return None,
            ('c', _) if is_ours => (
                "row type",
                "it describes the rows of a table; that table must be on the target first",
            ),
            _ => return None,
        };
        Some(NotCarried {
            kind: kind.to_owned(),
            name: self.name.to_string(),
            note: note.to_owned(),
        })
    }
}
