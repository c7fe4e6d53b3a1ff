//! Partitioned tables: leaf by leaf into the target's root, whatever is below it there.

use crate::asks::text;
use crate::stage::Stage;

/// Ranges with lists below them, lists, hashes; a leaf whose columns stand otherwise than its root's.
const TABLES: &str = r#"
    CREATE TABLE sale (id int, at date NOT NULL, region text, note text, total numeric,
      twice numeric GENERATED ALWAYS AS (total * 2) STORED, PRIMARY KEY (id, at, region)) PARTITION BY RANGE (at);
    CREATE TABLE "sale 2023" PARTITION OF sale FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE TABLE sale_2024 PARTITION OF sale FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
      PARTITION BY LIST (region);
    CREATE TABLE sale_2024_north PARTITION OF sale_2024 FOR VALUES IN ('north', 'no"rth');
    CREATE TABLE sale_2024_rest PARTITION OF sale_2024 DEFAULT PARTITION BY HASH (id);
    CREATE TABLE sale_2024_rest_0 PARTITION OF sale_2024_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE sale_2024_rest_1 PARTITION OF sale_2024_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE old_sale (gone int, total numeric, region text NOT NULL, note text, also_gone text,
      at date NOT NULL, id int NOT NULL, twice numeric GENERATED ALWAYS AS (total * 2) STORED);
    ALTER TABLE old_sale DROP COLUMN gone, DROP COLUMN also_gone;
    ALTER TABLE sale ATTACH PARTITION old_sale FOR VALUES FROM (MINVALUE) TO ('2023-01-01');
    CREATE INDEX ON sale (total DESC);
    CREATE TABLE by_list (id int, kind text, body text) PARTITION BY LIST (kind);
    CREATE TABLE by_list_null PARTITION OF by_list FOR VALUES IN (NULL, 'a');
    CREATE TABLE by_list_b PARTITION OF by_list FOR VALUES IN ('b');
    CREATE TABLE by_list_other PARTITION OF by_list DEFAULT;
    ALTER TABLE by_list REPLICA IDENTITY FULL; ALTER TABLE by_list_null REPLICA IDENTITY FULL;
    ALTER TABLE by_list_b REPLICA IDENTITY FULL; ALTER TABLE by_list_other REPLICA IDENTITY FULL;
    CREATE TABLE by_hash (id int PRIMARY KEY, body text) PARTITION BY HASH (id);
    CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE by_hash_1 PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    CREATE TABLE by_hash_2 PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER 2);
    CREATE TABLE empty (id int PRIMARY KEY) PARTITION BY RANGE (id);
    INSERT INTO sale (id, at, region, note, total)
      SELECT i, date '2022-01-01' + i % 1000, (ARRAY['north', 'south', '', 'no"rth'])[1 + i % 4],
        CASE WHEN i % 3 > 0 THEN repeat(md5(i::text), 1 + i % 90) END, i FROM generate_series(1, 3000) i;
    INSERT INTO by_list SELECT i, (ARRAY['a', 'b', NULL, 'x'])[1 + i % 4], 'row ' || i FROM generate_series(1, 400) i;
    INSERT INTO by_hash SELECT i, repeat(i::text, 3000) FROM generate_series(1, 300) i;
"#;

/// Rows move within a table: between leaves of one level and of others, to and from partitions that
/// came later, one by one and many at once; large values stay as they are meanwhile.
const CHANGES: &[&str] = &[
    "CREATE TABLE sale_2025 PARTITION OF sale FOR VALUES FROM ('2025-01-01') TO (MAXVALUE); \
     CREATE TABLE empty_1 PARTITION OF empty FOR VALUES FROM (1) TO (100)",
    "UPDATE sale SET at = at + 365 WHERE id % 10 = 0",
    "UPDATE sale SET region = 'north' WHERE id % 10 = 1; UPDATE sale SET region = 'elsewhere' WHERE id % 10 = 2",
    "UPDATE sale SET id = id + 100000, total = NULL WHERE id % 10 = 3",
    "DELETE FROM sale WHERE id % 10 = 4; INSERT INTO old_sale (id, at, region, total) VALUES (7, '1999-01-01', '', 1)",
    "UPDATE sale SET at = '2022-05-05' WHERE id = 7 AND at = '1999-01-01'",
    "UPDATE by_list SET kind = CASE kind WHEN 'a' THEN 'b' WHEN 'b' THEN 'x' WHEN 'x' THEN NULL ELSE 'a' END",
    "UPDATE by_hash SET id = id + 1000; DELETE FROM by_hash WHERE id % 7 = 0",
    "UPDATE sale SET at = at + 800 WHERE id % 10 = 5; INSERT INTO empty VALUES (1), (2)",
    "BEGIN; INSERT INTO by_hash VALUES (1, 'new'); SAVEPOINT s; UPDATE by_hash SET id = 2 WHERE id = 1; \
     ROLLBACK TO s; UPDATE by_hash SET id = 3 WHERE id = 1; COMMIT",
];

