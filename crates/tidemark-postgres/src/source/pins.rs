//! What keeps the source from clearing up behind itself: open and prepared transactions, and slots.
//!
//! A slot keeps the log from the beginning of the oldest transaction that has written and not ended,
//! whether or not it writes to our tables; old versions of rows stay for the oldest snapshot and the
//! oldest `xmin` of a slot. Whoever looks for what fills a disk wants their names.
//!
//! Ids of transactions are read from `pg_locks`, which hides nothing; snapshots, names and times of
//! other roles are hidden from a role without `pg_read_all_stats`, and then shown as unknown.

use tidemark_core::Result;
use tidemark_core::source::{Pin, PinKind};

use crate::wire::{Connection, Row};

/// So many are told; the oldest matters, the next ones say who follows.
const PINS_MAX: usize = 5;

pub(super) async fn read(connection: &mut Connection) -> Result<Vec<Pin>> {
    let sql = format!(
        "SELECT kind, name, pid, age, seconds, holds_log FROM ( \
           SELECT 'transaction' AS kind, \
                  coalesce(nullif(concat_ws(', ', nullif(a.application_name, ''), a.usename), ''), \
                           'unknown') AS name, \
                  coalesce(l.pid, a.pid) AS pid, \
                  greatest(age(l.transactionid), age(a.backend_xmin))::int8 AS age, \
                  extract(epoch FROM clock_timestamp() - a.xact_start)::int8 AS seconds, \
                  l.pid IS NOT NULL AS holds_log \
           FROM (SELECT pid, transactionid FROM pg_locks \
                 WHERE locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock' \
                   AND pid IS NOT NULL) l \
           FULL JOIN pg_stat_activity a ON a.pid = l.pid \
           WHERE (l.pid IS NOT NULL OR a.backend_xmin IS NOT NULL) \
             AND coalesce(l.pid, a.pid) <> pg_backend_pid() \
             AND a.backend_type IS DISTINCT FROM 'walsender' \
           UNION ALL \
           SELECT 'prepared', gid, NULL, age(transaction)::int8, \
                  extract(epoch FROM clock_timestamp() - prepared)::int8, true \
           FROM pg_prepared_xacts \
           UNION ALL \
           SELECT 'slot', slot_name, active_pid, greatest(age(xmin), age(catalog_xmin))::int8, \
                  NULL, false \
           FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL \
         ) pins ORDER BY age DESC, holds_log DESC LIMIT {PINS_MAX}"
    );
    let set = connection.query(&sql, &[]).await?;
    set.rows.iter().map(pin).collect()
}

fn pin(row: &Row) -> Result<Pin> {
    Ok(Pin {
        kind: match row.get_str(0)? {
            "prepared" => PinKind::Prepared,
            "slot" => PinKind::Slot,
            _ => PinKind::Transaction,
        },
        name: row.get_str(1)?.to_owned(),
        pid: row.opt(2)?,
        age_transactions: row.opt(3)?.unwrap_or(0),
        open_seconds: row.opt(4)?,
        holds_log: row.get_bool(5)?,
    })
}
