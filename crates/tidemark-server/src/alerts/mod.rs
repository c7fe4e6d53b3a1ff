//! Alerts: rules of pipeline files, judged once a second, and what of it is told to people.
//!
//! ```text
//!   nothing ─(met)─► pending ─(for)─► firing ─(over for `resolve_after`)─► calm ─(an hour)─► nothing
//! ```
//!
//! What stands is in the store and moves there together with the event that tells of it, in one
//! transaction: a server that is killed neither repeats nor loses one. A rule that looks at something
//! unknown moves nothing: an alert that fires goes on, one that does not is not begun. What comes and
//! goes is told less and less often ([`state::calm_after`]). One that a person snoozes is there for all to
//! see, and nobody is sent a word of it before its time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tidemark_core::config::{AlertRule, AlertSeverity, AlertWhen};
use tidemark_core::status::Status;
use tidemark_core::{Result, clock};

use crate::api::auth::{hash_of, new_id};
use crate::news::Topic;
use crate::notify::{Kind, Letter};
use crate::store::{
    AlertMove, AlertRow, AlertState, Entry, EventRow, Key, Level, NewDelivery, Snooze, Store, hex,
};
use crate::supervisor::{Member, Rounds, Shared, Supervisor, View};
use judge::{Verdict, judge};
use state::step;

mod judge;
mod state;

/// By which an alert is known: pipeline and rule.
pub(crate) type Which = (Key, String);

/// See the module's text.
#[derive(Default)]
pub(crate) struct Alerts {
    standing: Mutex<BTreeMap<Which, AlertRow>>,
    /// Rules of which the last look knew what they look at.
    known: Mutex<BTreeSet<Which>>,
    /// Held from a look at what stands until what comes of it is written down.
    moving: tokio::sync::Mutex<Moving>,
}

/// What is being written down.
#[derive(Default)]
struct Moving {
    /// A batch of which nobody knows whether it is in: its answer was lost, or who waited for it is gone.
    unsettled: Option<(String, Vec<AlertMove>)>,
}

impl Alerts {
    /// What stood when the server ended.
    pub(crate) async fn load(store: &Store) -> Result<Alerts> {
        let rows = store.alerts().await?;
        let standing = rows.into_iter().map(|row| (row.which(), row)).collect();
        Ok(Alerts {
            standing: Mutex::new(standing),
            ..Alerts::default()
        })
    }

    /// Those that fire, those that matter most first.
    pub(crate) fn firing(&self, is_wanted: impl Fn(&Key) -> bool) -> Vec<AlertRow> {
        let standing = self.lock();
        let is_shown = |row: &&AlertRow| row.state == AlertState::Firing && is_wanted(&row.key);
        let mut rows: Vec<AlertRow> = standing.values().filter(is_shown).cloned().collect();
        rows.sort_by_cached_key(place);
        rows
    }

    /// How one stands, if it does.
    pub(crate) fn state(&self, key: &Key, rule: &AlertRule) -> Option<AlertState> {
        let which = (key.clone(), rule.id());
        self.lock().get(&which).map(|row| row.state)
    }

