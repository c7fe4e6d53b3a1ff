//! What pipelines are connected to, and the slots that keep a source's log: measured by runs, or all
//! that a source has when somebody asks it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::source::{Holder, Slot};
use tidemark_core::status::SlotStatus;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::bodies::{SlotBody, slot};
use super::extract::{Params, Route};
use super::journal::PageParams;
use super::lists::{cut, next_page, not_ours};
use super::named::{self, NamedBody};
use super::pipelines::{limit, member};
use super::problem::{Failure, Problem};
use crate::store::{DesiredState, Level};
use crate::supervisor::{Member, open};
use crate::systems::Opened;

/// What a slot that we made is named with, unless a pipeline file says otherwise.
const OURS: &str = "tidemark_";

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(connections))
        .routes(routes!(slots))
        .routes(routes!(slots_of_source))
        .routes(routes!(drop_slot))
        .routes(routes!(adoption))
}

/// A page of what pipelines are connected to: first what has a name, then addresses.
#[derive(Debug, Serialize, ToSchema)]
struct ConnectionList {
    /// By address.
    connections: Vec<ConnectionBody>,
    /// Those that have a name, which pipelines use in place of an address.
    named: Vec<NamedBody>,
    /// Why those of a file are not known, if so.
    problem: Option<String>,
    /// All pipelines whose definition was not read yet: what they are connected to is not known.
    not_known: Vec<String>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// Where something is in that list.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// By name, and where it is said.
    Named((String, bool, String)),
    /// By address.
    At(String),
}

impl Place {
    /// As a cursor, and back.
    fn cursor(&self) -> String {
        match self {
            Place::Named((name, _, file)) => format!("n.{name}/{file}"),
            Place::At(address) => format!("a.{address}"),
        }
    }

    fn of(cursor: &str) -> Option<Place> {
        if let Some(address) = cursor.strip_prefix("a.") {
            return Some(Place::At(address.to_owned()));
        }
        let (name, file) = cursor.strip_prefix("n.")?.split_once('/')?;
        let place = (name.to_owned(), file.is_empty(), file.to_owned());
        Some(Place::Named(place))
    }
}

/// Something of that list.
enum Listed {
    Named(named::Listed),
    At(ConnectionBody),
}

/// An address, and who uses it.
#[derive(Debug, Serialize, ToSchema)]
struct ConnectionBody {
    /// Without secrets.
    address: String,
    /// Pipelines that read from it.
    source_of: Vec<String>,
    /// Pipelines that write to it.
    target_of: Vec<String>,
}

#[utoipa::path(get, path = "/connections", tag = "monitoring", params(PageParams),
    responses((status = 200, body = ConnectionList), (status = 400, body = Problem)))]
async fn connections(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Answer<ConnectionList>, Failure> {
    let limit = limit(params.limit)?;
    let after = params.cursor.as_deref();
    let after = after.map(|cursor| Place::of(cursor).ok_or_else(not_ours));
    let after = after.transpose()?;
    let mut found: BTreeMap<String, ConnectionBody> = BTreeMap::new();
    let mut not_known = Vec::new();
    for member in app.supervisor.members_of(&caller.tenant) {
        let id = member.key.id.clone();
        let Some((source, target)) = member.route() else {
            not_known.push(id);
            continue;
        };
        let empty = |address: &str| ConnectionBody {
            address: address.to_owned(),
            source_of: Vec::new(),
            target_of: Vec::new(),
        };
        let at = found.entry(source.clone());
        at.or_insert_with(|| empty(&source))
            .source_of
            .push(id.clone());
        let at = found.entry(target.clone());
        at.or_insert_with(|| empty(&target)).target_of.push(id);
    }
    let (named, problem) = named::all(&app, &caller).await;
    let named = named.into_iter();
    let named = named.map(|one| (Place::Named(one.place()), Listed::Named(one)));
    let found = found.into_iter();
    let found = found.map(|(address, body)| (Place::At(address), Listed::At(body)));
    let mut page: Vec<(Place, Listed)> = named.chain(found).collect();
    page.retain(|(place, _)| after.as_ref().is_none_or(|after| place > after));
    let next_cursor = cut(&mut page, limit, |(place, _)| place.cursor());
    let mut list = ConnectionList {
        connections: Vec::new(),
        named: Vec::new(),
        problem,
        not_known,
        next: next_page(next_cursor.as_deref()),
        next_cursor,
    };
    for (_, one) in page {
        match one {
            Listed::Named(one) => list.named.push(named::told(&app, &caller, one).await),
            Listed::At(body) => list.connections.push(body),
        }
    }
    Ok(Answer(list))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SlotsParams {
    /// All slots on the source of this pipeline, ours or not.
    pipeline: Option<String>,
}

/// What holds back log on sources.
#[derive(Debug, Serialize, ToSchema)]
struct SlotList {
    slots: Vec<OwnedSlot>,
}

/// A slot, and whose it is.
#[derive(Debug, Serialize, ToSchema)]
struct OwnedSlot {
    /// `null` where it is not the pipeline's own.
    pipeline_id: Option<String>,
    #[serde(flatten)]
    slot: SlotBody,
}

/// Slots as the runs of pipelines have measured them; with `pipeline` see `/pipelines/{id}/slots`.
#[utoipa::path(get, path = "/slots", tag = "monitoring", params(SlotsParams),
    responses((status = 200, body = SlotList), (status = 404, body = Problem), (status = 503, body = Problem)))]
