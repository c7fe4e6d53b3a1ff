//! A cutover that comes to its end.

use super::{shop, step};
use crate::asks::text;
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn f25_everything_acknowledged_is_on_the_new_primary_and_its_sequences_are_ahead() {
    let stage = Stage::new("cutover_fence").await;
    let traffic = shop(&stage, 5).await;
    let mut run = stage.start_streaming().await;
    let report = stage.directory().join("shop.md");
    let arguments = [
        "--fence",
        "--silence",
        "1s",
        "--sequence-margin",
        "50",
        "--report",
        report.to_str().unwrap(),
    ];
    let ran = stage.cutover(&arguments).await.expect(0);
    let answer = ran.json();
    let data = &answer["data"];
    assert_eq!(data["result"], "cut_over", "{data}");
    assert_eq!(data["undone"].as_array().map(Vec::len), Some(0));
    assert!(
        data["write_downtime_seconds"].as_f64().unwrap() < 60.0,
        "{data}"
    );
    assert_eq!(run.ended().await, Some(0), "the pipeline is stopped last");

    // The fence stands, and what was acknowledged before it is there.
    assert!(!stage.takes_writes().await);
    let written = traffic.stop().await.unwrap();
    assert!(
        written.committed > 0 && written.rolled_back > 0,
        "{written:?}"
    );
    stage.assert_equal().await;
    let last: i64 = text(
        &stage.on_source().await,
        "SELECT last_value FROM orders_id_seq",
    )
    .await
    .unwrap()
    .parse()
    .unwrap();
    let next = text(&stage.target, "SELECT nextval('orders_id_seq')")
        .await
        .unwrap();
    assert_eq!(next, (last + 51).to_string());

    // What is left behind is told with statements that make it.
    let left = data["left_behind"].as_array().unwrap();
    for kind in ["view", "materialized view", "function", "trigger", "grant"] {
        let has = |left: &&serde_json::Value| left["kind"] == kind;
        let found = left
            .iter()
            .find(has)
            .unwrap_or_else(|| panic!("{kind} in {data}"));
        stage.target_sql(found["sql"].as_str().unwrap()).await;
    }
    let usage = "GRANT USAGE ON SEQUENCE public.orders_id_seq TO PUBLIC";
    assert!(left.iter().any(|left| left["sql"] == usage), "{data}");
    let page = std::fs::read_to_string(report).unwrap();
    for word in [
        "# Cutover of cutover_fence",
        "CREATE TRIGGER touches",
        "✓ | switched",
    ] {
        assert!(page.contains(word), "{word} in\n{page}");
    }

    // Undone by hand, the old primary takes writes.
    let aborted = stage.cutover(&["--abort"]).await.expect(0);
    assert_eq!(aborted.json()["data"]["lowered"], true);
    assert!(stage.takes_writes().await);
    assert_eq!(stage.temporary_slots().await.unwrap(), 0);
    stage_clear(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_nobody_runs_is_run_by_the_cutover() {
    let stage = Stage::new("cutover_alone").await;
    let traffic = shop(&stage, 6).await;
    traffic.stop().await.unwrap();
    let hook = "echo stopped >> stopped";
    let ran = stage
        .cutover(&["--silence", "500ms", "--stop-writers", hook])
        .await
        .expect(0);
    assert_eq!(ran.json()["data"]["result"], "cut_over");
    let stopped = std::fs::read_to_string(stage.directory().join("stopped")).unwrap();
    assert_eq!(stopped, "stopped\n", "once");
    stage.assert_equal().await;
    let owner = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(
        text(&stage.target, owner).await.unwrap(),
        "0",
        "nobody runs it"
    );
    stage_clear(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_changes_nothing_and_tells_what_stands_in_the_way() {
    let stage = Stage::new("cutover_rehearsal").await;
    let traffic = shop(&stage, 7).await;
    let run = stage.start_streaming().await;
    let ran = stage.cutover(&["--dry-run", "--fence"]).await.expect(0);
    let answer = ran.json();
    assert_eq!(answer["data"]["result"], "rehearsed");
    assert!(
        step(&answer, "writers")["text"]
            .as_str()
            .unwrap()
            .contains("read-only")
    );
    assert!(stage.takes_writes().await);

    // A role that may read alone cannot fence.
    let role = "cutover_rehearsal_reader";
    stage
        .source_sql(&format!(
            "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN REPLICATION;
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}"
        ))
        .await;
    let url = stage
        .source_url()
        .replace("postgres://postgres@", &format!("postgres://{role}@"));
    assert!(url.contains(role), "{url}");
    stage.write_between(&url, &stage.target_url(), "");
    let ran = stage.cutover(&["--dry-run", "--fence"]).await.expect(6);
    let error = &ran.json()["error"];
    assert_eq!(error["code"], "TM6073", "{error}");
    let said = error.to_string();
    for word in ["pg_signal_backend", role] {
        assert!(said.contains(word), "{word} in {said}");
    }
    stage.write("");
    traffic.stop().await.unwrap();
    stage.assert_equal().await;
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
    let owned = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    stage.source_sql(&owned).await;
}

/// What came on the source after the load would be missed once the target is written to.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_lacks_is_listed_with_what_stays_behind() {
    let stage = Stage::new("cutover_lacks").await;
    shop(&stage, 8).await.stop().await.unwrap();
    let run = stage.start_streaming().await;
    stage
        .source_sql(
            "CREATE INDEX orders_what ON orders (what); \
             ALTER TABLE orders ADD CONSTRAINT orders_some CHECK (what <> ''); \
             ALTER TABLE orders ALTER what SET DEFAULT 'none'",
        )
        .await;
    let page = stage.directory().join("shop.md");
    let rehearsal = ["--dry-run", "--report", page.to_str().unwrap()];
    let listed = async || {
        let answer = stage.cutover(&rehearsal).await.expect(0).json();
        let mut left = answer["data"]["left_behind"].as_array().unwrap().clone();
        left.retain(|left| {
            left["note"]
                .as_str()
                .is_some_and(|note| note.starts_with("the target"))
        });
        left
    };
    let left = listed().await;
    let names: Vec<_> = left
        .iter()
        .map(|left| {
            (
                left["kind"].as_str().unwrap(),
                left["name"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("index", "orders_what on public.orders"),
            ("default of column", "what on public.orders"),
            ("check constraint", "orders_some on public.orders"),
        ]
    );
    let text = std::fs::read_to_string(&page).unwrap();
    for left in &left {
        let sql = left["sql"].as_str().unwrap();
        assert!(text.contains(sql), "{sql} in\n{text}");
        stage.target_sql(sql).await;
    }
    assert_eq!(listed().await, [] as [serde_json::Value; 0]);
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}

/// [`Stage::clear`] over a session of its own.
pub(crate) async fn stage_clear(stage: &Stage) {
    let slot = format!("tidemark_{}", stage.name);
    let source = stage.on_source().await;
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE slot_name = $1 AND NOT active";
    tidemark_lab::wait_for(crate::stage::PATIENCE, "the slot to be free", || async {
        source.execute(sql, &[&slot]).await?;
        let left = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
        Ok(source.query(left, &[&slot]).await?.is_empty().then_some(()))
    })
    .await
    .unwrap();
}
