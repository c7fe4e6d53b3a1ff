//! Kills in the middle of a load, at moments that come by themselves.

use tidemark_lab::wait_for;

use super::Rig;
use crate::oracle;
use crate::stage::{PATIENCE, Running, Stage};

/// `keyed` is cut by key (its rows lie in the key's order), `pile` by blocks (it has no key).
const LARGE: &str = "CREATE TABLE large (id int PRIMARY KEY, v text);
    INSERT INTO large SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 60000) i;
    CREATE TABLE pile (id int, v text); ALTER TABLE pile REPLICA IDENTITY FULL;
    INSERT INTO pile SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 30000) i;
    ANALYZE large; ANALYZE pile;";

/// The loaded key ranges of `large`.
async fn large_units(stage: &Stage) -> Vec<i64> {
    let sql = "SELECT number FROM tidemark.unit WHERE source_name = 'large' AND is_loaded \
               AND chunk::text ILIKE '%key%' ORDER BY 1";
    match stage.target.query(sql, &[]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(_) => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k04_k05_k06_kills_at_every_step_of_a_load_keep_what_was_loaded() {
    let rig = Rig::new("fault_kills").await;
    let stage = &rig.stage;
    stage.source_sql(LARGE).await;
    let small = "[load]\nchunk_size = \"1 MB\"\nparallel_chunks = 2\n";
    stage.write(&format!("{}{small}", oracle::strict_file(stage)));
    let (mut kills_within, mut kept) = (0, 0);
    for units in [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14] {
        let before = large_units(stage).await;
        let mut run = stage.start(&["run", "FILE"]);
        wait_for(PATIENCE, "the load to be so far", || async {
            let sql = "SELECT count(*) FROM tidemark.unit WHERE is_loaded";
            let loaded: i64 = match stage.target.query_one(sql, &[]).await {
                Ok(row) => row.get(0),
                Err(_) => -1,
            };
            let is_through = is_through(&run);
            Ok((loaded >= units || is_through).then_some(()))
        })
        .await
        .unwrap();
        assert!(run.is_running(), "{}", run.log());
        if !is_through(&run) {
            kills_within += 1;
        }
        run.kill9().await;
        let after = large_units(stage).await;
        assert!(
            before.iter().all(|unit| after.contains(unit)),
            "a unit that was in was loaded again: {before:?} {after:?}"
        );
        kept = kept.max(before.len());
    }
    assert!(kills_within >= 5, "kills hit the load: {kills_within}");
    assert!(kept > 0, "some start found units of `large`");
    let run = rig.streams().await;
    rig.ends_well(run).await;
}

/// Whether a run of this stage has logged that the load is through.
fn is_through(run: &Running) -> bool {
    run.log().contains("step 5/5")
}
