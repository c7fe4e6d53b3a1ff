//! `verify` as a user runs it: it finds whatever differs and nothing else, while writers are busy, and
//! mends it.

use serde_json::Value;

use crate::stage::{Ran, Stage};

mod alarms;
mod differences;
mod interrupted;
mod planted;
mod referred;

impl Stage {
    /// `verify --json`, with more arguments.
    async fn verify(&self, more: &[&str]) -> Ran {
        let mut arguments = vec!["verify", "FILE", "--json"];
        arguments.extend(more);
        self.run(&arguments).await
    }
}

/// What `verify` said of a table.
#[track_caller]
fn table(ran: &Ran, name: &str) -> Value {
    let data = &ran.json()["data"];
    let tables = data["tables"].as_array();
    let found = tables.and_then(|all| all.iter().find(|table| table["source"] == name).cloned());
    found.unwrap_or_else(|| panic!("no {name} in {data}\n{}", ran.stderr))
}
