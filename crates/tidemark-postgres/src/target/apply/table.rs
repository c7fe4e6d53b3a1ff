//! What the applier must know of a table on the target: types to name in statements, and what
//! forbids applying its changes as sets.
//!
//! Read from the target's catalog when a table is first met, and again after anything went wrong
//! with it, so that a table that somebody altered is met as it is now. The mapping says which
//! columns are carried; the catalog says what they are here, which need not be what they are on the
//! source.

use std::sync::Arc;

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{IndexKind, ReplicaIdentity};
use tidemark_core::{Error, Result};

use super::session::Session;
use crate::target::{Triggers, without_heirs};
use crate::wire::{Row, quote_ident, quote_qualified};

/// See the module's text.
#[derive(Debug)]
pub(super) struct TargetTable {
    /// Ours, by which its statements are known; another one each time it is described.
    pub(super) number: u32,
    pub(super) mapping: Arc<TableMapping>,
    /// Quoted, with its schema.
    pub(super) name: String,
    /// The same where its rows are looked for: without those of tables that inherit from it, which are
    /// rows of other tables.
    pub(super) rows: String,
    /// In the mapping's order.
    pub(super) columns: Vec<TargetColumn>,
    /// Positions of the columns that find a row; empty where only the whole row does.
    pub(super) key: Vec<usize>,
    hooks: Hooks,
    pub(super) kind: Kind,
    /// Its changes must be applied one by one, in source order.
    pub(super) is_ordered: bool,
    /// Some column outside the key refuses `UPDATE … SET` (`GENERATED ALWAYS AS IDENTITY`), so that
    /// a change must delete the row and insert it again.
    pub(super) has_fixed_values: bool,
    /// The same for some column of the key.
    pub(super) has_fixed_key: bool,
}

/// Triggers before a row, and rules: what may leave the row out in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    /// There are none, or they do not fire for us.
    KeepStill,
    /// Each row that is written has to be asked for.
    Fire,
}

/// Where the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In itself.
    Whole,
    /// In its partitions.
    Partitioned,
}

/// One carried column.
#[derive(Debug)]
pub(super) struct TargetColumn {
    /// Quoted.
    pub(super) name: String,
    pub(super) type_oid: u32,
    /// Its type in full, with modifiers.
    pub(super) type_name: String,
    /// Equality operator as it stands between two values.
    pub(super) equals: String,
    /// How many of its values travel in one parameter.
    pub(super) list: ListType,
    /// Values that are equal have the same text, so that equality tells rows apart.
    pub(super) is_exact: bool,
    /// In a key it is compared by its bytes as well: its collation calls values equal that the index keeps
    /// apart by which the source tells rows.
    pub(super) is_by_bytes: bool,
    is_fixed: bool,
}

/// The array in which a column's values are sent for a set operation.
#[derive(Debug)]
pub(super) struct ListType {
    /// The array's type.
    pub(super) array_oid: u32,
    /// Between elements; `;` for box and `,` for everything else.
    pub(super) delimiter: u8,
    /// Values are numbers and the like and need no quotes.
    pub(super) is_bare: bool,
    /// Elements are text and are cast to this type, because the type is an array itself (an array
    /// of arrays is one array of more dimensions) or has none.
    pub(super) cast: Option<String>,
}

/// Types of which equal values have one text only, by OID (PostgreSQL 15,
/// `src/include/catalog/pg_type.dat`): bool, bytea, "char", name, int8, int2, int4, text, oid, date,
/// time, timestamp, timestamptz, varchar, bit, varbit, uuid, `pg_lsn`, macaddr, macaddr8. Not among
/// them: numeric (1.0 = 1.00), floats (0 = -0), interval (1 day = 24 hours), timetz, char(n), inet.
const EXACT_TYPES: [u32; 20] = [
    16, 17, 18, 19, 20, 21, 23, 25, 26, 1082, 1083, 1114, 1184, 1043, 1560, 1562, 2950, 3220, 829,
    774,
];

/// Types whose text never needs quotes in an array: bool, int8, int2, int4, oid, float4, float8,
/// date, numeric, uuid. None of them writes NULL, commas, braces, blanks or backslashes.
const BARE_TYPES: [u32; 10] = [16, 20, 21, 23, 26, 700, 701, 1082, 1700, 2950];

const TEXT_ARRAY_OID: u32 = 1009;

