//! Wires: cut after any byte, silent, slow.

use std::time::Duration;

use serde_json::Value;
use tidemark_lab::proxy::Direction;
use tidemark_lab::{Proxy, Random, wait_for};

use super::{Rig, retries};
use crate::asks::text;
use crate::oracle;
use crate::stage::PATIENCE;

/// Cuts a wire after some bytes, and waits until bytes go through a new connection.
async fn cut_once(proxy: &Proxy, direction: Direction, bytes: u64) {
    let before = proxy.counters().connections;
    proxy.cut_after(direction, bytes);
    wait_for(PATIENCE, "a connection after the cut", || async {
        Ok((proxy.counters().connections > before).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_k09_cuts_at_any_byte_cost_nothing() {
    let rig = Rig::new("fault_cuts").await;
    let run = rig.stage.start(&["run", "FILE"]);
    let mut random = Random::new(22);
    let mut any = async |rounds: u32, digits: u64| {
        for _ in 0..rounds {
            let proxy = [&rig.source_wire, &rig.target_wire][usize::from(random.below(2) == 1)];
            let direction = match random.below(2) {
                0 => Direction::ToServer,
                _ => Direction::ToClient,
            };
            let magnitude = 10_u64.pow(u32::try_from(1 + random.below(digits)).unwrap());
            cut_once(proxy, direction, 1 + random.below(magnitude)).await;
        }
    };
    // In the load up to a megabyte may go by before the cut; the stream is slower.
    any(12, 6).await;
    oracle::comes_through(&rig.stage).await;
    any(12, 4).await;
    rig.something_new_arrives().await;
    let log = rig.stage.log();
    assert!(retries(&rig.stage) > 3, "{log}");
    // One line for each attempt, and none of them a cry for help; a cut may hit the session with the lock alone.
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(count("\"level\":\"error\""), 0, "{log}");
    let others = count("\"msg\":\"check: ") + count("the lock is taken again");
    let warnings = count("\"level\":\"warn\"") - others;
    assert_eq!(warnings, count("; tries again in "), "{log}");
    rig.ends_well(run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_silent_partition_that_heals_costs_nothing() {
    let rig = Rig::new("fault_partition").await;
    let run = rig.streams().await;
    for wire in [&rig.source_wire, &rig.target_wire] {
        wire.partition();
        rig.backlog(150).await;
        wire.heal();
        rig.something_new_arrives().await;
    }
    rig.ends_well(run).await;
}

/// A wire that acknowledges and says nothing: TCP sees no fault, for hours.
#[tokio::test(flavor = "multi_thread")]
async fn f04_a_source_that_falls_silent_is_noticed_and_said() {
    let rig = Rig::new("fault_silence").await;
    let run = rig.streams().await;
    // Of something that was never known no last value is told.
    wait_for(PATIENCE, "the source's position", || async {
        let status = rig.stage.status().await;
        Ok(status["source_lsn"].is_string().then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", rig.stage.log()));
    rig.source_wire.partition();
    let said = |status: &Value| status["error"]["since"].is_string();
    let status = wait_for(PATIENCE, "the silence to be noticed", || async {
        let status = rig.stage.status().await;
        Ok(said(&status).then_some(status))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", rig.stage.log()));
    let code = status["error"]["code"].as_str().unwrap_or_default();
    assert!(code.starts_with("TM1"), "the source is blamed: {status}");
    let health = status["health"].as_str();
    assert!(
        ["unknown", "warning"].map(Some).contains(&health),
        "{status}"
    );
    assert!(status["latency_seconds"].is_null(), "{status}");
    assert!(status["gap_bytes"].is_null(), "{status}");
    assert!(
        status["last_known"]["seconds_ago"].as_f64() > Some(10.0),
        "{status}\n{}",
        rig.stage.log()
    );
    rig.source_wire.heal();
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_a_slow_link_carries_on_and_the_lag_is_shown() {
    let rig = Rig::new("fault_slow").await;
    let run = rig.streams().await;
    let before = retries(&rig.stage);
    // 125 kB in a second, with what each slice waits: more than the writers send.
    rig.source_wire.limit_rate(Some(200_000));
    rig.source_wire.delay(Duration::from_millis(300));
    rig.source_wire.slice(Some(100_000));
    let burst = "INSERT INTO mixed_scratch (v) SELECT repeat(md5(i::text), 8) \
                 FROM generate_series(1, 3000) i";
    rig.stage.source_sql(burst).await;
    wait_for(PATIENCE, "a lag of the slow link", || async {
        let status = rig.stage.status().await;
        Ok((status["gap_bytes"].as_u64() > Some(100_000)).then_some(()))
    })
    .await
    .unwrap();
    let count = "SELECT count(*) FROM mixed_scratch WHERE length(v) = 256";
    rig.stage.wait_for_target(count, "3000").await;
    rig.source_wire.limit_rate(None);
    rig.source_wire.delay(Duration::ZERO);
    rig.source_wire.slice(None);
    rig.something_new_arrives().await;
    // In pieces, which no parser of messages may mind.
    rig.source_wire.slice(Some(50));
    rig.target_wire.slice(Some(50));
    rig.something_new_arrives().await;
    rig.source_wire.slice(None);
    rig.target_wire.slice(None);
    assert_eq!(retries(&rig.stage), before, "{}", rig.stage.log());
    let walsenders = "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = ";
    let walsenders = format!("{walsenders}'tidemark_{}'", rig.stage.name);
    assert_eq!(text(&rig.stage.source, &walsenders).await.unwrap(), "1");
    rig.ends_well(run).await;
}
