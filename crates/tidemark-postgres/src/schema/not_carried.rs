//! What stands in the schemas of the carried tables and stays behind: never silent.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::Result;
use tidemark_core::schema::{ColumnDefault, NotCarried, ObjectKind, SchemaObject};

use super::{Oids, Tables};
use crate::wire::{Connection, quote_literal};

/// Above this many things of a kind only their number is told, with the first few names.
const NAMED_MAX: usize = 20;
const NAMED_OF_MANY: usize = 3;

/// Kind, name. `$1` are the carried tables, whose partitions belong to them; the schemas are
/// `{schemas}`.
const QUERY: &str = "WITH RECURSIVE parts AS (SELECT unnest($1::oid[]) AS oid \
      UNION SELECT i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.oid \
            JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition), \
    mine AS (SELECT c.* FROM pg_class c JOIN parts ON parts.oid = c.oid), \
    nsp AS (SELECT oid, nspname FROM pg_namespace WHERE nspname IN ({schemas})), \
    extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e') \
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' \
                          WHEN 'f' THEN 'foreign table' END, nsp.nspname || '.' || c.relname \
      FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace \
      WHERE c.relkind IN ('v', 'm', 'f') \
        AND NOT EXISTS (SELECT FROM extension x \
                        WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid) \
    UNION ALL \
    SELECT 'sequence', nsp.nspname || '.' || c.relname \
      FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace WHERE c.relkind = 'S' \
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                        AND d.objid = c.oid AND d.deptype IN ('a', 'i', 'e')) \
    UNION ALL \
    SELECT 'trigger', t.tgname || ' on ' || nsp.nspname || '.' || mine.relname \
      FROM pg_trigger t JOIN mine ON mine.oid = t.tgrelid JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
      WHERE NOT t.tgisinternal AND t.tgparentid = 0 \
    UNION ALL \
    SELECT 'rule', r.rulename || ' on ' || nsp.nspname || '.' || mine.relname \
      FROM pg_rewrite r JOIN mine ON mine.oid = r.ev_class JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
    UNION ALL \
    SELECT 'row level security policy', p.polname || ' on ' || nsp.nspname || '.' || mine.relname \
      FROM pg_policy p JOIN mine ON mine.oid = p.polrelid JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
    UNION ALL \
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, \
           nsp.nspname || '.' || p.proname \
      FROM pg_proc p JOIN nsp ON nsp.oid = p.pronamespace \
      WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass \
                        AND d.objid = p.oid AND d.deptype IN ('e', 'i')) \
    UNION ALL \
    SELECT 'extended statistics', nsp.nspname || '.' || s.stxname \
      FROM pg_statistic_ext s JOIN mine ON mine.oid = s.stxrelid JOIN nsp ON nsp.oid = s.stxnamespace \
    UNION ALL \
    SELECT 'grant', nsp.nspname || '.' || mine.relname \
      FROM mine JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
      WHERE EXISTS (SELECT FROM aclexplode(mine.relacl) a WHERE a.grantee <> mine.relowner) \
         OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = mine.oid AND a.attacl IS NOT NULL) \
    UNION ALL \
    SELECT 'inheritance', nsp.nspname || '.' || mine.relname || ' inherits ' || p.relname \
      FROM pg_inherits i JOIN mine ON mine.oid = i.inhrelid AND NOT mine.relispartition \
      JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace JOIN pg_class p ON p.oid = i.inhparent \
    UNION ALL \
    SELECT 'replica identity', CASE mine.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing' \
           ELSE 'by an index' END || ' of ' || nsp.nspname || '.' || mine.relname \
      FROM mine JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace WHERE mine.relreplident <> 'd' \
    UNION ALL \
    SELECT 'event trigger', evtname FROM pg_event_trigger e \
      WHERE NOT EXISTS (SELECT FROM extension x \
                        WHERE x.classid = 'pg_event_trigger'::regclass AND x.objid = e.oid) \
    UNION ALL \
    SELECT 'publication', pubname FROM pg_publication WHERE pubname !~ '^tidemark_' \
    UNION ALL \
    SELECT 'subscription', s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
      WHERE d.datname = current_database()";

