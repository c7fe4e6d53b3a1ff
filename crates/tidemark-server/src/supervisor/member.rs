//! One pipeline under supervision: what is wanted of it, what it does, and how it stands.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_core::Error;
use tidemark_core::clock;
use tidemark_core::config::AlertRule;
use tidemark_core::control::door::SharedBoard;
use tidemark_core::pipeline::Commander;
use tidemark_core::pipeline::options::Reconcile;
use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::status::{
    By, Health, LastKnown, PipelineState, Status, StatusError, TableStatusState, Trend, Verified,
};
use tidemark_core::verify::compare::Report;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::measures::Measures;
use crate::store::{Compared, Desired, DesiredState, Key, PipelineRow};
use crate::systems::Opened;

/// How far back the estimate of the time to catch up looks.
const ESTIMATE_OVER: Duration = Duration::from_mins(1);
/// A look from outside that is older than this says nothing about now.
const LOOK_COUNTS: Duration = Duration::from_secs(15);

/// What is wanted of it: a change of any of this ends a wait.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Orders {
    pub(super) desired: Desired,
    /// Of the definition.
    pub(super) version: i64,
    /// Counts what is asked, so that the same wish said twice is heard twice.
    pub(super) number: u64,
}

/// See the module's text.
pub(crate) struct Member {
    pub(crate) key: Key,
    pub(super) orders: watch::Sender<Orders>,
    /// Ends its life here; what is wanted of it stays.
    pub(super) closing: watch::Sender<bool>,
    /// Whether it is being deleted, or was.
    leaving: AtomicBool,
    /// Whether a cutover is under way.
    cutting_over: AtomicBool,
    row: Mutex<PipelineRow>,
    now: Mutex<Now>,
    measures: Mutex<Measures>,
    compared: Mutex<Compared>,
}

#[derive(Default)]
struct Now {
    alive: Option<Alive>,
    /// Whether a run goes on, or is about to.
    is_busy: bool,
    rest: Rest,
    look: Option<(Instant, Status)>,
    /// Why the last look found nothing, as a catalogue code.
    blind: Option<String>,
    gaps: VecDeque<(Instant, u64)>,
    route: Option<(String, String)>,
    slot: Option<String>,
    rules: Option<Arc<[AlertRule]>>,
    tags: Option<Vec<String>>,
    /// Connections that its definition names.
    connections: Vec<String>,
    /// What the next run begins with.
    reconcile: Reconcile,
    /// The last comparison, for a repair of what it found.
    found: Option<Arc<Found>>,
}

/// What a comparison found, keys included: kept in memory alone.
pub(super) struct Found {
    /// Under which it is kept.
    pub(super) number: i64,
    /// The tables that were asked for; none for all.
    pub(super) wanted: Vec<TableName>,
    pub(super) report: Report,
}

/// A run that goes on.
#[derive(Clone)]
pub(crate) struct Alive {
    pub(crate) commander: Commander,
    pub(crate) opened: Arc<Opened>,
    /// The text that it was begun with.
    pub(crate) definition: Arc<str>,
    /// What it began with.
    pub(super) reconcile: Reconcile,
    pub(super) board: SharedBoard,
}

/// How it stands while it does not run.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) state: &'static str,
    pub(super) since: String,
    pub(super) reason: Option<String>,
    pub(super) by: String,
    pub(super) error: Option<StatusError>,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest::of("draft", "engine", None)
    }
}

impl Rest {
    pub(super) fn of(state: &'static str, by: impl Into<String>, reason: Option<String>) -> Rest {
        Rest {
            state,
            since: clock::now(),
            reason,
            by: by.into(),
            error: None,
        }
    }

    /// As it is wanted.
    pub(super) fn wanted(desired: &Desired) -> Rest {
        Rest {
            state: match desired.state {
                DesiredState::Running => "starting",
                other => other.word(),
            },
            since: desired.since.clone(),
            reason: desired.reason.clone(),
            by: desired.by.clone(),
            error: None,
        }
    }

    /// Because of an error.
    pub(super) fn because(state: &'static str, err: &Error, more: &str) -> Rest {
        Rest {
            error: Some(StatusError::of(err)),
            ..Rest::of(
                state,
                "engine",
                Some(format!("{}: {err}{more}", err.code())),
            )
        }
    }
}

