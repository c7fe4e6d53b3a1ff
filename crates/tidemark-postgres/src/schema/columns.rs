//! Columns of tables, and of what the log says about them.

use tidemark_core::Result;
use tidemark_core::event::StreamTable;
use tidemark_core::schema::{Column, ColumnDefault};
use tidemark_core::source::{Fill, StreamedColumn, StreamedShape};

use super::relations::LEAVES;
use super::sequences;
use super::types::{FIRST_USER_OID, Types};
use super::{Oids, Tables};
use crate::wire::{Connection, Row};

/// Cells of a row of [`query`], by name.
mod cell {
    pub(super) const TABLE: usize = 0;
    pub(super) const NUMBER: usize = 1;
    pub(super) const NAME: usize = 2;
    pub(super) const TYPE_NAME: usize = 3;
    pub(super) const TYPE: usize = 4;
    pub(super) const MODIFIER: usize = 5;
    pub(super) const NOT_NULL: usize = 6;
    pub(super) const IDENTITY: usize = 7;
    pub(super) const GENERATED: usize = 8;
    pub(super) const TOASTABLE: usize = 9;
    pub(super) const COLLATION: usize = 10;
    pub(super) const DEFAULT: usize = 11;
    pub(super) const COMMENT: usize = 12;
    pub(super) const IDENTITY_OPTIONS: usize = 13;
    pub(super) const HAS_FILL: usize = 14;
    pub(super) const FILL: usize = 15;
}

/// The columns of these tables in catalog order.
///
/// Since PostgreSQL 18 `attnotnull` is set for a NOT NULL constraint that is not validated yet, so
/// that NULLs may be there.
fn query(server_version: u32) -> String {
    let not_null = if server_version >= 180_000 {
        "a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint nn \
           WHERE nn.conrelid = a.attrelid AND nn.contype = 'n' AND nn.conkey[1] = a.attnum \
             AND NOT nn.convalidated)"
    } else {
        "a.attnotnull"
    };
    let options = sequences::OPTIONS;
    format!(
        "SELECT a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), \
                a.atttypid, a.atttypmod, {not_null}, a.attidentity, a.attgenerated, \
                a.attlen = -1 AND a.attstorage IN ('x', 'e', 'm'), \
                CASE WHEN a.attcollation <> t.typcollation \
                     THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END, \
                pg_get_expr(d.adbin, d.adrelid), comment.description, {options}, \
                a.atthasmissing, {FILL_TEXT} \
         FROM unnest($1::oid[]) AS wanted \
         JOIN pg_attribute a ON a.attrelid = wanted \
         JOIN pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         LEFT JOIN pg_collation co ON co.oid = a.attcollation \
         LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
         LEFT JOIN pg_description comment ON comment.classoid = 'pg_class'::regclass \
              AND comment.objoid = a.attrelid AND comment.objsubid = a.attnum \
         LEFT JOIN pg_depend own ON a.attidentity <> '' AND own.classid = 'pg_class'::regclass \
              AND own.refclassid = 'pg_class'::regclass AND own.refobjid = a.attrelid \
              AND own.refobjsubid = a.attnum AND own.deptype = 'i' \
         LEFT JOIN pg_sequence s ON s.seqrelid = own.objid \
         WHERE a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attrelid, a.attnum"
    )
}

/// The one element of `attmissingval`, as the type prints it. An array's text is quoted alike for
/// all types, so `text[]` reads it; but its delimiter is not a comma for `box` (PostgreSQL 15,
/// 8.15.2), whose one element stands between the braces as it is.
const FILL_TEXT: &str = "CASE WHEN NOT a.atthasmissing THEN NULL \
    WHEN t.typdelim <> ',' THEN trim(BOTH '{}' FROM a.attmissingval::text) \
    ELSE (a.attmissingval::text::text[])[1] END";

pub(super) async fn read(
    connection: &mut Connection,
    oids: &Oids,
    types: &Types,
    tables: &mut Tables,
) -> Result<()> {
    let sql = query(connection.server_version());
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    for row in &set.rows {
        if let Some(table) = tables.get_mut(&row.get(cell::TABLE)?) {
            table.columns.push(column(row, types)?);
        }
    }
    Ok(())
}

fn column(row: &Row, types: &Types) -> Result<Column> {
    let type_id = row.get(cell::TYPE)?;
    Ok(Column {
        name: row.get(cell::NAME)?,
        number: row.get(cell::NUMBER)?,
        type_name: row.get(cell::TYPE_NAME)?,
        type_id,
        type_modifier: row.get(cell::MODIFIER)?,
        class: types.class(type_id),
        is_not_null: row.get_bool(cell::NOT_NULL)?,
        default: default(row)?,
        collation: row.opt(cell::COLLATION)?,
        is_binary_portable: types.is_binary_portable(type_id),
        is_toastable: row.get_bool(cell::TOASTABLE)?,
        comment: row.opt(cell::COMMENT)?,
    })
}

fn default(row: &Row) -> Result<ColumnDefault> {
    let expression = row.opt::<String>(cell::DEFAULT)?;
    let is_generated = !row.get_str(cell::GENERATED)?.is_empty();
    let identity = row.get_str(cell::IDENTITY)?;
    Ok(match (identity, expression) {
        ("a" | "d", _) => ColumnDefault::Identity {
            always: identity == "a",
            options: row.opt(cell::IDENTITY_OPTIONS)?.unwrap_or_default(),
        },
        (_, Some(expression)) if is_generated => ColumnDefault::Generated(expression),
        (_, Some(expression)) => ColumnDefault::Expression(expression),
        (_, None) => ColumnDefault::None,
    })
}

