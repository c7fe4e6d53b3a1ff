//! A resynced table takes its place.
//!
//! While a table is copied anew its readers keep the old rows. The new ones are collected in a table
//! beside it ([`super::names::beside`]), with all its indexes. The swap is one short transaction
//! under an exclusive lock: the old table is dropped, the new one gets its name, and what was not
//! part of the copy goes over: owner, privileges, comments, storage parameters, defaults, sequences,
//! replica identity, foreign keys to other tables. Indexes and constraints get their names back.
//!
//! What points at the old table from outside (views, foreign keys of tables that the pipeline does
//! not copy, functions) makes a swap impossible, and so does what lives on it and cannot go over in a
//! safe way (triggers, policies, rules, publications, statistics objects, further columns). That is found
//! out before anything is copied, and again under the lock. The way out is to empty the table in its place.
//!
//! A reader that took its snapshot before the new rows were committed and reads the table after
//! the swap finds it empty, as after TRUNCATE (PostgreSQL 15, 13.6); that takes a transaction of
//! isolation `REPEATABLE READ` as long as the resync.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{ColumnDefault, TableName, TableSchema};
use tidemark_core::{Context, Error, Result, failpoint};
use tokio::time::{Instant, sleep};

use super::checkpoint::{self, Writer};
use super::existing::{ForeignKeyAside, Table};
use super::names::{beside, quoted};
use super::{catalog, indexes};
use crate::error::server_error;
use crate::schema::describe_one;
use crate::wire::{Connection, quote_ident, quote_literal};

/// Whoever waits for an exclusive lock keeps new readers waiting, ourselves included, so it is asked for
/// many times, for a short time each.
pub(super) const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '1s'";
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// How long readers may keep us waiting in all.
const LOCK_WAIT_MAX: Duration = Duration::from_mins(10);

/// Whether others held a table for longer than we were to wait.
pub(super) fn is_held(error: &Error) -> bool {
    error.sqlstate_code() == Some("55P03")
}

/// Swaps, in one transaction.
pub(super) async fn swap(
    connection: &mut Connection,
    mapping: &TableMapping,
    writer: &Writer,
) -> Result<()> {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    let done = loop {
        match in_transaction(connection, mapping, writer).await {
            Err(error) if is_held(&error) => {
                connection.run("ROLLBACK").await?;
                if Instant::now() >= deadline {
                    break Err(Error::data(
                        codes::TARGET_CONFLICT,
                        "other sessions hold the table and do not let it go",
                    )
                    .caused_by(error));
                }
                sleep(LOCK_PAUSE).await;
            }
            done => break done,
        }
    };
    done.map_err(|error| {
        error
            .context(format!("swap {}", mapping.target))
            .table(mapping.source().to_string())
    })
}

async fn in_transaction(
    connection: &mut Connection,
    mapping: &TableMapping,
    writer: &Writer,
) -> Result<()> {
    let (table, new_name) = (&mapping.target, beside(&mapping.target));
    connection.run("BEGIN").await?;
    connection.run(LOCK_WAIT).await?;
    let gone = || {
        Error::transient(
            codes::TARGET_CONFLICT,
            format!("the new rows of {table} are gone"),
        )
    };
    let new = catalog::relation(connection, &new_name)
        .await?
        .ok_or_else(gone)?;
    let new = describe_one(connection, &new_name, new.oid)
        .await?
        .ok_or_else(gone)?;
    let old = match catalog::relation(connection, table).await? {
        Some(_) => {
            let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", quoted(table));
            connection.run(&lock).await?;
            // Asked again: only now does it stay as it is.
            let found = catalog::relation(connection, table).await?;
            let oid = found.map_or(0, |found| found.oid);
            describe_one(connection, table, oid).await?
        }
        None => None,
    };
    let mut names = index_names(mapping, old.as_ref());
    let (mut identity, mut keys) = (None, Vec::new());
    if let Some(old) = &old {
        refuse_obstacles(connection, &writer.pipeline, old, &new).await?;
        identity = replica_identity(connection, old).await?;
        keys = foreign_keys(connection, &writer.pipeline, old).await?;
        carry_over(connection, old, &new, &new_name).await?;
        drop_old(connection, table).await?;
    }
    let rename = format!(
        "ALTER TABLE {} RENAME TO {}",
        quoted(&new_name),
        quote_ident(&table.name)
    );
    connection.run(&rename).await?;
    for index in &new.indexes {
        if let Some(name) = names.remove(&index.name) {
            name_index(connection, table, &index.name, &name).await?;
        }
    }
    for key in &keys {
        let made = key.make_unproven(connection).await;
        made.context(|| format!("carry foreign key {}", key.name))?;
    }
    if let Some(old) = &old {
        name_sequences(connection, old).await?;
    }
    if let Some(identity) = identity {
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY {identity}", quoted(table));
        connection.run(&sql).await?;
    }
    failpoint::reached(failpoint::SWAP_DUE);
    checkpoint::commit_open(connection, &[writer.advance(None)]).await
}

