//! Extensions and collations that the tables need.

use tidemark_core::Result;
use tidemark_core::schema::{ObjectKind, SchemaObject};

use super::types::Types;
use super::{Oids, table_name};
use crate::wire::{Connection, quote_ident};

/// Objects of the tables in `$1`: class and oid of the tables, their indexes, defaults and
/// constraints, and of the types in `$2`.
const PARTS: &str = "SELECT 'pg_class'::regclass AS classid, unnest($1::oid[]) AS objid \
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index \
              WHERE indrelid = ANY ($1::oid[]) \
    UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef \
              WHERE adrelid = ANY ($1::oid[]) \
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint \
              WHERE conrelid = ANY ($1::oid[]) OR contypid = ANY ($2::oid[]) AND contypid <> 0 \
    UNION ALL SELECT 'pg_type'::regclass, unnest($2::oid[])";

/// Extensions that own a used type, operator class or function.
pub(super) async fn extensions(
    connection: &mut Connection,
    oids: &Oids,
    types: &Types,
) -> Result<Vec<SchemaObject>> {
    let sql = format!(
        "WITH parts AS ({PARTS}), \
         owned AS (SELECT d.refclassid AS classid, d.refobjid AS objid FROM parts p \
                   JOIN pg_depend d ON d.classid = p.classid AND d.objid = p.objid \
                   UNION SELECT classid, objid FROM parts WHERE classid = 'pg_type'::regclass) \
         SELECT DISTINCT n.nspname, e.extname \
         FROM owned o JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid \
              AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' \
         JOIN pg_extension e ON e.oid = d.refobjid \
         JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY 2"
    );
    let types = types.oids();
    let set = connection
        .query(&sql, &[Some(oids.param()), Some(types.param())])
        .await?;
    let mut objects = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        let name = table_name(row, 0, 1)?;
        let in_schema = match name.schema.as_str() {
            "pg_catalog" => String::new(),
            schema => format!(" SCHEMA {}", quote_ident(schema)),
        };
        let extension = quote_ident(&name.name);
        objects.push(SchemaObject {
            kind: ObjectKind::Extension,
            definition: format!("CREATE EXTENSION IF NOT EXISTS {extension}{in_schema} CASCADE"),
            name,
            owner: None,
        });
    }
    Ok(objects)
}

/// User-defined collations of columns, indexes and types.
///
/// The column that holds an ICU locale has moved: `collcollate` in 14, `colliculocale` in 15 and
/// 16, `colllocale` since 17, which also brought the provider `b` (builtin).
pub(super) async fn collations(
    connection: &mut Connection,
    oids: &Oids,
    types: &Types,
) -> Result<Vec<SchemaObject>> {
    let (locale, rules) = match connection.server_version() {
        170_000.. => ("c.colllocale", "c.collicurules"),
        160_000.. => ("c.colliculocale", "c.collicurules"),
        150_000.. => ("c.colliculocale", "NULL"),
        _ => ("c.collcollate", "NULL"),
    };
    let sql = format!(
        "WITH used AS ( \
           SELECT attcollation AS oid FROM pg_attribute WHERE attrelid = ANY ($1::oid[]) \
           UNION SELECT unnest(indcollation::oid[]) FROM pg_index \
                 WHERE indrelid = ANY ($1::oid[]) \
           UNION SELECT typcollation FROM pg_type WHERE oid = ANY ($2::oid[]) \
           UNION SELECT rngcollation FROM pg_range WHERE rngtypid = ANY ($2::oid[]) \
           UNION SELECT a.attcollation FROM pg_type t JOIN pg_attribute a \
                 ON a.attrelid = t.typrelid WHERE t.typtype = 'c' AND t.oid = ANY ($2::oid[])) \
         SELECT n.nspname, c.collname, \
                'CREATE COLLATION {{name}} (' || CASE c.collprovider \
                  WHEN 'i' THEN 'provider = icu, locale = ' || quote_literal({locale}) \
                  WHEN 'b' THEN 'provider = builtin, locale = ' || quote_literal({locale}) \
                  ELSE 'provider = libc, lc_collate = ' || quote_literal(c.collcollate) \
                       || ', lc_ctype = ' || quote_literal(c.collctype) END \
                || CASE WHEN c.collisdeterministic THEN '' ELSE ', deterministic = false' END \
                || coalesce(', rules = ' || quote_literal({rules}), '') || ')' \
         FROM used JOIN pg_collation c ON c.oid = used.oid \
         JOIN pg_namespace n ON n.oid = c.collnamespace \
         WHERE n.nspname <> 'pg_catalog' ORDER BY 1, 2"
    );
    let types = types.oids();
    let set = connection
        .query(&sql, &[Some(oids.param()), Some(types.param())])
        .await?;
    let mut objects = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        objects.push(SchemaObject {
            kind: ObjectKind::Collation,
            name: table_name(row, 0, 1)?,
            definition: row.get(2)?,
            owner: None,
        });
    }
    Ok(objects)
}
