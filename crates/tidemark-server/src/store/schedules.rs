//! Schedules as they stand, and their runs: each due time is claimed once, by one row.

use tidemark_core::Result;

use super::journal::add_event;
use super::pipelines::{exists, write_desired};
use super::{Desired, Entry, EventRow, Failed, Key, NewDelivery, Row, Store, deliveries, params};

/// How many runs of a pipeline are kept.
const RUNS_KEPT: i64 = 1_000;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RunState {
    /// Claimed; it waits for the pipeline.
    Queued,
    /// The engine is being asked; whether it was is in the target.
    Starting,
    /// Rows are copied.
    Running,
    /// Everything is in.
    Completed,
    /// Not everything is.
    Failed,
    /// A person stopped the pipeline under it.
    Stopped,
    /// Left out: another went on, the pipeline was not to run, or a person said so.
    Skipped,
    /// Nobody was there at its time.
    Missed,
}

impl RunState {
    const ALL: [RunState; 8] = [
        RunState::Queued,
        RunState::Starting,
        RunState::Running,
        RunState::Completed,
        RunState::Failed,
        RunState::Stopped,
        RunState::Skipped,
        RunState::Missed,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Starting => "starting",
            RunState::Running => "running",
            RunState::Completed => "completed",
            RunState::Failed => "failed",
            RunState::Stopped => "stopped",
            RunState::Skipped => "skipped",
            RunState::Missed => "missed",
        }
    }

    fn of_word(word: &str) -> RunState {
        let known = RunState::ALL.into_iter().find(|state| state.word() == word);
        known.unwrap_or(RunState::Failed)
    }

    /// Whether something is still to come of it.
    pub(crate) fn is_open(self) -> bool {
        self <= RunState::Running
    }
}

/// A run that was, is or will be due. Times are microseconds since 1970 UTC.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScheduleRun {
    pub(crate) key: Key,
    /// By which it is known: no pipeline has two at one time.
    pub(crate) due_us: i64,
    pub(crate) state: RunState,
    /// `schedule`, or whoever asked for it or left it out.
    pub(crate) by: String,
    pub(crate) began_us: Option<i64>,
    pub(crate) ended_us: Option<i64>,
    /// In a sentence, where there is something to say.
    pub(crate) reason: Option<String>,
}

/// A schedule as it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) key: Key,
    /// What it says, to notice another one.
    pub(crate) text: String,
    /// All times until then were judged.
    pub(crate) judged_us: i64,
    /// By whom and since when nothing is begun.
    pub(crate) paused: Option<(String, i64)>,
}

const RUN: &str = "tenant, pipeline, due_us, state, by, began_us, ended_us, reason";

/// What is told of a run, as events have it.
pub(crate) type Told = Option<(Key, EventRow)>;

impl Store {
    /// All schedules.
    pub(crate) async fn schedules(&self) -> Result<Vec<Standing>> {
        self.with(|store, _| {
            let sql =
                "SELECT tenant, pipeline, text, judged_us, paused_by, paused_us FROM schedules";
            store.query(sql, &[], |row| {
                let (tenant, pipeline): (String, String) = (row.get(0)?, row.get(1)?);
                let by: Option<String> = row.get(4)?;
                let since: Option<i64> = row.get(5)?;
                Ok(Standing {
                    key: Key::new(tenant, pipeline),
                    text: row.get(2)?,
                    judged_us: row.get(3)?,
                    paused: by.zip(since),
                })
            })
        })
        .await
    }

    /// Keeps how a schedule stands; `false` where there is no such pipeline any more.
    pub(crate) async fn set_schedule(&self, standing: Standing) -> Result<bool> {
        self.with(move |store, _| {
            let key = &standing.key;
            if !exists(store, key)? {
                return Ok(false);
            }
            let (by, since) = standing.paused.unzip();
            let sql = "INSERT INTO schedules (tenant, pipeline, text, judged_us, paused_by, paused_us) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, pipeline) DO UPDATE SET \
                 text = excluded.text, judged_us = excluded.judged_us, \
                 paused_by = excluded.paused_by, paused_us = excluded.paused_us";
            let (text, judged) = (&standing.text, standing.judged_us);
            store.execute(sql, params![key.tenant, key.id, text, judged, by, since])?;
            Ok(true)
        })
        .await
    }

