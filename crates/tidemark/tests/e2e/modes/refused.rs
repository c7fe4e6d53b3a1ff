//! A load of which the target refuses one table: the others are in, those that point to it as well.

use crate::asks::text;
use crate::stage::Stage;

const ON_SOURCE: &str = "CREATE TABLE parent (id int PRIMARY KEY, v int); \
     CREATE TABLE other (id int PRIMARY KEY); \
     CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, other int REFERENCES other); \
     INSERT INTO parent VALUES (1, 500); INSERT INTO other VALUES (1); \
     INSERT INTO child VALUES (1, 1, 1)";

/// Somebody's rule, which the source does not know.
const ON_TARGET: &str = "CREATE TABLE parent (id int PRIMARY KEY, v int CHECK (v < 100))";

const KEYS: &str = "SELECT coalesce(string_agg(conname, ' ' ORDER BY conname), '') \
     FROM pg_constraint WHERE contype = 'f'";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_alone_of_which_a_table_is_refused_is_over_without_it() {
    let stage = Stage::new("refused_alone").await;
    stage.write("mode = \"full_load_only\"\n");
    stage.source_sql(ON_SOURCE).await;
    stage.target.batch_execute(ON_TARGET).await.unwrap();
    let run = ["run", "FILE", "--timeout", "60s"];
    let ran = stage.run(&run).await.expect(3);
    let loads = ran.stderr.matches("step 4/5").count();
    assert_eq!(loads, 1, "loaded once\n{}", ran.stderr);
    let states = "SELECT string_agg(source_name || ' ' || state, ', ' ORDER BY source_name) \
                  FROM tidemark.table_state";
    assert_eq!(
        text(&stage.target, states).await.unwrap(),
        "child done, other done, parent unloaded"
    );
    assert_eq!(text(&stage.target, KEYS).await.unwrap(), "child_other_fkey");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_point_to_one_that_is_refused_stream_and_get_their_keys_with_it() {
    let stage = Stage::new("refused_both").await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    stage.source_sql(ON_SOURCE).await;
    stage.target.batch_execute(ON_TARGET).await.unwrap();
    let run = stage.start_streaming().await;
    stage.source_sql("INSERT INTO child VALUES (2, 1, 1)").await;
    let count = "SELECT count(*) FROM child";
    stage.wait_for_target(count, "2").await;
    assert_eq!(text(&stage.target, KEYS).await.unwrap(), "child_other_fkey");

    let mended = "ALTER TABLE parent DROP CONSTRAINT parent_v_check";
    stage.target.batch_execute(mended).await.unwrap();
    let again = ["resync", "FILE", "--table", "public.parent", "--yes"];
    stage.run(&again).await.expect(0);
    stage
        .wait_for_target(KEYS, "child_other_fkey child_parent_fkey")
        .await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
