//! Which relations there are, which of them are copied, and why the others are not.
//!
//! A partition belongs to the topmost partitioned table above it that is carried, because the
//! publication names that one (`publish_via_partition_root`); it is a table of its own only where
//! none is. Rows of old-style inheritance children are their own table's.

use std::collections::{BTreeMap, HashMap};

use tidemark_core::Result;
use tidemark_core::schema::{Attribute, NotCarried, TableName};
use tidemark_core::selection::Selection;

use super::{Oids, Tables, table_name};
use crate::wire::{Connection, quote_literal};

/// The schema of our own tables in a database that is a target too.
const OWN_SCHEMA: &str = "tidemark";

/// One row of `pg_class`.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) name: TableName,
    kind: char,
    persistence: char,
    pub(super) replica_identity: char,
    /// The partitioned table it is a partition of.
    parent: Option<u32>,
    extension: Option<String>,
}

impl Relation {
    pub(super) fn is_partitioned(&self) -> bool {
        self.kind == 'p'
    }
}

/// What a look at `pg_class` gave.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What is carried.
    pub(super) tables: Vec<Relation>,
    /// Leaf partitions of carried partitioned tables: leaf, table.
    pub(super) parts: Vec<(u32, u32)>,
    pub(super) not_carried: Vec<NotCarried>,
    /// Tables that nobody selected.
    pub(super) unselected: Vec<TableName>,
}

pub(super) async fn read(connection: &mut Connection, selection: &Selection) -> Result<Found> {
    let relations = list(connection).await?;
    Ok(choose(&relations, selection))
}

async fn list(connection: &mut Connection) -> Result<BTreeMap<u32, Relation>> {
    let set = connection
        .query(
            "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident, \
                    i.inhparent, e.extname \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition \
             LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                  AND d.objsubid = 0 AND d.refclassid = 'pg_extension'::regclass \
                  AND d.deptype = 'e' \
             LEFT JOIN pg_extension e ON e.oid = d.refobjid \
             WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') \
               AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
               AND n.nspname !~ '^pg_(toast|temp_)'",
            &[],
        )
        .await?;
    let mut relations = BTreeMap::new();
    for row in &set.rows {
        let relation = Relation {
            oid: row.get(0)?,
            name: table_name(row, 1, 2)?,
            kind: row.get(3)?,
            persistence: row.get(4)?,
            replica_identity: row.get(5)?,
            parent: row.opt(6)?,
            extension: row.opt(7)?,
        };
        relations.insert(relation.oid, relation);
    }
    Ok(relations)
}

/// Decides about every selected relation.
fn choose(relations: &BTreeMap<u32, Relation>, selection: &Selection) -> Found {
    let mut found = Found::default();
    let mut children: HashMap<u32, Vec<&Relation>> = HashMap::new();
    for relation in relations.values() {
        if let Some(parent) = relation.parent {
            children.entry(parent).or_default().push(relation);
        }
    }
    // The verdict on a partitioned table decides what becomes of its partitions.
    let mut verdicts: HashMap<u32, Option<NotCarried>> = HashMap::new();
    for relation in relations.values() {
        if selection.selects(&relation.name) {
            verdicts.insert(relation.oid, obstacle(relation, &children));
        }
    }
    for relation in relations.values() {
        let Some(top) = topmost(relation, relations, &verdicts) else {
            if matches!(relation.kind, 'r' | 'p') {
                found.unselected.push(relation.name.clone());
            }
            continue;
        };
        match verdicts.get(&top) {
            Some(None) if top == relation.oid => found.tables.push(relation.clone()),
            Some(None) if relation.kind == 'r' => found.parts.push((relation.oid, top)),
            Some(Some(obstacle)) if top == relation.oid => {
                found.not_carried.push(obstacle.clone());
            }
            _ => {}
        }
    }
    found
}

