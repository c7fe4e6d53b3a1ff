//! A resynced table takes the place of the old one, in one transaction.
//!
//! Readers see the old rows until the commit, the new ones after it. What hangs on the old table and
//! cannot be moved (views, foreign keys of tables that are not ours) is refused by name; foreign keys
//! of our own tables are set aside and made again, grants and owner are carried over.

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::target::Place;
use tidemark_core::{Context, Error, Result};

use super::existing::Table;
use super::finish::aliased;
use super::names::{quoted, table_at};
use super::{catalog, foreign_keys};
use crate::wire::{Connection, quote_ident, quote_qualified};

/// Puts the table beside in the place of the table.
pub(super) async fn run(
    connection: &mut Connection,
    pipeline: &str,
    mapping: &TableMapping,
) -> Result<()> {
    let doing = || format!("swap {}", mapping.target);
    connection.run("BEGIN").await?;
    let swapped = in_transaction(connection, pipeline, mapping)
        .await
        .context(doing);
    if swapped.is_err() {
        connection.run("ROLLBACK").await?;
        return swapped;
    }
    connection.run("COMMIT").await.context(doing)?;
    // Foreign keys that were set aside for the drop; they hold again once the table has caught up, and
    // are not validated before.
    foreign_keys::make_unvalidated(connection, pipeline).await
}

async fn in_transaction(
    connection: &mut Connection,
    pipeline: &str,
    mapping: &TableMapping,
) -> Result<()> {
    let (old, new) = (&mapping.target, table_at(mapping, Place::Beside));
    let Some(old_table) = catalog::relation(connection, old).await? else {
        return Err(Error::definite(
            codes::TARGET_TABLE_MISSING,
            format!("{old} is gone"),
        ));
    };
    connection
        .run(&format!(
            "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
            quoted(old)
        ))
        .await?;
    let oid = old_table.oid.to_string();
    let grants = grants(connection, &oid).await?;
    let owned = owned_sequences(connection, &oid).await?;
    Table {
        name: old,
        oid: old_table.oid,
        pipeline,
    }
    .drop(connection)
    .await?;
    let name = quote_ident(&old.name);
    connection
        .run(&format!("ALTER TABLE {} RENAME TO {name}", quoted(&new)))
        .await?;
    for index in &mapping.schema.indexes {
        rename_index(
            connection,
            mapping,
            &aliased(&index.name, &new),
            &index.name,
        )
        .await?;
    }
    for grant in grants {
        connection.run(&grant).await?;
    }
    for (sequence, column) in owned {
        let sql = format!(
            "ALTER SEQUENCE {sequence} OWNED BY {}.{column}",
            quoted(old)
        );
        connection.run(&sql).await?;
    }
    Ok(())
}

/// Owner and grants of a table, as statements for what bears its name afterwards.
async fn grants(connection: &mut Connection, oid: &str) -> Result<Vec<String>> {
    let found = connection
        .query(
            "SELECT format('ALTER TABLE %I.%I OWNER TO %I', n.nspname, c.relname, \
                      pg_get_userbyid(c.relowner)) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = $1::oid AND c.relowner <> (SELECT oid FROM pg_roles \
               WHERE rolname = current_user) \
             UNION ALL \
             SELECT format('GRANT %s ON %I.%I TO %s%s', a.privilege_type, n.nspname, c.relname, \
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE \
                        quote_ident(pg_get_userbyid(a.grantee)) END, \
                      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, \
               LATERAL aclexplode(c.relacl) a \
             WHERE c.oid = $1::oid AND a.grantee <> c.relowner",
            &[Some(oid)],
        )
        .await?;
    found.rows.iter().map(|row| row.get(0)).collect()
}

/// Sequences that the old table's columns own, and the columns: the new table reads them too.
async fn owned_sequences(connection: &mut Connection, oid: &str) -> Result<Vec<(String, String)>> {
    let found = connection
        .query(
            "SELECT n.nspname, s.relname, a.attname FROM pg_depend d \
             JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
             JOIN pg_namespace n ON n.oid = s.relnamespace \
             JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
               AND d.refobjid = $1::oid AND d.deptype = 'a'",
            &[Some(oid)],
        )
        .await?;
    let mut owned = Vec::new();
    for row in &found.rows {
        let sequence = quote_qualified(row.get_str(0)?, row.get_str(1)?);
        owned.push((sequence, quote_ident(row.get_str(2)?)));
    }
    Ok(owned)
}

async fn rename_index(
    connection: &mut Connection,
    mapping: &TableMapping,
    from: &str,
    to: &str,
) -> Result<()> {
    let schema = &mapping.target.schema;
    let exists = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n \
                  ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2)";
    for (name, wanted) in [(from, true), (to, false)] {
        let found = connection
            .query(exists, &[Some(schema), Some(name)])
            .await?;
        if found.one()?.get_bool(0)? != wanted {
            return Ok(());
        }
    }
    let sql = format!(
        "ALTER INDEX {} RENAME TO {}",
        quote_qualified(schema, from),
        quote_ident(to)
    );
    connection.run(&sql).await
}