/// Whether something of tables can leave a row out in silence: a trigger before the row, or a rule, of those that
/// are told by what is compared with their numbers. `$2` are the states in which one fires for us. Bits 0 and
/// 1 of `tgtype` are ROW and BEFORE (PostgreSQL 15, `pg_trigger.h`); a rule of `ev_type` 1 makes a view.
macro_rules! has_hooks {
    ($triggers_of:literal, $rules_of:literal) => {
        concat!(
            "(EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid ",
            $triggers_of,
            " AND NOT g.tgisinternal AND g.tgtype & 3 = 3 AND g.tgenabled::text = ANY ($2::text[])) \
             OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class ",
            $rules_of,
            " AND r.ev_type <> '1' AND r.ev_enabled::text = ANY ($2::text[])))"
        )
    };
}

/// Fails with `division_by_zero` if one of the tables `$1`, of which none is partitioned, has hooks. Asked with
/// every commit: half the time of [`NO_HOOKS`].
pub(super) const NO_HOOKS_PLAIN: &str = concat!(
    "SELECT 1 / (NOT ",
    has_hooks!(
        "= ANY (ARRAY(SELECT to_regclass(n)::oid FROM unnest($1::text[]) n))",
        "= ANY (ARRAY(SELECT to_regclass(n)::oid FROM unnest($1::text[]) n))"
    ),
    ")::int"
);

/// The same of any tables. A trigger of a partition fires as well as one of the root.
pub(super) const NO_HOOKS: &str = concat!(
    "SELECT 1 / (NOT EXISTS (SELECT FROM unnest($1::text[]) n \
     CROSS JOIN LATERAL (SELECT to_regclass(n)::oid) t(id) WHERE ",
    has_hooks!(
        "IN (SELECT t.id UNION ALL SELECT p.relid FROM pg_partition_tree(t.id) p)",
        "= t.id"
    ),
    "))::int"
);

/// One row for each column.
///
/// Equality of a type that is not PostgreSQL's own (citext, ltree, …) lies in the schema of its
/// extension, where our search path does not look: without its schema `=` would silently mean
/// equality of text, which no index of such a column serves.
const DESCRIBE: &str = concat!(
    r"
SELECT c.relkind::text, row_security_active(c.oid),
       EXISTS (SELECT FROM pg_trigger g
               WHERE g.tgrelid IN (SELECT c.oid UNION ALL SELECT p.relid FROM pg_partition_tree(c.oid) p)
                 AND g.tgenabled::text = ANY ($2::text[])),
       a.attname, a.atttypid, t.typarray, t.typdelim::text, t.typcategory = 'A',
       format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod),
       a.attidentity = 'a', coalesce(l.collisdeterministic, true),
       (SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM pg_opclass k
        JOIN pg_amop m ON m.amopfamily = k.opcfamily AND m.amopstrategy = 3
                      AND m.amoplefttype = k.opcintype AND m.amoprighttype = k.opcintype
        JOIN pg_operator o ON o.oid = m.amopopr
        JOIN pg_namespace n ON n.oid = o.oprnamespace
        WHERE k.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree') AND k.opcdefault
          AND k.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid)
          AND n.nspname <> 'pg_catalog'
        LIMIT 1),
       ",
    has_hooks!(
        "IN (SELECT c.oid UNION ALL SELECT p.relid FROM pg_partition_tree(c.oid) p)",
        "= c.oid"
    ),
    r"
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE c.oid = to_regclass($1)"
);

/// The states of triggers and rules that fire for us (PostgreSQL 15, `pg_trigger.tgenabled`,
/// `pg_rewrite.ev_enabled`).
pub(super) fn firing(triggers: Triggers) -> &'static str {
    match triggers {
        Triggers::KeepStill => "{R,A}",
        Triggers::Fire => "{O,A}",
    }
}

