//! What the source keeps and sends for the pipeline: its slot and its publication.

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::config::Create;
use tidemark_core::finding::{Fix, Report};
use tidemark_core::schema::TableName;
use tidemark_core::source::Slot;

use super::SourceCheck;
use super::server::Facts;
use crate::source::publication::{self, Publication, Wanted};
use crate::source::slot;
use crate::wire::{Connection, quote_literal};

/// Whether the role owns every selected table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owns {
    All,
    Some,
}

pub(super) async fn check(
    connection: &mut Connection,
    report: &mut Report,
    facts: &Facts,
    owns: Owns,
    check: &SourceCheck<'_>,
) -> Result<()> {
    let found = slot::read(connection, check.slot).await?;
    match found {
        Some(slot) => present_slot(report, &slot),
        None => missing_slot(report, check),
    }
    let tables: Vec<TableName> = check
        .tables
        .iter()
        .map(|table| table.source().clone())
        .collect();
    let wanted = Wanted {
        name: check.publication,
        pipeline: check.pipeline,
        create: check.create,
        tables: &tables,
    };
    match publication::read(connection, &wanted).await? {
        Some(publication) => present_publication(report, check, &publication),
        None => missing_publication(report, facts, owns, &wanted),
    }
    Ok(())
}

fn missing_slot(report: &mut Report, check: &SourceCheck<'_>) {
    let name = check.slot;
    if check.create == Create::IfMissing {
        report.pass(
            codes::SLOT_MISSING,
            format!("slot {name} will be made at the first start"),
        );
        return;
    }
    report.fail(
        codes::SLOT_MISSING,
        format!("slot {name} does not exist, and we are not to make it"),
        "Without a slot the source forgets its log.",
        [
            Fix::text(
                "set source.postgres.create = \"if_missing\": a load needs a slot of its own",
            ),
            Fix::sql(format!(
                "SELECT pg_create_logical_replication_slot({}, '{}')",
                quote_literal(name),
                slot::PLUGIN
            )),
        ],
    );
}

fn present_slot(report: &mut Report, slot: &Slot) {
    let name = &slot.name;
    let drop_it = || {
        let name = quote_literal(name);
        Fix::sql(format!("SELECT pg_drop_replication_slot({name})"))
    };
    if let Some(why) = &slot.foreign {
        report.fail(
            codes::SLOT_FOREIGN,
            format!("slot {name} is not of our kind: {why}"),
            "It belongs to something else, and is left alone.",
            [
                Fix::text("choose another name in source.postgres.slot"),
                drop_it(),
            ],
        );
        return;
    }
    if let Some(why) = &slot.lost {
        report.fail(
            codes::SLOT_LOST,
            format!("slot {name} is lost: {why}"),
            "Log that the pipeline still needs is gone. The tables must be loaded anew, or \
             compared and repaired.",
            [drop_it()],
        );
        return;
    }
    if let Some(holder) = &slot.holder {
        let (pid, application) = (holder.pid, &holder.application);
        let found = format!(
            "slot {name} is read by pid {pid} ({application}) from {} since {}",
            holder.host, holder.since
        );
        let why = "Only one session can read a slot.";
        if application.starts_with("tidemark") {
            report.note(codes::SLOT_ACTIVE, found, why);
        } else {
            let end = Fix::sql(format!("SELECT pg_terminate_backend({pid})"));
            report.fail(codes::SLOT_ACTIVE, found, why, [end]);
        }
        return;
    }
    let kept = slot.retained_bytes / 1_000_000;
    let left = slot.safe_bytes.map_or_else(
        || "without a limit".to_owned(),
        |bytes| format!("{} MB are left", bytes / 1_000_000),
    );
    report.pass(
        codes::SLOT_ACTIVE,
        format!("slot {name} is free and keeps {kept} MB of log, {left}"),
    );
}

/// Making a publication needs CREATE on the database and the tables' ownership (PostgreSQL 15,
/// CREATE PUBLICATION), and a server that can be written to.
fn missing_publication(report: &mut Report, facts: &Facts, owns: Owns, wanted: &Wanted<'_>) {
    let name = wanted.name;
    let may_make = facts.is_superuser || facts.may_create && owns == Owns::All;
    let make = if may_make && !facts.is_standby {
        Fix::safe(wanted.create_sql())
    } else {
        Fix::sql(wanted.create_sql())
    };
    if wanted.create == Create::Never {
        report.fail(
            codes::PUBLICATION_MISSING,
            format!("publication {name} does not exist, and we are not to make it"),
            "It names the tables whose changes are sent.",
            [make],
        );
        return;
    }
    if may_make && !facts.is_standby {
        report.pass(
            codes::PUBLICATION_MISSING,
            format!("publication {name} will be made at the first start"),
        );
        return;
    }
    let role = &facts.role;
    let found = if facts.is_standby {
        format!("publication {name} does not exist, and cannot be made on a standby")
    } else {
        format!("publication {name} does not exist, and role {role} may not make it")
    };
    report.fail(
        codes::PUBLICATION_PRIVILEGES,
        found,
        "Making one needs CREATE on the database and the ownership of the tables. Whoever has \
         them can make it once and for all.",
        [make],
    );
}

fn present_publication(report: &mut Report, check: &SourceCheck<'_>, found: &Publication) {
    let name = &found.name;
    let Some(lacks) = found.lacks() else {
        report.pass(
            codes::PUBLICATION_INCOMPLETE,
            format!("publication {name} covers every table"),
        );
        return;
    };
    if found.is_ours && check.create == Create::IfMissing && found.lacks_only_tables() {
        report.pass(
            codes::PUBLICATION_INCOMPLETE,
            format!("publication {name} {lacks}, and will be extended"),
        );
        return;
    }
    report.fail(
        codes::PUBLICATION_INCOMPLETE,
        format!("publication {name} {lacks}"),
        "Changes that a publication leaves out are never sent.",
        [Fix::sql(found.repair_sql().join(";\n"))],
    );
}