/// Why the table cannot be swapped; nothing if it can. Asked before anything is copied.
pub(super) async fn check(
    connection: &mut Connection,
    pipeline: &str,
    table: &TableName,
    new: &TableSchema,
) -> Result<()> {
    let Some(found) = catalog::relation(connection, table).await? else {
        return Ok(());
    };
    let Some(old) = describe_one(connection, table, found.oid).await? else {
        return Ok(());
    };
    refuse_obstacles(connection, pipeline, &old, new).await
}

async fn refuse_obstacles(
    connection: &mut Connection,
    pipeline: &str,
    old: &TableSchema,
    new: &TableSchema,
) -> Result<()> {
    let mut obstacles: Vec<String> = old
        .columns
        .iter()
        .filter(|column| new.columns.iter().all(|other| other.name != column.name))
        .map(|column| format!("column {} that the source does not have", column.name))
        .collect();
    let oid = old.id.to_string();
    let found = connection
        .query(OBSTACLES, &[Some(&oid), Some(pipeline)])
        .await?;
    for row in &found.rows {
        obstacles.push(row.get(0)?);
    }
    if obstacles.is_empty() {
        return Ok(());
    }
    Err(not_possible(&old.name, &obstacles.join(", ")))
}

fn not_possible(table: &TableName, what: &str) -> Error {
    Error::data(
        codes::TARGET_DEPENDENTS,
        format!("{table} cannot be replaced by another table because of {what}"),
    )
}

/// What would be lost with the table `$1` or keeps it from being dropped, each in words.
///
/// Dependencies: PostgreSQL 15, 53.18 (`n` normal; its own indexes, defaults and keys are `a` or
/// `i`). A foreign key depends on the table that it points to; those of the tables of pipeline `$2`
/// are taken off and made again.
const OBSTACLES: &str = "\
    SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d \
      WHERE d.deptype = 'n' \
        AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS ( \
          SELECT FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
            JOIN pg_namespace n ON n.oid = c.relnamespace \
            LEFT JOIN tidemark.table_state s ON s.pipeline = $2 \
                 AND s.target_schema = n.nspname AND s.target_name = c.relname \
          WHERE k.oid = d.objid AND (c.oid = $1::oid OR s.pipeline IS NOT NULL))) \
        AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid \
             OR d.refclassid = 'pg_type'::regclass \
                AND d.refobjid IN (SELECT t.oid FROM pg_type t JOIN pg_class c \
                                   ON t.oid = c.reltype OR t.typelem = c.reltype \
                                   WHERE c.oid = $1::oid)) \
        AND NOT (d.classid = 'pg_class'::regclass AND d.objid = $1::oid) \
        AND NOT (d.classid = 'pg_attrdef'::regclass AND d.objid IN ( \
          SELECT oid FROM pg_attrdef WHERE adrelid = $1::oid)) \
    UNION SELECT 'trigger ' || tgname FROM pg_trigger \
      WHERE tgrelid = $1::oid AND NOT tgisinternal \
    UNION SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = $1::oid \
    UNION SELECT 'row security' FROM pg_class WHERE oid = $1::oid AND relrowsecurity \
    UNION SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = $1::oid \
    UNION SELECT 'publication ' || p.pubname FROM pg_publication_rel r \
      JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1::oid \
    UNION SELECT 'statistics object ' || stxname FROM pg_statistic_ext WHERE stxrelid = $1::oid \
    UNION SELECT 'inheritance by or from ' || CASE WHEN inhrelid = $1::oid \
        THEN inhparent ELSE inhrelid END::regclass::text \
      FROM pg_inherits WHERE $1::oid IN (inhrelid, inhparent) \
    UNION SELECT 'its partitions' FROM pg_class WHERE oid = $1::oid AND relkind = 'p' \
    ORDER BY 1";