/// The topmost selected table among the relation itself and those it is a partition of.
fn topmost(
    relation: &Relation,
    relations: &BTreeMap<u32, Relation>,
    verdicts: &HashMap<u32, Option<NotCarried>>,
) -> Option<u32> {
    let mut top = None;
    let mut at = Some(relation);
    while let Some(here) = at {
        if verdicts.contains_key(&here.oid) {
            top = Some(here.oid);
        }
        at = here.parent.and_then(|parent| relations.get(&parent));
    }
    top
}

/// Why a selected relation cannot be copied; `None` if it can.
fn obstacle(relation: &Relation, children: &HashMap<u32, Vec<&Relation>>) -> Option<NotCarried> {
    let not = |kind: &str, note: &str| {
        Some(NotCarried {
            kind: kind.to_owned(),
            name: relation.name.unquoted(),
            note: note.to_owned(),
        })
    };
    if let Some(extension) = &relation.extension {
        let note = format!("it belongs to extension {extension}, which makes its own");
        return not("extension table", &note);
    }
    if relation.name.schema == OWN_SCHEMA {
        return not("table", "it is Tidemark's own");
    }
    match (relation.kind, relation.persistence) {
        ('v', _) => not("view", "it has no rows of its own; make it on the target"),
        ('m', _) => not(
            "materialized view",
            "its rows are not in the log; make and refresh it on the target",
        ),
        ('f', _) => not("foreign table", "its rows are elsewhere"),
        (_, 'u') => not("unlogged table", "its changes are not in the log"),
        ('p', _) => {
            let bad = unreadable_leaf(relation, children)?;
            let what = if bad.kind == 'f' {
                "foreign"
            } else {
                "unlogged"
            };
            let note = format!(
                "its partition {} is {what}: changes there are not in the log",
                bad.name
            );
            not("partitioned table", &note)
        }
        _ => None,
    }
}

/// A partition, at any depth, whose changes the log does not have.
fn unreadable_leaf<'a>(
    relation: &Relation,
    children: &HashMap<u32, Vec<&'a Relation>>,
) -> Option<&'a Relation> {
    let parts = children.get(&relation.oid)?;
    parts
        .iter()
        .find_map(|part| match (part.kind, part.persistence) {
            ('p', _) => unreadable_leaf(part, children),
            ('f', _) | (_, 'u') => Some(*part),
            _ => None,
        })
}

/// Where the rows of a table are, and how the catalog counts its columns, at one instant: what was written
/// anew by an `ALTER` is told by both having changed.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) table: u32,
    /// A number for its files, those of its leaves together: another one when the rows are rewritten (or
    /// moved to other files, as by `TRUNCATE`, `VACUUM FULL` and `CLUSTER`). A table that is being dropped
    /// has none.
    pub(super) storage: Option<i64>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) is_partitioned: bool,
}

/// The partitions that hold rows of the tables `$1`, as `leaves (root, leaf)`. `pg_partition_tree()` would
/// lock them, and wait for whoever alters or empties one and does not commit: all tables with it, since
/// this is asked for at a place of the log.
pub(super) const LEAVES: &str = "WITH RECURSIVE tree AS ( \
       SELECT c.oid AS root, c.oid AS leaf, c.relkind FROM pg_class c \
       WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'p' \
       UNION ALL \
       SELECT t.root, c.oid, c.relkind FROM tree t JOIN pg_inherits i ON i.inhparent = t.leaf \
       JOIN pg_class c ON c.oid = i.inhrelid WHERE t.relkind = 'p'), \
     leaves AS (SELECT root, leaf FROM tree WHERE relkind <> 'p')";

