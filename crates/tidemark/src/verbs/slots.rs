//! `slots list|drop|adopt`: what holds back the source's log, and for whom.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::position::Position;
use tidemark_core::source::{Holder, Slot};

use crate::invocation::Invocation;
use crate::output::numbers::bytes;
use crate::output::style::Tone;
use crate::output::table::{Cell, Column, Table};
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::remote::There;
use crate::seen::Seen;
use crate::systems;

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SlotsArgs {
    #[command(subcommand)]
    verb: SlotsVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum SlotsVerb {
    /// All slots of the source: owner, log kept, log left before each is lost
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Drop a slot of the source: the log it keeps is gone, its reader cannot go on
    Drop {
        #[command(flatten)]
        which: Which,
        /// The slot; without it the pipeline's own
        #[arg(long, value_name = "SLOT")]
        slot: Option<String>,
        /// Say that a slot which is not this pipeline's is yours: its name once more
        #[arg(long, value_name = "NAME")]
        i_own: Option<String>,
    },
    /// Whether this pipeline can go on with a slot of another name, and the lines that make it so
    Adopt {
        #[command(flatten)]
        which: Which,
        /// The slot
        #[arg(long, value_name = "SLOT")]
        slot: String,
    },
}

impl SlotsArgs {
    /// Whether it only shows what there is.
    pub(crate) fn lists(&self) -> bool {
        matches!(self.verb, SlotsVerb::List { .. })
    }

    /// Whether it may drop a slot.
    pub(crate) fn drops(&self) -> bool {
        matches!(self.verb, SlotsVerb::Drop { .. })
    }
}

pub(crate) async fn run(invocation: &Invocation, arguments: SlotsArgs) -> Outcome {
    match arguments.verb {
        SlotsVerb::List { which } => list(invocation, &which).await,
        SlotsVerb::Drop { which, slot, i_own } => {
            drop_slot(invocation, &which, slot, i_own.as_deref()).await
        }
        SlotsVerb::Adopt { which, slot } => adopt(invocation, &which, &slot).await,
    }
}

async fn list(invocation: &Invocation, which: &Which) -> Outcome {
    let seen = Seen::open(invocation, which)?;
    let (mut slots, own) = match &seen {
        Seen::Here(opened) => {
            let own = opened.config.source.postgres.slot.clone();
            (systems::slots(&opened.config).await?, own)
        }
        Seen::There(there) => told(there).await?,
    };
    slots.sort_by(|a, b| (b.retained_bytes, &a.name).cmp(&(a.retained_bytes, &b.name)));
    let own = own.as_str();
    let mut table = Table::new([
        (Column::Name, "SLOT"),
        (Column::Left, "OWNER"),
        (Column::Left, "STATE"),
        (Column::Right, "KEEPS"),
        (Column::Right, "LEFT"),
        (Column::Text, "READER"),
    ]);
    for slot in &slots {
        let (state, tone) = state(slot);
        table.row([
            slot.name.as_str().into(),
            owner(slot, own).into(),
            Cell::toned(state, tone),
            bytes(slot.retained_bytes).into(),
            left(slot).into(),
            reader(slot).into(),
        ]);
    }
    let text = match slots.len() {
        0 => "the source has no replication slots".to_owned(),
        _ => table
            .lines(invocation.talk.out, invocation.talk.out_width())
            .join("\n"),
    };
    let data: Vec<Value> = slots.iter().map(|slot| slot_data(slot, own)).collect();
    Ok(Answer::new(
        text,
        json!({ "pipeline": seen.name(), "slots": data }),
    ))
}

/// As a server tells of one.
#[derive(Deserialize)]
struct Told {
    pipeline_id: Option<String>,
    name: String,
    database: String,
    foreign: Option<String>,
    holder: Option<ToldHolder>,
    confirmed_lsn: Position,
    restart_lsn: Position,
    retained_bytes: u64,
    safe_bytes: Option<i64>,
    wal_status: String,
    lost: Option<String>,
}

#[derive(Deserialize)]
struct ToldHolder {
    pid: i32,
    application: String,
    host: String,
    since: String,
}

/// The slots of the source of a server's pipeline, and the name of its own.
async fn told(there: &There) -> Result<(Vec<Slot>, String), Failure> {
    let said = there.get("/slots").await?;
    let told: Vec<Told> =
        serde_json::from_value(said["slots"].clone()).map_err(|err| there.server.strange(&err))?;
    let is_own = |slot: &&Told| slot.pipeline_id.as_ref() == Some(&there.name);
    let own = told.iter().find(is_own).map(|slot| slot.name.clone());
    let slots = told.into_iter().map(|slot| Slot {
        name: slot.name,
        database: slot.database,
        foreign: slot.foreign,
        holder: slot.holder.map(|holder| Holder {
            pid: holder.pid,
            application: holder.application,
            host: holder.host,
            since: holder.since,
        }),
        confirmed: slot.confirmed_lsn,
        restart: slot.restart_lsn,
        retained_bytes: slot.retained_bytes,
        safe_bytes: slot.safe_bytes,
        wal_status: slot.wal_status,
        lost: slot.lost,
    });
    Ok((slots.collect(), own.unwrap_or_default()))
}

async fn drop_slot(
    invocation: &Invocation,
    which: &Which,
    slot: Option<String>,
    i_own: Option<&str>,
) -> Outcome {
    let opened = Opened::open(invocation, which)?;
    let own = opened.config.source.postgres.slot.clone();
    let name = slot.unwrap_or_else(|| own.clone());
    let slot = find(&opened, &name).await?;
    let refuse = |why: String| Failure::from(Error::definite(codes::CLI_CONSENT, why));
    if let Some(holder) = &slot.holder {
        return Err(is_read(&name, holder).into());
    }
    if name != own && i_own != Some(name.as_str()) {
        return Err(refuse(format!(
            "slot {name} is not {}'s own ({own}); add --i-own {name} to say that it is yours",
            opened.name()
        )));
    }
    let effect = format!(
        "Drops slot {name}: {} of log kept since {} are given free.\n\
         Whoever reads it ({}) cannot go on from there and has to start anew.",
        bytes(slot.retained_bytes),
        slot.restart,
        owner(&slot, &own)
    );
    invocation
        .talk
        .confirm(&effect, "Type the slot's name to continue:", &name)?;
    systems::drop_slot(&opened.config, &name).await?;
    let data = json!({ "pipeline": opened.name(), "dropped": name });
    Ok(Answer::new(format!("slot {name} is gone"), data))
}

/// A slot can be adopted when the stream can go on from it: ours by kind, of this database, not
/// read by others, not lost, and not past the checkpoint.
async fn adopt(invocation: &Invocation, which: &Which, name: &str) -> Outcome {
    let opened = Opened::open(invocation, which)?;
    let slot = find(&opened, name).await?;
    if let Some(why) = slot.foreign.as_ref().or(slot.lost.as_ref()) {
        return Err(Error::definite(
            codes::SLOT_FOREIGN,
            format!("slot {name} cannot be adopted: {why}"),
        )
        .into());
    }
    let is_own = name == opened.config.source.postgres.slot;
    if let Some(holder) = slot.holder.as_ref().filter(|_| !is_own) {
        return Err(is_read(name, holder).into());
    }
    let checkpoint = opened.target.checkpoint().await?;
    let from = match &checkpoint {
        Some(checkpoint) if slot.confirmed > checkpoint.position => {
            return Err(Error::definite(
                codes::SLOT_AHEAD,
                format!(
                    "slot {name} has moved to {}, past the checkpoint {}: the changes between are gone",
                    slot.confirmed, checkpoint.position
                ),
            )
            .into());
        }
        Some(checkpoint) => checkpoint.position,
        None => slot.confirmed,
    };
    // Its name would follow the slot's.
    let publication = &opened.config.source.postgres.publication;
    let mut lines = vec![
        format!("slot {name} can be adopted: the stream goes on at {from}"),
        format!("in {}:", opened.file.display()),
        "    [source.postgres]".to_owned(),
        format!("    slot = \"{name}\""),
        format!("    publication = \"{publication}\""),
    ];
    if checkpoint.is_none() {
        lines.push("and, as the target has nothing yet:".to_owned());
        lines.push("    [pipeline]".to_owned());
        lines.push("    mode = \"cdc_only\"".to_owned());
        lines.push(format!("    start = \"lsn:{from}\""));
    }
    let data = json!({
        "pipeline": opened.name(), "slot": slot_data(&slot, name), "goes_on_at": from,
        "set": { "source.postgres.slot": name, "source.postgres.publication": publication },
    });
    Ok(Answer::new(lines.join("\n"), data))
}

async fn find(opened: &Opened, name: &str) -> Result<Slot, Failure> {
    let slots = systems::slots(&opened.config).await?;
    slots
        .into_iter()
        .find(|slot| slot.name == name)
        .ok_or_else(|| {
            Error::definite(
                codes::SLOT_MISSING,
                format!("the source has no slot {name}"),
            )
            .first_action(format!("tidemark slots list {}", opened.word()))
            .into()
        })
}

fn is_read(name: &str, holder: &Holder) -> Error {
    Error::definite(
        codes::SLOT_ACTIVE,
        format!(
            "slot {name} is read by pid {} ({} from {}) since {}",
            holder.pid, holder.application, holder.host, holder.since
        ),
    )
    .first_action("stop its reader first")
}

/// Whose it is, as far as names tell.
fn owner(slot: &Slot, own: &str) -> String {
    match slot.name.strip_prefix("tidemark_") {
        _ if slot.name == own => "this pipeline".to_owned(),
        Some(pipeline) => format!("pipeline {pipeline}"),
        None => "somebody else".to_owned(),
    }
}

fn state(slot: &Slot) -> (String, Tone) {
    match (&slot.lost, &slot.holder) {
        (Some(_), _) => ("✗ lost".to_owned(), Tone::Bad),
        (None, Some(_)) => ("✓ active".to_owned(), Tone::Good),
        (None, None) => ("! idle".to_owned(), Tone::Caution),
    }
}

fn left(slot: &Slot) -> String {
    match slot.safe_bytes {
        Some(left) => bytes(u64::try_from(left).unwrap_or(0)),
        None => "no limit".to_owned(),
    }
}

fn reader(slot: &Slot) -> String {
    match (&slot.holder, &slot.lost) {
        (Some(holder), _) => {
            format!(
                "pid {} {} from {}",
                holder.pid, holder.application, holder.host
            )
        }
        (None, Some(why)) => why.clone(),
        (None, None) => String::new(),
    }
}

fn slot_data(slot: &Slot, own: &str) -> Value {
    json!({
        "name": slot.name,
        "database": slot.database,
        "owner": owner(slot, own),
        "is_own": slot.name == own,
        "foreign": slot.foreign,
        "active": slot.holder.is_some(),
        "reader": slot.holder.as_ref().map(|holder| json!({
            "pid": holder.pid, "application": holder.application,
            "host": holder.host, "since": holder.since,
        })),
        "confirmed_lsn": slot.confirmed,
        "restart_lsn": slot.restart,
        "retained_bytes": slot.retained_bytes,
        "safe_bytes": slot.safe_bytes,
        "wal_status": slot.wal_status,
        "lost": slot.lost,
    })
}
