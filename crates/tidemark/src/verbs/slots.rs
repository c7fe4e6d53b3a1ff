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
use crate::pipeline_file::Which;
use crate::problem::Failure;
use crate::remote::{self, There};
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
    let (mut slots, own) = slots_of(&seen).await?;
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

/// The slots of a pipeline's source, and the name of its own.
async fn slots_of(seen: &Seen) -> Result<(Vec<Slot>, String), Failure> {
    match seen {
        Seen::Here(opened) => {
            let own = opened.config.source.postgres.slot.clone();
            Ok((systems::slots(&opened.config).await?, own))
        }
        Seen::There(there) => told(there).await,
    }
}

/// As a server tells of one.
#[derive(Debug, Deserialize)]
struct Told {
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

#[derive(Debug, Deserialize)]
struct ToldHolder {
    pid: i32,
    application: String,
    host: String,
    since: String,
}

impl From<Told> for Slot {
    fn from(told: Told) -> Slot {
        Slot {
            name: told.name,
            database: told.database,
            foreign: told.foreign,
            holder: told.holder.map(|holder| Holder {
                pid: holder.pid,
                application: holder.application,
                host: holder.host,
                since: holder.since,
            }),
            confirmed: told.confirmed_lsn,
            restart: told.restart_lsn,
            retained_bytes: told.retained_bytes,
            safe_bytes: told.safe_bytes,
            wal_status: told.wal_status,
            lost: told.lost,
        }
    }
}

async fn told(there: &There) -> Result<(Vec<Slot>, String), Failure> {
    #[derive(Deserialize)]
    struct List {
        own: String,
        slots: Vec<Told>,
    }
    let said = there.get("/slots").await?;
    let list: List = serde_json::from_value(said).map_err(|err| there.server.strange(&err))?;
    Ok((list.slots.into_iter().map(Slot::from).collect(), list.own))
}

async fn drop_slot(
    invocation: &Invocation,
    which: &Which,
    slot: Option<String>,
    i_own: Option<&str>,
) -> Outcome {
    let seen = Seen::open(invocation, which)?;
    let (slots, own) = slots_of(&seen).await?;
    let name = slot.unwrap_or_else(|| own.clone());
    let slot = find(slots, &name, &seen.word())?;
    slot.may_be_dropped(seen.name(), &own, i_own)?;
    let effect = format!(
        "Drops slot {name}: {} of log kept since {} are given free.\n\
         Whoever reads it ({}) cannot go on from there and has to start anew.",
        bytes(slot.retained_bytes),
        slot.restart,
        owner(&slot, &own)
    );
    invocation
        .talk
        .confirm(&effect, "Type the slot's name to continue:", &name)
        .await?;
    match &seen {
        Seen::Here(opened) => systems::drop_slot(&opened.config, &name).await?,
        Seen::There(there) => {
            let claim = i_own.map_or_else(String::new, |i_own| {
                format!("?i_own={}", remote::encoded(i_own))
            });
            let slot = remote::encoded(&name);
            there.delete(&format!("/slots/{slot}{claim}")).await?;
        }
    }
    let data = json!({ "pipeline": seen.name(), "dropped": name });
    Ok(Answer::new(format!("slot {name} is gone"), data))
}

/// Whether a pipeline could go on with a slot, as a server tells it too.
#[derive(Debug, Deserialize)]
struct Adoption {
    slot: Told,
    goes_on_at: Position,
    /// Its name would follow the slot's.
    publication: String,
    /// Whether the target has anything yet.
    has_begun: bool,
}

async fn adopt(invocation: &Invocation, which: &Which, name: &str) -> Outcome {
    let seen = Seen::open(invocation, which)?;
    let (slot, from, publication, has_begun, place) = match &seen {
        Seen::Here(opened) => {
            let (slots, own) = slots_of(&seen).await?;
            let slot = find(slots, name, &seen.word())?;
            let checkpoint = opened.target.checkpoint().await?;
            let from = slot.adoption(&own, checkpoint.as_ref())?;
            let publication = opened.config.source.postgres.publication.clone();
            let place = opened.file.display().to_string();
            (slot, from, publication, checkpoint.is_some(), place)
        }
        Seen::There(there) => {
            let route = format!("/slots/{}/adoption", remote::encoded(name));
            let said = serde_json::from_value(there.get(&route).await?);
            let said: Adoption = said.map_err(|err| there.server.strange(&err))?;
            let place = format!("the definition of {}", there.name);
            (
                said.slot.into(),
                said.goes_on_at,
                said.publication,
                said.has_begun,
                place,
            )
        }
    };
    let mut lines = vec![
        format!("slot {name} can be adopted: the stream goes on at {from}"),
        format!("in {place}:"),
        "    [source.postgres]".to_owned(),
        format!("    slot = \"{name}\""),
        format!("    publication = \"{publication}\""),
    ];
    if !has_begun {
        lines.push("and, as the target has nothing yet:".to_owned());
        lines.push("    [pipeline]".to_owned());
        lines.push("    mode = \"cdc_only\"".to_owned());
        lines.push(format!("    start = \"lsn:{from}\""));
    }
    let data = json!({
        "pipeline": seen.name(), "slot": slot_data(&slot, name), "goes_on_at": from,
        "set": { "source.postgres.slot": name, "source.postgres.publication": publication },
    });
    Ok(Answer::new(lines.join("\n"), data))
}

fn find(slots: Vec<Slot>, name: &str, word: &str) -> Result<Slot, Error> {
    let found = slots.into_iter().find(|slot| slot.name == name);
    found.ok_or_else(|| {
        let text = format!("the source has no slot {name}");
        let err = Error::definite(codes::SLOT_MISSING, text);
        err.first_action(format!("tidemark slots list {word}"))
    })
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
