//! Schedules: full loads that begin by themselves, judged once a second.
//!
//! ```text
//!   due ─► claimed ─► queued ─► (starting) ─► running ─► completed, failed, stopped
//!             └─► skipped, missed
//! ```
//!
//! A time is claimed by a row of its own in the store, before anything else: whoever comes second finds
//! it there, so that no time brings two runs, whatever restarts and wherever clocks jump. What has begun
//! is in the store and in the target, and is looked at until it has ended ([`step`]): a server that is
//! killed goes on with it. A pipeline that is a full load alone is started; one that streams copies all
//! its tables anew beside the old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tidemark_core::catalogue::codes;
use tidemark_core::schedule::Schedule;
use tidemark_core::{Error, Result, clock};
use tokio::time::Instant;

use crate::metrics::Scheduled;
use crate::news::{News, Topic};
use crate::store::{
    Desired, DesiredState, Entry, Key, Level, NewDelivery, RunState, ScheduleRun, Standing, Store,
};
use crate::supervisor::{Member, Rounds, Shared, Supervisor, open};
use judge::{Judged, Situation, judge};

pub(crate) use judge::shown;

mod judge;
mod step;
#[cfg(test)]
mod tests;

/// How often a definition is read again that could not be.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// How many times to come are looked at for one that nobody left out.
const LOOKED_AHEAD: usize = 20;
/// Who begins a run that is due.
pub(crate) const BY: &str = "schedule";

