//! Version, settings and role: what one row of the server's answers tells.

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::{Fix, Report, Verdict};
use tidemark_core::source::WillStream;

use super::{SourceCheck, alter_system};
use crate::wire::{Connection, Role, Row};

/// Fewer do not have TID range scans, `pg_current_snapshot()` in all places, streaming and more.
const VERSION_MIN: u32 = 140_000;
/// A change stream can be read from a standby (PostgreSQL 16, 49.2.3).
const VERSION_STANDBY: u32 = 160_000;
const SENDER_TIMEOUT_MS_MIN: u64 = 10_000;
const DECODING_MEMORY_KB_DEFAULT: u64 = 65_536;

/// How fast a load is taken to be when the log that it needs is reckoned: slow on purpose.
const LOAD_BYTES_PER_SECOND: u64 = 30_000_000;
/// Building indexes, catching up, and the unexpected.
const LOAD_TIME_FACTOR: u64 = 3;
/// Below this a limit is small whatever is reckoned.
const LOG_MB_MIN: u64 = 256;

/// What the server says of itself.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a row of the server's answers, each read in one place"
)]
pub(super) struct Facts {
    /// As `server_version_num`.
    pub(super) version: u32,
    version_text: String,
    wal_level: String,
    slots_max: u64,
    slots_used: u64,
    slot_exists: bool,
    senders_max: u64,
    senders_used: u64,
    may_replicate: bool,
    /// Quoted where it must be.
    pub(super) role: String,
    pub(super) is_standby: bool,
    sends_feedback: bool,
    sender_timeout_ms: u64,
    decoding_memory_kb: u64,
    log_limit_mb: i64,
    log_bytes_per_second: f64,
    encoding: String,
    /// Whether the role may create a publication in this database.
    pub(super) may_create: bool,
    pub(super) is_superuser: bool,
}

impl Facts {
    /// Whether the queries of the other checks are understood.
    pub(super) fn is_supported(&self) -> bool {
        self.version >= VERSION_MIN
    }
}

pub(super) async fn read(connection: &mut Connection, check: &SourceCheck<'_>) -> Result<Facts> {
    let version = connection.server_version();
    // pg_stat_wal came with 14; an older server must be able to say how old it is.
    let rate = if version >= VERSION_MIN {
        "(SELECT (wal_bytes / greatest(extract(epoch FROM clock_timestamp() - stats_reset), 1))::float8 \
          FROM pg_stat_wal)"
    } else {
        "0"
    };
    let setting = |name: &str| format!("(SELECT setting FROM pg_settings WHERE name = '{name}')");
    let sql = format!(
        "SELECT current_setting('server_version') AS version, \
                current_setting('wal_level') AS wal_level, {slots_max} AS slots_max, \
                (SELECT count(*) FROM pg_replication_slots) AS slots_used, \
                EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1) AS slot_exists, \
                {senders_max} AS senders_max, \
                (SELECT count(*) FROM pg_stat_get_wal_senders()) AS senders_used, \
                r.rolsuper, r.rolreplication OR r.rolsuper AS may_replicate, \
                quote_ident(r.rolname) AS role, pg_is_in_recovery() AS is_standby, \
                {feedback} AS feedback, {sender_timeout} AS sender_timeout, {memory} AS memory, \
                {log_limit} AS log_limit, {rate} AS log_rate, \
                current_setting('server_encoding') AS encoding, \
                has_database_privilege(current_database(), 'CREATE') AS may_create \
         FROM pg_roles r WHERE r.rolname = current_user",
        slots_max = setting("max_replication_slots"),
        senders_max = setting("max_wal_senders"),
        feedback = setting("hot_standby_feedback"),
        sender_timeout = setting("wal_sender_timeout"),
        memory = setting("logical_decoding_work_mem"),
        log_limit = setting("max_slot_wal_keep_size"),
    );
    let set = connection.query(&sql, &[Some(check.slot)]).await?;
    facts(version, set.one()?)
}

