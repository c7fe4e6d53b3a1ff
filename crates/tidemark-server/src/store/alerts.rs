//! Alerts as they stand: each moves together with the event that tells of it.

use tidemark_core::Result;

use super::journal::{Batch, add_event};
use super::{Entry, EventRow, Key, NewDelivery, Store, deliveries, params};

/// How an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlertState {
    /// It is so, and not for long enough yet.
    Pending,
    /// People were told.
    Firing,
    /// Over; kept while it counts how often it fired.
    Calm,
}

impl AlertState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            AlertState::Pending => "pending",
            AlertState::Firing => "firing",
            AlertState::Calm => "calm",
        }
    }

    fn of_word(word: &str) -> AlertState {
        match word {
            "pending" => AlertState::Pending,
            "firing" => AlertState::Firing,
            _ => AlertState::Calm,
        }
    }
}

/// That nobody is to be told of an alert for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snooze {
    /// Microseconds since 1970 UTC.
    pub(crate) until_us: i64,
    /// Who said so.
    pub(crate) by: String,
}

/// An alert of a pipeline by a rule. Times are microseconds since 1970 UTC.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AlertRow {
    pub(crate) key: Key,
    /// By which the rule is known.
    pub(crate) rule: String,
    /// What it looks at.
    pub(crate) when: String,
    pub(crate) severity: String,
    pub(crate) state: AlertState,
    pub(crate) since_us: i64,
    pub(crate) fired_us: Option<i64>,
    /// Since when it is over, while that is not for long enough yet.
    pub(crate) over_us: Option<i64>,
    /// When it fired of late.
    pub(crate) fires: Vec<i64>,
    pub(crate) text: String,
    /// Who was told that it fires.
    pub(crate) notify: Vec<String>,
    pub(crate) snooze: Option<Snooze>,
}

impl AlertRow {
    /// By which it is known.
    pub(crate) fn which(&self) -> (Key, String) {
        (self.key.clone(), self.rule.clone())
    }

    /// Whether nobody is told of it at this time.
    pub(crate) fn is_snoozed(&self, now_us: i64) -> bool {
        let snooze = self.snooze.as_ref();
        snooze.is_some_and(|snooze| now_us < snooze.until_us)
    }
}

/// An alert as it stands from now on (`None`: not at all), and what is told of it.
#[derive(Clone, Debug)]
pub(crate) struct AlertMove {
    pub(crate) which: (Key, String),
    pub(crate) row: Option<AlertRow>,
    pub(crate) told: Option<Entry>,
    /// The same for the outbox.
    pub(crate) deliveries: Vec<NewDelivery>,
}

/// Moves of alerts, among what is written in batches.
const BATCHES: &str = "alerts";

impl Store {
    /// All that stand.
    pub(crate) async fn alerts(&self) -> Result<Vec<AlertRow>> {
        self.with(|store, _| {
            let sql = "SELECT tenant, pipeline, rule, condition, severity, state, since_us, fired_us, \
                 over_us, fires, text, notify, snoozed_until_us, snoozed_by FROM alerts";
            store.query(sql, &[], |row| {
                let (tenant, pipeline): (String, String) = (row.get(0)?, row.get(1)?);
                let (state, fires): (String, String) = (row.get(5)?, row.get(9)?);
                let notify: String = row.get(11)?;
                let (until, by): (Option<i64>, Option<String>) = (row.get(12)?, row.get(13)?);
                let snooze = until.zip(by);
                let fires = fires.split(' ').filter_map(|fired| fired.parse().ok());
                Ok(AlertRow {
                    key: Key::new(tenant, pipeline),
                    rule: row.get(2)?,
                    when: row.get(3)?,
                    severity: row.get(4)?,
                    state: AlertState::of_word(&state),
                    since_us: row.get(6)?,
                    fired_us: row.get(7)?,
                    over_us: row.get(8)?,
                    fires: fires.collect(),
                    text: row.get(10)?,
                    notify: serde_json::from_str(&notify).unwrap_or_default(),
                    snooze: snooze.map(|(until_us, by)| Snooze { until_us, by }),
                })
            })
        })
        .await
    }

    /// Moves alerts and writes down what is told of them, all of it or nothing. Gives the events. Whether a
    /// try that failed is in is asked by the name of its batch.
    pub(crate) async fn move_alerts(
        &self,
        batch: String,
        moves: Vec<AlertMove>,
    ) -> Result<Vec<(Key, EventRow)>> {
        self.with(move |store, _| {
            Batch::last(store, BATCHES)?;
            let mut told = Vec::new();
            for AlertMove {
                which: (key, rule),
                row,
                told: entry,
                deliveries,
            } in moves
            {
                let sql = "DELETE FROM alerts WHERE tenant = $1 AND pipeline = $2 AND rule = $3";
                store.execute(sql, params![key.tenant, key.id, rule])?;
                if let Some(row) = row {
                    let sql = "INSERT INTO alerts (tenant, pipeline, rule, condition, severity, state, \
                         since_us, fired_us, over_us, fires, text, notify, snoozed_until_us, snoozed_by) \
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
                    let notify = serde_json::json!(row.notify).to_string();
                    let fires: Vec<String> = row.fires.iter().map(ToString::to_string).collect();
                    let (state, fires) = (row.state.word(), fires.join(" "));
                    let (since, fired, over) = (row.since_us, row.fired_us, row.over_us);
                    let (until, by) = row.snooze.map(|it| (it.until_us, it.by)).unzip();
                    store.execute(
                        sql,
                        params![
                            key.tenant, key.id, rule, row.when, row.severity, state, since, fired,
                            over, fires, row.text, notify, until, by
                        ],
                    )?;
                }
                if let Some(entry) = entry {
                    told.extend(add_event(store, entry)?);
                }
                for delivery in &deliveries {
                    deliveries::add(store, delivery)?;
                }
            }
            Batch::remember(store, BATCHES, &batch, &told)?;
            Ok(told)
        })
        .await
    }

    /// The events of a batch, if it was the last one that was written; one that was not never will be.
    pub(crate) async fn alerts_moved(&self, batch: String) -> Result<Option<Vec<(Key, EventRow)>>> {
        self.with(move |store, _| {
            let last = Batch::last(store, BATCHES)?.filter(|last| last.0 == batch);
            last.map(|last| last.events(store)).transpose()
        })
        .await
    }
}
