//! Clocks that are wrong and jump; what is there must not depend on them.

use std::path::PathBuf;

use serde_json::Value;
use tidemark_lab::skip::skipped;
use tidemark_lab::wait_for;

use super::Rig;
use crate::oracle;
use crate::stage::PATIENCE;

/// The library that makes a process see another time, from the package `faketime`.
fn library() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?;
    let places = places.filter_map(|place| Some(place.ok()?.path().join("faketime")));
    places
        .chain([PathBuf::from("/usr/lib/faketime")])
        .map(|place| place.join("libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_a_clock_that_jumps_by_an_hour_changes_no_row_and_no_lag() {
    let name = "f39_a_clock_that_jumps_by_an_hour_changes_no_row_and_no_lag";
    let Some(library) = library() else {
        skipped(name, "the package faketime is not installed");
        return;
    };
    let rig = Rig::new("fault_clock").await;
    let clock = rig.stage.directory().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let mut command = rig.stage.command(&["run", "FILE"]);
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let run = rig.stage.spawn(command);
    oracle::comes_through(&rig.stage).await;
    for jump in ["+3600", "-3600", "+0"] {
        std::fs::write(&clock, format!("{jump}\n")).unwrap();
        rig.something_new_arrives().await;
        // Latency is measured on the source's clock, and comes back to what it is.
        let is_small = |latency: &Value| latency.as_f64().is_some_and(|s| (0.0..60.0).contains(&s));
        wait_for(
            PATIENCE,
            "a latency that is none of the clock's",
            || async {
                let status = rig.stage.status().await;
                let latency = &status["latency_seconds"];
                anyhow::ensure!(
                    latency.as_f64() >= Some(0.0) || latency.is_null(),
                    "{status}"
                );
                Ok(is_small(latency).then_some(()))
            },
        )
        .await
        .unwrap_or_else(|err| panic!("{jump}: {err:#}\n{}", rig.stage.log()));
    }
    rig.ends_well(run).await;
}
