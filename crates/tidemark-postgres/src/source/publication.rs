//! The publication: which tables and operations the source sends.
//!
//! One that we made bears the pipeline's name in its comment, is extended by tables that are missing,
//! and goes with the pipeline. One that a person made is only checked. Neither is ever made smaller.
//!
//! **A table that joins later.** The server decides by the publication as it was when a change was
//! written, not when it committed. So a transaction that wrote to a table before the table was
//! published, and commits after, is missing from the stream; and a snapshot taken in between does not
//! see it. Nothing may be loaded until such transactions have ended: [`announce`] waits for them. It
//! asks who holds a writer's lock on the tables, so transactions elsewhere do not matter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::config::Create;
use tidemark_core::schema::TableName;
use tidemark_core::{Error, Result, failpoint};
use tokio::time::{Instant, sleep};

use super::blockers;
use crate::wire::{Connection, Row, quote_ident, quote_literal, quote_qualified};

#[cfg(test)]
mod tests;

/// How a comment of ours begins; the pipeline's name follows, and once a target has its checkpoint
/// [`COMMENT_TARGET`] and which one that is.
const COMMENT: &str = "tidemark pipeline: ";
const COMMENT_TARGET: &str = ", into ";

/// Tables that one statement adds or removes: it keeps a lock on each until it is over, and thousands are
/// more than a server has room for (`max_locks_per_transaction`).
const TABLES_AT_ONCE: usize = 100;

const OPERATIONS: &str = "insert, update, delete, truncate";

/// How often we look whether writers have ended, and how often at most we say that they have not.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// A publication, as far as the selected tables are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) name: String,
    /// Whether it was made for this pipeline, by its comment.
    pub(crate) is_ours: bool,
    is_via_root: bool,
    /// Of `insert`, `update`, `delete`, `truncate`: those it does not send.
    unsent_operations: Vec<&'static str>,
    /// Selected tables that it does not send under their own name, or at all.
    pub(crate) unpublished: Vec<TableName>,
    /// Selected tables of which it leaves out rows or columns.
    restricted: Vec<TableName>,
}

/// What is asked of a publication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) pipeline: &'a str,
    pub(crate) create: Create,
    pub(crate) tables: &'a [TableName],
}

impl Wanted<'_> {
    /// What makes it.
    pub(crate) fn create_sql(&self) -> String {
        let name = quote_ident(self.name);
        let tables = match self.tables {
            [] => String::new(),
            tables => format!(" FOR TABLE {}", list(tables)),
        };
        format!(
            "CREATE PUBLICATION {name}{tables} WITH (publish = '{OPERATIONS}', \
             publish_via_partition_root = true)"
        )
    }

    /// What says who made it, and for which target once that has the checkpoint.
    fn comment_sql(&self, target: Option<&str>) -> String {
        let into = target.map(|target| format!("{COMMENT_TARGET}{target}"));
        let comment = format!("{COMMENT}{}{}", self.pipeline, into.unwrap_or_default());
        format!(
            "COMMENT ON PUBLICATION {} IS {}",
            quote_ident(self.name),
            quote_literal(&comment)
        )
    }
}

/// What the comment of a publication of ours says.
pub(crate) struct Made {
    /// The pipeline that made it.
    pub(crate) pipeline: String,
    /// The target that has the pipeline's checkpoint.
    pub(crate) target: Option<String>,
}

impl Made {
    /// `None` of a comment that is not ours. No name of a pipeline has a comma.
    fn read(comment: &str) -> Option<Made> {
        let rest = comment.strip_prefix(COMMENT)?;
        let (pipeline, target) = match rest.split_once(COMMENT_TARGET) {
            Some((pipeline, target)) => (pipeline, Some(target.to_owned())),
            None => (rest, None),
        };
        let pipeline = pipeline.to_owned();
        Some(Made { pipeline, target })
    }
}

/// Who made the publication of that name; `None` where there is none, or it is not of our making.
pub(crate) async fn made(connection: &mut Connection, name: &str) -> Result<Option<Made>> {
    let sql =
        "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1";
    let set = connection.query(sql, &[Some(name)]).await?;
    let Some(row) = set.rows.first() else {
        return Ok(None);
    };
    Ok(row.opt_str(0)?.and_then(Made::read))
}

/// Notes in the comment of a publication of ours which target has the checkpoint.
pub(crate) async fn note_target(
    connection: &mut Connection,
    wanted: &Wanted<'_>,
    target: &str,
) -> Result<()> {
    let is_due =
        |made: &Made| made.pipeline == wanted.pipeline && made.target.as_deref() != Some(target);
    if !made(connection, wanted.name)
        .await?
        .is_some_and(|made| is_due(&made))
    {
        return Ok(());
    }
    match connection.run(&wanted.comment_sql(Some(target))).await {
        // A role that is not its owner, or a standby.
        Err(error) if matches!(error.sqlstate_code(), Some("42501" | "25006")) => Ok(()),
        noted => noted.map(drop),
    }
}

