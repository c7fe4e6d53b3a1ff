//! Statements that make user-defined types.

use std::collections::BTreeMap;

use tidemark_core::Result;
use tidemark_core::schema::{ObjectKind, SchemaObject};

use super::super::{Oids, table_name};
use crate::wire::Connection;

/// Stands in a definition that cannot be made because it needs a function of the user's.
pub(super) const CANONICAL_LOST: &str = "canonical = ";

/// By oid of the type. Types of extensions come with them; row types come with their tables.
pub(super) async fn read(
    connection: &mut Connection,
    oids: &Oids,
) -> Result<BTreeMap<u32, SchemaObject>> {
    let mut made = BTreeMap::new();
    for (kind, query) in [
        (ObjectKind::Enum, ENUMS),
        (ObjectKind::Domain, DOMAINS),
        (ObjectKind::Composite, COMPOSITES),
        (ObjectKind::Range, RANGES),
    ] {
        let sql = format!("{query} {OF_NO_EXTENSION}");
        let set = connection.query(&sql, &[Some(oids.param())]).await?;
        for row in &set.rows {
            let object = SchemaObject {
                kind,
                name: table_name(row, 1, 2)?,
                definition: row.get(3)?,
                owner: None,
            };
            made.insert(row.get(0)?, object);
        }
    }
    Ok(made)
}

const OF_NO_EXTENSION: &str = "AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND NOT EXISTS (SELECT FROM pg_depend d \
      WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')";

const ENUMS: &str = "SELECT t.oid, n.nspname, t.typname, \
        'CREATE TYPE {name} AS ENUM (' \
        || coalesce((SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) \
                     FROM pg_enum e WHERE e.enumtypid = t.oid), '') || ')' \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted \
    JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e'";

/// `typnotnull` and the check constraints, in the order in which they are checked (by name).
const DOMAINS: &str = "SELECT t.oid, n.nspname, t.typname, \
        'CREATE DOMAIN {name} AS ' || format_type(t.typbasetype, t.typtypmod) \
        || CASE WHEN t.typcollation <> b.typcollation \
                THEN ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname) \
                ELSE '' END \
        || coalesce(' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), '') \
        || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END \
        || coalesce((SELECT string_agg(' CONSTRAINT ' || quote_ident(c.conname) || ' ' \
                                       || replace(pg_get_constraintdef(c.oid), ' NOT VALID', ''), \
                                       '' ORDER BY c.conname) \
                     FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'), '') \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted \
    JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_type b ON b.oid = t.typbasetype \
    LEFT JOIN pg_collation co ON co.oid = t.typcollation \
    LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE t.typtype = 'd'";

const COMPOSITES: &str = "SELECT t.oid, n.nspname, t.typname, \
        'CREATE TYPE {name} AS (' \
        || coalesce((SELECT string_agg(quote_ident(a.attname) || ' ' \
                        || format_type(a.atttypid, a.atttypmod) \
                        || CASE WHEN a.attcollation <> at.typcollation \
                                THEN ' COLLATE ' || quote_ident(cn.nspname) || '.' \
                                     || quote_ident(co.collname) ELSE '' END, \
                        ', ' ORDER BY a.attnum) \
                     FROM pg_attribute a JOIN pg_type at ON at.oid = a.atttypid \
                     LEFT JOIN pg_collation co ON co.oid = a.attcollation \
                     LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
                     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') \
        || ')' \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted \
    JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_class c ON c.oid = t.typrelid \
    WHERE t.typtype = 'c' AND c.relkind = 'c'";

/// A canonical function must exist before its type and take it as argument, which needs a shell
/// type; such ranges are named as not carried. A difference function is carried where it comes with
/// the server.
const RANGES: &str = "SELECT t.oid, n.nspname, t.typname, \
        'CREATE TYPE {name} AS RANGE (subtype = ' || format_type(r.rngsubtype, NULL) \
        || CASE WHEN NOT oc.opcdefault \
                THEN ', subtype_opclass = ' || quote_ident(ocn.nspname) || '.' \
                     || quote_ident(oc.opcname) ELSE '' END \
        || CASE WHEN r.rngcollation <> 0 AND r.rngcollation <> st.typcollation \
                THEN ', collation = ' || quote_ident(cn.nspname) || '.' \
                     || quote_ident(co.collname) ELSE '' END \
        || CASE WHEN r.rngcanonical <> 0 THEN ', canonical = ' || r.rngcanonical ELSE '' END \
        || CASE WHEN fn.nspname = 'pg_catalog' \
                THEN ', subtype_diff = pg_catalog.' || quote_ident(f.proname) ELSE '' END \
        || ', multirange_type_name = ' || quote_ident(mn.nspname) || '.' \
        || quote_ident(m.typname) || ')' \
    FROM unnest($1::oid[]) AS wanted JOIN pg_type t ON t.oid = wanted \
    JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_range r ON r.rngtypid = t.oid \
    JOIN pg_type st ON st.oid = r.rngsubtype JOIN pg_opclass oc ON oc.oid = r.rngsubopc \
    JOIN pg_namespace ocn ON ocn.oid = oc.opcnamespace \
    JOIN pg_type m ON m.oid = r.rngmultitypid JOIN pg_namespace mn ON mn.oid = m.typnamespace \
    LEFT JOIN pg_collation co ON co.oid = r.rngcollation \
    LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
    LEFT JOIN pg_proc f ON f.oid = r.rngsubdiff LEFT JOIN pg_namespace fn ON fn.oid = f.pronamespace \
    WHERE t.typtype = 'r'";