async fn slots(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<SlotsParams>,
) -> Result<Answer<SlotList>, Failure> {
    let Some(id) = params.pipeline else {
        let members = app.supervisor.members_of(&caller.tenant);
        let slots = members.iter().filter_map(|member| {
            let found = member.view().status.slot?;
            Some(OwnedSlot {
                pipeline_id: Some(member.key.id.clone()),
                slot: slot(&found),
            })
        });
        return Ok(Answer(SlotList {
            slots: slots.collect(),
        }));
    };
    let found = of_source(&app, &caller, &id).await?;
    let slots = found.into_iter().map(|found| OwnedSlot {
        pipeline_id: found.pipeline_id.filter(|owner| *owner == id),
        slot: found.slot,
    });
    Ok(Answer(SlotList {
        slots: slots.collect(),
    }))
}

/// Every slot of a source, as it is now.
#[derive(Debug, Serialize, ToSchema)]
struct SourceSlotList {
    /// The source, without secrets.
    address: String,
    /// The slot that the pipeline's definition names, whether it is there or not.
    own: String,
    /// What keeps most log first.
    slots: Vec<SourceSlot>,
}

/// A slot of a source, whoever made it.
#[derive(Debug, Serialize, ToSchema)]
struct SourceSlot {
    /// The pipeline of this tenant that it belongs to.
    pipeline_id: Option<String>,
    #[serde(flatten)]
    slot: SlotBody,
    database: String,
    /// Why it is not of the kind that Tidemark makes; `null` if it is.
    foreign: Option<String>,
    /// Whether it looks like one of ours and no pipeline of this server has it. `null` where that
    /// cannot be told: a definition was not read yet.
    orphan: Option<bool>,
    /// Who reads it now.
    holder: Option<HolderBody>,
    /// What its reader has confirmed.
    confirmed_lsn: String,
    /// The oldest log it keeps.
    restart_lsn: String,
    /// Why it can never be read again, if so.
    lost: Option<String>,
}

/// Who reads a slot.
#[derive(Debug, Serialize, ToSchema)]
struct HolderBody {
    /// On the source.
    pid: i32,
    application: String,
    host: String,
    since: String,
}

#[utoipa::path(get, path = "/pipelines/{id}/slots", tag = "monitoring", params(("id" = String, Path)),
    responses((status = 200, body = SourceSlotList), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
async fn slots_of_source(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<Answer<SourceSlotList>, Failure> {
    let slots = of_source(&app, &caller, &id).await?;
    let member = member(&app, &caller, &id)?;
    Ok(Answer(SourceSlotList {
        address: member.route().map(|(source, _)| source).unwrap_or_default(),
        own: member.slot().unwrap_or_default(),
        slots,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DropParams {
    /// Of a slot that is not the pipeline's own: its name once more, which says that it is yours.
    i_own: Option<String>,
}

#[utoipa::path(delete, path = "/pipelines/{id}/slots/{slot}", tag = "monitoring",
    params(("id" = String, Path), ("slot" = String, Path), DropParams),
    responses((status = 204, description = "It is gone, and the log that it kept"), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "There is none of this name, \
            somebody reads it, or a pipeline of this server runs with it"),
        (status = 422, body = Problem, description = "It is not the pipeline's own, and nobody said that it is theirs"),
        (status = 503, body = Problem)))]
async fn drop_slot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, name)): Route<(String, String)>,
    Params(params): Params<DropParams>,
) -> Result<StatusCode, Failure> {
    caller.needs(Role::Admin)?;
    let asked = member(&app, &caller, &id)?;
    let (opened, found) = slot_of(&app, &asked, &name).await?;
    let own = opened.config.source.postgres.slot.as_str();
    found.may_be_dropped(&id, own, params.i_own.as_deref())?;
    let members = app.supervisor.members();
    let owner = owner_of(&members, &opened, &name);
    // Between two attempts nobody reads it.
    let wants_it = |owner: &Arc<Member>| {
        owner.row().desired.state == DesiredState::Running && owner.view().state != "failed"
    };
    if owner.is_some_and(wants_it) {
        let text = format!("a pipeline of this server runs with slot {name}");
        return Err(Error::definite(codes::SLOT_ACTIVE, text)
            .first_action("stop it first")
            .into());
    }
    let shared = &app.supervisor.shared;
    shared.systems.drop_slot(&opened, &name).await?;
    let text = format!("slot {name} was dropped");
    app.supervisor
        .note(&asked, Level::Warn, "action", text, Some(caller.name));
    Ok(StatusCode::NO_CONTENT)
}