/// How it stands.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// In the dictionary's words.
    pub(crate) state: String,
    pub(crate) since: String,
    pub(crate) reason: Option<String>,
    /// A name, `schedule` or `engine`.
    pub(crate) by: String,
    /// Everything else; its own state, since, reason and by are these.
    pub(crate) status: Status,
    /// Whether a run goes on in this server.
    pub(crate) is_running: bool,
    pub(crate) eta_seconds: Option<f64>,
    /// How long ago the latency of the status was measured, where it has one.
    pub(crate) latency_age: Option<Duration>,
}

impl Member {
    pub(super) fn new(row: PipelineRow, compared: Compared) -> Member {
        let orders = Orders {
            desired: row.desired.clone(),
            version: row.version,
            number: 0,
        };
        let now = Now {
            rest: Rest::wanted(&row.desired),
            ..Now::default()
        };
        Member {
            key: row.key.clone(),
            orders: watch::Sender::new(orders),
            closing: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            cutting_over: AtomicBool::new(false),
            row: Mutex::new(row),
            now: Mutex::new(now),
            measures: Mutex::default(),
            compared: Mutex::new(compared),
        }
    }

    /// What was counted of it since the server began.
    pub(crate) fn measures(&self) -> MutexGuard<'_, Measures> {
        self.measures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comparisons have found.
    pub(crate) fn compared(&self) -> MutexGuard<'_, Compared> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last comparison of all tables, unless what it compared was loaded anew since.
    pub(super) fn verified(&self) -> Option<Verified> {
        let verified = self.compared().whole.as_ref()?.verified.clone();
        let row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = row.full_load_lsn.as_ref();
        let loaded = loaded.and_then(|text| Position::parse(verified.lsn.kind(), text).ok());
        let is_older = loaded.is_some_and(|loaded| verified.lsn < loaded);
        (!is_older).then_some(verified)
    }

    /// What is well is not where rows are known to differ, until a comparison finds none.
    fn judged(&self, health: Health) -> Health {
        let is_different = self.compared().is_different();
        match health {
            Health::Ok | Health::Notice if is_different => Health::Warning,
            health => health,
        }
    }

