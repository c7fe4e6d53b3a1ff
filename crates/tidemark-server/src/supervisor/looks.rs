//! What every pipeline that runs looks like once a second: history for later, news for now.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use tidemark_core::clock;
use tidemark_core::status::TableStatus;

use super::{Supervisor, View};
use crate::news::Topic;
use crate::store::{Key, Sample};

/// After how many looks history is written down.
const WRITTEN_EVERY: usize = 10;

/// See the module's text.
#[derive(Default)]
pub(super) struct Looks {
    count: usize,
    /// What is not written down yet.
    waiting: Vec<Sample>,
    /// What readers of news know of those that run.
    told: BTreeMap<Key, Told>,
    /// Why they are as they are, as it was told last.
    reasons: BTreeMap<Key, Option<String>>,
}

impl Looks {
    /// Looks at all of them.
    pub(super) fn take(&mut self, supervisor: &Supervisor) {
        let shared = &supervisor.shared;
        let now = clock::now_us() / 1_000_000;
        let mut told = std::mem::take(&mut self.told);
        let mut reasons = std::mem::take(&mut self.reasons);
        for member in supervisor.members() {
            if member.alive().is_none() {
                continue;
            }
            let view = member.view();
            member.note_gap(view.status.gap_bytes);
            let (tenant, id) = (&member.key.tenant, &member.key.id);
            let lag = crate::api::lag_of(&member, &view);
            shared.news.say(tenant, id, Topic::Lag, &json!(lag));
            self.waiting.push(sample_of(&member.key, &view, now));
            // What a run has not looked at yet it looks at without another state.
            if reasons.remove(&member.key).unwrap_or_default() != view.reason {
                super::tell_state(shared, &member);
            }
            self.reasons.insert(member.key.clone(), view.reason.clone());
            let mut known = told.remove(&member.key).unwrap_or_default();
            if let Some((is_whole, tables)) = known.take(view.status.tables) {
                let data = json!({ "pipeline_id": id, "whole": is_whole, "tables": tables });
                shared.news.say(tenant, id, Topic::Tables, &data);
            }
            // Of one that does not run any more nothing is remembered.
            self.told.insert(member.key.clone(), known);
        }
        self.count += 1;
        if self.count.is_multiple_of(WRITTEN_EVERY) {
            shared.scribe.note_looks(std::mem::take(&mut self.waiting));
        }
    }
}

/// Tables of a pipeline as readers of news know them, by name on the source.
#[derive(Default)]
struct Told(HashMap<String, TableStatus>);

impl Told {
    /// What is to be told of tables, if anything: those that are otherwise than they were; all of them,
    /// and that there are no others, where some are gone or none was known.
    fn take(&mut self, tables: Vec<TableStatus>) -> Option<(bool, Vec<TableStatus>)> {
        let known = &mut self.0;
        let still = tables.iter().filter(|it| known.contains_key(&it.source));
        let is_gone = still.count() < known.len();
        let is_whole = is_gone || known.is_empty();
        if is_whole {
            known.clear();
        }
        let mut tables = tables;
        tables.retain(|table| known.get(&table.source) != Some(table));
        let named = tables.iter().map(|table| (table.source.clone(), table));
        known.extend(named.map(|(name, table)| (name, table.clone())));
        (is_gone || !tables.is_empty()).then_some((is_whole, tables))
    }
}

fn sample_of(key: &Key, view: &View, at: i64) -> Sample {
    let status = &view.status;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let totals = status.totals;
    Sample {
        key: key.clone(),
        at,
        gap_bytes: status.gap_bytes.map(number),
        latency_seconds: status.latency_seconds,
        source: status.source_lsn.map(|lsn| lsn.to_string()),
        processed: status.processed_lsn.map(|lsn| lsn.to_string()),
        retained_bytes: status.slot.as_ref().map(|slot| number(slot.retained_bytes)),
        changes: [totals.inserts, totals.updates, totals.deletes].map(number),
        state: view.state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_core::status::TableStatusState;

    use super::*;

    fn table(source: &str, changes: u64) -> TableStatus {
        TableStatus {
            source: source.to_owned(),
            target: source.to_owned(),
            state: TableStatusState::Streaming,
            reason: None,
            rows_loaded: 7,
            rows_estimated: Some(7),
            bytes_loaded: 70,
            chunks_loaded: 1,
            chunks: 1,
            changes,
            parked: 0,
            conflicts: 0,
            reconciled: None,
            quarantined: 0,
        }
    }

    #[test]
    fn only_tables_that_changed_are_told_and_all_where_some_are_gone() {
        let (a, b, c) = (table("p.a", 0), table("p.b", 0), table("p.c", 0));
        let mut told = Told::default();
        assert_eq!(told.take(Vec::new()), None);
        let both = vec![a.clone(), b.clone()];
        assert_eq!(told.take(both.clone()), Some((true, both.clone())));
        assert_eq!(told.take(both), None);
        let changed = table("p.b", 3);
        let now = vec![changed.clone(), a.clone()];
        assert_eq!(told.take(now), Some((false, vec![changed.clone()])));
        let now = vec![a.clone(), changed, c.clone()];
        assert_eq!(told.take(now), Some((false, vec![c.clone()])));
        let now = vec![a, c];
        assert_eq!(told.take(now.clone()), Some((true, now)));
        assert_eq!(told.take(Vec::new()), Some((true, Vec::new())));
    }
}