pub(super) async fn standing(connection: &mut Connection, oids: &Oids) -> Result<Vec<Standing>> {
    // A version of a catalog's row is the transaction that wrote it.
    let set = connection
        .query(
            &format!(
                "{LEAVES} SELECT w, coalesce((SELECT hashtextextended(string_agg( \
                        l.relfilenode::text, ',' ORDER BY l.oid), 0) \
                      FROM leaves JOIN pg_class l ON l.oid = leaves.leaf \
                      WHERE leaves.root = w), \
                    (SELECT c.relfilenode::int8 FROM pg_class c WHERE c.oid = w)), \
                    (SELECT string_agg(a.attnum || ' ' || a.xmin::text, ' ' ORDER BY a.attnum) \
                     FROM pg_attribute a WHERE a.attrelid = w AND a.attnum > 0), \
                    EXISTS (SELECT FROM pg_class c WHERE c.oid = w AND c.relkind = 'p') \
             FROM unnest($1::oid[]) AS w"
            ),
            &[Some(oids.param())],
        )
        .await?;
    let mut found = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        let attributes = row.opt_str(2)?.unwrap_or_default();
        let numbers: Vec<&str> = attributes.split(' ').collect();
        let read = |pair: &[&str]| match pair {
            [number, version] => Some(Attribute {
                number: number.parse().ok()?,
                version: version.parse().ok()?,
            }),
            _ => None,
        };
        found.push(Standing {
            table: row.get(0)?,
            storage: row.opt(1)?,
            attributes: numbers.chunks(2).filter_map(read).collect(),
            is_partitioned: row.get_bool(3)?,
        });
    }
    Ok(found)
}

/// Rows from statistics and bytes on disk; of a partitioned table those of its leaves.
///
/// Rows are reckoned as the planner does (PostgreSQL 15, `estimate_rel_size`): density at the last
/// look times the blocks of now. `reltuples` is -1 until the first `VACUUM` or `ANALYZE`.
pub(super) async fn add_sizes(
    connection: &mut Connection,
    tables: &mut Tables,
    parts: &[(u32, u32)],
) -> Result<()> {
    let owner: HashMap<u32, u32> = parts.iter().copied().collect();
    let plain = tables.values().filter(|table| !table.is_partitioned);
    let oids = Oids::of(plain.map(|table| table.id).chain(owner.keys().copied()));
    let set = connection
        .query(
            "SELECT oid, bytes, \
                    CASE WHEN reltuples < 0 OR relpages = 0 AND blocks > 0 THEN NULL \
                         WHEN relpages = 0 THEN reltuples::int8 \
                         ELSE (reltuples::float8 / relpages * blocks)::int8 END \
             FROM (SELECT c.oid, c.reltuples, c.relpages, pg_table_size(c.oid) AS bytes, \
                          pg_relation_size(c.oid) / current_setting('block_size')::int8 AS blocks \
                   FROM unnest($1::oid[]) AS wanted JOIN pg_class c ON c.oid = wanted) AS sized",
            &[Some(oids.param())],
        )
        .await?;
    let mut unknown = Vec::new();
    for row in &set.rows {
        let oid: u32 = row.get(0)?;
        let Some(table) = tables.get_mut(owner.get(&oid).unwrap_or(&oid)) else {
            continue;
        };
        table.bytes += row.opt::<u64>(1)?.unwrap_or(0);
        match row.opt::<u64>(2)? {
            Some(rows) => table.rows = Some(table.rows.unwrap_or(0) + rows),
            None => unknown.push(table.id),
        }
    }
    for table in unknown {
        if let Some(table) = tables.get_mut(&table) {
            table.rows = None;
        }
    }
    Ok(())
}

/// Comments and storage parameters, as statements.
pub(super) async fn add_notes(
    connection: &mut Connection,
    oids: &Oids,
    tables: &mut Tables,
) -> Result<()> {
    let set = connection
        .query(
            "SELECT c.oid, array_to_string(c.reloptions, ', '), d.description \
             FROM unnest($1::oid[]) AS wanted JOIN pg_class c ON c.oid = wanted \
             LEFT JOIN pg_description d ON d.classoid = 'pg_class'::regclass \
                  AND d.objoid = c.oid AND d.objsubid = 0 \
             WHERE c.reloptions IS NOT NULL OR d.description IS NOT NULL",
            &[Some(oids.param())],
        )
        .await?;
    for row in &set.rows {
        let Some(table) = tables.get_mut(&row.get(0)?) else {
            continue;
        };
        if let Some(options) = row.opt_str(1)? {
            table
                .notes
                .push(format!("ALTER TABLE {{name}} SET ({options})"));
        }
        if let Some(comment) = row.opt_str(2)? {
            let comment = quote_literal(comment);
            table
                .notes
                .push(format!("COMMENT ON TABLE {{name}} IS {comment}"));
        }
    }
    Ok(())
}