pub(super) async fn read(
    connection: &mut Connection,
    oids: &Oids,
    tables: &Tables,
    objects: &[SchemaObject],
) -> Result<Vec<NotCarried>> {
    let schemas: BTreeSet<&str> = tables
        .values()
        .map(|table| table.name.schema.as_str())
        .collect();
    let mut by_kind: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if !schemas.is_empty() {
        let list: Vec<String> = schemas.into_iter().map(quote_literal).collect();
        let sql = QUERY.replace("{schemas}", &list.join(", "));
        let set = connection.query(&sql, &[Some(oids.param())]).await?;
        for row in &set.rows {
            by_kind.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
    }
    // Sequences that a default reads without owning them are carried.
    if let Some(free) = by_kind.get_mut("sequence") {
        free.retain(|name| {
            !objects.iter().any(|object| {
                object.kind == ObjectKind::Sequence && object.name.to_string() == *name
            })
        });
    }
    let mut out: Vec<NotCarried> = by_kind
        .into_iter()
        .flat_map(|(kind, names)| told(&kind, names))
        .collect();
    out.extend(large_objects(connection).await?);
    out.extend(virtual_columns(connection, oids, tables).await?);
    Ok(out)
}

/// One line each, or one for all where there are many.
fn told(kind: &str, mut names: Vec<String>) -> Vec<NotCarried> {
    names.sort();
    let line = |name: String| NotCarried {
        kind: kind.to_owned(),
        name,
        note: note(kind).to_owned(),
    };
    if names.len() <= NAMED_MAX {
        return names.into_iter().map(line).collect();
    }
    let first = names[..NAMED_OF_MANY].join(", ");
    vec![line(format!("{} of them: {first}, …", names.len()))]
}

fn note(kind: &str) -> &'static str {
    match kind {
        "view" | "function" | "procedure" | "aggregate" | "extended statistics" => {
            "make it on the target if it is needed there"
        }
        "materialized view" => "make and refresh it on the target if it is needed there",
        "foreign table" => "its rows are elsewhere",
        "sequence" => "no carried table uses it",
        "trigger" | "rule" => {
            "its effects on carried tables arrive as changes; it must not fire on the target again"
        }
        "row level security policy" => "whoever may read the target's table sees all of its rows",
        "grant" => "privileges on it are given anew on the target",
        "replica identity" => {
            "set it on the target if changes are to be read from there: ALTER TABLE … REPLICA IDENTITY"
        }
        "inheritance" => "both are copied as tables of their own",
        _ => "it stays on the source",
    }
}

/// Their values are in `pg_largeobject`, which logical decoding leaves out.
async fn large_objects(connection: &mut Connection) -> Result<Option<NotCarried>> {
    let set = connection
        .query("SELECT count(*) FROM pg_largeobject_metadata", &[])
        .await?;
    let count: u64 = set.one()?.get(0)?;
    Ok((count > 0).then(|| NotCarried {
        kind: "large object".to_owned(),
        name: format!("{count} of them"),
        note: "the log does not have them; columns of type oid or lo point into nothing".to_owned(),
    }))
}

/// Generated columns that are computed when read (PostgreSQL 18) are made as stored ones.
async fn virtual_columns(
    connection: &mut Connection,
    oids: &Oids,
    tables: &Tables,
) -> Result<Vec<NotCarried>> {
    let any_generated = tables.values().any(|table| {
        let mut columns = table.columns.iter();
        columns.any(|column| matches!(column.default, ColumnDefault::Generated(_)))
    });
    if connection.server_version() < 180_000 || !any_generated {
        return Ok(Vec::new());
    }
    let set = connection
        .query(
            "SELECT n.nspname || '.' || c.relname || '.' || a.attname \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE a.attrelid = ANY ($1::oid[]) AND a.attgenerated = 'v'",
            &[Some(oids.param())],
        )
        .await?;
    set.rows
        .iter()
        .map(|row| {
            Ok(NotCarried {
                kind: "virtual generated column".to_owned(),
                name: row.get(0)?,
                note: "it is made as a stored one".to_owned(),
            })
        })
        .collect()
}