impl TargetTable {
    /// Reads a table from the catalog; one round trip.
    pub(super) async fn describe(
        number: u32,
        session: &mut Session,
        mapping: &Arc<TableMapping>,
        triggers: Triggers,
    ) -> Result<TargetTable> {
        let name = quote_qualified(&mapping.target.schema, &mapping.target.name);
        let found = session
            .query(DESCRIBE, &[Some(name.as_str()), Some(firing(triggers))])
            .await?;
        let Some(first) = found.rows.first() else {
            return Err(missing(mapping, "there is no such table on the target"));
        };
        let kind = first.get_str(0)?;
        let is_plain = matches!(kind, "r" | "p");
        let rows = without_heirs(&name, kind);
        let hooks = if first.get_bool(13)? {
            Hooks::Fire
        } else {
            Hooks::KeepStill
        };
        let is_ordered =
            !is_plain || first.get_bool(1)? || first.get_bool(2)? || hooks == Hooks::Fire;
        let is_by_another_index = is_by_another_index(mapping);
        let columns = mapping
            .columns
            .iter()
            .map(|column| {
                let of_name = |row: &&Row| row.opt_str(3).ok().flatten() == Some(&column.target);
                match found.rows.iter().find(of_name) {
                    Some(row) => TargetColumn::read(row, is_by_another_index),
                    None => Err(missing(
                        mapping,
                        &format!("the target has no column {}", column.target),
                    )),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let key = lookup_key(mapping);
        let is_fixed = |in_key: bool| {
            let mut fixed = columns.iter().enumerate().filter(|(_, c)| c.is_fixed);
            fixed.any(|(place, _)| key.contains(&place) == in_key)
        };
        let (has_fixed_values, has_fixed_key) = (is_fixed(false), is_fixed(true));
        Ok(TargetTable {
            number,
            mapping: Arc::clone(mapping),
            name,
            rows,
            hooks,
            kind: if kind == "p" {
                Kind::Partitioned
            } else {
                Kind::Whole
            },
            is_ordered: is_ordered || (has_fixed_values && !key.is_empty()),
            has_fixed_values,
            has_fixed_key,
            columns,
            key,
        })
    }

    /// Positions of all columns that are not part of the key.
    pub(super) fn values(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(|place| !self.key.contains(place))
    }

    /// Whether something of the target may leave a row out in silence.
    pub(super) fn has_hooks(&self) -> bool {
        self.hooks == Hooks::Fire
    }

    /// Whether keys that are equal are the same.
    pub(super) fn is_key_exact(&self) -> bool {
        self.key.iter().all(|place| self.columns[*place].is_exact)
    }

    /// Changes may meet rows that the log does not know of, by design: behind a row filter an
    /// update that moves a row in or out comes as an insert or delete, whatever the target has.
    pub(super) fn expects_surprises(&self) -> bool {
        self.mapping.filter.is_some()
    }

    /// An error about this table, as the engine wants it.
    pub(super) fn error(&self, error: Error) -> Error {
        error.table(self.mapping.source().to_string())
    }

    /// The key's columns for messages, by their names on the target.
    pub(super) fn key_names(&self) -> String {
        let name = |place: &usize| self.columns[*place].name.as_str();
        self.key.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl TargetColumn {
    fn read(row: &Row, is_by_another_index: bool) -> Result<TargetColumn> {
        let type_oid = row.get(4)?;
        let array_oid: u32 = row.get(5)?;
        let delimiter = row.get_str(6)?.bytes().next().unwrap_or(b',');
        let is_array = row.get_bool(7)?;
        let list = if is_array || array_oid == 0 {
            ListType {
                array_oid: TEXT_ARRAY_OID,
                delimiter: b',',
                is_bare: false,
                cast: Some(row.get_str(8)?.to_owned()),
            }
        } else {
            ListType {
                array_oid,
                delimiter,
                is_bare: BARE_TYPES.contains(&type_oid),
                cast: None,
            }
        };
        Ok(TargetColumn {
            name: quote_ident(row.get_str(3)?),
            type_oid,
            type_name: row.get_str(9)?.to_owned(),
            equals: row.opt_str(12)?.unwrap_or("=").to_owned(),
            list,
            is_exact: EXACT_TYPES.contains(&type_oid) && row.get_bool(11)?,
            is_by_bytes: is_by_another_index && !row.get_bool(11)?,
            is_fixed: row.get_bool(10)?,
        })
    }
}

/// The mapping's key, unless it may be violated for a while: with a deferrable key two rows of a
/// transaction can have the same one, and only their other values tell them apart.
pub(crate) fn lookup_key(mapping: &TableMapping) -> Vec<usize> {
    let is_deferrable = mapping.schema.indexes.iter().any(|index| {
        index.kind == IndexKind::PrimaryKey
            && index.deferral.contains("DEFERRABLE")
            && !index.deferral.contains("NOT DEFERRABLE")
    });
    match mapping.schema.identity {
        ReplicaIdentity::Full if is_deferrable => Vec::new(),
        _ => mapping.key.clone(),
    }
}

/// Whether the source tells rows by an index that is not that of the primary key.
fn is_by_another_index(mapping: &TableMapping) -> bool {
    let primary = &mapping.schema.primary_key;
    match &mapping.schema.identity {
        ReplicaIdentity::Key(key) => {
            key.len() != primary.len() || !key.iter().all(|place| primary.contains(place))
        }
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => false,
    }
}

fn missing(mapping: &TableMapping, what: &str) -> Error {
    let name = &mapping.target;
    Error::data(codes::TARGET_NO_OBJECT, format!("{what}: {name}"))
        .table(mapping.source().to_string())
}