/// Whether a pipeline could go on with a slot, if its definition named it.
#[derive(Debug, Serialize, ToSchema)]
struct AdoptionBody {
    slot: SourceSlot,
    /// Where the stream would go on.
    goes_on_at: String,
    /// The pipeline's publication: its name would follow the slot's, so the definition has to say it.
    publication: String,
    /// Whether the target has anything yet. If not, the pipeline is to start there, without a load.
    has_begun: bool,
}

#[utoipa::path(get, path = "/pipelines/{id}/slots/{slot}/adoption", tag = "monitoring",
    params(("id" = String, Path), ("slot" = String, Path)),
    responses((status = 200, body = AdoptionBody), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "There is none of this name, or something would be missing"),
        (status = 503, body = Problem)))]
async fn adoption(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route((id, name)): Route<(String, String)>,
) -> Result<Answer<AdoptionBody>, Failure> {
    caller.needs(Role::Operator)?;
    let asked = member(&app, &caller, &id)?;
    let (opened, found) = slot_of(&app, &asked, &name).await?;
    let checkpoint = opened.target.checkpoint().await?;
    let postgres = &opened.config.source.postgres;
    let from = found.adoption(&postgres.slot, checkpoint.as_ref())?;
    let members = app.supervisor.members();
    Ok(Answer(AdoptionBody {
        slot: source_slot(&members, &caller, &opened, &found),
        goes_on_at: from.to_string(),
        publication: postgres.publication.clone(),
        has_begun: checkpoint.is_some(),
    }))
}

/// A slot of the source of a pipeline.
async fn slot_of(app: &App, asked: &Arc<Member>, name: &str) -> Result<(Opened, Slot), Failure> {
    let opened = open(&app.supervisor.shared, asked).await?;
    asked.set_route(&opened);
    let slots = app.supervisor.shared.systems.slots(&opened).await?;
    let found = slots.into_iter().find(|slot| slot.name == name);
    let found = found.ok_or_else(|| {
        let text = format!("the source has no slot {name}");
        let err = Error::definite(codes::SLOT_MISSING, text);
        err.first_action(format!("tidemark slots list {}", asked.key.id))
    })?;
    Ok((opened, found))
}

/// The pipeline of this server, of whatever tenant, that a slot of a source belongs to.
fn owner_of<'a>(
    members: &'a [Arc<Member>],
    opened: &Opened,
    name: &str,
) -> Option<&'a Arc<Member>> {
    members.iter().find(|member| {
        let is_here = member
            .route()
            .is_some_and(|(source, _)| source == opened.source_address);
        is_here && member.slot().as_deref() == Some(name)
    })
}

/// Asks the source of a pipeline for all of its slots.
async fn of_source(app: &App, caller: &Caller, id: &str) -> Result<Vec<SourceSlot>, Failure> {
    let asked = member(app, caller, id)?;
    caller.needs(Role::Operator)?;
    let opened = open(&app.supervisor.shared, &asked).await?;
    asked.set_route(&opened);
    let mut found = app.supervisor.shared.systems.slots(&opened).await?;
    found.sort_by(|a, b| (b.retained_bytes, &a.name).cmp(&(a.retained_bytes, &b.name)));
    let members = app.supervisor.members();
    let slots = found
        .iter()
        .map(|found| source_slot(&members, caller, &opened, found));
    Ok(slots.collect())
}

fn source_slot(
    members: &[Arc<Member>],
    caller: &Caller,
    opened: &Opened,
    found: &Slot,
) -> SourceSlot {
    let owner = owner_of(members, opened, &found.name);
    let are_all_known = members.iter().all(|member| member.slot().is_some());
    let is_like_ours = found.foreign.is_none() && found.name.starts_with(OURS);
    let is_own = |owner: &&Arc<Member>| owner.key.tenant == caller.tenant;
    SourceSlot {
        pipeline_id: owner.filter(is_own).map(|owner| owner.key.id.clone()),
        slot: slot(&SlotStatus::of(found, &[])),
        database: found.database.clone(),
        foreign: found.foreign.clone(),
        orphan: match (is_like_ours, owner) {
            (false, _) | (_, Some(_)) => Some(false),
            (true, None) => are_all_known.then_some(true),
        },
        holder: found.holder.as_ref().map(holder),
        confirmed_lsn: found.confirmed.to_string(),
        restart_lsn: found.restart.to_string(),
        lost: found.lost.clone(),
    }
}

fn holder(holder: &Holder) -> HolderBody {
    HolderBody {
        pid: holder.pid,
        application: holder.application.clone(),
        host: holder.host.clone(),
        since: holder.since.clone(),
    }
}
