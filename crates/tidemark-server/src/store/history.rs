//! The past of gap and latency, in three widths: a second for a quarter of an hour, ten seconds for a
//! day, five minutes for a month. A bucket has the least, the most and the last; a period in which
//! nothing was measured has no value, and one without a run no bucket.

use tidemark_core::Result;

use super::{Key, Store, params};

/// A width of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Second,
    TenSeconds,
    FiveMinutes,
}

impl Step {
    pub(crate) const ALL: [Step; 3] = [Step::Second, Step::TenSeconds, Step::FiveMinutes];

    /// How wide.
    pub(crate) fn seconds(self) -> i64 {
        match self {
            Step::Second => 1,
            Step::TenSeconds => 10,
            Step::FiveMinutes => 300,
        }
    }

    /// How long its buckets are kept.
    pub(crate) fn kept_seconds(self) -> i64 {
        match self {
            Step::Second => 15 * 60,
            Step::TenSeconds => 24 * 3600,
            Step::FiveMinutes => 30 * 24 * 3600,
        }
    }
}

/// One look at a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) key: Key,
    /// Seconds since 1970 UTC.
    pub(crate) at: i64,
    pub(crate) gap_bytes: Option<i64>,
    pub(crate) latency_seconds: Option<f64>,
    pub(crate) source: Option<String>,
    pub(crate) processed: Option<String>,
    pub(crate) retained_bytes: Option<i64>,
    /// Inserts, updates, deletes since the run began.
    pub(crate) changes: [i64; 3],
    pub(crate) state: String,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistoryRow {
    /// When it begins, in seconds since 1970 UTC.
    pub(crate) at: i64,
    pub(crate) gap: [Option<i64>; 3],
    pub(crate) latency: [Option<f64>; 3],
    pub(crate) source: Option<String>,
    pub(crate) processed: Option<String>,
    pub(crate) retained_bytes: Option<i64>,
    pub(crate) changes: [Option<i64>; 3],
    pub(crate) state: String,
}

/// Values come in order of time, so the last one written is the last one measured.
const ADD: &str = "INSERT INTO history VALUES ($1, $2, $3, $4, $5, $5, $5, $6, $6, $6, $7, $8, $9, $10, \
    $11, $12, $13) ON CONFLICT (tenant, pipeline, step, bucket) DO UPDATE SET \
    gap_min = CASE WHEN history.gap_min IS NULL OR excluded.gap_min < history.gap_min \
      THEN excluded.gap_min ELSE history.gap_min END, \
    gap_max = CASE WHEN history.gap_max IS NULL OR excluded.gap_max > history.gap_max \
      THEN excluded.gap_max ELSE history.gap_max END, \
    gap_last = excluded.gap_last, \
    latency_min = CASE WHEN history.latency_min IS NULL OR excluded.latency_min < history.latency_min \
      THEN excluded.latency_min ELSE history.latency_min END, \
    latency_max = CASE WHEN history.latency_max IS NULL OR excluded.latency_max > history.latency_max \
      THEN excluded.latency_max ELSE history.latency_max END, \
    latency_last = excluded.latency_last, source_last = excluded.source_last, \
    processed_last = excluded.processed_last, retained_last = excluded.retained_last, \
    inserts = excluded.inserts, updates = excluded.updates, deletes = excluded.deletes, \
    state = excluded.state";

impl Store {
    /// Writes looks down, in the order in which they were taken, and forgets what is too old.
    pub(crate) async fn add_samples(&self, samples: Vec<Sample>, now: i64) -> Result<()> {
        self.with(move |store, _| {
            for sample in &samples {
                for step in Step::ALL {
                    let width = step.seconds();
                    let bucket = sample.at.div_euclid(width) * width;
                    let [inserts, updates, deletes] = sample.changes;
                    let (gap, latency) = (sample.gap_bytes, sample.latency_seconds);
                    let (source, processed) = (&sample.source, &sample.processed);
                    let (tenant, id) = (&sample.key.tenant, &sample.key.id);
                    let (retained, state) = (sample.retained_bytes, &sample.state);
                    let row = params![
                        tenant, id, width, bucket, gap, latency, source, processed, retained,
                        inserts, updates, deletes, state
                    ];
                    store.execute(ADD, row)?;
                }
            }
            for step in Step::ALL {
                let sql = "DELETE FROM history WHERE step = $1 AND bucket < $2";
                store.execute(sql, params![step.seconds(), now - step.kept_seconds()])?;
            }
            Ok(())
        })
        .await
    }

    /// Buckets that begin in a period, oldest first.
    pub(crate) async fn history(
        &self,
        key: &Key,
        step: Step,
        from: i64,
        to: i64,
    ) -> Result<Vec<HistoryRow>> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "SELECT bucket, gap_min, gap_max, gap_last, latency_min, latency_max, latency_last, \
                 source_last, processed_last, retained_last, inserts, updates, deletes, state \
                 FROM history WHERE tenant = $1 AND pipeline = $2 AND step = $3 AND bucket >= $4 \
                 AND bucket < $5 ORDER BY bucket";
            store.query(sql,
                params![key.tenant, key.id, step.seconds(), from, to],
                |row| {
                    Ok(HistoryRow {
                        at: row.get(0)?,
                        gap: [row.get(1)?, row.get(2)?, row.get(3)?],
                        latency: [row.get(4)?, row.get(5)?, row.get(6)?],
                        source: row.get(7)?,
                        processed: row.get(8)?,
                        retained_bytes: row.get(9)?,
                        changes: [row.get(10)?, row.get(11)?, row.get(12)?],
                        state: row.get(13)?,
                    })
                },
            )
        })
        .await
    }
}
