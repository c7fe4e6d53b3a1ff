//! What is counted of a pipeline as it happens, for the metrics: once for each commit of the target,
//! never for a row. Counts go on over the runs of a pipeline, as long as the server lives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidemark_core::Error;
use tidemark_core::error::ErrorKind;
use tidemark_core::pipeline::observe::Committed;
use tidemark_core::status::StageLatency;

/// Upper bounds of the time that an answer takes, in seconds.
const ANSWERS: &[f64] = &[0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Of what passes between a commit on the source and one in the target, in seconds.
const LATENCIES: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0];
/// Of changes in a commit.
const ROWS: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// Values counted by upper bounds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram {
            bounds,
            counts: vec![0; bounds.len()],
            count: 0,
            sum: 0.0,
        }
    }

    /// For the time that answers take.
    pub(crate) fn of_answers() -> Histogram {
        Histogram::new(ANSWERS)
    }

    pub(crate) fn note(&mut self, value: f64) {
        for (count, bound) in self.counts.iter_mut().zip(self.bounds) {
            *count += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum += value;
    }

    /// How many values are at most as large as each bound; the last bound has no end.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (String, u64)> {
        let bounds = self.bounds.iter().map(ToString::to_string);
        let counts = self.counts.iter().copied();
        bounds.zip(counts).chain([("+Inf".to_owned(), self.count)])
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Measures {
    /// Changes in a commit of the target.
    pub(crate) batch_rows: Histogram,
    /// How long the target took for it, in seconds.
    pub(crate) batch_seconds: Histogram,
    /// From the commit on the source to the one in the target, of the oldest transaction.
    pub(crate) commit_to_apply: Histogram,
    /// The same by stage.
    pub(crate) stages: [(&'static str, Histogram); 3],
    /// When the position was committed last.
    pub(crate) committed_at: Option<Instant>,
    /// Errors by code and kind.
    pub(crate) errors: BTreeMap<(String, &'static str), u64>,
    /// Rows and bytes that loads copied, those of units that were given up as well.
    pub(crate) loaded: Option<(u64, u64)>,
    /// Rows that verifications have compared.
    pub(crate) rows_compared: u64,
}

impl Default for Measures {
    fn default() -> Measures {
        let latencies = || Histogram::new(LATENCIES);
        Measures {
            batch_rows: Histogram::new(ROWS),
            batch_seconds: latencies(),
            commit_to_apply: latencies(),
            stages: ["read", "queue", "apply"].map(|stage| (stage, latencies())),
            committed_at: None,
            errors: BTreeMap::new(),
            loaded: None,
            rows_compared: 0,
        }
    }
}

impl Measures {
    /// A commit of the target; one that records a position alone is no batch.
    pub(crate) fn committed(
        &mut self,
        committed: &Committed,
        latency: Option<(Duration, StageLatency)>,
    ) {
        self.committed_at = Some(Instant::now());
        let rows: u64 = committed.changes.iter().map(|(_, count)| count).sum();
        if rows == 0 {
            return;
        }
        self.batch_rows.note(rows as f64);
        self.batch_seconds.note(committed.took.as_secs_f64());
        if let Some((age, stages)) = latency {
            self.commit_to_apply.note(age.as_secs_f64());
            let seconds = [stages.read, stages.queue, stages.apply];
            for ((_, histogram), seconds) in self.stages.iter_mut().zip(seconds) {
                histogram.note(seconds);
            }
        }
    }

    pub(crate) fn failed(&mut self, error: &Error) {
        let class = match error.kind() {
            ErrorKind::Transient => "transient",
            ErrorKind::Data => "data",
            ErrorKind::Definite => "definite",
        };
        *self
            .errors
            .entry((error.code().to_string(), class))
            .or_default() += 1;
    }

    pub(crate) fn copied(&mut self, rows: u64, bytes: u64) {
        let (all_rows, all_bytes) = self.loaded.unwrap_or_default();
        self.loaded = Some((all_rows + rows, all_bytes + bytes));
    }
}

#[cfg(test)]
mod tests {
    use tidemark_core::catalogue::codes;
    use tidemark_core::position::{Lsn, Position};
    use tidemark_core::schema::TableName;
    use tidemark_core::target::Applied;

    use super::*;

    fn commit(rows: u64) -> Committed {
        Committed {
            position: Position::PgLsn(Lsn(7)),
            transactions: 1,
            applied: Applied::default(),
            oldest_commit_us: Some(1),
            queued: Duration::ZERO,
            took: Duration::from_millis(40),
            changes: vec![(TableName::new("public", "orders"), rows)],
            parked: Vec::new(),
        }
    }

    #[test]
    fn a_commit_counts_once_and_a_position_alone_is_no_batch() {
        let mut measures = Measures::default();
        measures.committed(&commit(0), None);
        assert_eq!(measures.batch_rows.count, 0);
        assert!(measures.committed_at.is_some());
        let stages = StageLatency {
            read: 0.3,
            queue: 0.16,
            apply: 0.04,
        };
        measures.committed(&commit(12), Some((Duration::from_millis(500), stages)));
        measures.committed(&commit(3), None);
        assert_eq!(
            (measures.batch_rows.count, measures.batch_rows.sum),
            (2, 15.0)
        );
        let counts: Vec<u64> = measures.batch_rows.buckets().map(|(_, n)| n).collect();
        assert_eq!(counts, [0, 1, 2, 2, 2, 2, 2, 2]);
        // What cannot be dated is in no latency.
        assert_eq!(measures.commit_to_apply.count, 1);
        assert!(measures.stages.iter().all(|(_, stage)| stage.count == 1));
    }

    #[test]
    fn errors_are_counted_by_code_and_class() {
        let mut measures = Measures::default();
        let lost = Error::transient(codes::SOURCE_UNREACHABLE, "gone");
        measures.failed(&lost);
        measures.failed(&lost);
        measures.failed(&Error::definite(codes::INTERNAL, "x"));
        let counted: Vec<u64> = measures.errors.values().copied().collect();
        assert_eq!(counted, [2, 1]);
        assert_eq!(measures.errors[&("TM1001".to_owned(), "transient")], 2);
    }
}
