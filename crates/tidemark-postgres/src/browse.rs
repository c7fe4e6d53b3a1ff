//! A database by itself: what it is, and what is in it, for whoever chooses what to copy.
//!
//! Read-only and bounded: each statement ends by itself, and lists come in pages, by name.

use tidemark_core::{Context, Result};

use crate::config::ConnectConfig;
use crate::wire::{Connection, Role};

/// What a database says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// As the server names it: `15.4`.
    pub version: String,
    pub database: String,
    pub role: String,
    pub is_encrypted: bool,
    /// Whether it is a standby.
    pub is_standby: bool,
    pub wal_level: String,
    /// Whether the role may read the log.
    pub may_replicate: bool,
}

/// A schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub name: String,
    /// Tables, partitioned ones included and partitions left out.
    pub tables: i64,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// `None` where there are no statistics.
    pub rows_estimated: Option<i64>,
    pub size_bytes: i64,
    pub has_key: bool,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: String,
    pub is_nullable: bool,
    /// Its place in the primary key, from 1.
    pub key_position: Option<i32>,
}

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// After this name; from the beginning without it.
    pub after: String,
    /// At most so many.
    pub limit: usize,
}

/// A connection on which nothing is changed and nothing takes long.
pub async fn open(config: &ConnectConfig) -> Result<Connection> {
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    connection
        .run("SET default_transaction_read_only = on; SET statement_timeout = '5s'; SET lock_timeout = '2s'")
        .await
        .context(|| "prepare a look at the catalog".to_owned())?;
    Ok(connection)
}

/// What it is.
pub async fn about(connection: &mut Connection) -> Result<About> {
    let sql = "SELECT current_database(), current_user::text, pg_is_in_recovery(), \
         current_setting('wal_level'), rolreplication OR rolsuper, current_setting('server_version') \
         FROM pg_roles WHERE rolname = current_user";
    let set = connection.query(sql, &[]).await?;
    let row = set.one()?;
    let version = row.get_str(5)?;
    Ok(About {
        // Distributions write more behind it.
        version: version.split(' ').next().unwrap_or(version).to_owned(),
        database: row.get_str(0)?.to_owned(),
        role: row.get_str(1)?.to_owned(),
        is_encrypted: connection.is_encrypted(),
        is_standby: row.get_bool(2)?,
        wal_level: row.get_str(3)?.to_owned(),
        may_replicate: row.get_bool(4)?,
    })
}

/// What is ours, or the system's, is left out: nobody copies it.
const SCHEMAS: &str = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
     AND has_schema_privilege(n.oid, 'USAGE')";
/// Tables that can be copied by themselves.
const TABLES: &str = "c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'";

/// Schemas that the role may use, by name.
pub async fn schemas(connection: &mut Connection, part: &Part) -> Result<Vec<Schema>> {
    let sql = format!(
        "SELECT n.nspname::text, (SELECT count(*) FROM pg_class c WHERE c.relnamespace = n.oid AND {TABLES}) \
         FROM pg_namespace n WHERE {SCHEMAS} AND n.nspname::text COLLATE \"C\" > $1 \
         ORDER BY n.nspname::text COLLATE \"C\" LIMIT {}",
        part.limit
    );
    let set = connection.query(&sql, &[Some(part.after.as_str())]).await?;
    let schema = |row: &crate::wire::Row| {
        Ok(Schema {
            name: row.get_str(0)?.to_owned(),
            tables: row.get(1)?,
        })
    };
    set.rows.iter().map(schema).collect()
}

/// Tables of a schema, by name.
pub async fn tables(connection: &mut Connection, schema: &str, part: &Part) -> Result<Vec<Table>> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, \
                CASE WHEN c.reltuples >= 0 AND c.relkind = 'r' THEN c.reltuples::int8 END, \
                CASE WHEN c.relkind = 'p' THEN (SELECT coalesce(sum(pg_total_relation_size(relid)), 0) \
                     FROM pg_partition_tree(c.oid) WHERE isleaf)::int8 \
                     ELSE pg_total_relation_size(c.oid) END, \
                EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE {TABLES} AND {SCHEMAS} AND n.nspname = $1 AND c.relname::text COLLATE \"C\" > $2 \
         ORDER BY c.relname::text COLLATE \"C\" LIMIT {}",
        part.limit
    );
    let params = [Some(schema), Some(part.after.as_str())];
    let set = connection.query(&sql, &params).await?;
    let table = |row: &crate::wire::Row| {
        Ok(Table {
            schema: row.get_str(0)?.to_owned(),
            name: row.get_str(1)?.to_owned(),
            rows_estimated: row.opt(2)?,
            size_bytes: row.opt(3)?.unwrap_or(0),
            has_key: row.get_bool(4)?,
        })
    };
    set.rows.iter().map(table).collect()
}

/// Columns of a table, in its order; none where there is no such table.
pub async fn columns(
    connection: &mut Connection,
    schema: &str,
    table: &str,
) -> Result<Vec<Column>> {
    let sql = format!(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, \
                array_position(i.indkey::int2[], a.attnum) + 1 - array_lower(i.indkey::int2[], 1) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
         WHERE c.relkind IN ('r', 'p') AND {SCHEMAS} AND n.nspname = $1 AND c.relname = $2 \
         ORDER BY a.attnum"
    );
    let set = connection.query(&sql, &[Some(schema), Some(table)]).await?;
    let column = |row: &crate::wire::Row| {
        Ok(Column {
            name: row.get_str(0)?.to_owned(),
            data_type: row.get_str(1)?.to_owned(),
            is_nullable: row.get_bool(2)?,
            key_position: row.opt(3)?,
        })
    };
    set.rows.iter().map(column).collect()
}