async fn stream_changes(stage: &Stage) {
    let run = stage.start_streaming().await;
    for change in CHANGES {
        stage.source_sql(change).await;
    }
    let outcome = stage.wait_until_identical().await;
    assert!(outcome.rows() > 3000, "{outcome:?}");
    let twice = "SELECT count(*) > 1000 AND count(*) = count(*) FILTER (WHERE twice = total * 2) \
                 FROM sale WHERE total IS NOT NULL";
    assert_eq!(text(&stage.target, twice).await.unwrap(), "t");
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_become_one_and_follow_moves() {
    let stage = Stage::new("partitions_one").await;
    stage.source_sql(TABLES).await;
    stream_changes(&stage).await;
    let keys = "SELECT string_agg(conrelid::regclass || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname) \
                FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype = 'p'";
    assert_eq!(
        text(&stage.target, keys).await.unwrap(),
        "by_hash PRIMARY KEY (id), empty PRIMARY KEY (id), sale PRIMARY KEY (id, at, region)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_fill_a_target_that_is_cut_otherwise() {
    let stage = Stage::new("partitions_other").await;
    stage.source_sql(TABLES).await;
    stage
        .target_sql(
            "CREATE TABLE sale (region text, total numeric, at date NOT NULL, id int, note text,
               twice numeric GENERATED ALWAYS AS (total * 2) STORED, PRIMARY KEY (id, at, region))
               PARTITION BY HASH (region);
             CREATE TABLE s0 PARTITION OF sale FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY RANGE (id);
             CREATE TABLE s0_low PARTITION OF s0 FOR VALUES FROM (MINVALUE) TO (2000);
             CREATE TABLE s0_high PARTITION OF s0 FOR VALUES FROM (2000) TO (MAXVALUE);
             CREATE TABLE s1 PARTITION OF sale FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             CREATE TABLE by_list (id int, kind text, body text) PARTITION BY RANGE (id);
             CREATE TABLE by_list_low PARTITION OF by_list FOR VALUES FROM (MINVALUE) TO (100);
             CREATE TABLE by_list_high PARTITION OF by_list FOR VALUES FROM (100) TO (MAXVALUE)",
        )
        .await;
    stream_changes(&stage).await;
    let leaves =
        "SELECT count(*) FROM (SELECT tableoid FROM sale UNION SELECT tableoid FROM by_list) t";
    assert_eq!(text(&stage.target, leaves).await.unwrap(), "5");
}

/// Columns that come, with a value for all and with one for each row, and others in their place; and a
/// type that becomes wider.
const SHAPES: [&str; 4] = [
    "ALTER TABLE cut ADD c text DEFAULT 'for \"all\", {alike}' NOT NULL",
    "ALTER TABLE cut ADD d int DEFAULT (random() * 1000)::int",
    "ALTER TABLE cut ALTER n TYPE bigint",
    "ALTER TABLE cut DROP d, ADD d text DEFAULT 'again'",
];

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_partitioned_tables_change_their_shape() {
    for (name, on_the_target) in [
        ("partitions_shape_one", ""),
        (
            "partitions_shape_cut",
            "CREATE TABLE cut (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
             CREATE TABLE cut_all PARTITION OF cut DEFAULT",
        ),
    ] {
        let stage = Stage::new(name).await;
        stage
            .source_sql(
                "CREATE TABLE cut (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
                 CREATE TABLE cut_low PARTITION OF cut FOR VALUES FROM (MINVALUE) TO (50);
                 CREATE TABLE cut_high PARTITION OF cut FOR VALUES FROM (50) TO (MAXVALUE)
                   PARTITION BY HASH (id);
                 CREATE TABLE cut_high_0 PARTITION OF cut_high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE cut_high_1 PARTITION OF cut_high FOR VALUES WITH (MODULUS 2, REMAINDER 1);
                 INSERT INTO cut SELECT i, i FROM generate_series(1, 100) i",
            )
            .await;
        stage.target_sql(on_the_target).await;
        stage.write("[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n");
        let run = stage.start_streaming().await;
        for (round, shape) in SHAPES.iter().enumerate() {
            stage.source_sql(shape).await;
            let write = format!(
                "INSERT INTO cut (id, n) VALUES ({0}, 1); UPDATE cut SET n = n + 1, id = id + 1000 \
                 WHERE id = {round} + 1; DELETE FROM cut WHERE id = {round} + 90",
                200 + round
            );
            stage.source_sql(&write).await;
            stage.wait_until_identical().await;
            // Each by itself: what comes meanwhile is another test's.
            stage.wait_for_table("public.cut", "streaming").await;
            let is_anew = stage.log().contains("loaded anew");
            assert_eq!(is_anew, round > 0, "{shape}\n{}", stage.log());
        }
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        stage.clear().await;
    }
}

/// What happens to `cut (id, n, v, w)`, in two steps: the log announces the first one when the catalog has the
/// second one already, which nothing announces.
const LATER_SHAPES: [(&str, &str); 4] = [
    ("ADD d float DEFAULT random()", "ADD e int DEFAULT 7"),
    (
        "ADD d float DEFAULT random()",
        "DROP w, ALTER n TYPE bigint",
    ),
    // Values of the one are none of the other.
    (
        "RENAME v TO x; ALTER TABLE cut RENAME w TO v; ALTER TABLE cut RENAME x TO w",
        "RENAME n TO m",
    ),
    (
        "RENAME n TO m; ALTER TABLE cut ADD d float DEFAULT random()",
        "RENAME m TO o",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_takes_the_shape_that_it_has_when_it_is_loaded_anew() {
    let table = "CREATE TABLE cut (id int PRIMARY KEY, n int, v text, w int4range) PARTITION BY RANGE (id); \
        CREATE TABLE cut_all PARTITION OF cut DEFAULT; \
        INSERT INTO cut SELECT i, i, 'not a range', '[1,5)' FROM generate_series(1, 100) i";
    let reader = "CREATE VIEW ids AS SELECT id FROM cut; CREATE INDEX by_hand ON cut (id)";
    for (at, (first, second)) in LATER_SHAPES.into_iter().enumerate() {
        let stage = Stage::new(&format!("partitions_later_{at}")).await;
        stage.write("[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n");
        stage.source_sql(table).await;
        let run = stage.start_streaming().await;
        // The table stays the one that readers know.
        stage.target_sql(reader).await;
        run.signal(rustix::process::Signal::STOP);
        let shapes = format!(
            "ALTER TABLE cut {first}; INSERT INTO cut (id) VALUES (200); ALTER TABLE cut {second}"
        );
        stage.source_sql(&shapes).await;
        run.signal(rustix::process::Signal::CONT);
        stage
            .wait_for_target("SELECT count(*) FROM ids", "101")
            .await;
        stage.wait_until_identical().await;
        stage.wait_for_table("public.cut", "streaming").await;
        stage.source_sql("INSERT INTO cut (id) VALUES (201)").await;
        stage.wait_until_identical().await;
        let index = "SELECT count(*) FROM pg_class WHERE relname = 'by_hand'";
        assert_eq!(text(&stage.target, index).await.unwrap(), "1", "{second}");
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        stage.clear().await;
    }
}

/// Whoever alters or empties a partition and does not commit keeps its own table waiting alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_locked_on_the_source_keeps_no_other_table_waiting() {
    let stage = Stage::new("partitions_locked").await;
    stage.write("[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n");
    let tables = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); \
        CREATE TABLE p_1 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1); \
        CREATE TABLE other (id int PRIMARY KEY)";
    stage.source_sql(tables).await;
    let run = stage.start_streaming().await;
    run.signal(rustix::process::Signal::STOP);
    // The announcement is looked at when the lock is held.
    let added = "ALTER TABLE p ADD v int DEFAULT 7; INSERT INTO p VALUES (2, 2)";
    stage.source_sql(added).await;
    let holder = stage.source_server.client_to(&stage.source_name).await;
    let holder = holder.unwrap();
    let hold = "BEGIN; LOCK TABLE p_1 IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(hold).await.unwrap();
    run.signal(rustix::process::Signal::CONT);
    stage.source_sql("INSERT INTO other VALUES (1)").await;
    stage
        .wait_for_target("SELECT count(*) FROM other", "1")
        .await;
    stage.wait_for_target("SELECT sum(v) FROM p", "9").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    holder.batch_execute("ROLLBACK").await.unwrap();
    stage.clear().await;
}

