//! Whether the target has room for the sessions that the pipeline opens: one for each worker of a load, and a
//! few that write, hold the lock and answer. A load copes with fewer, by the same code
//! (`pipeline::load` of the core), so it is a warning.

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::{Fix, Report};
use tidemark_core::words::counted;

use crate::wire::{Connection, Row};

/// Beside the workers of a load: one that applies, one that has the lock, one for commands and status, one
/// that is asked in between.
const SESSIONS_BESIDE: u64 = 4;

/// Sessions of the pipeline itself count as free, and so does the one that asks. Without the right to see
/// another's session (`pg_read_all_stats`) what kind it is of is not told, but who it is, and where
/// (PostgreSQL 15, 28.2.3). A superuser minds no limit of a role or database, and no reserve.
const ROOM: &str = "WITH used AS (SELECT datid, usesysid FROM pg_stat_activity \
      WHERE (backend_type = 'client backend' \
             OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL) \
        AND pid <> pg_backend_pid() AND application_name IS DISTINCT FROM $1), \
    reserved AS (SELECT coalesce(sum(setting::int8), 0) AS seats FROM pg_settings \
      WHERE name IN ('superuser_reserved_connections', 'reserved_connections')) \
    SELECT current_setting('max_connections')::int8 \
             - CASE WHEN r.rolsuper THEN 0 ELSE reserved.seats END AS seats, \
           (SELECT count(*) FROM used) AS seats_used, \
           CASE WHEN NOT r.rolsuper AND r.rolconnlimit >= 0 THEN r.rolconnlimit END AS role_seats, \
           (SELECT count(*) FROM used WHERE usesysid = r.oid) AS role_used, \
           CASE WHEN NOT r.rolsuper AND d.datconnlimit >= 0 THEN d.datconnlimit END AS base_seats, \
           (SELECT count(*) FROM used WHERE datid = d.oid) AS base_used, \
           quote_ident(r.rolname) AS role, quote_ident(d.datname) AS base, \
           current_setting('max_connections')::int8 AS max \
    FROM pg_roles r, pg_database d, reserved \
    WHERE r.rolname = current_user AND d.datname = current_database()";

/// One bound of how many sessions there may be.
struct Limit {
    /// `max_connections`, or whose limit it is.
    what: String,
    seats: u64,
    used: u64,
    /// What makes room for so many more.
    raised: Box<dyn Fn(u64) -> Fix>,
}

impl Limit {
    fn free(&self) -> u64 {
        self.seats.saturating_sub(self.used)
    }
}

/// `workers`: how many load at once; none where nothing is loaded.
pub(super) async fn check(
    report: &mut Report,
    connection: &mut Connection,
    application: Option<&str>,
    workers: u64,
) -> Result<()> {
    let answer = connection.query(ROOM, &[application]).await?;
    let limits = limits(answer.one()?)?;
    let wanted = workers + SESSIONS_BESIDE;
    // The tightest is what is met first.
    let Some(limit) = limits.into_iter().min_by_key(Limit::free) else {
        return Ok(());
    };
    let (free, seats, what) = (limit.free(), limit.seats, &limit.what);
    let found = format!("{free} of {seats} sessions are free ({what})");
    if free >= wanted {
        report.pass(codes::TARGET_TOO_MANY_CONNECTIONS, found);
        return Ok(());
    }
    let of_workers = match workers {
        0 => String::new(),
        _ => format!(", {workers} of them for the workers of a load"),
    };
    let fewer =
        Fix::text("or let fewer workers load: load.parallel_tables times load.parallel_chunks");
    let fixes = [(limit.raised)(wanted - free)];
    report.warn(
        codes::TARGET_TOO_MANY_CONNECTIONS,
        format!("{found}, and the pipeline opens up to {wanted}{of_workers}"),
        &format!(
            "A load goes on with the workers that have one and takes longer; with fewer than {} \
             free the pipeline waits, and tries again.",
            counted(
                usize::try_from(SESSIONS_BESIDE).unwrap_or_default(),
                "session"
            ),
        ),
        fixes.into_iter().chain((workers > 1).then_some(fewer)),
    );
    Ok(())
}

fn limits(row: &Row) -> Result<Vec<Limit>> {
    let number = |name: &str| -> Result<u64> { row.get(row.index(name)?) };
    let bound = |name: &str| -> Result<Option<u64>> { row.opt(row.index(name)?) };
    let text = |name: &str| -> Result<String> { row.get(row.index(name)?) };
    let (max, role, base) = (number("max")?, text("role")?, text("base")?);
    let mut limits = vec![Limit {
        what: format!("max_connections {max}, less what is reserved"),
        seats: number("seats")?,
        used: number("seats_used")?,
        raised: Box::new(move |more| {
            let raised = max + more;
            // Takes effect with a restart (PostgreSQL 15, 20.3.1).
            Fix::sql(format!("ALTER SYSTEM SET max_connections = {raised}"))
        }),
    }];
    if let Some(seats) = bound("role_seats")? {
        limits.push(Limit {
            what: format!("CONNECTION LIMIT of role {role}"),
            seats,
            used: number("role_used")?,
            raised: Box::new(move |more| {
                let raised = seats + more;
                Fix::sql(format!("ALTER ROLE {role} CONNECTION LIMIT {raised}"))
            }),
        });
    }
    if let Some(seats) = bound("base_seats")? {
        limits.push(Limit {
            what: format!("CONNECTION LIMIT of database {base}"),
            seats,
            used: number("base_used")?,
            raised: Box::new(move |more| {
                let raised = seats + more;
                Fix::sql(format!("ALTER DATABASE {base} CONNECTION LIMIT {raised}"))
            }),
        });
    }
    Ok(limits)
}