fn list(tables: &[TableName]) -> String {
    let quoted: Vec<String> = tables
        .iter()
        .map(|table| quote_qualified(&table.schema, &table.name))
        .collect();
    quoted.join(", ")
}

impl Publication {
    /// Statements that make it cover the selected tables; none if it does.
    pub(crate) fn repair_sql(&self) -> Vec<String> {
        let name = quote_ident(&self.name);
        let mut statements = Vec::new();
        if !self.unsent_operations.is_empty() || !self.is_via_root {
            statements.push(format!(
                "ALTER PUBLICATION {name} SET (publish = '{OPERATIONS}', \
                 publish_via_partition_root = true)"
            ));
        }
        if !self.restricted.is_empty() {
            let tables = list(&self.restricted);
            statements.push(format!("ALTER PUBLICATION {name} DROP TABLE {tables}"));
            statements.push(format!("ALTER PUBLICATION {name} ADD TABLE {tables}"));
        }
        for part in self.unpublished.chunks(TABLES_AT_ONCE) {
            let tables = list(part);
            statements.push(format!("ALTER PUBLICATION {name} ADD TABLE {tables}"));
        }
        statements
    }

    /// What it lacks, in a sentence without its beginning; `None` if nothing.
    pub(crate) fn lacks(&self) -> Option<String> {
        let mut lacks = Vec::new();
        if !self.unsent_operations.is_empty() {
            lacks.push(format!(
                "does not send {}",
                self.unsent_operations.join(", ")
            ));
        }
        if !self.is_via_root {
            lacks.push("sends partitions under their own names".to_owned());
        }
        let mut about = |what: &str, tables: &[TableName]| {
            if let Some(first) = tables.first() {
                let more = match tables.len() {
                    1 => String::new(),
                    count => format!(" and {} more", count - 1),
                };
                lacks.push(format!("{what} {first}{more}"));
            }
        };
        about("lacks", &self.unpublished);
        about("leaves out rows or columns of", &self.restricted);
        (!lacks.is_empty()).then(|| lacks.join("; "))
    }

    /// Whether tables are all that is missing.
    pub(crate) fn lacks_only_tables(&self) -> bool {
        self.unsent_operations.is_empty() && self.is_via_root && self.restricted.is_empty()
    }
}

/// The publication of that name as it is, `None` if there is none.
pub(crate) async fn read(
    connection: &mut Connection,
    wanted: &Wanted<'_>,
) -> Result<Option<Publication>> {
    let sql = "SELECT p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, \
                      obj_description(p.oid, 'pg_publication') \
               FROM pg_publication p WHERE p.pubname = $1";
    let set = connection.query(sql, &[Some(wanted.name)]).await?;
    let Some(row) = set.rows.first() else {
        return Ok(None);
    };
    let mut unsent_operations = Vec::new();
    for (i, operation) in ["insert", "update", "delete", "truncate"]
        .into_iter()
        .enumerate()
    {
        if !row.get_bool(i)? {
            unsent_operations.push(operation);
        }
    }
    let published = names(connection, PUBLISHED, wanted.name).await?;
    let restricted = if connection.server_version() >= 150_000 {
        names(connection, RESTRICTED, wanted.name).await?
    } else {
        Vec::new()
    };
    let select = |is_meant: &dyn Fn(&&TableName) -> bool| {
        wanted.tables.iter().filter(is_meant).cloned().collect()
    };
    let made = row.opt_str(5)?.and_then(Made::read);
    Ok(Some(Publication {
        name: wanted.name.to_owned(),
        is_ours: made.is_some_and(|made| made.pipeline == wanted.pipeline),
        is_via_root: row.get_bool(4)?,
        unsent_operations,
        unpublished: select(&|table| published.binary_search(table).is_err()),
        restricted: select(&|table| restricted.binary_search(table).is_ok()),
    }))
}

/// Tables under whose names changes are sent: roots of partitioned tables, or their leaves.
const PUBLISHED: &str =
    "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = $1";

/// Tables with a row filter or a column list (PostgreSQL 15 and later).
const RESTRICTED: &str = "SELECT n.nspname, c.relname FROM pg_publication_rel r \
     JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid \
     JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE p.pubname = $1 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)";

/// Tables that it was made for, by their own names.
const MEMBERS: &str = "SELECT n.nspname, c.relname FROM pg_publication_rel r \
     JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid \
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1";