fn facts(version: u32, row: &Row) -> Result<Facts> {
    let number = |name: &str| row.get::<u64>(row.index(name)?);
    let flag = |name: &str| row.get_bool(row.index(name)?);
    let text = |name: &str| row.get::<String>(row.index(name)?);
    Ok(Facts {
        version,
        version_text: text("version")?,
        wal_level: text("wal_level")?,
        slots_max: number("slots_max")?,
        slots_used: number("slots_used")?,
        slot_exists: flag("slot_exists")?,
        senders_max: number("senders_max")?,
        senders_used: number("senders_used")?,
        may_replicate: flag("may_replicate")?,
        role: text("role")?,
        is_standby: flag("is_standby")?,
        sends_feedback: flag("feedback")?,
        sender_timeout_ms: number("sender_timeout")?,
        decoding_memory_kb: number("memory")?,
        log_limit_mb: row.get(row.index("log_limit")?)?,
        log_bytes_per_second: row.opt(row.index("log_rate")?)?.unwrap_or(0.0),
        encoding: text("encoding")?,
        may_create: flag("may_create")?,
        is_superuser: flag("rolsuper")?,
    })
}

pub(super) async fn check(
    report: &mut Report,
    facts: &Facts,
    check: &SourceCheck<'_>,
) -> Result<()> {
    version(report, facts);
    encoding(report, facts);
    if check.will_stream == WillStream::No || !facts.is_supported() {
        return Ok(());
    }
    wal_level(report, facts);
    replication(report, facts, check).await?;
    slots(report, facts);
    senders(report, facts);
    standby(report, facts);
    sender_timeout(report, facts);
    decoding_memory(report, facts);
    log_limit(report, facts, check);
    Ok(())
}

fn version(report: &mut Report, facts: &Facts) {
    let version = &facts.version_text;
    if facts.is_supported() {
        report.pass(codes::SOURCE_VERSION, format!("PostgreSQL {version}"));
        return;
    }
    report.fail(
        codes::SOURCE_VERSION,
        format!("PostgreSQL {version} is too old, 14 or newer is needed"),
        "Older servers lack what the hand-over from load to stream rests on.",
        [Fix::text("upgrade the source to PostgreSQL 14 or newer")],
    );
}

fn encoding(report: &mut Report, facts: &Facts) {
    let encoding = &facts.encoding;
    if encoding != "SQL_ASCII" {
        report.pass(
            codes::SOURCE_ENCODING,
            format!("text is {encoding}, which is read as UTF-8"),
        );
        return;
    }
    report.warn(
        codes::SOURCE_ENCODING,
        "the database's encoding is SQL_ASCII: the server does not know what its text means",
        "Text that is not UTF-8 stops its table, named with its row; it is never changed.",
        [Fix::text(
            "find out which encoding the applications use, and convert what is not UTF-8",
        )],
    );
}

fn wal_level(report: &mut Report, facts: &Facts) {
    let level = &facts.wal_level;
    if level == "logical" {
        report.pass(codes::SOURCE_WAL_LEVEL, "wal_level is \"logical\"");
        return;
    }
    report.fail(
        codes::SOURCE_WAL_LEVEL,
        format!("wal_level is \"{level}\", must be \"logical\""),
        "Without it no change can be read at all. Setting it needs a superuser and a restart of \
         the source.",
        [Fix::sql("ALTER SYSTEM SET wal_level = 'logical'")],
    );
}

