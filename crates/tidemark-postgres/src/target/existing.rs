//! Emptying and dropping a table that is in the way, with what hangs on it.
//!
//! Foreign keys of other tables forbid both (PostgreSQL 15, TRUNCATE and DROP TABLE), even while
//! those tables are empty. Where all of these tables are copied by the same pipeline, the foreign
//! keys are set aside: dropped, and written down in the same transaction, to be made again when the
//! load's foreign keys are ([`super::foreign_keys`]). Whatever else hangs on the table is somebody
//! else's, and a refusal names it.

use tidemark_core::catalogue::codes;
use tidemark_core::schema::TableName;
use tidemark_core::{Error, Result};

use super::Triggers;
use super::foreign_keys::NOT_VALID;
use super::names::quoted;
use crate::error::server_error;
use crate::wire::{Connection, quote_ident, quote_qualified};

/// Key of an advisory lock (an arbitrary number).
const ONE_AT_A_TIME: i64 = 0x7469_6465_6d61_726c;

/// A table that is there.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) name: &'a TableName,
    pub(super) oid: u32,
    pub(super) pipeline: &'a str,
}

/// A foreign key that is gone for a while.
#[derive(Debug)]
pub(super) struct ForeignKeyAside {
    pub(super) table: TableName,
    pub(super) name: String,
    /// As it stands behind `ADD CONSTRAINT name`.
    pub(super) definition: String,
}

/// A foreign key that points at a table.
#[derive(Debug)]
struct Incoming {
    key: ForeignKeyAside,
    /// Its table is copied by the same pipeline.
    is_ours: bool,
}

impl ForeignKeyAside {
    /// Remembers it until it is made and proven again.
    pub(super) async fn write_down(
        &self,
        connection: &mut Connection,
        pipeline: &str,
    ) -> Result<()> {
        connection
            .execute(
                "INSERT INTO tidemark.foreign_key \
                 (pipeline, target_schema, target_name, name, definition) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                &[
                    Some(pipeline),
                    Some(&self.table.schema),
                    Some(&self.table.name),
                    Some(&self.name),
                    Some(&self.definition),
                ],
            )
            .await?;
        Ok(())
    }

    /// Makes it for rows to come; those that are there are not proven.
    pub(super) async fn make_unproven(&self, connection: &mut Connection) -> Result<()> {
        let (table, name) = (quoted(&self.table), quote_ident(&self.name));
        let mut sql = format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {}",
            self.definition
        );
        if !sql.ends_with(NOT_VALID) {
            sql.push(' ');
            sql.push_str(NOT_VALID);
        }
        connection.run(&sql).await
    }
}

