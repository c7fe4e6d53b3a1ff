//! The pipeline file, and the directories and names in it.

use super::{
    ROWS, Refusal, assert_check_fails, assert_file_is_refused, assert_refused, assert_succeeds,
};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_is_marked_in_the_file_and_nothing_starts() {
    let stage = Stage::new("bad_typo").await;
    stage.source_sql(ROWS).await;
    for (more, code, marked, help) in [
        (
            "moode = \"cdc_only\"\n",
            "TM7003",
            "moode",
            "did you mean `mode`?",
        ),
        (
            "[stream]\nbatch_rws = 10\n",
            "TM7003",
            "batch_rws",
            "did you mean `batch_rows`?",
        ),
        (
            "[stream]\non_row_error = \"quarantine\"\n",
            "TM7005",
            "\"quarantine\"",
            "quarantine_row",
        ),
        (
            "[stream]\nbatch_rows = \"10\"\n",
            "TM7004",
            "\"10\"",
            "a whole number",
        ),
    ] {
        stage.write(more);
        assert_file_is_refused(&stage, code, marked, &[help]).await;
    }
    stage.write("");
    assert_succeeds(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_is_told_with_the_nearest() {
    let stage = Stage::new("bad_names").await;
    stage
        .source_sql(
            "CREATE TABLE orders (id int PRIMARY KEY, total int); INSERT INTO orders VALUES (1, 2)",
        )
        .await;
    let all = "[tables]\ninclude = [\"public.*\"]\n[[table]]\n";
    for (more, code, marked, help) in [
        (
            "[tables]\ninclude = [\"public.orderz\"]\n".to_owned(),
            "TM7020",
            "\"public.orderz\"",
            "public.orders",
        ),
        (
            "[tables]\ninclude = [\"shop.*\"]\n".to_owned(),
            "TM7020",
            "\"shop.*\"",
            "shop.*",
        ),
        (
            format!("{all}source = \"public.ordrs\"\ndrop_columns = [\"total\"]\n"),
            "TM7020",
            "\"public.ordrs\"",
            "public.orders",
        ),
        (
            format!("{all}source = \"public.orders\"\ndrop_columns = [\"totl\"]\n"),
            "TM7021",
            "\"totl\"",
            "total",
        ),
    ] {
        stage.write(&more);
        assert_file_is_refused(&stage, code, marked, &[help]).await;
        stage.run(&["check", "FILE"]).await.expect(2);
    }
    stage.write("[tables]\ninclude = [\"public.orders\"]\n");
    assert_succeeds(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_a_directory_that_cannot_be_written_is_noticed_at_the_start() {
    let stage = Stage::new("bad_directory").await;
    stage.source_sql(ROWS).await;
    // Relative to the pipeline file, as it is written there.
    let spool = stage.directory().join("spool");
    for (directory, word) in [("spool", "make the directory"), ("/sys", "may write")] {
        stage.write(&format!("[stream]\nspool_dir = \"{directory}\"\n"));
        let (code, exit, words) = ("TM4021", 6, &[directory, word][..]);
        assert_refused(&stage, Refusal { code, exit, words }).await;
        assert_check_fails(&stage, code).await;
    }
    stage.write("[stream]\nspool_dir = \"spool\"\n");
    std::fs::create_dir(spool).unwrap();
    assert_succeeds(&stage).await;
    stage.clear().await;
}