/// Names of tables, sorted.
async fn names(
    connection: &mut Connection,
    sql: &str,
    publication: &str,
) -> Result<Vec<TableName>> {
    let set = connection.query(sql, &[Some(publication)]).await?;
    let name = |row: &Row| Ok(TableName::new(row.get_str(0)?, row.get_str(1)?));
    let mut names = set.rows.iter().map(name).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Tables whose changes the publication does not send; with a slot also those that it may not have
/// sent in all of the log that the slot keeps.
pub(crate) async fn unannounced(
    connection: &mut Connection,
    wanted: &Wanted<'_>,
    slot: Option<&str>,
) -> Result<Vec<TableName>> {
    let Some(publication) = read(connection, wanted).await? else {
        return Ok(wanted.tables.to_vec());
    };
    if !publication.unsent_operations.is_empty() || !publication.is_via_root {
        return Ok(wanted.tables.to_vec());
    }
    let mut missing = publication.unpublished;
    missing.extend(publication.restricted);
    let Some(slot) = slot else {
        return Ok(missing);
    };
    let set = connection
        .query(CHANGED_SINCE, &[Some(wanted.name), Some(slot)])
        .await?;
    for row in &set.rows {
        let (schema, name) = (row.opt_str(0)?, row.opt_str(1)?);
        if !row.get_bool(2)? {
            tracing::warn!(
                code = %codes::PUBLICATION_INCOMPLETE,
                table = name,
                "it cannot be told whether publication {} is older than all of the log that slot \
                 {slot} keeps; what it left out is found by tidemark verify",
                wanted.name
            );
            continue;
        }
        let is_meant = |table: &&TableName| match (schema, name) {
            (Some(schema), Some(name)) => table.schema == schema && table.name == name,
            (Some(schema), None) => table.schema == schema,
            _ => true,
        };
        missing.extend(wanted.tables.iter().filter(is_meant).cloned());
    }
    missing.sort_unstable();
    missing.dedup();
    Ok(missing)
}

/// What of the publication `$1` may be younger than the log that the slot `$2` keeps: a table, a
/// schema, or (both NULL) all of it. Decoding looks the catalog up as it was; a row of it that was
/// written by a transaction before the slot's `catalog_xmin` holds for all that the slot gives.
///
/// The third column says whether that can be held against it: a new slot's `catalog_xmin` is that of
/// an older slot of the server, if there is one (PostgreSQL 15, `GetOldestSafeDecodingTransactionId`),
/// and then tells nothing. Without one it is the oldest transaction that was open when it was made.
const CHANGED_SINCE: &str = "WITH slot AS ( \
        SELECT age(s.catalog_xmin) AS age, NOT EXISTS (SELECT FROM pg_replication_slots o \
          WHERE o.slot_name <> s.slot_name AND age(o.catalog_xmin) >= age(s.catalog_xmin)) AS tells \
        FROM pg_replication_slots s WHERE s.slot_name = $2), \
      publication AS (SELECT oid, age(xmin) AS age FROM pg_publication WHERE pubname = $1) \
    SELECT NULL::text, NULL::text, slot.tells FROM publication p, slot WHERE p.age <= slot.age \
    UNION ALL SELECT n.nspname, c.relname, slot.tells FROM pg_publication_rel r, publication p, slot, \
        pg_class c, pg_namespace n \
      WHERE r.prpubid = p.oid AND c.oid = r.prrelid AND n.oid = c.relnamespace \
        AND age(r.xmin) <= slot.age";

/// Makes the publication cover the tables, as far as it is ours to change, and waits until nothing
/// that was written to them before is still undecided. It waits even where nothing had to be changed:
/// an earlier call may have been cut off in its wait. `is_made` is set where it was not there before.
pub(crate) async fn announce(
    connection: &mut Connection,
    wanted: &Wanted<'_>,
    patience: Duration,
    is_made: &AtomicBool,
) -> Result<()> {
    if let Some(publication) = read(connection, wanted).await? {
        extend(connection, wanted, &publication).await?;
    } else {
        // Before: where the answer is lost it may be there.
        is_made.store(true, Ordering::Relaxed);
        make(connection, wanted).await?;
        failpoint::reached(failpoint::PUBLICATION_MADE);
    }
    let oids = oids(connection, wanted.tables).await?;
    wait_for_writers(connection, &oids, patience).await
}

/// Makes it, if we may.
async fn make(connection: &mut Connection, wanted: &Wanted<'_>) -> Result<()> {
    let name = wanted.name;
    let sql = wanted.create_sql();
    if wanted.create == Create::Never {
        let message = format!("publication {name} does not exist, and we are not to make it");
        return Err(Error::definite(codes::PUBLICATION_MISSING, message).first_action(sql));
    }
    // A killed start that has made a part of it goes on with the rest.
    let mut parts = wanted.tables.chunks(TABLES_AT_ONCE);
    let first = Wanted {
        tables: parts.next().unwrap_or_default(),
        ..*wanted
    };
    // Together: one without its mark would not be known as ours.
    let mut statements = vec![format!(
        "{}; {}",
        first.create_sql(),
        wanted.comment_sql(None)
    )];
    for part in parts {
        let (name, tables) = (quote_ident(name), list(part));
        statements.push(format!("ALTER PUBLICATION {name} ADD TABLE {tables}"));
    }
    for statement in statements {
        let made = connection.run(&statement).await;
        made.map_err(|error| by_hand(error, &sql).context(format!("make publication {name}")))?;
    }
    tracing::info!("publication {name} made for {} tables", wanted.tables.len());
    Ok(())
}

/// Adds the tables that are missing, if it is ours.
async fn extend(
    connection: &mut Connection,
    wanted: &Wanted<'_>,
    publication: &Publication,
) -> Result<()> {
    let Some(lacks) = publication.lacks() else {
        return Ok(());
    };
    let name = &publication.name;
    let statements = publication.repair_sql();
    let sql = statements.join(";\n");
    let may_add = publication.is_ours && wanted.create == Create::IfMissing;
    if !may_add || !publication.lacks_only_tables() {
        let message = format!("publication {name} {lacks}");
        return Err(Error::definite(codes::PUBLICATION_INCOMPLETE, message).first_action(sql));
    }
    for statement in statements {
        let added = connection.run(&statement).await;
        added
            .map_err(|error| by_hand(error, &sql).context(format!("extend publication {name}")))?;
    }
    let count = publication.unpublished.len();
    tracing::info!("publication {name} extended by {count} tables");
    Ok(())
}

/// The same error; where a privilege is missing or the server is a standby, someone else must run
/// the statement.
fn by_hand(error: Error, sql: &str) -> Error {
    match error.sqlstate_code() {
        Some("42501" | "25006") => {
            let action = format!("as the tables' owner, on the primary: {sql}");
            error.first_action(action)
        }
        _ => error,
    }
}

/// Numbers of tables that exist.
async fn oids(connection: &mut Connection, tables: &[TableName]) -> Result<Vec<u32>> {
    let quoted: Vec<String> = tables
        .iter()
        .map(|table| quote_literal(&quote_qualified(&table.schema, &table.name)))
        .collect();
    let sql = format!(
        "SELECT oid FROM (SELECT to_regclass(name)::oid AS oid \
         FROM unnest(ARRAY[{}]::text[]) AS name) found WHERE oid IS NOT NULL",
        quoted.join(",")
    );
    let set = connection.query(&sql, &[]).await?;
    set.rows.iter().map(|row| row.get(0)).collect()
}

/// See the module's text.
async fn wait_for_writers(
    connection: &mut Connection,
    oids: &[u32],
    patience: Duration,
) -> Result<()> {
    let mut waited_for = blockers::writers(connection, oids).await?;
    let deadline = Instant::now() + patience;
    let mut next_word = Instant::now() + LOOK_INTERVAL * 5;
    while !waited_for.is_empty() {
        let who = || blockers::list(&waited_for);
        if Instant::now() >= deadline {
            let message = format!(
                "tables cannot be loaded while transactions are open that wrote to them before \
                 they were published: {}",
                who()
            );
            let error = Error::definite(codes::SLOT_WAITS, message);
            return Err(match blockers::first_action(&waited_for) {
                Some(action) => error.first_action(action),
                None => error,
            });
        }
        if Instant::now() >= next_word {
            tracing::info!("new tables of the publication wait for {}", who());
            next_word = Instant::now() + REPEAT_INTERVAL;
        }
        sleep(LOOK_INTERVAL).await;
        let mut now = blockers::writers(connection, oids).await?;
        now.retain(|blocker| waited_for.iter().any(|other| other.key() == blocker.key()));
        waited_for = now;
    }
    Ok(())
}

/// Drops it if it is ours; says whether it did.
pub(crate) async fn drop_ours(connection: &mut Connection, wanted: &Wanted<'_>) -> Result<bool> {
    match read(connection, wanted).await? {
        Some(publication) if publication.is_ours => {
            let name = quote_ident(&publication.name);
            let tables = names(connection, MEMBERS, wanted.name).await?;
            if tables.len() > TABLES_AT_ONCE {
                for part in tables.chunks(TABLES_AT_ONCE) {
                    let sql = format!("ALTER PUBLICATION {name} DROP TABLE {}", list(part));
                    connection.run(&sql).await?;
                }
            }
            connection.run(&format!("DROP PUBLICATION {name}")).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