impl Table<'_> {
    /// Removes all rows.
    pub(super) async fn empty(
        &self,
        connection: &mut Connection,
        triggers: Triggers,
    ) -> Result<()> {
        if triggers == Triggers::Fire {
            self.refuse_truncate_triggers(connection).await?;
        }
        self.set_foreign_keys_aside(connection).await?;
        let rows = super::catalog::rows_of(connection, self.name).await?;
        let sql = format!("TRUNCATE {rows}");
        connection
            .run(&sql)
            .await
            .map_err(|error| self.explain(error))
    }

    /// Drops it. Sequences that its columns own stay, since what is made in its place reads them.
    pub(super) async fn drop(&self, connection: &mut Connection) -> Result<()> {
        self.set_foreign_keys_aside(connection).await?;
        self.let_sequences_go(connection).await?;
        let sql = format!("DROP TABLE {}", quoted(self.name));
        connection
            .run(&sql)
            .await
            .map_err(|error| self.explain(error))
    }

    /// Drops the foreign keys of the pipeline's other tables and writes them down; gives the
    /// statements that make them again.
    pub(super) async fn set_foreign_keys_aside(
        &self,
        connection: &mut Connection,
    ) -> Result<Vec<ForeignKeyAside>> {
        // Several tables are prepared at once, and each of these locks tables of the others.
        let lock = format!("SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})");
        connection.run(&lock).await?;
        let incoming = self.incoming(connection).await?;
        let foreign: Vec<String> = incoming
            .iter()
            .filter(|key| !key.is_ours)
            .map(|key| format!("foreign key {} of {}", key.key.name, key.key.table))
            .collect();
        if !foreign.is_empty() {
            return Err(self.refusal(&foreign.join(", ")));
        }
        let mut aside = Vec::with_capacity(incoming.len());
        for Incoming { key, .. } in incoming {
            key.write_down(connection, self.pipeline).await?;
            let (table, name) = (quoted(&key.table), quote_ident(&key.name));
            let sql = format!("ALTER TABLE {table} DROP CONSTRAINT {name}");
            connection.run(&sql).await?;
            aside.push(key);
        }
        Ok(aside)
    }

    /// Foreign keys of other tables. Those that a partitioned table gave its partitions go with it.
    async fn incoming(&self, connection: &mut Connection) -> Result<Vec<Incoming>> {
        let oid = self.oid.to_string();
        let found = connection
            .query(
                "SELECT n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid), \
                   EXISTS (SELECT FROM tidemark.table_state s WHERE s.pipeline = $2 \
                           AND s.target_schema = n.nspname AND s.target_name = c.relname) \
                 FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
                 JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE k.contype = 'f' AND k.confrelid = $1::oid AND k.conrelid <> $1::oid \
                   AND k.conparentid = 0 ORDER BY 1, 2, 3",
                &[Some(&oid), Some(self.pipeline)],
            )
            .await?;
        let mut incoming = Vec::with_capacity(found.rows.len());
        for row in &found.rows {
            incoming.push(Incoming {
                key: ForeignKeyAside {
                    table: TableName::new(row.get_str(0)?, row.get_str(1)?),
                    name: row.get(2)?,
                    definition: row.get(3)?,
                },
                is_ours: row.get_bool(4)?,
            });
        }
        Ok(incoming)
    }

    async fn let_sequences_go(&self, connection: &mut Connection) -> Result<()> {
        let oid = self.oid.to_string();
        let owned = connection
            .query(
                "SELECT n.nspname, c.relname FROM pg_depend d \
                 JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' \
                 JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                   AND d.refobjid = $1::oid AND d.deptype = 'a'",
                &[Some(&oid)],
            )
            .await?;
        for row in &owned.rows {
            let sequence = quote_qualified(row.get_str(0)?, row.get_str(1)?);
            let sql = format!("ALTER SEQUENCE {sequence} OWNED BY NONE");
            connection.run(&sql).await?;
        }
        Ok(())
    }

    /// A trigger on TRUNCATE would fire for rows that the source still has.
    async fn refuse_truncate_triggers(&self, connection: &mut Connection) -> Result<()> {
        let oid = self.oid.to_string();
        // tgtype bit 5: TRUNCATE (PostgreSQL 15, pg_trigger.h).
        let found = connection
            .query(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::oid AND NOT tgisinternal \
                 AND tgenabled <> 'D' AND tgtype & 32 <> 0",
                &[Some(&oid)],
            )
            .await?;
        match found.rows.first() {
            Some(row) => Err(self.refusal(&format!("trigger {} on truncate", row.get_str(0)?))),
            None => Ok(()),
        }
    }

    fn refusal(&self, what: &str) -> Error {
        Error::definite(
            codes::TARGET_DEPENDENTS,
            format!("{what} hangs on {}", self.name),
        )
        .first_action("drop what the message names, or choose another target.existing")
    }

    /// `DETAIL` of a refused drop names what depends on the table, and holds no values.
    fn explain(&self, error: Error) -> Error {
        let said = server_error(&error);
        let detail = said
            .filter(|said| said.sqlstate == "2BP01")
            .and_then(|said| said.detail.clone());
        match detail {
            Some(detail) => Error::definite(
                codes::TARGET_DEPENDENTS,
                format!(
                    "{} cannot be dropped: {}",
                    self.name,
                    detail.replace('\n', "; ")
                ),
            )
            .sqlstate("2BP01")
            .first_action("drop what the message names, or set target.existing = \"truncate\""),
            None => error,
        }
    }
}
