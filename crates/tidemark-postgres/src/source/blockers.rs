//! Who keeps us waiting: transactions on the source, named so that a person can end them.

use std::fmt;

use tidemark_core::Result;

use crate::wire::{Connection, ResultSet};

/// A transaction that something has to wait for. What the server hides from our role is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocker {
    /// The server process; `None` for a prepared transaction.
    pid: Option<i32>,
    user: Option<String>,
    application: Option<String>,
    database: Option<String>,
    open_seconds: Option<i64>,
    /// The name of a prepared transaction.
    prepared: Option<String>,
    /// Tells one transaction of a session from the next.
    virtual_id: String,
}

/// The columns of a blocker, out of `l` (a row of `pg_locks`), `a` (`pg_stat_activity`) and `p`
/// (`pg_prepared_xacts`).
const COLUMNS: &str = "l.pid, coalesce(a.usename, p.owner), a.application_name, \
     coalesce(a.datname, p.database), \
     extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::int8, \
     p.gid, l.virtualtransaction";

/// A prepared transaction has no process; its locks are those that bear the same virtual id as the
/// lock on its own id. (The virtual id is not always `-1/xid`, as the documentation has it.)
const JOINS: &str = "LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
     LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' \
          AND x.granted AND x.virtualtransaction = l.virtualtransaction \
     LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid";

/// Whose end a session waits for (`XactLockTableWait`: it asks for the lock that every transaction
/// holds on its own id).
pub(crate) async fn of_session(connection: &mut Connection, pid: u32) -> Result<Vec<Blocker>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM pg_locks w \
         JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted \
              AND l.transactionid = w.transactionid {JOINS} \
         WHERE w.locktype = 'transactionid' AND NOT w.granted AND w.pid = $1::int4"
    );
    let set = connection.query(&sql, &[Some(&pid.to_string())]).await?;
    read(&set)
}

/// Who runs this transaction, if it has not ended: it holds the lock on its own id.
pub(crate) async fn of_transaction(connection: &mut Connection, xid: u32) -> Result<Vec<Blocker>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM pg_locks l {JOINS} \
         WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' \
           AND l.transactionid = $1::xid"
    );
    let set = connection.query(&sql, &[Some(&xid.to_string())]).await?;
    read(&set)
}

/// Who has written to any of these tables (or their partitions) and not ended yet: holds a lock that
/// only writers take (PostgreSQL 15, table 13.2).
pub(crate) async fn writers(connection: &mut Connection, oids: &[u32]) -> Result<Vec<Blocker>> {
    let list: Vec<String> = oids.iter().map(u32::to_string).collect();
    let sql = format!(
        "WITH tables AS (SELECT unnest($1::oid[]) AS relid), \
              leaves AS (SELECT relid FROM tables UNION \
                         SELECT t.relid FROM tables, pg_partition_tree(tables.relid) t) \
         SELECT DISTINCT ON (l.virtualtransaction, l.pid) {COLUMNS} FROM pg_locks l {JOINS} \
         WHERE l.locktype = 'relation' AND l.granted \
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
           AND l.relation IN (SELECT relid FROM leaves) \
           AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                          'AccessExclusiveLock')"
    );
    let oids = format!("{{{}}}", list.join(","));
    let set = connection.query(&sql, &[Some(&oids)]).await?;
    read(&set)
}

fn read(set: &ResultSet) -> Result<Vec<Blocker>> {
    let text = |row: &crate::wire::Row, i| -> Result<Option<String>> {
        Ok(row.opt_str(i)?.map(str::to_owned))
    };
    let blocker = |row| {
        Ok(Blocker {
            pid: crate::wire::Row::opt(row, 0)?,
            user: text(row, 1)?,
            application: text(row, 2)?,
            database: text(row, 3)?,
            open_seconds: row.opt(4)?,
            prepared: text(row, 5)?,
            virtual_id: row.get_str(6)?.to_owned(),
        })
    };
    set.rows.iter().map(blocker).collect()
}

impl Blocker {
    /// What stays the same when the same transaction is looked at again.
    pub(crate) fn key(&self) -> (Option<i32>, &str) {
        (self.pid, &self.virtual_id)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.prepared, self.pid) {
            (Some(gid), _) => write!(f, "prepared transaction \"{gid}\"")?,
            (None, Some(pid)) => write!(f, "pid {pid}")?,
            (None, None) => write!(f, "a transaction without a process")?,
        }
        write!(f, " (user {}", self.user.as_deref().unwrap_or("unknown"))?;
        for (what, value) in [
            ("application", &self.application),
            ("database", &self.database),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                write!(f, ", {what} {value}")?;
            }
        }
        match self.open_seconds {
            Some(seconds) => write!(f, ", open for {seconds} s)"),
            None => write!(f, ", age not visible to our role)"),
        }
    }
}

/// All of them in one line.
pub(crate) fn list(blockers: &[Blocker]) -> String {
    let shown: Vec<String> = blockers.iter().map(ToString::to_string).collect();
    shown.join("; ")
}

/// What to do about them.
pub(crate) fn first_action(blockers: &[Blocker]) -> Option<String> {
    let blocker = blockers.first()?;
    match (&blocker.prepared, blocker.pid) {
        (Some(gid), _) => Some(format!(
            "ROLLBACK PREPARED {} or COMMIT PREPARED it",
            crate::wire::quote_literal(gid)
        )),
        (None, Some(pid)) => Some(format!(
            "end the transaction, or: SELECT pg_terminate_backend({pid})"
        )),
        (None, None) => None,
    }
}
