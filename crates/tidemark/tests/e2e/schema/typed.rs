//! What becomes of the members of a type: labels and attributes that are called otherwise, or take each
//! other's names. No log tells of it, and in the rows' text one looks like the other.

use tidemark_lab::compare::Comparison;

use crate::asks::text;
use crate::stage::Stage;

const TYPES: &str = "\
    CREATE TYPE mood AS ENUM ('sad', 'fine', 'glad'); \
    CREATE TYPE part AS (a text, b text); \
    CREATE DOMAIN feeling AS mood; \
    CREATE TABLE felt (id int PRIMARY KEY, m mood); \
    CREATE TABLE moods (id int PRIMARY KEY, ms feeling[]); \
    CREATE TABLE parted (id int PRIMARY KEY, p part); \
    CREATE TABLE good (id int PRIMARY KEY); \
    INSERT INTO felt SELECT i, (enum_range(NULL::mood))[1 + i % 3] FROM generate_series(1, 30) i; \
    INSERT INTO moods SELECT i, ARRAY[(enum_range(NULL::mood))[1 + i % 3]] FROM generate_series(1, 30) i; \
    INSERT INTO parted SELECT i, format('(a%s,b%s)', i, i)::part FROM generate_series(1, 30) i";

const STATES: &str = "SELECT string_agg(DISTINCT state, ',') FROM tidemark.table_state";

async fn staged(name: &str, policy: &str) -> Stage {
    let stage = Stage::new(name).await;
    stage.source_sql(TYPES).await;
    stage.write(&format!(
        "[target]\non_schema_change = \"{policy}\"\n[verify]\nafter_load = \"off\"\n"
    ));
    stage
}

/// Labels that take each other's names, or one that a new label gets: by their text the old rows look as
/// if nothing had happened.
const EXCHANGED: [&str; 3] = [
    "BEGIN; ALTER TYPE mood RENAME VALUE 'sad' TO 'between'; ALTER TYPE mood RENAME VALUE 'fine' TO 'sad'; \
     ALTER TYPE mood RENAME VALUE 'between' TO 'fine'; INSERT INTO felt VALUES (101, 'sad'); COMMIT",
    "BEGIN; ALTER TYPE mood RENAME VALUE 'sad' TO 'so so'; ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'; \
     INSERT INTO moods VALUES (102, '{fine}'); COMMIT",
    "BEGIN; ALTER TYPE mood RENAME VALUE 'fine' TO 'well'; ALTER TYPE mood ADD VALUE 'fine' BEFORE 'well'; \
     COMMIT; INSERT INTO felt VALUES (103, 'fine')",
];

