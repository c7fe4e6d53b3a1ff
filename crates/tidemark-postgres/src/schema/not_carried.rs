//! What stands in the schemas of the carried tables and stays behind: never silent.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::Result;
use tidemark_core::schema::{ColumnDefault, NotCarried, ObjectKind, SchemaObject};

use super::{Oids, Tables};
use crate::wire::{Connection, quote_literal};

/// Above this many things of a kind only their number is told, with the first few names.
const NAMED_MAX: usize = 20;
const NAMED_OF_MANY: usize = 3;

/// Kind, name, and what of the carried tables needs it, as far as that is asked. `$1` are the carried
/// tables, whose partitions belong to them; the schemas are `{schemas}`.
const QUERY: &str = "WITH RECURSIVE parts AS (SELECT unnest($1::oid[]) AS oid \
      UNION SELECT i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.oid \
            JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition), \
    mine AS (SELECT c.* FROM pg_class c JOIN parts ON parts.oid = c.oid), \
    nsp AS (SELECT oid, nspname FROM pg_namespace WHERE nspname IN ({schemas})), \
    extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'), \
    part (classid, objid, name) AS ( \
      SELECT 'pg_attrdef'::regclass, d.oid, CASE a.attgenerated WHEN '' THEN 'the default of ' \
             ELSE 'generated column ' END || n.nspname || '.' || mine.relname || '.' || a.attname \
        FROM pg_attrdef d JOIN mine ON mine.oid = d.adrelid JOIN pg_namespace n ON n.oid = mine.relnamespace \
        JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
      UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, 'index ' || c.relname || ' on ' \
             || n.nspname || '.' || mine.relname \
        FROM pg_index i JOIN mine ON mine.oid = i.indrelid JOIN pg_namespace n ON n.oid = mine.relnamespace \
        JOIN pg_class c ON c.oid = i.indexrelid \
      UNION ALL SELECT 'pg_constraint'::regclass, k.oid, 'check ' || k.conname || ' on ' \
             || n.nspname || '.' || mine.relname \
        FROM pg_constraint k JOIN mine ON mine.oid = k.conrelid JOIN pg_namespace n ON n.oid = mine.relnamespace \
        WHERE k.contype = 'c' \
      UNION ALL SELECT k.classid, k.oid, 'domain ' || nsp.nspname || '.' || t.typname \
        FROM pg_type t JOIN nsp ON nsp.oid = t.typnamespace \
        CROSS JOIN LATERAL (SELECT 'pg_type'::regclass, t.oid UNION ALL SELECT 'pg_constraint'::regclass, \
                            oid FROM pg_constraint WHERE contypid = t.oid) k (classid, oid) \
        WHERE t.typtype = 'd'), \
    need (objid, names) AS ( \
      SELECT coalesce(o.oprcode::oid, d.refobjid), string_agg(DISTINCT part.name, ', ' ORDER BY part.name) \
        FROM part JOIN pg_depend d ON d.classid = part.classid AND d.objid = part.objid \
        LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid \
        WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) GROUP BY 1) \
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' \
                          WHEN 'f' THEN 'foreign table' END, nsp.nspname || '.' || c.relname, NULL \
      FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace \
      WHERE c.relkind IN ('v', 'm', 'f') \
        AND NOT EXISTS (SELECT FROM extension x \
                        WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid) \
    UNION ALL \
    SELECT 'sequence', nsp.nspname || '.' || c.relname, NULL \
      FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace WHERE c.relkind = 'S' \
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                        AND d.objid = c.oid AND d.deptype IN ('a', 'i', 'e')) \
    UNION ALL \
    SELECT 'trigger', t.tgname || ' on ' || nsp.nspname || '.' || mine.relname, NULL \
      FROM pg_trigger t JOIN mine ON mine.oid = t.tgrelid JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
      WHERE NOT t.tgisinternal AND t.tgparentid = 0 \
    UNION ALL \
    SELECT 'rule', r.rulename || ' on ' || nsp.nspname || '.' || mine.relname, NULL \
      FROM pg_rewrite r JOIN mine ON mine.oid = r.ev_class JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
    UNION ALL \
    SELECT 'row level security', nsp.nspname || '.' || mine.relname, NULL \
      FROM mine JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace WHERE mine.relrowsecurity \
    UNION ALL \
    SELECT 'type', nsp.nspname || '.' || t.typname, NULL \
      FROM pg_type t JOIN nsp ON nsp.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
      WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') \
        AND NOT EXISTS (SELECT FROM extension x \
                        WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid) \
    UNION ALL \
    SELECT 'collation', nsp.nspname || '.' || c.collname, NULL \
      FROM pg_collation c JOIN nsp ON nsp.oid = c.collnamespace \
    UNION ALL \
    SELECT 'text search configuration', nsp.nspname || '.' || c.cfgname, NULL \
      FROM pg_ts_config c JOIN nsp ON nsp.oid = c.cfgnamespace \
    UNION ALL \
    SELECT 'row level security policy', p.polname || ' on ' || nsp.nspname || '.' || mine.relname, NULL \
      FROM pg_policy p JOIN mine ON mine.oid = p.polrelid JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
    UNION ALL \
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, \
           n.nspname || '.' || p.proname, need.names \
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace LEFT JOIN need ON need.objid = p.oid \
      WHERE (n.oid IN (SELECT oid FROM nsp) OR need.objid >= {first_user_oid}) \
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass \
                        AND d.objid = p.oid AND d.deptype IN ('e', 'i')) \
    UNION ALL \
    SELECT 'operator', n.nspname || '.' || o.oprname, string_agg(DISTINCT part.name, ', ' ORDER BY part.name) \
      FROM part JOIN pg_depend d ON d.classid = part.classid AND d.objid = part.objid \
           AND d.refclassid = 'pg_operator'::regclass AND d.refobjid >= {first_user_oid} \
      JOIN pg_operator o ON o.oid = d.refobjid JOIN pg_namespace n ON n.oid = o.oprnamespace \
      WHERE NOT EXISTS (SELECT FROM extension x \
                        WHERE x.classid = 'pg_operator'::regclass AND x.objid = o.oid) \
      GROUP BY o.oid, n.nspname, o.oprname \
    UNION ALL \
    SELECT 'extension', extname, NULL FROM pg_extension WHERE extname <> 'plpgsql' \
    UNION ALL \
    SELECT 'partitioning', nsp.nspname || '.' || c.relname, NULL \
      FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace \
      WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'p' \
    UNION ALL \
    SELECT 'column setting', concat_ws(', ', \
             CASE WHEN a.attstorage <> t.typstorage THEN 'storage ' || CASE a.attstorage \
               WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END, \
             CASE a.attcompression WHEN 'p' THEN 'compression pglz' WHEN 'l' THEN 'compression lz4' END, \
             CASE WHEN a.attstattarget >= 0 THEN 'statistics ' || a.attstattarget END, \
             array_to_string(a.attoptions, ', ')) \
           || ' of ' || nsp.nspname || '.' || c.relname || '.' || a.attname, NULL \
      FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
      JOIN pg_type t ON t.oid = a.atttypid \
      WHERE c.oid = ANY ($1::oid[]) AND a.attnum > 0 AND (a.attstorage <> t.typstorage \
         OR a.attcompression <> '' OR a.attstattarget >= 0 OR a.attoptions IS NOT NULL) \
    UNION ALL \
    SELECT 'extended statistics', nsp.nspname || '.' || s.stxname, NULL \
      FROM pg_statistic_ext s JOIN mine ON mine.oid = s.stxrelid JOIN nsp ON nsp.oid = s.stxnamespace \
    UNION ALL \
    SELECT 'grant', nsp.nspname || '.' || mine.relname, NULL \
      FROM mine JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace \
      WHERE EXISTS (SELECT FROM aclexplode(mine.relacl) a WHERE a.grantee <> mine.relowner) \
         OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = mine.oid AND a.attacl IS NOT NULL) \
    UNION ALL \
    SELECT 'inheritance', nsp.nspname || '.' || mine.relname || ' inherits ' || p.relname, NULL \
      FROM pg_inherits i JOIN mine ON mine.oid = i.inhrelid AND NOT mine.relispartition \
      JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace JOIN pg_class p ON p.oid = i.inhparent \
    UNION ALL \
    SELECT 'replica identity', CASE mine.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing' \
           ELSE 'by an index' END || ' of ' || nsp.nspname || '.' || mine.relname, NULL \
      FROM mine JOIN pg_namespace nsp ON nsp.oid = mine.relnamespace WHERE mine.relreplident <> 'd' \
    UNION ALL \
    SELECT 'event trigger', evtname, NULL FROM pg_event_trigger e \
      WHERE NOT EXISTS (SELECT FROM extension x \
                        WHERE x.classid = 'pg_event_trigger'::regclass AND x.objid = e.oid) \
    UNION ALL \
    SELECT 'publication', pubname, NULL FROM pg_publication WHERE pubname !~ '^tidemark_' \
    UNION ALL \
    SELECT 'subscription', s.subname, NULL FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
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
    let mut needed = Vec::new();
    if !schemas.is_empty() {
        let list: Vec<String> = schemas.into_iter().map(quote_literal).collect();
        let sql = QUERY
            .replace("{schemas}", &list.join(", "))
            .replace("{first_user_oid}", &super::FIRST_USER_OID.to_string());
        let set = connection.query(&sql, &[Some(oids.param())]).await?;
        for row in &set.rows {
            let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
            match row.opt_str(2)? {
                Some(needed_by) => needed.push(NotCarried {
                    note: note_of_needed(needed_by),
                    kind,
                    name,
                }),
                None => by_kind.entry(kind).or_default().push(name),
            }
        }
    }
    // Sequences that a default reads without owning them are carried, and what a column needs.
    let is_made = |kind: ObjectKind, name: &str| {
        let mut of_kind = objects.iter().filter(|object| object.kind == kind);
        of_kind.any(|object| match kind {
            ObjectKind::Extension => object.name.name == name,
            _ => object.name.unquoted() == name,
        })
    };
    for (word, kind) in [
        ("sequence", ObjectKind::Sequence),
        ("extension", ObjectKind::Extension),
        ("collation", ObjectKind::Collation),
        ("type", ObjectKind::Enum),
        ("type", ObjectKind::Domain),
        ("type", ObjectKind::Composite),
        ("type", ObjectKind::Range),
    ] {
        if let Some(names) = by_kind.get_mut(word) {
            names.retain(|name| !is_made(kind, name));
        }
    }
    let mut out = needed;
    out.extend(
        by_kind
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .flat_map(|(kind, names)| told(&kind, names)),
    );
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

/// What becomes of what needs it. A type cannot be made in part.
fn note_of_needed(needed_by: &str) -> String {
    let effect = if needed_by.contains("domain ") {
        "nothing starts"
    } else {
        "that is left out"
    };
    format!("needed by {needed_by}: make it on the target before the start, without it {effect}")
}

fn note(kind: &str) -> &'static str {
    match kind {
        "extension" => "no carried column, default or index needs it",
        "partitioning" => {
            "its rows go into one ordinary table, unless a partitioned one is there already"
        }
        "column setting" => "it changes room and speed, not rows: ALTER TABLE … ALTER COLUMN … SET",
        "view"
        | "function"
        | "procedure"
        | "aggregate"
        | "extended statistics"
        | "text search configuration" => "make it on the target if it is needed there",
        "materialized view" => "make and refresh it on the target if it is needed there",
        "foreign table" => "its rows are elsewhere",
        "sequence" | "type" | "collation" => "no carried table uses it",
        "trigger" | "rule" => {
            "its effects on carried tables arrive as changes; it must not fire on the target again"
        }
        "row level security" | "row level security policy" => {
            "whoever may read the target's table sees all of its rows"
        }
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