/// Managed services grant replication by membership in a role of theirs, so where the attribute is
/// missing only a try tells.
async fn replication(report: &mut Report, facts: &Facts, check: &SourceCheck<'_>) -> Result<()> {
    let role = &facts.role;
    let tried = if facts.may_replicate {
        Ok(())
    } else {
        match Connection::connect(check.connect, Role::Replication).await {
            Ok(connection) => {
                connection.close().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    };
    match tried {
        Ok(()) => report.pass(
            codes::SOURCE_NO_REPLICATION,
            format!("role {role} may replicate"),
        ),
        Err(error) if error.sqlstate_code() == Some("42501") => report.fail(
            codes::SOURCE_NO_REPLICATION,
            format!("role {role} lacks REPLICATION"),
            "Only roles with it may read a change stream.",
            [Fix::sql(format!("ALTER ROLE {role} REPLICATION"))],
        ),
        // Something else is in the way, and another check says what.
        Err(error) => report.warn(
            codes::SOURCE_NO_REPLICATION,
            format!("cannot tell whether role {role} may replicate: {error}"),
            "Only roles with REPLICATION may read a change stream.",
            [Fix::sql(format!("ALTER ROLE {role} REPLICATION"))],
        ),
    }
    Ok(())
}

fn slots(report: &mut Report, facts: &Facts) {
    let (used, max) = (facts.slots_used, facts.slots_max);
    let free = max.saturating_sub(used);
    if facts.slot_exists || free > 1 {
        report.pass(
            codes::SOURCE_NO_FREE_SLOT,
            format!("{free} of {max} replication slots are free"),
        );
    } else if free == 1 {
        report.note(
            codes::SOURCE_NO_FREE_SLOT,
            format!("1 of {max} replication slots is free, and the pipeline takes it"),
            "Verification needs a second one for a short time.",
        );
    } else {
        report.fail(
            codes::SOURCE_NO_FREE_SLOT,
            format!("none of {max} replication slots is free"),
            "The pipeline needs one of its own, and verification a second for a short time. \
             Raising the limit needs a superuser and a restart of the source.",
            [
                Fix::sql(format!(
                    "ALTER SYSTEM SET max_replication_slots = {}",
                    max + 4
                )),
                Fix::text("drop a slot that nobody needs: SELECT * FROM pg_replication_slots"),
            ],
        );
    }
}

fn senders(report: &mut Report, facts: &Facts) {
    let (used, max) = (facts.senders_used, facts.senders_max);
    let free = max.saturating_sub(used);
    if free > 0 {
        report.pass(
            codes::SOURCE_NO_FREE_SENDER,
            format!("{free} of {max} replication connections are free"),
        );
        return;
    }
    // A pipeline that has started before may hold one itself, by a connection that just ends; the
    // stream waits for it.
    let verdict = if facts.slot_exists {
        Verdict::Warning
    } else {
        Verdict::Failed
    };
    report.add(
        codes::SOURCE_NO_FREE_SENDER,
        verdict,
        format!("none of {max} replication connections is free"),
        "The stream needs one. Raising the limit needs a superuser and a restart of the source.",
        [
            Fix::sql(format!("ALTER SYSTEM SET max_wal_senders = {}", max + 4)),
            Fix::text("end one that nobody needs: SELECT * FROM pg_stat_replication"),
        ],
    );
}

fn standby(report: &mut Report, facts: &Facts) {
    if !facts.is_standby {
        report.pass(codes::SOURCE_STANDBY, "the source is no standby");
    } else if facts.version < VERSION_STANDBY {
        report.fail(
            codes::SOURCE_STANDBY,
            "the source is a standby, from which PostgreSQL 16 and newer alone can stream",
            "A full load works, a change stream does not.",
            [Fix::text("give the address of the primary in source.url")],
        );
    } else if !facts.sends_feedback {
        report.warn(
            codes::SOURCE_STANDBY,
            "the source is a standby with hot_standby_feedback off",
            "The primary may remove catalog rows that the slot needs; the slot is then lost.",
            [alter_system("hot_standby_feedback", "on")],
        );
    } else {
        report.note(
            codes::SOURCE_STANDBY,
            "the source is a standby",
            "The publication must be made on the primary; resync and new tables need the primary.",
        );
    }
}

fn sender_timeout(report: &mut Report, facts: &Facts) {
    let milliseconds = facts.sender_timeout_ms;
    if milliseconds == 0 || milliseconds >= SENDER_TIMEOUT_MS_MIN {
        report.pass(
            codes::SENDER_TIMEOUT,
            format!("wal_sender_timeout is {} s", milliseconds / 1000),
        );
        return;
    }
    report.warn(
        codes::SENDER_TIMEOUT,
        format!("wal_sender_timeout is {milliseconds} ms"),
        "A short pause of the network or of this machine ends the stream.",
        [alter_system("wal_sender_timeout", "60s")],
    );
}

fn decoding_memory(report: &mut Report, facts: &Facts) {
    let megabytes = facts.decoding_memory_kb / 1024;
    if facts.decoding_memory_kb >= DECODING_MEMORY_KB_DEFAULT {
        report.pass(
            codes::DECODING_MEMORY,
            format!("logical_decoding_work_mem is {megabytes} MB"),
        );
        return;
    }
    report.add(
        codes::DECODING_MEMORY,
        Verdict::Note,
        format!(
            "logical_decoding_work_mem is {} kB",
            facts.decoding_memory_kb
        ),
        "Larger transactions go through files on the source while they are decoded.",
        [alter_system("logical_decoding_work_mem", "64MB")],
    );
}

/// The log that is written while the load goes on, at the average rate since the server began to
/// count, against what a slot may keep.
fn log_limit(report: &mut Report, facts: &Facts, check: &SourceCheck<'_>) {
    let Ok(limit_mb) = u64::try_from(facts.log_limit_mb) else {
        report.pass(codes::LOG_LIMIT, "log is kept for slots without a limit");
        return;
    };
    let bytes: u64 = check.tables.iter().map(|table| table.schema.bytes).sum();
    let seconds = (bytes / LOAD_BYTES_PER_SECOND + 60) * LOAD_TIME_FACTOR;
    let expected_mb = (facts.log_bytes_per_second * seconds as f64 / 1e6).ceil();
    // A rate times a time is no larger than what a disk holds.
    let expected_mb = format!("{expected_mb:.0}").parse().unwrap_or(u64::MAX);
    let wanted_mb = LOG_MB_MIN.max(expected_mb);
    if limit_mb >= wanted_mb {
        report.pass(
            codes::LOG_LIMIT,
            format!(
                "max_slot_wal_keep_size is {limit_mb} MB, a load may need about {expected_mb} MB"
            ),
        );
        return;
    }
    report.warn(
        codes::LOG_LIMIT,
        format!("max_slot_wal_keep_size is {limit_mb} MB, a load may need about {expected_mb} MB"),
        "Above the limit the slot is lost, and the tables must be loaded anew.",
        [alter_system(
            "max_slot_wal_keep_size",
            &format!("{}MB", wanted_mb.saturating_mul(4)),
        )],
    );
}

#[cfg(test)]
mod tests {
    use tidemark_core::finding::Side;

    use super::*;

    /// A primary of version 15 with nothing to complain about.
    fn fine() -> Facts {
        Facts {
            version: 150_004,
            version_text: "15.4".to_owned(),
            wal_level: "logical".to_owned(),
            slots_max: 10,
            slots_used: 2,
            slot_exists: false,
            senders_max: 10,
            senders_used: 2,
            may_replicate: true,
            role: "tidemark".to_owned(),
            is_standby: false,
            sends_feedback: false,
            sender_timeout_ms: 60_000,
            decoding_memory_kb: 65_536,
            log_limit_mb: -1,
            log_bytes_per_second: 1e6,
            encoding: "UTF8".to_owned(),
            may_create: true,
            is_superuser: false,
        }
    }

    fn verdict(look: fn(&mut Report, &Facts), facts: &Facts) -> Verdict {
        let mut report = Report::of(Side::Source);
        look(&mut report, facts);
        let findings = report.into_findings();
        assert_eq!(findings.len(), 1);
        findings[0].verdict
    }

    #[test]
    fn old_servers_are_refused() {
        for (number, expected) in [
            (140_000, Verdict::Passed),
            (130_012, Verdict::Failed),
            (0, Verdict::Failed),
        ] {
            let facts = Facts {
                version: number,
                ..fine()
            };
            assert_eq!(verdict(version, &facts), expected, "{number}");
        }
    }

    #[test]
    fn a_standby_needs_16_and_feedback() {
        for (number, sends_feedback, expected) in [
            (150_000, true, Verdict::Failed),
            (160_000, false, Verdict::Warning),
            (160_000, true, Verdict::Note),
        ] {
            let facts = Facts {
                version: number,
                is_standby: true,
                sends_feedback,
                ..fine()
            };
            assert_eq!(
                verdict(standby, &facts),
                expected,
                "{number} {sends_feedback}"
            );
        }
    }

    #[test]
    fn a_pipeline_that_has_started_waits_for_a_sender() {
        for (used, slot_exists, expected) in [
            (9, false, Verdict::Passed),
            (10, false, Verdict::Failed),
            (10, true, Verdict::Warning),
        ] {
            let facts = Facts {
                senders_used: used,
                slot_exists,
                ..fine()
            };
            assert_eq!(verdict(senders, &facts), expected, "{used} {slot_exists}");
        }
    }

    #[test]
    fn slots_are_counted_with_the_one_that_verification_needs() {
        for (used, slot_exists, expected) in [
            (8, false, Verdict::Passed),
            (9, false, Verdict::Note),
            (10, false, Verdict::Failed),
            (10, true, Verdict::Passed),
        ] {
            let facts = Facts {
                slots_used: used,
                slot_exists,
                ..fine()
            };
            assert_eq!(verdict(slots, &facts), expected, "{used} {slot_exists}");
        }
    }
}