async fn exchanged(name: &str, policy: &str) {
    let stage = staged(name, policy).await;
    let run = stage.start_streaming().await;
    for (round, exchange) in EXCHANGED.into_iter().enumerate() {
        stage.source_sql(exchange).await;
        let round = format!("INSERT INTO good VALUES ({round})");
        stage.source_sql(&round).await;
        stage.wait_until_identical().await;
        stage.wait_for_target(STATES, "streaming").await;
    }
    let log = stage.log();
    let told = "labels of public.mood have names that others had before: the table is loaded anew";
    assert!(log.contains(told), "{log}");
    assert_eq!(run.terminate().await, Some(0), "{log}");
    // What happens to them while nobody runs the pipeline is found by the next run.
    stage
        .source_sql(
            "BEGIN; ALTER TYPE mood RENAME VALUE 'sad' TO 'between'; ALTER TYPE mood RENAME VALUE 'well' TO 'sad'; \
             ALTER TYPE mood RENAME VALUE 'between' TO 'well'; COMMIT; INSERT INTO good VALUES (10)",
        )
        .await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_labels_that_take_over_names_have_their_tables_loaded_anew() {
    exchanged("schema_typed_apply", "apply").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_labels_that_take_over_names_give_no_row_another_label() {
    exchanged("schema_typed_additive", "apply_additive").await;
}

const NAMED: &str = "\
    CREATE TYPE one AS ENUM ('a', 'b', 'c'); \
    CREATE TYPE two AS ENUM ('x', 'y', 'z'); \
    CREATE TYPE three AS ENUM ('p', 'q'); \
    CREATE TYPE four AS ENUM ('k'); CREATE TYPE pair AS (f four, n int); \
    CREATE TABLE pairs (id int PRIMARY KEY, p pair); INSERT INTO pairs VALUES (1, '(k,1)'); \
    CREATE TABLE ones (id int PRIMARY KEY, v one); \
    CREATE TABLE twos (id int PRIMARY KEY, v two[]); \
    CREATE TABLE threes (id int PRIMARY KEY, v three); \
    INSERT INTO ones SELECT i, (enum_range(NULL::one))[1 + i % 3] FROM generate_series(1, 30) i; \
    INSERT INTO twos SELECT i, ARRAY[(enum_range(NULL::two))[1 + i % 3]] FROM generate_series(1, 30) i; \
    INSERT INTO threes SELECT i, 'p' FROM generate_series(1, 30) i";

const NAMES: &str = "BEGIN; ALTER TYPE one RENAME TO between; ALTER TYPE two RENAME TO one; \
    ALTER TYPE between RENAME TO two; COMMIT";

/// A type is told by its number: one that has the name of another by now is not taken for that one.
#[tokio::test(flavor = "multi_thread")]
async fn f22_types_that_exchange_their_names_give_no_row_another_label() {
    let stage = Stage::new("schema_typed_names").await;
    stage.source_sql(NAMED).await;
    stage.write(
        "[target]\non_schema_change = \"apply\"\n[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n\
         [verify]\nafter_load = \"off\"\n",
    );
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    // A table that comes with a look tells that there was one. First while nobody runs the pipeline.
    let looked = async |round: &str| {
        let make = format!("CREATE TABLE {round} (id int PRIMARY KEY)");
        stage.source_sql(&make).await;
        let streams = format!(
            "SELECT count(*) FROM tidemark.table_state WHERE source_name = '{round}' AND state = 'streaming'"
        );
        stage.wait_for_target(&streams, "1").await;
    };
    stage.source_sql(NAMES).await;
    let run = stage.start_streaming().await;
    looked("first").await;
    let more = "INSERT INTO ones VALUES (101, 'a'); INSERT INTO twos VALUES (101, '{x}')";
    stage.source_sql(more).await;
    stage.wait_until_identical().await;
    // There and back.
    stage.source_sql(NAMES).await;
    looked("second").await;
    stage
        .source_sql(
            "ALTER TYPE one RENAME VALUE 'b' TO 'bb'; ALTER TYPE three RENAME TO tres; \
             ALTER TYPE four RENAME TO quattro; INSERT INTO pairs VALUES (2, '(k,2)')",
        )
        .await;
    looked("third").await;
    stage.wait_until_identical().await;
    stage.source_sql(NAMES).await;
    looked("fourth").await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    // One that is called otherwise is made anew with other labels, where its name is free.
    stage
        .source_sql(
            "ALTER TYPE tres RENAME VALUE 'p' TO 'pp'; INSERT INTO threes VALUES (101, 'pp')",
        )
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    stage
        .source_sql("ALTER TYPE two RENAME VALUE 'a' TO 'aa'; INSERT INTO twos VALUES (102, '{y}')")
        .await;
    stage.wait_for_table("public.ones", "quarantined").await;
    let reason = stage.table("public.ones").await["reason"].to_string();
    assert!(reason.contains("TM1054"), "{reason}");
    let labels = "SELECT string_agg(DISTINCT v::text, ',' ORDER BY v::text) FROM ones";
    assert_eq!(text(&stage.target, labels).await.unwrap(), "a,bb,c");
    let others = "SELECT v::text FROM twos WHERE id = 102";
    stage.wait_for_target(others, "{y}").await;
    // As it is said what to do.
    stage.target_sql(NAMES).await;
    let resync = ["resync", "FILE", "--table", "public.ones", "--yes"];
    stage.run(&resync).await.expect(0);
    stage.wait_for_table("public.ones", "streaming").await;
    stage.wait_until_identical().await;
    stage
        .source_sql(
            "ALTER TYPE one RENAME VALUE 'x' TO 'xx'; INSERT INTO twos VALUES (103, '{xx}')",
        )
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    // Within another type it cannot be made anew: the rows would have both labels at a later change.
    let resync = ["resync", "FILE", "--table", "public.pairs", "--yes"];
    let refused = stage.run(&resync).await;
    assert!(refused.stderr.contains("TM2040"), "{}", refused.stderr);
    stage.target_sql("ALTER TYPE four RENAME TO quattro").await;
    stage.run(&resync).await.expect(0);
    stage
        .source_sql(
            "ALTER TYPE quattro RENAME VALUE 'k' TO 'kk'; INSERT INTO pairs VALUES (3, '(kk,3)')",
        )
        .await;
    stage.wait_until_identical().await;
    // A new type of the old name, to which tables pass one by one.
    stage
        .source_sql(
            "CREATE TABLE fours (id int PRIMARY KEY, v quattro); INSERT INTO fours VALUES (1, 'kk'); \
             CREATE TABLE five (id int PRIMARY KEY, v quattro); INSERT INTO five VALUES (1, 'kk')",
        )
        .await;
    looked("fifth").await;
    stage.wait_until_identical().await;
    stage
        .source_sql(
            "ALTER TYPE quattro RENAME TO old; CREATE TYPE quattro AS ENUM ('kk', 'l'); \
             ALTER TABLE fours ALTER v TYPE quattro USING v::text::quattro; INSERT INTO fours VALUES (2, 'l')",
        )
        .await;
    looked("sixth").await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Where nothing is to be followed the rows are not passed off as the source's.
async fn set_aside(name: &str, policy: &str) {
    let stage = staged(name, policy).await;
    let run = stage.start_streaming().await;
    let renamed = "ALTER TYPE part RENAME ATTRIBUTE b TO c; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; \
        INSERT INTO good VALUES (1)";
    stage.source_sql(renamed).await;
    for table in ["public.felt", "public.moods"] {
        stage.wait_for_table(table, "quarantined").await;
        let reason = stage.table(table).await["reason"].to_string();
        assert!(reason.contains("TM4032"), "{reason}");
    }
    let rows = "SELECT count(*) FROM good";
    stage.wait_for_target(rows, "1").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_table_whose_labels_are_called_otherwise_is_stopped() {
    set_aside("schema_typed_stop", "stop_table").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_labels_that_are_called_otherwise_cannot_be_ignored() {
    set_aside("schema_typed_ignore", "ignore").await;
}

/// An attribute keeps its values, whatever it is called; and one in the place of another has none of them.
#[tokio::test(flavor = "multi_thread")]
async fn f22_attributes_keep_their_values_and_take_none_of_others() {
    let stage = staged("schema_typed_attributes", "apply").await;
    let run = stage.start_streaming().await;
    let attributes = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute \
        WHERE attrelid = 'part'::regclass AND NOT attisdropped";
    stage
        .source_sql(
            "ALTER TYPE part RENAME ATTRIBUTE b TO c; ALTER TYPE part ADD ATTRIBUTE d text; \
             UPDATE parted SET p.d = 'd' WHERE id < 5; INSERT INTO good VALUES (1)",
        )
        .await;
    stage.wait_for_target(attributes, "a c d").await;
    stage.wait_until_identical().await;
    let before = stage.table("public.parted").await;
    assert_eq!(before["state"], "streaming", "{before}");
    let log = stage.log();
    assert!(!log.contains("loaded anew"), "{log}");
    // As many as before, and other ones.
    stage
        .source_sql(
            "ALTER TYPE part DROP ATTRIBUTE a; ALTER TYPE part ADD ATTRIBUTE e text; \
             UPDATE parted SET p.e = 'e' WHERE id < 5; INSERT INTO good VALUES (2)",
        )
        .await;
    stage.wait_for_target(attributes, "c d e").await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    let log = stage.log();
    assert!(
        log.contains("attributes of public.part in the place of others"),
        "{log}"
    );
    assert_eq!(run.terminate().await, Some(0), "{log}");
    stage.clear().await;
}

const DOMAINS: &str = "\
    CREATE DOMAIN small AS int CONSTRAINT small_max CHECK (VALUE < 100); \
    CREATE DOMAIN tiny AS small CONSTRAINT tiny_max CHECK (VALUE < 100) NOT NULL; \
    CREATE DOMAIN listed AS int DEFAULT 5 CONSTRAINT listed_max CHECK (VALUE < 100); \
    CREATE TYPE span AS RANGE (subtype = int4); \
    CREATE TABLE held (id int PRIMARY KEY, s small, t tiny DEFAULT 1, ss listed[], r span); \
    CREATE TABLE good (id int PRIMARY KEY); \
    INSERT INTO held SELECT i, i, i, ARRAY[i], span(i, i + 1) FROM generate_series(1, 30) i";

/// What a domain demands no more, the target takes; what it demands by now stops nobody and is told.
async fn domains(name: &str, policy: &str) {
    let stage = Stage::new(name).await;
    stage.source_sql(DOMAINS).await;
    stage.write(&format!(
        "[target]\non_schema_change = \"{policy}\"\n[verify]\nafter_load = \"off\"\n"
    ));
    let run = stage.start_streaming().await;
    stage
        .target_sql("ALTER DOMAIN small ADD CONSTRAINT own CHECK (VALUE <> 77)")
        .await;
    for looser in [
        "ALTER DOMAIN listed DROP DEFAULT; ALTER DOMAIN tiny SET DEFAULT 3; \
         ALTER DOMAIN tiny DROP NOT NULL; INSERT INTO held VALUES (31, 1, NULL)",
        "ALTER DOMAIN tiny DROP CONSTRAINT tiny_max; ALTER DOMAIN small DROP CONSTRAINT small_max; \
         ALTER DOMAIN small ADD CONSTRAINT small_max CHECK (VALUE < 1000) NOT VALID; \
         INSERT INTO held VALUES (32, 500, 600)",
        "ALTER DOMAIN listed DROP CONSTRAINT listed_max; INSERT INTO held VALUES (36, 1, 1, '{700}')",
        "ALTER DOMAIN small VALIDATE CONSTRAINT small_max; ALTER DOMAIN small SET DEFAULT 7; \
         INSERT INTO held (id) VALUES (33)",
        "ALTER DOMAIN tiny ADD CONSTRAINT tiny_min CHECK (VALUE > 0); ALTER DOMAIN small DROP DEFAULT; \
         INSERT INTO held VALUES (34, 9, 9)",
    ] {
        stage.source_sql(looser).await;
        stage.wait_until_identical().await;
        let states = text(&stage.target, STATES).await.unwrap();
        assert_eq!(states, "streaming", "{looser}\n{}", stage.log());
    }
    // Whatever they demand, the rows can be loaded anew.
    let resync = ["resync", "FILE", "--table", "public.held", "--yes"];
    stage.run(&resync).await.expect(0);
    stage.wait_for_table("public.held", "streaming").await;
    stage.wait_until_identical().await;
    let checked = stage.run(&["check", "FILE"]).await.expect(0);
    for lacks in ["small_max", "tiny_min", "SET DEFAULT 3"] {
        assert!(checked.stdout.contains(lacks), "{}", checked.stdout);
    }
    let default = "SELECT coalesce(typdefault, 'none') FROM pg_type WHERE oid = 'listed'::regtype";
    assert_eq!(text(&stage.target, default).await.unwrap(), "none");
    let fixes = stage.run(&["check", "FILE", "--fix-sql"]).await.expect(0);
    stage.target_sql(&fixes.stdout).await;
    let checked = stage.run(&["check", "FILE"]).await.expect(0);
    assert!(!checked.stdout.contains("tiny_min"), "{}", checked.stdout);
    // A person's own, on the target alone.
    stage
        .source_sql("INSERT INTO held VALUES (35, 77, 7); INSERT INTO good VALUES (1)")
        .await;
    stage.wait_for_table("public.held", "quarantined").await;
    let good = Comparison::new(&stage.source, &stage.target).only("public", "good");
    stage.wait_for_equal(good).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_domains_are_followed_where_they_let_more_through() {
    domains("schema_domains", "apply").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_domains_are_followed_where_only_additions_are() {
    domains("schema_domains_additive", "apply_additive").await;
}
