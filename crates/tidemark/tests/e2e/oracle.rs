//! The oracle: how a pipeline has to stand once it has come through what was done to it. The same for
//! every fault: no row missing, none twice, whole transactions in order, nothing left behind.

use tidemark_lab::traffic::bank::BankReader;
use tidemark_lab::wait_for;
use tokio::task::JoinHandle;

use crate::asks::text;
use crate::stage::{PATIENCE, Running, Stage};
use crate::writers::BANK;

/// The first load is in, at one instant.
const IS_LOADED: &str = "SELECT bool_and(phase = 'loaded') FROM tidemark.checkpoint";

/// Every table streams, and nothing is to be made up for.
const IS_THROUGH: &str = "SELECT phase = 'loaded'
    AND (SELECT bool_and(state = 'streaming') FROM tidemark.table_state)
    AND NOT EXISTS (SELECT FROM tidemark.parked)
    AND NOT EXISTS (SELECT FROM tidemark.foreign_key)
    AND NOT EXISTS (SELECT FROM tidemark.unit WHERE NOT is_loaded)
    FROM tidemark.checkpoint";

const IS_RESYNCING: &str =
    "SELECT count(*) > 0 FROM tidemark.table_state WHERE state = 'resyncing'";

/// Small chunks and batches, a spool that can be looked at, and no patience with a change that meets
/// another row than it should: that is one applied twice, or one before it that was lost.
pub(crate) fn write_file(stage: &Stage) {
    stage.write(&strict_file(stage));
}

/// The lines of that file.
pub(crate) fn strict_file(stage: &Stage) -> String {
    let spool = stage.directory().join("spool");
    std::fs::create_dir_all(&spool).unwrap();
    format!(
        "[target]\non_conflict = \"fail\"\n[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n\
         [[table]]\nsource = \"public.keyed\"\nchunk_rows = 1000\n\
         on_row_error = \"quarantine_row\"\n\
         [[table]]\nsource = \"public.heap\"\nchunk_rows = 1000\n\
         [verify]\nafter_load = \"off\"\n\
         [stream]\nbatch_rows = 300\nspool_dir = \"{}\"\n",
        spool.display()
    )
}

pub(crate) async fn is_through(stage: &Stage) -> anyhow::Result<bool> {
    Ok(text(&stage.target, IS_THROUGH).await? == "t")
}

pub(crate) async fn is_resyncing(stage: &Stage) -> anyhow::Result<bool> {
    Ok(text(&stage.target, IS_RESYNCING).await? == "t")
}

/// How often a run of the stage has begun.
pub(crate) fn begun(stage: &Stage) -> usize {
    stage.log().matches("state checking").count()
}

/// Waits until a run follows the log that began after so many.
pub(crate) async fn follows_the_log(stage: &Stage, after: usize) {
    wait_for(PATIENCE, "the run to follow the log", || async {
        let log = stage.log();
        let last = log.rsplit("state checking").next().unwrap_or_default();
        Ok((begun(stage) > after && last.contains("step 5/5")).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

pub(crate) async fn comes_through(stage: &Stage) {
    wait_for(PATIENCE, "every table to stream", || async {
        Ok(is_through(stage).await?.then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

/// Whether the source has the row that the target refuses.
pub(crate) async fn has_refused_row(stage: &Stage) -> bool {
    let there = "SELECT count(*) FROM keyed WHERE id > 9000";
    text(&stage.source, there).await.unwrap() != "0"
}

/// Waits until the row that the target refuses is in quarantine with what waits behind it.
pub(crate) async fn row_is_aside(stage: &Stage) {
    stage
        .wait_for_target("SELECT count(*) FROM tidemark.quarantine", "2")
        .await;
}

/// Mends what the target refuses, and has it applied again.
pub(crate) async fn row_is_released(stage: &Stage) {
    let mended = "SELECT count(*) FROM pg_constraint WHERE conname = 'no_odd'";
    if text(&stage.target, mended).await.unwrap() != "0" {
        row_is_aside(stage).await;
        stage.target_sql(crate::writers::MENDED).await;
    }
    stage.run(&["retry", "FILE"]).await.expect(0);
}

/// Waits until something new has come through to the target.
pub(crate) async fn something_new_arrives(stage: &Stage) {
    let newest = "SELECT coalesce(max(id), 0) FROM bank_transfers";
    let number = |text: String| text.parse::<i64>();
    let before = number(text(&stage.source, newest).await.unwrap()).unwrap();
    wait_for(PATIENCE, "something new in the target", || async {
        let now = number(text(&stage.target, newest).await?)?;
        Ok((now > before).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

/// Reads the sum on the target from the moment at which it has to be right, through all kills.
pub(crate) fn watch_the_bank(stage: &Stage) -> JoinHandle<BankReader> {
    let config = stage.target_config();
    let (server, name) = (stage.target_server, stage.target_name.clone());
    tokio::spawn(async move {
        let target = server.client_to(&name).await.unwrap();
        wait_for(PATIENCE, "the first load to be over", || async {
            Ok((text(&target, IS_LOADED).await? == "t").then_some(()))
        })
        .await
        .unwrap();
        BankReader::start(&config, "public", BANK).await.unwrap()
    })
}

/// After the writers have stopped: equal to the row, the sum never moved, a clean stop, nothing left.
/// Gives how often the bank was seen to have changed.
pub(crate) async fn ends_well(stage: &Stage, run: Running, reader: BankReader, name: &str) -> u64 {
    stage.wait_for_equal(stage.comparison()).await;
    let seen = reader.stop().await.unwrap();
    assert_eq!(
        seen.violations,
        Vec::<String>::new(),
        "{name}: the sum moved"
    );
    assert_eq!(run.terminate().await, Some(0), "{name}\n{}", stage.log());
    stage.assert_identical().await;
    assert!(is_through(stage).await.unwrap(), "{name}");
    nothing_is_left(stage).await;
    stage.clear().await;
    seen.moved
}

pub(crate) async fn nothing_is_left(stage: &Stage) {
    let name = format!("tidemark_{}", stage.name);
    let on_source = [
        "SELECT string_agg(pubname, ' ') FROM pg_publication",
        "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots \
         WHERE database = current_database()",
    ];
    for sql in on_source {
        assert_eq!(text(&stage.source, sql).await.unwrap(), name, "{sql}");
    }
    // Neither a table beside another, nor an index or sequence of one. A table in partitions is one
    // table on the target.
    let relations = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND NOT relispartition
          AND relkind IN ('r', 'p', 'S', 'i', 'I')";
    let here = text(&stage.source, relations).await.unwrap();
    assert_eq!(text(&stage.target, relations).await.unwrap(), here);
    // Foreign keys are there, and proven.
    let keys = "SELECT string_agg(conname || ' ' || convalidated, ' ' ORDER BY conname)
        FROM pg_constraint WHERE contype = 'f' AND conparentid = 0";
    let here = text(&stage.source, keys).await.unwrap();
    assert_eq!(text(&stage.target, keys).await.unwrap(), here);
    let spooled = std::fs::read_dir(stage.directory().join("spool")).unwrap();
    assert_eq!(spooled.count(), 0, "files are left in the spool");
    wait_for(PATIENCE, "all sessions and locks to be gone", || async {
        let sessions = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidemark {}'",
            stage.name
        );
        let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.locktype = 'advisory'";
        for client in [&stage.source, &stage.target] {
            for sql in [sessions.as_str(), locks] {
                let left = text(client, sql).await?;
                anyhow::ensure!(left == "0", "{left} from {sql}");
            }
        }
        Ok(Some(()))
    })
    .await
    .unwrap();
}
