//! Rows that the target refuses: they go aside with what comes for them later, everything else goes on,
//! and once the cause is mended both sides are equal.

use serde_json::Value;
use tidemark_lab::wait_for;

use crate::stage::{PATIENCE, Stage};

mod causes;
mod order;
mod verbs;

/// The pipeline file with rows of all tables set aside one by one.
fn by_row(stage: &Stage, more: &str) {
    stage.write(&format!(
        "[stream]\non_row_error = \"quarantine_row\"\n{more}[verify]\nafter_load = \"off\"\n"
    ));
}

impl Stage {
    /// Waits until so many changes are in quarantine.
    async fn wait_for_kept(&self, count: usize) {
        let sql = "SELECT count(*) FROM tidemark.quarantine";
        self.wait_for_target(sql, &count.to_string()).await;
    }

    /// Rows in quarantine, as the program lists them.
    async fn kept(&self) -> Vec<Value> {
        let listed = self.run(&["quarantine", "list", "FILE", "--json"]).await;
        let rows = listed.expect(0).json()["data"]["rows"].clone();
        rows.as_array().unwrap().clone()
    }

    /// Everything that was on the source when this was asked is in, or aside.
    async fn wait_for_marker(&self) {
        self.source_sql("INSERT INTO marker DEFAULT VALUES").await;
        wait_for(PATIENCE, "the marker", || async {
            let newest = "SELECT coalesce(max(id), 0) FROM marker";
            let there = crate::asks::text(&self.target, newest).await?;
            let here = crate::asks::text(&self.source, newest).await?;
            Ok((there == here).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", self.log()));
    }
}