/// Names that indexes of the new table will have, by those that they have now.
fn index_names(mapping: &TableMapping, old: Option<&TableSchema>) -> BTreeMap<String, String> {
    let of_old = old.into_iter().flat_map(|old| &old.indexes);
    mapping
        .schema
        .indexes
        .iter()
        .chain(of_old)
        .flat_map(|index| {
            let beside = indexes::name_beside(&mapping.target, &index.name);
            let other = indexes::other_name(&mapping.target, &beside);
            [(beside, index.name.clone()), (other, index.name.clone())]
        })
        .collect()
}

async fn name_index(
    connection: &mut Connection,
    table: &TableName,
    from: &str,
    to: &str,
) -> Result<()> {
    let taken = catalog::relation(connection, &TableName::new(&table.schema, to)).await?;
    let to = match taken {
        Some(_) => indexes::other_name(table, to),
        None => to.to_owned(),
    };
    let from = quoted(&TableName::new(&table.schema, from));
    let sql = format!("ALTER INDEX {from} RENAME TO {}", quote_ident(&to));
    connection.run(&sql).await
}

/// What goes over while both tables are there.
async fn carry_over(
    connection: &mut Connection,
    old: &TableSchema,
    new: &TableSchema,
    new_name: &TableName,
) -> Result<()> {
    let table = quoted(new_name);
    for column in &old.columns {
        let Some(made) = new.columns.iter().find(|made| made.name == column.name) else {
            continue;
        };
        let name = quote_ident(&column.name);
        // What was a default of another type may not be one of this.
        let is_plain = made.type_name == column.type_name
            && !matches!(
                made.default,
                ColumnDefault::Generated(_) | ColumnDefault::Identity { .. }
            );
        if let ColumnDefault::Expression(expression) = &column.default
            && is_plain
        {
            let sql = format!("ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {expression}");
            connection.run(&sql).await?;
        }
        if matches!(made.default, ColumnDefault::Identity { .. }) {
            carry_identity(connection, old, new_name, &column.name).await?;
        }
    }
    let oid = old.id.to_string();
    let found = connection
        .query(CARRIED, &[Some(&oid), Some(&table)])
        .await?;
    for row in &found.rows {
        connection
            .run(row.get_str(0)?)
            .await
            .context(|| "carry over what the old table has")?;
    }
    Ok(())
}