/// A leaf partition and its size.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) name: TableName,
    pub(crate) blocks: u32,
    pub(crate) bytes: u64,
}

/// The leaf partitions of a partitioned table, in the order of their names.
pub(crate) async fn leaves_of(connection: &mut Connection, oid: u32) -> Result<Vec<Leaf>> {
    let set = connection
        .query(
            "SELECT n.nspname, c.relname, \
                    pg_relation_size(c.oid) / current_setting('block_size')::int8, \
                    pg_table_size(c.oid) \
             FROM pg_partition_tree($1::oid::regclass) AS t \
             JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE t.isleaf AND c.relkind = 'r' ORDER BY 1, 2",
            &[Some(&oid.to_string())],
        )
        .await?;
    set.rows
        .iter()
        .map(|row| {
            Ok(Leaf {
                name: table_name(row, 0, 1)?,
                blocks: row.opt(2)?.unwrap_or(0),
                bytes: row.opt(3)?.unwrap_or(0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tidemark_core::selection::Pattern;

    use super::*;

    fn relation(oid: u32, name: &str, kind: char, parent: Option<u32>) -> Relation {
        Relation {
            oid,
            name: TableName::new("public", name),
            kind,
            persistence: 'p',
            replica_identity: 'd',
            parent,
            extension: None,
        }
    }

    fn selecting(patterns: &[&str]) -> Selection {
        let pattern = |table: &&str| Pattern::parse(&format!("public.{table}")).unwrap();
        Selection {
            include: patterns.iter().map(pattern).collect(),
            exclude: Vec::new(),
        }
    }

    fn names(found: &Found) -> Vec<&str> {
        let names = found.tables.iter().map(|table| table.name.name.as_str());
        names.collect()
    }

    fn tree() -> BTreeMap<u32, Relation> {
        [
            relation(1, "root", 'p', None),
            relation(2, "mid", 'p', Some(1)),
            relation(3, "leaf_a", 'r', Some(2)),
            relation(4, "leaf_b", 'r', Some(1)),
            relation(5, "plain", 'r', None),
            relation(6, "seen", 'v', None),
        ]
        .map(|relation| (relation.oid, relation))
        .into()
    }

    #[test]
    fn partitions_belong_to_the_topmost_selected_table() {
        let found = choose(&tree(), &selecting(&["*"]));
        assert_eq!(names(&found), ["root", "plain"]);
        assert_eq!(found.parts, [(3, 1), (4, 1)]);
        assert_eq!(found.not_carried.len(), 1);
        assert_eq!(found.not_carried[0].kind, "view");

        let found = choose(&tree(), &selecting(&["leaf_*", "mid"]));
        assert_eq!(names(&found), ["mid", "leaf_b"]);
        assert_eq!(found.parts, [(3, 2)]);

        let found = choose(&tree(), &selecting(&["leaf_a"]));
        assert_eq!(names(&found), ["leaf_a"]);
    }

    #[test]
    fn a_partition_outside_the_log_keeps_the_whole_table_back() {
        let mut relations = tree();
        relations.insert(7, relation(7, "far", 'f', Some(2)));
        let found = choose(&relations, &selecting(&["*o*", "*a*"]));
        assert_eq!(names(&found), ["plain"]);
        assert!(found.parts.is_empty());
        assert!(found.not_carried[0].note.contains("public.far"));
    }
}