    /// Whether the last look knew what a rule looks at. While it does not, nothing is begun by the rule
    /// and nothing ends, so that without an alert one cannot say that all is well.
    pub(crate) fn is_known(&self, key: &Key, rule: &AlertRule) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&(key.clone(), rule.id()))
    }

    fn set_known(&self, judged: BTreeSet<Which>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = judged;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Which, AlertRow>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an alert is among those that fire: what matters most first, of those what fired first.
pub(crate) fn place(row: &AlertRow) -> (u8, i64, String) {
    let fired_us = row.fired_us.unwrap_or(row.since_us);
    (rank(&row.severity), fired_us, id_of(row))
}

fn rank(severity: &str) -> u8 {
    match severity {
        "critical" => 0,
        "warning" => 1,
        _ => 2,
    }
}

/// Judges until the supervisor is gone.
pub(crate) async fn watch(mut rounds: Rounds) {
    while let Some(supervisor) = rounds.next().await {
        let went = async {
            if let Err(err) = round(&supervisor).await {
                // What stands in memory is what the store has: the next round tries again.
                supervisor.shared.alerts.set_known(BTreeSet::new());
                tracing::warn!(code = %err.code(), error = %err, "alerts are not written down");
            }
        };
        rounds.turn(went).await;
    }
}

/// Looks at everything once.
async fn round(supervisor: &Supervisor) -> Result<()> {
    let mut moving = supervisor.shared.alerts.moving.lock().await;
    settle(supervisor, &mut moving).await?;
    let members = supervisor.members();
    let now = clock::now_us();
    let mut moves = Vec::new();
    let mut known = BTreeSet::new();
    for member in &members {
        let Some(rules) = member.rules() else {
            continue;
        };
        if rules.is_empty() && is_load_told(member) {
            continue;
        }
        let view = member.view();
        tell_load(supervisor, member, &view).await?;
        let missed = supervisor.shared.schedules.missed(&member.key);
        for rule in rules.iter() {
            let verdict = judge(member, &view, missed.as_ref(), rule, now);
            if verdict != Verdict::Unknown {
                known.insert((member.key.clone(), rule.id()));
            }
            moves.extend(one(supervisor, member, rule, &verdict, now)?);
        }
    }
    supervisor.shared.alerts.set_known(known);
    moves.extend(left_over(supervisor, &members, now)?);
    if moves.is_empty() {
        return Ok(());
    }
    move_all(supervisor, &mut moving, moves).await
}

/// Whether there is no load to be told of.
fn is_load_told(member: &Member) -> bool {
    let row = member.row();
    row.load_told || row.full_load_lsn.is_none()
}

/// Tells once that a load is in: whether it was told is in the store, and moves there together with the
/// messages.
async fn tell_load(supervisor: &Supervisor, member: &Member, view: &View) -> Result<()> {
    let row = member.row();
    let Some(position) = row.full_load_lsn.filter(|_| !row.load_told) else {
        return Ok(());
    };
    if !judge::is_loaded(view) {
        return Ok(());
    }
    let shared = &supervisor.shared;
    let letters = of_load(shared, member, &view.status)?;
    let told = shared
        .store
        .tell_load(&member.key, position.clone(), letters);
    if told.await? {
        member.load_is_told(&position);
        shared.notify.wake();
    }
    Ok(())
}

/// What goes to those who want to know that a load is in.
pub(crate) fn of_load(
    shared: &Shared,
    member: &Member,
    status: &Status,
) -> Result<Vec<NewDelivery>> {
    let mut letters = Vec::new();
    let rules = member.rules();
    let rules = rules.iter().flat_map(|rules| rules.iter());
    for rule in rules.filter(|rule| rule.when == AlertWhen::LoadFinished) {
        let letter = Letter {
            kind: Kind::LoadFinished,
            pipeline: Some(member.key.id.clone()),
            rule: Some(rule.id()),
            when: Some(rule.when.word().to_owned()),
            severity: Some(rule.severity.word().to_owned()),
            since_us: Some(clock::now_us()),
            text: judge::loaded(status, &member.key.id),
        };
        letters.extend(
            shared
                .notify
                .address(&member.key.tenant, &rule.notify, &letter)?,
        );
    }
    Ok(letters)
}

/// By this a person names an alert: no secret, and nothing to be read.
pub(crate) fn id_of(row: &AlertRow) -> String {
    let named = format!("{}/{}/{}", row.key.tenant, row.key.id, row.rule);
    let mut id = hex(&hash_of(&named));
    id.truncate(16);
    id
}

/// Tells nobody of an alert that fires for a while; without one it is told again at once. Gives it, if
/// there is one of this id.
pub(crate) async fn snooze(
    supervisor: &Supervisor,
    tenant: &str,
    id: &str,
    lasts: Option<Duration>,
    by: &str,
) -> Result<Option<AlertRow>> {
    let alerts = &supervisor.shared.alerts;
    let mut moving = alerts.moving.lock().await;
    settle(supervisor, &mut moving).await?;
    let firing = alerts.firing(|key| key.tenant == tenant);
    let Some(mut row) = firing.into_iter().find(|row| id_of(row) == id) else {
        return Ok(None);
    };
    let now = clock::now_us();
    if lasts.is_none() && !row.is_snoozed(now) {
        return Ok(Some(row));
    }
    let until_us = now + i64::try_from(lasts.unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
    row.snooze = Some(Snooze {
        until_us,
        by: by.to_owned(),
    });
    let rule = &row.rule;
    let text = match lasts {
        Some(_) => format!("{rule} is snoozed until {}", clock::rfc3339(until_us)),
        None => format!("{rule} is not snoozed any more"),
    };
    let told = Entry {
        by: Some(by.to_owned()),
        ..Entry::plain(&row.key, Level::Info, "alert_snoozed", text)
    };
    let moved = AlertMove {
        which: row.which(),
        row: Some(row.clone()),
        told: Some(told),
        deliveries: Vec::new(),
    };
    move_all(supervisor, &mut moving, vec![moved]).await?;
    Ok(Some(row))
}

/// Writes down what moves, and then has it so.
async fn move_all(
    supervisor: &Supervisor,
    moving: &mut Moving,
    moves: Vec<AlertMove>,
) -> Result<()> {
    let batch = new_id()?;
    moving.unsettled = Some((batch.clone(), moves.clone()));
    let told = supervisor.shared.store.move_alerts(batch, moves.clone());
    let told = told.await?;
    moving.unsettled = None;
    moved(supervisor, moves, told);
    Ok(())
}

/// Looks what became of a batch whose answer did not come: what is in has moved, and is not told again; what
/// is not is judged anew.
async fn settle(supervisor: &Supervisor, moving: &mut Moving) -> Result<()> {
    let Some((batch, _)) = &moving.unsettled else {
        return Ok(());
    };
    let told = supervisor.shared.store.alerts_moved(batch.clone()).await?;
    if let (Some((_, moves)), Some(told)) = (moving.unsettled.take(), told) {
        moved(supervisor, moves, told);
    }
    Ok(())
}

/// Has it as it is written down.
fn moved(supervisor: &Supervisor, moves: Vec<AlertMove>, told: Vec<(Key, EventRow)>) {
    supervisor.shared.notify.wake();
    let alerts = &supervisor.shared.alerts;
    for AlertMove { which, row, .. } in moves {
        let mut standing = alerts.lock();
        match row {
            Some(row) => standing.insert(which, row),
            None => standing.remove(&which),
        };
    }
    for (key, event) in told {
        if event.level == Level::Info {
            tracing::info!(pipeline = key.id, tenant = key.tenant, "{}", event.text);
        } else {
            tracing::warn!(pipeline = key.id, tenant = key.tenant, "{}", event.text);
        }
        let news = &supervisor.shared.news;
        news.say(&key.tenant, &key.id, Topic::Events, &json!(event));
    }
}

/// What one rule comes to, if anything moves.
fn one(
    supervisor: &Supervisor,
    member: &Member,
    rule: &AlertRule,
    verdict: &Verdict,
    now: i64,
) -> Result<Option<AlertMove>> {
    let which = (member.key.clone(), rule.id());
    let was = supervisor.shared.alerts.lock().get(&which).cloned();
    if let (Verdict::Met(said), Some(_)) = (verdict, &was) {
        // How it is now: not worth a transaction.
        if let Some(row) = supervisor.shared.alerts.lock().get_mut(&which) {
            row.text = said.text(row.since_us);
        }
    }
    let Some(next) = step(&member.key, rule, was.as_ref(), verdict, now) else {
        return Ok(None);
    };
    let told = next.row.as_ref().filter(|_| next.told);
    let is_over = told.is_some_and(|row| row.state != AlertState::Firing);
    let level = match rule.severity {
        _ if is_over => Level::Info,
        AlertSeverity::Critical => Level::Error,
        AlertSeverity::Warning => Level::Warn,
        AlertSeverity::Notice => Level::Info,
    };
    let kind = if is_over {
        Kind::AlertResolved
    } else {
        Kind::Alert
    };
    Ok(Some(AlertMove {
        which,
        told: told.map(|row| entry(&row.key, level, kind.word(), row.text.clone())),
        deliveries: match told {
            Some(row) => post(supervisor, row, kind, &row.text)?,
            None => Vec::new(),
        },
        row: next.row,
    }))
}

/// What goes to everybody who is told of an alert.
fn post(
    supervisor: &Supervisor,
    row: &AlertRow,
    kind: Kind,
    text: &str,
) -> Result<Vec<NewDelivery>> {
    let letter = Letter {
        kind,
        pipeline: Some(row.key.id.clone()),
        rule: Some(row.rule.clone()),
        when: Some(row.when.clone()),
        severity: Some(row.severity.clone()),
        since_us: Some(row.since_us),
        text: text.to_owned(),
    };
    let notify = &supervisor.shared.notify;
    notify.address(&row.key.tenant, &row.notify, &letter)
}

fn entry(key: &Key, level: Level, kind: &'static str, text: String) -> Entry {
    Entry {
        by: Some("engine".to_owned()),
        ..Entry::plain(key, level, kind, text)
    }
}

/// Alerts of pipelines that are gone, and of rules that somebody took away.
fn left_over(supervisor: &Supervisor, members: &[Arc<Member>], now: i64) -> Result<Vec<AlertMove>> {
    let standing = supervisor.shared.alerts.lock();
    let is_left = |row: &&AlertRow| match members.iter().find(|member| member.key == row.key) {
        None => true,
        // A definition that was not read yet says nothing of its rules.
        Some(member) => member
            .rules()
            .is_some_and(|rules| rules.iter().all(|rule| rule.id() != row.rule)),
    };
    let left = standing.values().filter(is_left);
    let over = |row: &AlertRow| {
        let lasted = judge::about((now - row.since_us).max(0) as f64 / 1e6);
        let text = format!(
            "✓ {}: {} is no alert any more after {lasted}",
            row.key.id, row.rule
        );
        let kind = Kind::AlertResolved;
        let (told, deliveries) = if row.state == AlertState::Firing {
            let posted = post(supervisor, row, kind, &text)?;
            (
                Some(entry(&row.key, Level::Info, kind.word(), text)),
                posted,
            )
        } else {
            (None, Vec::new())
        };
        Ok(AlertMove {
            which: row.which(),
            row: None,
            told,
            deliveries,
        })
    };
    left.map(over).collect()
}