/// See the module's text.
pub(crate) struct Schedules {
    store: Store,
    news: Arc<News>,
    inner: Mutex<Inner>,
    /// Held from a look at what stands until what comes of it is written down.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Inner {
    /// What definitions say.
    read: BTreeMap<Key, Read>,
    standing: BTreeMap<Key, Standing>,
    /// Runs that have not ended, and times to come that somebody left out.
    ahead: BTreeMap<(Key, i64), ScheduleRun>,
    /// The newest run.
    last: BTreeMap<Key, ScheduleRun>,
    /// Pipelines of which a run is being moved.
    at_work: BTreeSet<Key>,
    /// How runs ended since the server began.
    ended: BTreeMap<(Key, &'static str), u64>,
    /// The store may have runs that are not known here: the answer to a claim was lost.
    is_behind: bool,
}

struct Read {
    version: i64,
    /// Another pipeline of the same name begins with the same version.
    created_at: String,
    at: Instant,
    found: Known,
}

/// What is known of a pipeline's schedule.
#[derive(Clone)]
pub(crate) enum Known {
    /// The definition was not read, or could not be.
    Unread,
    /// It has none.
    Without,
    /// It has this one.
    With(Arc<Schedule>),
}

impl Known {
    fn schedule(self) -> Option<Arc<Schedule>> {
        match self {
            Known::With(schedule) => Some(schedule),
            Known::Unread | Known::Without => None,
        }
    }
}

impl Schedules {
    /// As the last server left them.
    pub(crate) async fn load(store: Store, news: Arc<News>, now_us: i64) -> Result<Schedules> {
        let mut inner = Inner::default();
        for standing in store.schedules().await? {
            let last = store.schedule_runs(&standing.key, now_us, 1).await?;
            if let Some(last) = last.into_iter().next() {
                inner.last.insert(standing.key.clone(), last);
            }
            inner.standing.insert(standing.key.clone(), standing);
        }
        for run in store.runs_ahead(now_us).await? {
            inner.ahead.insert((run.key.clone(), run.due_us), run);
        }
        Ok(Schedules {
            store,
            news,
            inner: Mutex::new(inner),
            changing: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pipeline's definition says.
    pub(crate) fn of(&self, key: &Key) -> Known {
        let inner = self.lock();
        let read = inner.read.get(key);
        read.map_or(Known::Unread, |read| read.found.clone())
    }

    /// By whom and since when a schedule begins nothing.
    pub(crate) fn paused(&self, key: &Key) -> Option<(String, i64)> {
        self.lock().standing.get(key)?.paused.clone()
    }

    /// The newest run.
    pub(crate) fn last(&self, key: &Key) -> Option<ScheduleRun> {
        self.lock().last.get(key).cloned()
    }

    /// The last time that was due, where it brought no run; told until one begins.
    pub(crate) fn missed(&self, key: &Key) -> Option<ScheduleRun> {
        let last = self.last(key)?;
        let is_missed =
            last.state == RunState::Missed || (last.state == RunState::Skipped && last.by == BY);
        is_missed.then_some(last)
    }

    /// The next times, each with whoever left it out.
    pub(crate) fn next(
        &self,
        key: &Key,
        schedule: &Schedule,
        now_us: i64,
        count: usize,
    ) -> Vec<(i64, Option<String>)> {
        let inner = self.lock();
        let times = schedule.next(now_us, count).into_iter();
        let by = |time| Some(inner.ahead.get(&(key.clone(), time))?.by.clone());
        times.map(|time| (time, by(time))).collect()
    }

    /// What metrics tell of pipelines.
    pub(crate) fn scheduled(&self, members: &[Arc<Member>], now_us: i64) -> Scheduled {
        let next = members.iter().filter_map(|member| {
            let schedule = self.of(&member.key).schedule()?;
            if self.paused(&member.key).is_some() {
                return None;
            }
            let next = self.next(&member.key, &schedule, now_us, LOOKED_AHEAD);
            let (at, _) = next.into_iter().find(|(_, by)| by.is_none())?;
            Some((member.key.clone(), at))
        });
        let next = next.collect();
        let with_schedule = members.iter().filter_map(|member| {
            self.of(&member.key).schedule()?;
            let is_missed = self.missed(&member.key).is_some();
            Some((member.key.clone(), is_missed))
        });
        let missed = with_schedule.collect();
        let is_asked = |key: &Key| members.iter().any(|member| member.key == *key);
        let mut ended = self.lock().ended.clone();
        ended.retain(|(key, _), _| is_asked(key));
        Scheduled {
            next,
            missed,
            ended,
        }
    }

    /// Runs of a pipeline that have not ended, the first first.
    pub(crate) fn open(&self, key: &Key) -> Vec<ScheduleRun> {
        let inner = self.lock();
        let ours = inner
            .ahead
            .range((key.clone(), i64::MIN)..=(key.clone(), i64::MAX));
        let open = ours.filter(|(_, run)| run.state.is_open());
        open.map(|(_, run)| run.clone()).collect()
    }

    /// Takes a schedule in that is new or another: what was due before it says so is no concern of it.
    /// Gives until when it was judged; `None` while it is paused, or where the pipeline is gone.
    async fn judged_until(
        &self,
        key: &Key,
        schedule: &Schedule,
        now_us: i64,
    ) -> Result<Option<i64>> {
        let _changing = self.changing.lock().await;
        let text = format!("{} {}", schedule.text, schedule.zone().unwrap_or_default());
        let known = self.lock().standing.get(key).cloned();
        let standing = match known {
            Some(standing) if standing.paused.is_some() && standing.text == text => {
                return Ok(None);
            }
            // A clock that went back: what was claimed stays claimed.
            Some(standing) if standing.text == text && standing.judged_us <= now_us => {
                return Ok(Some(standing.judged_us));
            }
            Some(standing) => Standing {
                text,
                judged_us: now_us,
                ..standing
            },
            None => Standing {
                key: key.clone(),
                text,
                judged_us: now_us,
                paused: None,
            },
        };
        let is_paused = standing.paused.is_some();
        let is_kept = self.keep(standing).await?;
        Ok((is_kept && !is_paused).then_some(now_us))
    }

    async fn keep(&self, standing: Standing) -> Result<bool> {
        let is_kept = self.store.set_schedule(standing.clone()).await?;
        if is_kept {
            self.lock().standing.insert(standing.key.clone(), standing);
        }
        Ok(is_kept)
    }

    /// Judges one schedule and claims what is due.
    async fn look(
        &self,
        key: &Key,
        schedule: &Schedule,
        now_us: i64,
        situation: &Situation,
    ) -> Result<()> {
        self.catch_up(now_us).await?;
        let Some(judged_us) = self.judged_until(key, schedule, now_us).await? else {
            return Ok(());
        };
        let Some(judged) = judge(schedule, judged_us, now_us, situation) else {
            return Ok(());
        };
        let due_us = judged.due_us;
        let told = told(key, &judged);
        let run = ScheduleRun {
            key: key.clone(),
            due_us,
            state: judged.state,
            by: BY.to_owned(),
            began_us: None,
            ended_us: (!judged.state.is_open()).then_some(now_us),
            reason: judged.reason,
        };
        self.claim(run, Some(due_us), told).await?;
        if let Some(standing) = self.lock().standing.get_mut(key) {
            standing.judged_us = due_us;
        }
        Ok(())
    }

    /// Claims a time; `false` where that was done before.
    async fn claim(
        &self,
        run: ScheduleRun,
        judged_us: Option<i64>,
        told: Option<Entry>,
    ) -> Result<bool> {
        let claimed = self.store.claim_run(run.clone(), judged_us, told).await;
        if let Ok(Some(told)) = claimed {
            self.take_in(run);
            self.say(told);
            return Ok(true);
        }
        self.lock().is_behind = true;
        claimed.map(|_| false)
    }

    /// Takes in what the store has and memory has not.
    async fn catch_up(&self, now_us: i64) -> Result<()> {
        let (known, keys): (BTreeSet<(Key, i64)>, Vec<Key>) = {
            let mut inner = self.lock();
            if !std::mem::take(&mut inner.is_behind) {
                return Ok(());
            }
            let known = inner.ahead.keys().cloned().collect();
            (known, inner.standing.keys().cloned().collect())
        };
        let found = async {
            let mut found = self.store.runs_ahead(now_us).await?;
            for key in &keys {
                found.extend(self.store.schedule_runs(key, now_us, 1).await?);
            }
            Ok(found)
        };
        let found = found.await.inspect_err(|_| self.lock().is_behind = true)?;
        for run in found {
            let which = (run.key.clone(), run.due_us);
            let last = self.last(&run.key).map(|last| last.due_us);
            let is_new = run.state.is_open() || last.is_none_or(|last| last < run.due_us);
            // One that was known may have ended since the store was read.
            if is_new && !known.contains(&which) && !self.lock().ahead.contains_key(&which) {
                self.take_in(run);
            }
        }
        Ok(())
    }

    /// Moves a run, with what is wanted of its pipeline from now on.
    async fn set(
        &self,
        run: ScheduleRun,
        desired: Option<Desired>,
        told: Option<Entry>,
    ) -> Result<()> {
        self.set_and_send(run, desired, told, Vec::new()).await
    }

    /// The same, with messages that go out when it is so.
    async fn set_and_send(
        &self,
        run: ScheduleRun,
        desired: Option<Desired>,
        told: Option<Entry>,
        letters: Vec<NewDelivery>,
    ) -> Result<()> {
        let moved = self.store.move_run(run.clone(), desired, told, letters);
        let told = moved.await?;
        self.take_in(run);
        self.say(told);
        Ok(())
    }

    fn take_in(&self, run: ScheduleRun) {
        let mut inner = self.lock();
        let which = (run.key.clone(), run.due_us);
        let is_ahead = run.state.is_open() || run.by != BY && run.state == RunState::Skipped;
        if is_ahead {
            inner.ahead.insert(which, run.clone());
        } else {
            inner.ahead.remove(&which);
        }
        if !run.state.is_open() {
            let count = inner.ended.entry((run.key.clone(), run.state.word()));
            *count.or_insert(0) += 1;
        }
        let is_newest = |last: &ScheduleRun| last.due_us <= run.due_us;
        let left_out = run.by != BY && run.state == RunState::Skipped;
        if !left_out && inner.last.get(&run.key).is_none_or(is_newest) {
            inner.last.insert(run.key.clone(), run);
        }
    }

    fn say(&self, told: crate::store::Told) {
        if let Some((key, event)) = told {
            tracing::info!(pipeline = key.id, tenant = key.tenant, "{}", event.text);
            self.news
                .say(&key.tenant, &key.id, Topic::Events, &json!(event));
        }
    }

    /// Forgets a pipeline that is gone: one that is defined under its name has a schedule of its own.
    pub(crate) fn forget(&self, key: &Key) {
        let mut inner = self.lock();
        inner.read.remove(key);
        inner.standing.remove(key);
        inner.last.remove(key);
        inner.ended.retain(|(of, _), _| of != key);
        inner.ahead.retain(|(of, _), _| of != key);
    }

    /// Forgets pipelines that are gone, and times left out that have passed.
    fn tidy(&self, members: &[Arc<Member>], now_us: i64) {
        let mut inner = self.lock();
        let keys: BTreeSet<&Key> = members.iter().map(|member| &member.key).collect();
        let Inner {
            read,
            standing,
            ahead,
            last,
            ended,
            ..
        } = &mut *inner;
        read.retain(|key, _| keys.contains(key));
        standing.retain(|key, _| keys.contains(key));
        last.retain(|key, _| keys.contains(key));
        ended.retain(|(key, _), _| keys.contains(key));
        ahead.retain(|(key, due_us), run| {
            keys.contains(key) && (run.state.is_open() || *due_us > now_us)
        });
    }

    /// Begins nothing by itself from now on.
    pub(crate) async fn pause(
        &self,
        key: &Key,
        schedule: &Schedule,
        by: &str,
        now_us: i64,
    ) -> Result<()> {
        // It may be younger than the last look at it.
        self.judged_until(key, schedule, now_us).await?;
        self.change(key, |standing| {
            standing.paused.get_or_insert((by.to_owned(), now_us));
        })
        .await
    }

    /// Begins again what is due from now on.
    pub(crate) async fn resume(&self, key: &Key, now_us: i64) -> Result<()> {
        self.change(key, |standing| {
            if standing.paused.take().is_some() {
                standing.judged_us = now_us;
            }
        })
        .await
    }

    async fn change(&self, key: &Key, change: impl FnOnce(&mut Standing)) -> Result<()> {
        let _changing = self.changing.lock().await;
        let known = self.lock().standing.get(key).cloned();
        let Some(mut standing) = known else {
            let text = "the schedule was not read yet";
            return Err(Error::transient(codes::API_CONFLICT, text));
        };
        change(&mut standing);
        self.keep(standing).await.map(drop)
    }

    /// Leaves the next time out that is not left out yet. Gives it.
    pub(crate) async fn skip_next(
        &self,
        key: &Key,
        schedule: &Schedule,
        by: &str,
        now_us: i64,
    ) -> Result<i64> {
        let next = self.next(key, schedule, now_us, LOOKED_AHEAD).into_iter();
        let mut left = next.filter(|(_, by)| by.is_none());
        let Some((due_us, _)) = left.next() else {
            let text = "the next runs are left out already";
            return Err(Error::definite(codes::API_CONFLICT, text));
        };
        let run = ScheduleRun {
            key: key.clone(),
            due_us,
            state: RunState::Skipped,
            by: by.to_owned(),
            began_us: None,
            ended_us: Some(now_us),
            reason: Some(format!("{by} left it out")),
        };
        let text = format!("the load that is due {} will be left out", shown(due_us));
        let told = Entry {
            by: Some(by.to_owned()),
            ..Entry::plain(key, Level::Info, "schedule", text)
        };
        if !self.claim(run, None, Some(told)).await? {
            let text = format!("the load of {} is due at this moment", key.id);
            return Err(Error::definite(codes::API_CONFLICT, text));
        }
        Ok(due_us)
    }

    /// Begins a run now, as if it were due. Gives its time.
    pub(crate) async fn run_now(&self, member: &Member, by: &str, now_us: i64) -> Result<i64> {
        let why = match self.situation(member) {
            Situation::Free => None,
            Situation::Busy(why) | Situation::Full(why) | Situation::Off(why) => Some(why),
        };
        if let Some(why) = why {
            let text = format!("{} cannot be loaded now: {why}", member.key.id);
            return Err(Error::definite(codes::API_CONFLICT, text));
        }
        let run = ScheduleRun {
            key: member.key.clone(),
            due_us: now_us,
            state: RunState::Queued,
            by: by.to_owned(),
            began_us: None,
            ended_us: None,
            reason: None,
        };
        if !self.claim(run, None, None).await? {
            let text = format!("a load of {} is due at this moment", member.key.id);
            return Err(Error::definite(codes::API_CONFLICT, text));
        }
        Ok(now_us)
    }

    /// How a pipeline stands for a run.
    fn situation(&self, member: &Member) -> Situation {
        let desired = member.row().desired;
        match desired.state {
            DesiredState::Draft => return Situation::Off("it was never started".to_owned()),
            DesiredState::Stopped | DesiredState::Paused => {
                let text = format!("it is {} by {}", desired.state.word(), desired.by);
                return Situation::Off(text);
            }
            DesiredState::Running | DesiredState::Completed => {}
        }
        let open = self.open(&member.key);
        if open.iter().any(|run| run.state == RunState::Queued) {
            return Situation::Full("another waits already".to_owned());
        }
        if let Some(run) = open.first() {
            return Situation::Busy(format!("the load of {} goes on", shown(run.due_us)));
        }
        let state = member.view().state;
        let streams = step::streams(member);
        match state.as_str() {
            "failed" if streams => Situation::Off("it is failed, and does not stream".to_owned()),
            "failed" | "streaming" | "completed" => Situation::Free,
            _ if !streams && desired.state == DesiredState::Completed => Situation::Free,
            state if streams => Situation::Busy(format!("it is {state}")),
            _ => Situation::Busy(format!("a load of {} goes on", desired.by)),
        }
    }
}

/// What is said of a time that was judged, if anything.
fn told(key: &Key, judged: &Judged) -> Option<Entry> {
    let due = shown(judged.due_us);
    let reason = judged.reason.clone().unwrap_or_default();
    let (kind, text) = match judged.state {
        RunState::Queued if !judged.is_late => return None,
        RunState::Queued => (
            "schedule_missed",
            format!("the load that was due {due} is {reason}"),
        ),
        RunState::Missed => (
            "schedule_missed",
            format!("the load that was due {due} is left out: {reason}"),
        ),
        _ => (
            "schedule",
            format!("the load that was due {due} is left out: {reason}"),
        ),
    };
    Some(Entry {
        by: Some(BY.to_owned()),
        ..Entry::plain(key, Level::Warn, kind, text)
    })
}

/// Judges until the supervisor is gone.
pub(crate) async fn watch(mut rounds: Rounds) {
    while let Some(supervisor) = rounds.next().await {
        rounds.turn(round(&supervisor)).await;
    }
}

/// Looks at all pipelines.
async fn round(supervisor: &Arc<Supervisor>) {
    let now_us = clock::now_us();
    let members = supervisor.members();
    supervisor.shared.schedules.tidy(&members, now_us);
    for member in &members {
        if let Err(err) = one(supervisor, member, now_us).await {
            // What is in memory is what the store has: the next round tries again.
            let pipeline = member.key.id.as_str();
            tracing::warn!(pipeline, code = %err.code(), error = %err, "a schedule is not judged");
        }
    }
}

/// Looks at one pipeline.
async fn one(supervisor: &Arc<Supervisor>, member: &Arc<Member>, now_us: i64) -> Result<()> {
    let schedules = &supervisor.shared.schedules;
    if let Some(schedule) = definition(&supervisor.shared, member).await {
        let situation = schedules.situation(member);
        schedules
            .look(&member.key, &schedule, now_us, &situation)
            .await?;
    }
    step::go_on(supervisor, member);
    Ok(())
}

/// What the definition says at this version of it; read where that was not done yet.
pub(crate) async fn definition(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
) -> Option<Arc<Schedule>> {
    let schedules = &shared.schedules;
    let row = member.row();
    {
        let inner = schedules.lock();
        if let Some(read) = inner.read.get(&member.key)
            && (read.version, read.created_at.as_str()) == (row.version, row.created_at.as_str())
            && (!matches!(read.found, Known::Unread) || read.at.elapsed() < READ_AGAIN)
        {
            return read.found.clone().schedule();
        }
    }
    let opened = open(shared, member).await;
    let found = match opened {
        Ok(opened) => match opened.config.schedule {
            Some(schedule) => Known::With(Arc::new(schedule)),
            None => Known::Without,
        },
        Err(err) => {
            // Its life says what is wrong with it.
            tracing::debug!(pipeline = member.key.id, error = %err, "no schedule is read");
            Known::Unread
        }
    };
    let read = Read {
        version: row.version,
        created_at: row.created_at,
        at: Instant::now(),
        found: found.clone(),
    };
    schedules.lock().read.insert(member.key.clone(), read);
    found.schedule()
}
