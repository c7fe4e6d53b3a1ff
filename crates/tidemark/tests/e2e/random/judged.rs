//! Whether what the program says is true: a table that streams is equal, or it is told of it that it is not.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemark_lab::compare::{Difference, TableOutcome};

use super::besides::Besides;
use super::{Story, say};

/// What is said of a table.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) state: String,
    pub(super) reason: String,
    /// Its rows in quarantine.
    pub(super) rows_aside: u64,
}

impl Story {
    /// Brings the target to what the source has by now; what is said of each table then.
    pub(super) async fn caught_up(&mut self) -> BTreeMap<String, Said> {
        let ran = self
            .stage
            .run(&["run", "FILE", "--until", "caught-up"])
            .await;
        self.told.push(ran.stderr.clone());
        // 3: tables are set aside.
        let has_ended = matches!(ran.code, Some(0 | 3));
        assert!(
            has_ended,
            "SEED={} {}\n{}",
            self.seed,
            self.story(),
            ran.stderr
        );
        let tables = self
            .stage
            .run(&["tables", "FILE", "--json"])
            .await
            .expect(0);
        let tables = tables.json()["data"]["tables"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = tables.as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| {
                let said = Said {
                    state: text(&row["state"]),
                    reason: text(&row["reason"]),
                    rows_aside: row["quarantined"].as_u64().unwrap_or_default(),
                };
                (text(&row["source"]), said)
            })
            .collect()
    }

    /// Nobody but the pipeline writes to the target, so whoever did is itself. Where the target's triggers
    /// fire they do what the source's have done.
    fn nobody_else_wrote(&self) {
        let code = "TM4034";
        let mut logs = self.told.iter();
        let is_said = logs.any(|text| text.contains(code)) || self.stage.log().contains(code);
        let may_be = self.besides == Besides::Unprivileged;
        assert!(
            !is_said || may_be,
            "SEED={} {code}: {}",
            self.seed,
            self.story()
        );
    }

    pub(super) async fn judge(&mut self, states: &BTreeMap<String, Said>, round: u64) {
        let mut comparison = self.carried.comparison(&self.stage).only("public", "marks");
        let (mut names, mut aside) = (Vec::new(), Vec::new());
        for table in &self.tables {
            let Some(said) = states.get(&format!("public.{}", table.name)) else {
                panic!(
                    "SEED={}: nobody carries {}: {states:?}",
                    self.seed, table.name
                );
            };
            if said.rows_aside > 0 {
                let rows = said.rows_aside;
                aside.push(format!("{}: {rows} rows in quarantine", table.name));
            } else if said.state == "streaming" {
                comparison = self.besides.add(comparison, self.carried, &table.name);
                continue;
            } else {
                aside.push(format!("{}: {}", table.name, said.reason));
            }
            if said.state != "streaming" {
                assert_eq!(
                    said.state, "quarantined",
                    "SEED={} {}",
                    self.seed, table.name
                );
                names.push(table.name.clone());
            }
        }
        self.nobody_else_wrote();
        let outcome = comparison.run().await.unwrap();
        drop(comparison);
        self.aside = names;
        assert!(
            outcome.tables.iter().all(|table| self.is_equal(table)),
            "SEED={} round {round}: {outcome}\naside: {aside:#?}\n{}",
            self.seed,
            self.story()
        );
        if !aside.is_empty() {
            say(&self.story());
        }
        for reason in aside {
            say(&format!("SEED={} round {round}: {reason}", self.seed));
            let code = reason.split(": ").nth(1).unwrap_or_default().to_owned();
            *self.reasons.entry(code).or_insert(0) += 1;
        }
    }

    /// Rows that are loaded where the old ones were may leave a column behind that the source has dropped
    /// by then, and not announced: its rows are equal all the same.
    fn is_equal(&self, outcome: &TableOutcome) -> bool {
        let mut tables = self.tables.iter();
        let is_partitioned =
            tables.any(|table| table.name == outcome.source.1 && table.is_partitioned);
        let may_be_left = is_partitioned || self.is_loaded_in_place;
        let is_left = |difference: &Difference| match difference {
            Difference::Structure(text) => {
                may_be_left && text.ends_with("is in the target only")
                    || self.besides.may_stand_alone(text)
            }
            _ => false,
        };
        outcome.is_identical() || outcome.different == 0 && outcome.differences.iter().all(is_left)
    }
}