/// By what a partition says old rows are told in the log: where that is not what the table's rows are found by,
/// deletes would find nothing.
#[tokio::test(flavor = "multi_thread")]
async fn f23_a_partition_with_another_replica_identity_is_told_of_and_set_aside() {
    let stage = Stage::new("partitions_identity").await;
    stage
        .source_sql(
            "CREATE TABLE part (id int PRIMARY KEY, other int NOT NULL) PARTITION BY HASH (id);
             CREATE TABLE part_0 PARTITION OF part FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             CREATE UNIQUE INDEX by_other ON part_0 (other); CREATE TABLE plain (id int PRIMARY KEY);
             INSERT INTO part SELECT i, i FROM generate_series(1, 20) i",
        )
        .await;
    let run = stage.start_streaming().await;
    stage
        .source_sql("ALTER TABLE part_0 REPLICA IDENTITY USING INDEX by_other")
        .await;
    stage
        .source_sql("DELETE FROM part WHERE id = 3; INSERT INTO plain VALUES (1)")
        .await;
    stage.wait_for_table("public.part", "quarantined").await;
    let reason = stage.table("public.part").await["reason"].clone();
    assert!(reason.as_str().unwrap().contains("TM2070"), "{reason}");
    let plain = || stage.comparison().only("public", "plain");
    stage.wait_for_equal(plain()).await;
    // Again, and others go on.
    stage
        .source_sql("DELETE FROM part WHERE id = 4; INSERT INTO plain VALUES (2)")
        .await;
    stage.wait_for_equal(plain()).await;
    let checked = stage.run(&["check", "FILE", "-v"]).await;
    let said = "public.part tells rows by columns that its partition public.part_0 does not log";
    assert!(checked.stdout.contains(said), "{}", checked.stdout);

    stage
        .source_sql("ALTER TABLE part_0 REPLICA IDENTITY FULL")
        .await;
    let resync = ["resync", "FILE", "--table", "public.part", "--yes"];
    stage.run(&resync).await.expect(0);
    stage
        .source_sql("DELETE FROM part WHERE id = 5; UPDATE part SET id = 1000 WHERE id = 6")
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_table("public.part", "streaming").await;
    // Before a row comes that would not be found.
    stage
        .source_sql("ALTER TABLE part_0 REPLICA IDENTITY USING INDEX by_other")
        .await;
    stage.wait_for_table("public.part", "quarantined").await;
    // Mended and asked for while the stream has still to come to such rows: the load has seen them.
    let holder = stage.target_server.client_to(&stage.target_name).await;
    let holder = holder.unwrap();
    let hold = "BEGIN; LOCK TABLE plain IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(hold).await.unwrap();
    for from in (1..9).map(|part| part * 100_000) {
        let many = format!("INSERT INTO plain SELECT {from} + i FROM generate_series(1, 50000) i");
        stage.source_sql(&many).await;
    }
    let mended = "DELETE FROM part WHERE id = 7; ALTER TABLE part_0 REPLICA IDENTITY FULL; \
                  DELETE FROM part WHERE id = 8";
    stage.source_sql(mended).await;
    let asked = async {
        let sent = "SELECT count(*) FROM tidemark.command WHERE answer IS NULL";
        stage.wait_for_target(sent, "1").await;
        holder.batch_execute("ROLLBACK").await.unwrap();
    };
    let (resynced, ()) = tokio::join!(stage.run(&resync), asked);
    resynced.expect(0);
    stage.wait_until_identical().await;
    stage.wait_for_table("public.part", "streaming").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