/// See [`tidemark_core::source::Source::shape_of`]. A column that has another type by now is told
/// from the type that the log says, with its number; one that has gone, or whose type has, with 0.
pub async fn shape_of(connection: &mut Connection, table: &StreamTable) -> Result<StreamedShape> {
    let sql = query(connection.server_version());
    let oids = Oids::of([table.id]);
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    let mut type_ids: Vec<u32> = table.columns.iter().map(|column| column.type_id).collect();
    for row in &set.rows {
        if !row.get_str(cell::GENERATED)?.is_empty() {
            type_ids.push(row.get(cell::TYPE)?);
        }
    }
    let types = super::types::of(connection, &type_ids).await?;
    let mut columns = Vec::with_capacity(table.columns.len());
    let mut are_as_announced = 0;
    for announced in &table.columns {
        let mut found = StreamedColumn {
            column: types.bare_column(&announced.name, announced.type_id),
            fill: Fill::InRows,
        };
        found.column.type_modifier = announced.type_modifier;
        for row in &set.rows {
            if row.get_str(cell::NAME)? != announced.name {
                continue;
            }
            let is_same = row.get::<u32>(cell::TYPE)? == announced.type_id
                && row.get::<i32>(cell::MODIFIER)? == announced.type_modifier;
            if is_same {
                are_as_announced += 1;
                found.column = column(row, &types)?;
                if comes_with_the_server(announced.type_id) {
                    found.fill = fill(row, &found.column)?;
                }
            } else if types.has(announced.type_id) {
                found.column.number = row.get(cell::NUMBER)?;
                found.column.is_not_null = row.get_bool(cell::NOT_NULL)?;
            }
        }
        columns.push(found);
    }
    types.name_bare_columns(connection, &mut columns).await?;
    let present = (set.rows.iter()).map(|row| Ok((row.get(cell::NAME)?, row.get(cell::NUMBER)?)));
    let mut are_there = 0;
    for row in &set.rows {
        are_there += usize::from(row.get_str(cell::GENERATED)?.is_empty());
    }
    let standing = super::relations::standing(connection, &oids).await?.pop();
    let standing = standing.unwrap_or_default();
    if standing.is_partitioned {
        fill_by_partitions(connection, &oids, &mut columns).await?;
    }
    let key = connection.query(PRIMARY_KEY, &[Some(oids.param())]).await?;
    let primary_key = key.rows.iter().map(|row| row.get(0));
    Ok(StreamedShape {
        primary_key: primary_key.collect::<Result<_>>()?,
        columns,
        present: present.collect::<Result<_>>()?,
        storage: standing.storage,
        attributes: standing.attributes,
        types: types.members(connection).await?,
        is_ahead: (are_as_announced, are_there) != (table.columns.len(), table.columns.len()),
    })
}

const PRIMARY_KEY: &str = "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid \
     AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
     WHERE i.indrelid = ANY ($1::oid[]) AND i.indisprimary";

/// A partitioned table has no rows, and keeps no value for them, whatever its default has become: its
/// partitions do. Where each has the same, the rows that were there before have it; where one has none,
/// it was made later or written anew, and its rows have what they have.
async fn fill_by_partitions(
    connection: &mut Connection,
    oids: &Oids,
    columns: &mut [StreamedColumn],
) -> Result<()> {
    let is_open = |found: &StreamedColumn| {
        !matches!(found.fill, Fill::Constant(_))
            && found.column.number != 0
            && comes_with_the_server(found.column.type_id)
    };
    if !columns.iter().any(is_open) {
        return Ok(());
    }
    let sql = format!(
        "{LEAVES} SELECT attname, bool_and(atthasmissing) AND count(DISTINCT fill) = 1, min(fill) \
         FROM (SELECT a.attname, a.atthasmissing, {FILL_TEXT} AS fill \
           FROM leaves JOIN pg_attribute a ON a.attrelid = leaves.leaf \
           JOIN pg_type t ON t.oid = a.atttypid \
           WHERE a.attnum > 0 AND NOT a.attisdropped) AS parts \
         GROUP BY attname HAVING bool_or(atthasmissing)"
    );
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    for found in columns.iter_mut().filter(|found| is_open(found)) {
        let mut rows = set.rows.iter();
        let row = rows.find(|row| row.get_str(0).is_ok_and(|name| name == found.column.name));
        let Some(row) = row else { continue };
        found.fill = if row.get_bool(1)? {
            Fill::Constant(row.opt(2)?)
        } else {
            Fill::InRows
        };
    }
    Ok(())
}

/// `attmissingval` is the value of the default when the column was added, which the server keeps until
/// the table is rewritten (PostgreSQL 15, 53.7), and never today's default. Where it is not there, the
/// rows that were there before have NULL, or what a default that is not constant gave each of them.
fn fill(row: &Row, column: &Column) -> Result<Fill> {
    if row.get_bool(cell::HAS_FILL)? {
        return Ok(Fill::Constant(row.opt(cell::FILL)?));
    }
    let is_plain = column.default == ColumnDefault::None && !column.is_not_null;
    Ok(if is_plain { Fill::Null } else { Fill::InRows })
}

/// A type that does not come with the server has to be made on the target first, which is a load's
/// business.
fn comes_with_the_server(type_id: u32) -> bool {
    type_id < FIRST_USER_OID
}