    /// As it is kept.
    pub(crate) fn row(&self) -> PipelineRow {
        self.row
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether it is being deleted, or was.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Says so, or that it stays after all; gives what was said before.
    pub(super) fn leaves(&self, leaves: bool) -> bool {
        self.leaving.swap(leaves, Ordering::SeqCst)
    }

    /// Whether a cutover is under way.
    pub(super) fn cutting_over(&self) -> &AtomicBool {
        &self.cutting_over
    }

    /// The run, while one goes on.
    pub(crate) fn alive(&self) -> Option<Alive> {
        self.now().alive.clone()
    }

    /// Where rows come from and go to, once that is known.
    pub(crate) fn route(&self) -> Option<(String, String)> {
        self.now().route.clone()
    }

    /// The slot that its definition names, once that was read.
    pub(crate) fn slot(&self) -> Option<String> {
        self.now().slot.clone()
    }

    /// What people want to be told of, once its definition was read.
    pub(crate) fn rules(&self) -> Option<Arc<[AlertRule]>> {
        self.now().rules.clone()
    }

    /// The connections that its definition names, once that was read.
    pub(crate) fn connections(&self) -> Vec<String> {
        self.now().connections.clone()
    }

    /// What people have put on it, once its definition was read.
    pub(crate) fn tags(&self) -> Option<Vec<String>> {
        self.now().tags.clone()
    }

    /// How it stands at this moment.
    pub(crate) fn view(&self) -> View {
        let at = Instant::now();
        let now = self.now();
        let desired = self.orders.borrow().desired.clone();
        let Some(alive) = &now.alive else {
            return self.resting(&now, at);
        };
        let (mut status, latency_age) = {
            let board = alive.board.lock().unwrap_or_else(PoisonError::into_inner);
            (board.status(at), board.latency_age(at))
        };
        status.health = self.judged(status.health);
        if status.state == PipelineState::Completed {
            // Its run still ends: whoever is told of the end can have it do something else.
            status.state = PipelineState::Loading;
        }
        let mut by = super::word_of(&status.by);
        let is_wanted = status.state == PipelineState::Paused && status.by == By::User;
        if is_wanted && desired.state == DesiredState::Paused {
            by.clone_from(&desired.by);
        }
        View {
            state: super::word_of(&status.state),
            since: status.since.clone(),
            reason: status.reason.clone(),
            by,
            is_running: true,
            eta_seconds: eta(&now.gaps, status.gap_bytes, status.latency_seconds),
            latency_age,
            status,
        }
    }

    fn resting(&self, now: &Now, at: Instant) -> View {
        let rest = &now.rest;
        let is_fresh = |seen: Instant| now.blind.is_none() && at - seen <= LOOK_COUNTS;
        let fresh = now.look.as_ref().filter(|(seen, _)| is_fresh(*seen));
        let mut status = match (fresh, &now.look) {
            (Some((_, status)), _) => status.clone(),
            (None, Some((seen, status))) => forgotten(status.clone(), at - *seen),
            (None, None) => Status::unknown(&self.key.id, &self.row().mode),
        };
        if now.blind.is_some() {
            status.unknown_reason.clone_from(&now.blind);
        }
        // Who looks from outside may know of one that was made without this server.
        let known = status.verified.take().into_iter().chain(self.verified());
        status.verified = known.max_by(|one, other| one.at.cmp(&other.at));
        status.since.clone_from(&rest.since);
        status.reason.clone_from(&rest.reason);
        if let Some(error) = rest.error.clone() {
            status.error = Some(error.of_pipeline(&self.key.id));
        }
        let is_set_aside = |state| state == TableStatusState::Quarantined;
        let is_lost = status
            .slot
            .as_ref()
            .is_some_and(|slot| slot.wal_status == "lost");
        status.state = match rest.state {
            "failed" => PipelineState::Failed,
            "completed" => PipelineState::Completed,
            "paused" => PipelineState::Paused,
            "starting" => PipelineState::Starting,
            _ => PipelineState::Stopped,
        };
        status.health = match rest.state {
            "failed" => Health::Error,
            _ if is_lost || status.tables.iter().any(|t| is_set_aside(t.state)) => Health::Error,
            "draft" => Health::Notice,
            // Tables that were left out may be among what was not seen yet.
            "completed" if now.look.is_none() => Health::Unknown,
            "completed" => Health::Ok,
            // Where it does not run the copy falls behind, and the source keeps its log for it.
            _ if status.source_lsn.is_none() => Health::Unknown,
            _ => Health::Warning,
        };
        status.health = self.judged(status.health);
        View {
            state: rest.state.to_owned(),
            since: rest.since.clone(),
            reason: rest.reason.clone(),
            by: rest.by.clone(),
            latency_age: fresh
                .filter(|_| status.latency_seconds.is_some())
                .map(|(seen, _)| at - *seen),
            status,
            is_running: false,
            eta_seconds: None,
        }
    }

    /// Says what is wanted; heard also if it was wanted before.
    pub(super) fn order(&self, desired: Desired) {
        self.row
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .desired
            .clone_from(&desired);
        self.orders.send_modify(|orders| {
            orders.desired = desired;
            orders.number += 1;
        });
    }

    /// Says what is wanted, which is written down already, and that nothing of what was is so any more.
    pub(crate) fn is_told(&self, desired: Desired) {
        {
            let mut now = self.now();
            if now.alive.is_none() {
                now.rest = Rest::wanted(&desired);
            }
        }
        self.order(desired);
    }

    /// Takes another definition in. What is wanted, and how far its load is, may have moved on since this
    /// was read.
    pub(crate) fn redefine(&self, row: PipelineRow) {
        let version = row.version;
        {
            let mut known = self.row.lock().unwrap_or_else(PoisonError::into_inner);
            *known = PipelineRow {
                desired: known.desired.clone(),
                full_load_lsn: known.full_load_lsn.clone(),
                load_told: known.load_told,
                ..row
            };
        }
        self.orders.send_modify(|orders| {
            orders.version = version;
            orders.number += 1;
        });
    }

    pub(super) fn set_full_load_lsn(&self, position: Position, begins: bool) {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        row.full_load_lsn = Some(position.to_string());
        row.load_told &= !begins;
    }

    /// The end of a load was told, if it is still the one from there.
    pub(crate) fn load_is_told(&self, position: &str) {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        row.load_told |= row.full_load_lsn.as_deref() == Some(position);
    }

    pub(super) fn begins(&self, alive: Alive) {
        let mut now = self.now();
        now.gaps.clear();
        now.alive = Some(alive);
    }

    /// Whether a run goes on, or is about to: then what was made for it cannot be taken away.
    pub(super) fn is_busy(&self) -> bool {
        self.now().is_busy
    }

    /// A run is about to go on unless something else is wanted by now; or it is over.
    pub(super) fn set_busy(&self, is_busy: bool) {
        self.now().is_busy = is_busy;
    }

    /// A run has ended; what it saw last is what is known.
    pub(super) fn rests(&self, rest: Rest) {
        let mut now = self.now();
        if let Some(alive) = now.alive.take() {
            let at = Instant::now();
            now.look = Some((at, status_of(&alive.board, at)));
            now.blind = None;
        }
        now.rest = rest;
    }

    /// The next runs begin with this, until it is said that they need not.
    pub(super) fn reconciles(&self, reconcile: Reconcile) {
        self.now().reconcile = reconcile;
    }

    pub(super) fn reconcile(&self) -> Reconcile {
        self.now().reconcile.clone()
    }

    /// Remembers what a comparison found.
    pub(super) fn found(&self, found: Found) {
        self.now().found = Some(Arc::new(found));
    }

    /// The last comparison, if that is the one of this number.
    pub(super) fn last_found(&self, number: i64) -> Option<Arc<Found>> {
        let found = self.now().found.clone();
        found.filter(|found| found.number == number)
    }

    pub(super) fn looked(&self, mut status: Status) {
        let at = Instant::now();
        let mut now = self.now();
        if status.source_lsn.is_none() && status.last_known.is_none() {
            let before = now.look.as_ref();
            status.last_known = before.and_then(|(seen, known)| memory_of(known, at - *seen));
        }
        now.look = Some((at, status));
        now.blind = None;
    }

    /// Whether it was ever seen, and its definition read.
    pub(super) fn is_known(&self) -> bool {
        let now = self.now();
        now.look.is_some() && now.rules.is_some()
    }

    /// It was looked at, and does not show itself: what was seen before is not of now.
    pub(super) fn not_seen(&self, why: &Error) {
        self.now().blind = Some(why.code().to_string());
    }

    pub(crate) fn set_route(&self, opened: &Opened) {
        let route = (opened.source_address.clone(), opened.target_address.clone());
        let mut now = self.now();
        now.route = Some(route);
        now.slot = Some(opened.config.source.postgres.slot.clone());
        now.rules = Some(opened.config.alerts.as_slice().into());
        now.tags = Some(opened.config.tags.clone());
        let (source, target) = (&opened.config.source, &opened.config.target);
        let named = [&source.endpoint.connection, &target.endpoint.connection];
        now.connections = named.into_iter().flatten().cloned().collect();
    }

    /// What people have put on it, by a definition with which it did not begin yet.
    pub(crate) fn set_tags(&self, tags: &[String]) {
        self.now().tags = Some(tags.to_vec());
    }

    /// Remembers the gap, for an estimate.
    pub(super) fn note_gap(&self, gap: Option<u64>) {
        let at = Instant::now();
        let mut now = self.now();
        match gap {
            Some(gap) => now.gaps.push_back((at, gap)),
            None => now.gaps.clear(),
        }
        while now
            .gaps
            .front()
            .is_some_and(|(seen, _)| at - *seen > ESTIMATE_OVER)
        {
            now.gaps.pop_front();
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn status_of(board: &SharedBoard, at: Instant) -> Status {
    let board = board.lock().unwrap_or_else(PoisonError::into_inner);
    board.status(at)
}

/// How long until nothing is left, at the rate of the last minute; `None` where it does not shrink.
/// Log of which nothing is for the target is no backlog, however slowly the gap over it shrinks.
fn eta(
    gaps: &VecDeque<(Instant, u64)>,
    gap: Option<u64>,
    latency_seconds: Option<f64>,
) -> Option<f64> {
    let gap = gap?;
    if gap == 0 || latency_seconds == Some(0.0) {
        return Some(0.0);
    }
    let (first_at, first) = gaps.front()?;
    let (last_at, last) = gaps.back()?;
    let seconds = (*last_at - *first_at).as_secs_f64();
    let shrunk = first.checked_sub(*last)?;
    if shrunk == 0 || seconds < 1.0 {
        return None;
    }
    Some(gap as f64 / (shrunk as f64 / seconds))
}

/// The end of the source's log as a status knew it so long ago.
fn memory_of(status: &Status, ago: Duration) -> Option<LastKnown> {
    let known = status.source_lsn.map(|source_lsn| LastKnown {
        source_lsn,
        seconds_ago: 0.0,
    });
    let known = known.or_else(|| status.last_known.clone())?;
    Some(LastKnown {
        seconds_ago: known.seconds_ago + ago.as_secs_f64(),
        ..known
    })
}

/// What was known so long ago, with nothing in it that claims to be of now.
fn forgotten(mut status: Status, ago: Duration) -> Status {
    status.last_known = memory_of(&status, ago);
    status.trend = Trend::Unknown;
    status.source_lsn = None;
    status.received_lsn = None;
    status.confirmed_lsn = None;
    status.restart_lsn = None;
    status.gap_bytes = None;
    status.latency_seconds = None;
    status.latency_by_stage_seconds = None;
    status.slot = None;
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::VerificationRow;

    fn row(version: i64, state: DesiredState) -> PipelineRow {
        PipelineRow {
            key: Key::new("default", "shop"),
            mode: "full_load_and_cdc".to_owned(),
            definition: None,
            file: None,
            full_load_lsn: None,
            load_told: false,
            desired: Desired::now(state, "ann", None),
            created_at: clock::now(),
            created_by: "ann".to_owned(),
            updated_at: clock::now(),
            version,
        }
    }

    #[test]
    fn s35_another_definition_takes_back_nothing_that_was_wanted_meanwhile() {
        let member = Member::new(row(1, DesiredState::Running), Compared::default());
        // The store had this before it heard of the stop.
        let changed = row(2, DesiredState::Running);
        member.order(Desired::now(DesiredState::Stopped, "ben", None));
        member.redefine(changed);
        let (known, orders) = (member.row(), member.orders.borrow().clone());
        assert_eq!(known.desired.state, DesiredState::Stopped);
        assert_eq!(orders.desired, known.desired);
        assert_eq!((known.version, orders.version), (2, 2));
    }

    #[test]
    fn a_gap_of_which_nothing_is_for_the_target_is_caught_up() {
        let now = Instant::now();
        let gaps = VecDeque::from([(now, 2_060), (now + Duration::from_mins(1), 2_000)]);
        assert_eq!(eta(&gaps, Some(2_000), Some(0.0)), Some(0.0));
        assert_eq!(eta(&gaps, Some(2_000), Some(0.8)), Some(2_000.0));
        assert_eq!(eta(&gaps, None, Some(0.0)), None);
    }

    #[test]
    fn what_was_verified_before_a_load_says_nothing_of_what_it_brought() {
        let member = Member::new(row(1, DesiredState::Running), Compared::default());
        let compared = VerificationRow {
            id: 1,
            at: clock::now(),
            lsn: "0/500".to_owned(),
            position_type: "pg_lsn".to_owned(),
            whole: true,
            result: "identical".to_owned(),
            depth: "deep".to_owned(),
            rows: 7,
            seconds: 0.1,
            tables: serde_json::json!([]),
        };
        member.compared().take(&compared);
        let position = |text| Position::parse("pg_lsn", text).unwrap();
        member.set_full_load_lsn(position("0/400"), false);
        assert!(member.verified().is_some());
        member.set_full_load_lsn(position("0/600"), true);
        assert_eq!(member.verified(), None);
    }
}