    /// Claims a time and says so; `None` where somebody did, or the pipeline is gone. What was judged
    /// moves in the same transaction.
    pub(crate) async fn claim_run(
        &self,
        run: ScheduleRun,
        judged_us: Option<i64>,
        told: Option<Entry>,
    ) -> Result<Option<Told>> {
        self.with(move |store, _| {
            let key = &run.key;
            if !exists(store, key)? {
                return Ok(None);
            }
            if let Some(judged_us) = judged_us {
                let sql = "UPDATE schedules SET judged_us = $3 WHERE tenant = $1 AND pipeline = $2";
                store.execute(sql, params![key.tenant, key.id, judged_us])?;
            }
            let sql = format!(
                "INSERT INTO schedule_runs ({RUN}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                 ON CONFLICT (tenant, pipeline, due_us) DO NOTHING"
            );
            let (state, ended) = (run.state.word(), run.ended_us);
            let row = params![
                key.tenant,
                key.id,
                run.due_us,
                state,
                run.by,
                run.began_us,
                ended,
                run.reason
            ];
            if store.execute(&sql, row)? == 0 {
                return Ok(None);
            }
            let sql = "DELETE FROM schedule_runs WHERE tenant = $1 AND pipeline = $2 AND due_us <= \
                 (SELECT due_us FROM schedule_runs WHERE tenant = $1 AND pipeline = $2 \
                 ORDER BY due_us DESC LIMIT 1 OFFSET $3)";
            store.execute(sql, params![key.tenant, key.id, RUNS_KEPT])?;
            told.map_or(Ok(Some(None)), |entry| add_event(store, entry).map(Some))
        })
        .await
    }

    /// Moves a run, with what is wanted of its pipeline from now on and what is told of it.
    pub(crate) async fn move_run(
        &self,
        run: ScheduleRun,
        desired: Option<Desired>,
        told: Option<Entry>,
        letters: Vec<NewDelivery>,
    ) -> Result<Told> {
        self.with(move |store, _| {
            let key = &run.key;
            let sql = "UPDATE schedule_runs SET state = $4, began_us = $5, ended_us = $6, reason = $7 \
                 WHERE tenant = $1 AND pipeline = $2 AND due_us = $3";
            let (state, began, ended) = (run.state.word(), run.began_us, run.ended_us);
            let row = params![key.tenant, key.id, run.due_us, state, began, ended, run.reason];
            store.execute(sql, row)?;
            if let Some(desired) = desired {
                write_desired(store, key, desired)?;
            }
            for letter in &letters {
                deliveries::add(store, letter)?;
            }
            told.map_or(Ok(None), |entry| add_event(store, entry))
        })
        .await
    }

    /// Runs of which something is still to come, and for each pipeline those that are due later.
    pub(crate) async fn runs_ahead(&self, now_us: i64) -> Result<Vec<ScheduleRun>> {
        self.with(move |store, _| {
            let sql = format!(
                "SELECT {RUN} FROM schedule_runs WHERE due_us > $1 \
                 OR state IN ('queued', 'starting', 'running') ORDER BY due_us"
            );
            store.query(&sql, params![now_us], read)
        })
        .await
    }

    /// Runs of a pipeline until an instant, newest first.
    pub(crate) async fn schedule_runs(
        &self,
        key: &Key,
        until_us: i64,
        limit: usize,
    ) -> Result<Vec<ScheduleRun>> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = format!(
                "SELECT {RUN} FROM schedule_runs WHERE tenant = $1 AND pipeline = $2 AND due_us <= $3 \
                 ORDER BY due_us DESC LIMIT $4"
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            store.query(&sql, params![key.tenant, key.id, until_us, limit], read)
        })
        .await
    }
}

fn read(row: &Row) -> Result<ScheduleRun, Failed> {
    let (tenant, pipeline): (String, String) = (row.get(0)?, row.get(1)?);
    let state: String = row.get(3)?;
    Ok(ScheduleRun {
        key: Key::new(tenant, pipeline),
        due_us: row.get(2)?,
        state: RunState::of_word(&state),
        by: row.get(4)?,
        began_us: row.get(5)?,
        ended_us: row.get(6)?,
        reason: row.get(7)?,
    })
}
