//! What stays behind on the source, with the statement that makes it on the target.
//!
//! Names in the statements are the source's; where the target's schemas are called otherwise a person
//! has to change them, and decides on what is wanted there at all.

use tidemark_core::Result;
use tidemark_core::schema::TableName;

use crate::config::ConnectConfig;
use crate::wire::{Connection, Role, quote_literal, quote_qualified};

/// Something that is not carried and has a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// `view`, `trigger`, …
    pub kind: String,
    /// Its name, with that of its table where it has one.
    pub name: String,
    /// Makes it.
    pub sql: String,
}

/// Kind, name, statement; in an order in which they can be made. `{tables}` are the carried tables,
/// `{schemas}` theirs. What belongs to an extension comes with it.
const QUERY: &str = "WITH mine AS (SELECT c.oid, c.relname, c.relnamespace, c.relowner, c.relacl, \
              quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = ANY (ARRAY[{tables}]::text[]::regclass[]::oid[])), \
     nsp AS (SELECT oid, quote_ident(nspname) AS name, nspacl, nspowner FROM pg_namespace \
             WHERE nspname IN ({schemas})), \
     extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'), \
     other AS (SELECT c.oid, c.relkind, c.relowner, c.relacl, \
              quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('v', 'm') AND n.oid IN (SELECT oid FROM nsp) AND NOT EXISTS (SELECT FROM extension x \
                 WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid) \
            OR c.relkind = 'S' AND c.oid IN ( \
                 SELECT d.objid FROM pg_depend d JOIN mine ON mine.oid = d.refobjid \
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                   AND d.deptype = 'a' \
                 UNION SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid \
                 JOIN mine ON mine.oid = f.adrelid \
                 WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass)), \
     found(place, kind, name, sql, position) AS ( \
       SELECT 1, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, \
              nsp.name || '.' || quote_ident(p.proname), rtrim(pg_get_functiondef(p.oid), E'\\n'), p.oid \
         FROM pg_proc p JOIN nsp ON nsp.oid = p.pronamespace \
         WHERE p.prokind IN ('f', 'p', 'w') AND NOT EXISTS (SELECT FROM pg_depend d \
              WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i')) \
     UNION ALL \
       SELECT 2, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, \
              nsp.name || '.' || quote_ident(c.relname), \
              'CREATE ' || CASE c.relkind WHEN 'v' THEN 'VIEW ' ELSE 'MATERIALIZED VIEW ' END \
              || nsp.name || '.' || quote_ident(c.relname) || ' AS ' || rtrim(pg_get_viewdef(c.oid), ';'), \
              c.oid \
         FROM pg_class c JOIN nsp ON nsp.oid = c.relnamespace \
         WHERE c.relkind IN ('v', 'm') AND NOT EXISTS (SELECT FROM extension x \
              WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid) \
     UNION ALL \
       SELECT 3, 'index', nsp.name || '.' || quote_ident(i.relname), pg_get_indexdef(i.oid), i.oid \
         FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid \
         JOIN nsp ON nsp.oid = c.relnamespace WHERE c.relkind = 'm' \
     UNION ALL \
       SELECT 4, 'trigger', quote_ident(t.tgname) || ' on ' || mine.name, pg_get_triggerdef(t.oid), t.oid \
         FROM pg_trigger t JOIN mine ON mine.oid = t.tgrelid \
         WHERE NOT t.tgisinternal AND t.tgparentid = 0 \
     UNION ALL \
       SELECT 5, 'rule', quote_ident(r.rulename) || ' on ' || mine.name, \
              rtrim(pg_get_ruledef(r.oid), ';'), r.oid \
         FROM pg_rewrite r JOIN mine ON mine.oid = r.ev_class \
     UNION ALL \
       SELECT 6, 'extended statistics', nsp.name || '.' || quote_ident(s.stxname), \
              pg_get_statisticsobjdef(s.oid), s.oid \
         FROM pg_statistic_ext s JOIN mine ON mine.oid = s.stxrelid JOIN nsp ON nsp.oid = s.stxnamespace \
     UNION ALL \
       SELECT 7, 'row level security policy', quote_ident(p.polname) || ' on ' || mine.name, \
              'CREATE POLICY ' || quote_ident(p.polname) || ' ON ' || mine.name \
              || CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END \
              || CASE p.polcmd WHEN 'r' THEN ' FOR SELECT' WHEN 'a' THEN ' FOR INSERT' \
                               WHEN 'w' THEN ' FOR UPDATE' WHEN 'd' THEN ' FOR DELETE' ELSE '' END \
              || ' TO ' || (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' \
                                              ELSE quote_ident(pg_get_userbyid(r)) END, ', ') \
                            FROM unnest(p.polroles) r) \
              || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '') \
              || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''), p.oid \
         FROM pg_policy p JOIN mine ON mine.oid = p.polrelid \
     UNION ALL \
       SELECT 8, 'grant', nsp.name, 'GRANT ' || string_agg(a.privilege_type, ', ') || ' ON SCHEMA ' \
              || nsp.name || ' TO ' || a.grantee_name, min(nsp.oid::int8)::oid \
         FROM nsp, LATERAL (SELECT x.privilege_type, CASE x.grantee WHEN 0 THEN 'PUBLIC' \
                            ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee_name \
                            FROM aclexplode(nsp.nspacl) x WHERE x.grantee <> nsp.nspowner) a \
         GROUP BY nsp.name, a.grantee_name \
     UNION ALL \
       SELECT 9, 'grant', mine.name, 'GRANT ' || string_agg(a.privilege_type, ', ') || ' ON ' \
              || mine.name || ' TO ' || a.grantee_name, min(mine.oid::int8)::oid \
         FROM mine, LATERAL (SELECT x.privilege_type, CASE x.grantee WHEN 0 THEN 'PUBLIC' \
                             ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee_name \
                             FROM aclexplode(mine.relacl) x WHERE x.grantee <> mine.relowner) a \
         GROUP BY mine.name, a.grantee_name \
     UNION ALL \
       SELECT 10, 'grant', mine.name || '.' || quote_ident(c.attname), \
              'GRANT ' || a.privilege_type || ' (' || quote_ident(c.attname) || ') ON ' || mine.name \
              || ' TO ' || CASE a.grantee WHEN 0 THEN 'PUBLIC' \
                           ELSE quote_ident(pg_get_userbyid(a.grantee)) END, mine.oid \
         FROM mine JOIN pg_attribute c ON c.attrelid = mine.oid AND c.attacl IS NOT NULL, \
              aclexplode(c.attacl) a WHERE a.grantee <> mine.relowner \
     UNION ALL \
       SELECT 11, 'grant', other.name, 'GRANT ' || string_agg(a.privilege_type, ', ') || ' ON ' \
              || CASE other.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END || other.name || ' TO ' \
              || a.grantee_name, min(other.oid::int8)::oid \
         FROM other, LATERAL (SELECT x.privilege_type, CASE x.grantee WHEN 0 THEN 'PUBLIC' \
                              ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee_name \
                              FROM aclexplode(other.relacl) x WHERE x.grantee <> other.relowner) a \
         GROUP BY other.name, other.relkind, a.grantee_name) \
     SELECT kind, name, sql FROM found ORDER BY place, position, name, sql";

/// What has a definition among what the carried tables leave behind.
pub async fn left_behind(config: &ConnectConfig, tables: &[TableName]) -> Result<Vec<LeftBehind>> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = tables
        .iter()
        .map(|table| quote_literal(&quote_qualified(&table.schema, &table.name)))
        .collect();
    let mut schemas: Vec<String> = tables
        .iter()
        .map(|table| quote_literal(&table.schema))
        .collect();
    schemas.sort();
    schemas.dedup();
    let sql = QUERY
        .replace("{tables}", &names.join(", "))
        .replace("{schemas}", &schemas.join(", "));
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    let set = connection.query(&sql, &[]).await?;
    connection.close().await;
    set.rows
        .iter()
        .map(|row| {
            Ok(LeftBehind {
                kind: row.get(0)?,
                name: row.get(1)?,
                sql: row.get(2)?,
            })
        })
        .collect()
}