/// Statements that give the table `$2` what the table `$1` has: sequences, storage parameters,
/// comments, the owner, and last the privileges, which a change of owner would change. Privileges
/// that the owner has by nature are not among them (`acldefault`).
const CARRIED: &str = "SELECT sql FROM ( \
    SELECT 1 AS step, format('ALTER SEQUENCE %s OWNED BY %s.%I', d.objid::regclass, $2::text, a.attname) \
        AS sql FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
      WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
        AND d.refobjid = $1::oid AND d.deptype = 'a' \
    UNION ALL SELECT 2, format('ALTER TABLE %s SET (%s)', $2::text, array_to_string(reloptions, ', ')) \
      FROM pg_class WHERE oid = $1::oid AND reloptions IS NOT NULL \
    UNION ALL SELECT 3, format('COMMENT ON TABLE %s IS %L', $2::text, description) \
      FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = $1::oid \
        AND objsubid = 0 \
    UNION ALL SELECT 3, format('COMMENT ON COLUMN %s.%I IS %L', $2::text, a.attname, c.description) \
      FROM pg_description c JOIN pg_attribute a ON a.attrelid = c.objoid AND a.attnum = c.objsubid \
      WHERE c.classoid = 'pg_class'::regclass AND c.objoid = $1::oid AND c.objsubid > 0 \
    UNION ALL SELECT 4, format('ALTER TABLE %s OWNER TO %I', $2::text, o.rolname) \
      FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner \
      WHERE c.oid = $1::oid AND o.rolname <> current_user \
    UNION ALL SELECT 5, format('GRANT %s ON TABLE %s TO %s%s', g.privilege_type, $2::text, \
        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END, \
        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
      FROM pg_class c, aclexplode(c.relacl) g \
      WHERE c.oid = $1::oid AND g.grantee <> c.relowner \
    UNION ALL SELECT 5, format('GRANT %s (%I) ON TABLE %s TO %s%s', g.privilege_type, a.attname, \
        $2::text, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END, \
        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
      FROM pg_attribute a, aclexplode(a.attacl) g \
      WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped \
    ) AS statements ORDER BY step";

/// An identity column's own sequence goes on where the old one stands.
async fn carry_identity(
    connection: &mut Connection,
    old: &TableSchema,
    new_name: &TableName,
    column: &str,
) -> Result<()> {
    let (old_name, new_name) = (quoted(&old.name), quoted(new_name));
    let params = [Some(old_name.as_str()), Some(&new_name), Some(column)];
    let found = connection
        .query(
            "SELECT o.oid::regclass::text, n.oid::regclass::text, o.relname \
             FROM pg_class o, pg_class n \
             WHERE o.oid = pg_get_serial_sequence($1, $3)::regclass \
               AND n.oid = pg_get_serial_sequence($2, $3)::regclass",
            &params,
        )
        .await?;
    let Some(row) = found.rows.first() else {
        return Ok(());
    };
    let (from, to) = (row.get_str(0)?, row.get_str(1)?);
    let to = quote_literal(to);
    let set = format!("SELECT setval({to}::regclass, last_value, is_called) FROM {from}");
    connection.run(&set).await
}

async fn drop_old(connection: &mut Connection, table: &TableName) -> Result<()> {
    let sql = format!("DROP TABLE {}", quoted(table));
    connection.run(&sql).await.map_err(|error| {
        let said = server_error(&error).filter(|said| said.sqlstate == "2BP01");
        match said.and_then(|said| said.detail.clone()) {
            Some(detail) => not_possible(table, &detail.replace('\n', ", ")),
            None => error,
        }
    })
}

/// What the target's own log says of old rows, where that is not the default.
async fn replica_identity(
    connection: &mut Connection,
    old: &TableSchema,
) -> Result<Option<String>> {
    let oid = old.id.to_string();
    let found = connection
        .query(
            "SELECT CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' \
               WHEN 'i' THEN (SELECT format('USING INDEX %I', x.relname) FROM pg_index i \
                              JOIN pg_class x ON x.oid = i.indexrelid \
                              WHERE i.indrelid = c.oid AND i.indisreplident) END \
             FROM pg_class c WHERE c.oid = $1::oid",
            &[Some(&oid)],
        )
        .await?;
    found.one()?.opt(0)
}

/// Foreign keys from the old table and to it, taken off and written down: they are made again
/// unproven, since the tables show different instants until the new one has caught up.
async fn foreign_keys(
    connection: &mut Connection,
    pipeline: &str,
    old: &TableSchema,
) -> Result<Vec<ForeignKeyAside>> {
    let oid = old.id.to_string();
    let found = connection
        .query(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE conrelid = $1::oid AND contype = 'f' ORDER BY 1",
            &[Some(&oid)],
        )
        .await?;
    let mut keys = Vec::with_capacity(found.rows.len());
    for row in &found.rows {
        let key = ForeignKeyAside {
            table: old.name.clone(),
            name: row.get(0)?,
            definition: row.get(1)?,
        };
        key.write_down(connection, pipeline).await?;
        keys.push(key);
    }
    let table = Table {
        name: &old.name,
        oid: old.id,
        pipeline,
    };
    keys.extend(table.set_foreign_keys_aside(connection).await?);
    Ok(keys)
}

/// The sequences of identity columns get the old one's names.
async fn name_sequences(connection: &mut Connection, old: &TableSchema) -> Result<()> {
    let table = quoted(&old.name);
    for column in &old.columns {
        if !matches!(column.default, ColumnDefault::Identity { .. }) {
            continue;
        }
        let found = connection
            .query(
                "SELECT oid::regclass::text FROM pg_class \
                 WHERE oid = pg_get_serial_sequence($1, $2)::regclass",
                &[Some(&table), Some(&column.name)],
            )
            .await?;
        if let Some(row) = found.rows.first() {
            name_sequence(connection, &old.name, &column.name, row.get_str(0)?).await?;
        }
    }
    Ok(())
}

/// The name that the server gives to the sequence of an identity column (PostgreSQL 15,
/// `ChooseRelationName`), where it is free and not too long.
async fn name_sequence(
    connection: &mut Connection,
    table: &TableName,
    column: &str,
    sequence: &str,
) -> Result<()> {
    let name = format!("{}_{column}_seq", table.name);
    let is_free = name.len() < 64
        && catalog::relation(connection, &TableName::new(&table.schema, &name))
            .await?
            .is_none();
    if !is_free {
        return Ok(());
    }
    let sql = format!("ALTER SEQUENCE {sequence} RENAME TO {}", quote_ident(&name));
    connection.run(&sql).await
}
