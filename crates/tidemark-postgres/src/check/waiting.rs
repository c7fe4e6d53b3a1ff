//! Transactions that are open now and that a new slot would have to wait for.
//!
//! Only those that have an id count (a reader has none), in every database of the server. A role
//! without `pg_read_all_stats` sees the ids of others by their locks, but not since when.

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::{Fix, Report};

use super::SourceCheck;
use crate::wire::Connection;

pub(super) async fn check(
    connection: &mut Connection,
    report: &mut Report,
    check: &SourceCheck<'_>,
) -> Result<()> {
    long_transactions(connection, report, check).await?;
    prepared_transactions(connection, report).await
}

async fn long_transactions(
    connection: &mut Connection,
    report: &mut Report,
    check: &SourceCheck<'_>,
) -> Result<()> {
    let seconds = check.long_transaction.as_secs();
    let set = connection
        .query(
            "SELECT DISTINCT l.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::int8, \
                    a.usename, a.datname, a.application_name, a.state \
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'transactionid' AND l.granted AND l.pid <> pg_backend_pid() \
               AND a.xact_start < clock_timestamp() - $1::int8 * interval '1 second' \
             ORDER BY 2 DESC",
            &[Some(&seconds.to_string())],
        )
        .await?;
    for row in &set.rows {
        let pid: i32 = row.get(0)?;
        let age: i64 = row.get(1)?;
        let text = |cell: usize| Ok::<_, tidemark_core::Error>(row.opt_str(cell)?.unwrap_or("?"));
        report.warn(
            codes::LONG_TRANSACTIONS,
            format!(
                "a transaction has been open for {age} s: pid {pid}, {} of {} in {}, {}",
                text(4)?,
                text(2)?,
                text(3)?,
                text(5)?
            ),
            "A new slot waits until every transaction has ended that is open when it is made.",
            [Fix::sql(format!("SELECT pg_terminate_backend({pid})"))],
        );
    }
    if set.rows.is_empty() {
        report.pass(
            codes::LONG_TRANSACTIONS,
            format!("no transaction has been open for more than {seconds} s"),
        );
    }
    Ok(())
}

/// They have no session that could be ended, and may be ended only in their own database.
async fn prepared_transactions(connection: &mut Connection, report: &mut Report) -> Result<()> {
    let set = connection
        .query(
            "SELECT quote_literal(gid), database, \
                    extract(epoch FROM clock_timestamp() - prepared)::int8, \
                    database = current_database() \
             FROM pg_prepared_xacts ORDER BY prepared",
            &[],
        )
        .await?;
    for row in &set.rows {
        let (gid, database) = (row.get_str(0)?, row.get_str(1)?);
        let age: i64 = row.get(2)?;
        report.warn(
            codes::PREPARED_TRANSACTIONS,
            format!("transaction {gid} of database {database} has been prepared for {age} s"),
            "A new slot waits until it is committed or rolled back, in that database.",
            [
                Fix::sql(format!("ROLLBACK PREPARED {gid}")),
                Fix::sql(format!("COMMIT PREPARED {gid}")),
            ],
        );
    }
    if set.rows.is_empty() {
        report.pass(codes::PREPARED_TRANSACTIONS, "no prepared transactions");
    }
    Ok(())
}
