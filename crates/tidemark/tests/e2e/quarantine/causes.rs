//! Each cause that a real server gives, and what is not a row's own fault.

use crate::stage::Stage;

use super::by_row;

/// Tables that take anything, and a marker that comes last.
const TABLES: &str = "CREATE TABLE marker (id serial PRIMARY KEY);
    CREATE TABLE parent (id int PRIMARY KEY, v text);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
    CREATE TABLE fits (id int PRIMARY KEY, v numeric);
    CREATE TABLE short (id int PRIMARY KEY, v text);
    CREATE TABLE checked (id int PRIMARY KEY, v text);
    CREATE TABLE single (id int PRIMARY KEY, v text);
    CREATE TABLE filled (id int PRIMARY KEY, v text);
    CREATE TABLE mood (id int PRIMARY KEY, v text);
    CREATE TABLE raised (id int PRIMARY KEY, v text);";

const STRICT: &str = "ALTER TABLE fits ALTER v TYPE numeric(5,2);
    ALTER TABLE short ALTER v TYPE varchar(3);
    ALTER TABLE parent ADD CONSTRAINT no_odd CHECK (v <> 'odd');
    DO $$ DECLARE t text; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'child'::regclass LOOP
        EXECUTE format('ALTER TABLE child ENABLE ALWAYS TRIGGER %I', t); END LOOP; END $$;
    ALTER TABLE checked ADD CONSTRAINT no_odd CHECK (v <> 'odd');
    CREATE UNIQUE INDEX single_v ON single (v); INSERT INTO single VALUES (-1, 'odd');
    ALTER TABLE filled ALTER v SET NOT NULL;
    CREATE TYPE feeling AS ENUM ('calm', 'wild'); ALTER TABLE mood ALTER v TYPE feeling USING v::feeling;
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.v = 'odd' THEN RAISE 'we do not want %', NEW.id; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON raised FOR EACH ROW EXECUTE FUNCTION refuse();
    ALTER TABLE raised ENABLE ALWAYS TRIGGER refuse;";

/// One transaction: rows that fit and one that does not, in each table; a child of the parent that is
/// missing with it.
const ROWS: &str = "BEGIN;
    INSERT INTO parent VALUES (1, 'calm'), (2, 'odd'), (3, 'calm');
    INSERT INTO child VALUES (1, 1), (2, 2), (3, 3);
    INSERT INTO fits VALUES (1, 1.50), (2, 12345.678), (3, 3.00);
    INSERT INTO short VALUES (1, 'abc'), (2, 'abcd'), (3, 'c');
    INSERT INTO checked VALUES (1, 'calm'), (2, 'odd'), (3, 'calm');
    INSERT INTO single VALUES (1, 'a'), (2, 'odd'), (3, 'b');
    INSERT INTO filled VALUES (1, 'a'), (2, NULL), (3, 'b');
    INSERT INTO mood VALUES (1, 'calm'), (2, 'odd'), (3, 'wild');
    INSERT INTO raised VALUES (1, 'calm'), (2, 'odd'), (3, 'wild');
    COMMIT;";

const MENDED: &str = "ALTER TABLE fits ALTER v TYPE numeric;
    ALTER TABLE short ALTER v TYPE text;
    ALTER TABLE parent DROP CONSTRAINT no_odd;
    ALTER TABLE child ENABLE TRIGGER ALL;
    ALTER TABLE checked DROP CONSTRAINT no_odd;
    DELETE FROM single WHERE id = -1; DROP INDEX single_v;
    ALTER TABLE filled ALTER v DROP NOT NULL;
    ALTER TABLE mood ALTER v TYPE text; DROP TYPE feeling;
    DROP TRIGGER refuse ON raised; DROP FUNCTION refuse();";

const CAUSES: [(&str, &str); 9] = [
    ("checked", "23514"),
    ("child", "23503"),
    ("filled", "23502"),
    ("fits", "22003"),
    ("mood", "22P02"),
    ("parent", "23514"),
    ("raised", "P0001"),
    ("short", "22001"),
    ("single", "23505"),
];

#[tokio::test(flavor = "multi_thread")]
async fn f47_each_cause_puts_its_row_aside_and_everything_else_is_in() {
    let stage = Stage::new("quarantine_causes").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    stage.source_sql(ROWS).await;
    stage.wait_for_kept(CAUSES.len()).await;
    stage.wait_for_marker().await;

    let mut found = stage.kept().await;
    found.sort_by_key(|row| row["table"].to_string());
    let found: Vec<(String, String)> = found
        .iter()
        .map(|row| {
            assert_eq!(row["keys"], serde_json::json!([["2"]]), "{row}");
            assert!(row["position"].as_str().unwrap().contains('/'), "{row}");
            let table = row["table"].as_str().unwrap();
            let state = row["cause"]["sqlstate"].as_str().unwrap();
            (table.replace("public.", ""), state.to_owned())
        })
        .collect();
    let expected = CAUSES.map(|(table, state)| (table.to_owned(), state.to_owned()));
    assert_eq!(found, expected);
    for (table, _) in CAUSES {
        let ids = format!("SELECT string_agg(id::text, ' ' ORDER BY id) FROM {table} WHERE id > 0");
        stage.wait_for_target(&ids, "1 3").await;
        let table = stage.table(&format!("public.{table}")).await;
        assert_eq!(
            (&table["state"], &table["quarantined"]),
            (&"streaming".into(), &1.into())
        );
    }
    let status = stage.run(&["status", "FILE"]).await.expect(0).stdout;
    assert!(
        status.contains("quarantine  9 rows") && status.contains("warning"),
        "{status}"
    );
    assert!(stage.log().contains("TM4080"), "{}", stage.log());

    // Nothing is mended: all of them stay, each with its cause.
    let retried = stage.run(&["retry", "FILE"]).await.expect(6);
    assert!(
        retried.stderr.contains("9 stay in quarantine"),
        "{}",
        retried.stderr
    );
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert!(stage.kept().await.is_empty());
    assert_eq!(stage.table("public.fits").await["quarantined"], 0);
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// What has no key, and what is a table's fault, stops the table; what the file wants to stop at stops
/// the pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_row_can_be_told_the_table_or_the_pipeline_stops() {
    let stage = Stage::new("quarantine_not").await;
    let tables = "CREATE TABLE marker (id serial PRIMARY KEY);
        CREATE TABLE keyless (id int, v text); ALTER TABLE keyless REPLICA IDENTITY FULL;
        CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE strict (id int PRIMARY KEY, v text);";
    stage.source_sql(tables).await;
    by_row(&stage, "");
    let policy = "[[table]]\nsource = \"public.strict\"\non_row_error = \"stop_pipeline\"\n";
    let text = std::fs::read_to_string(stage.file()).unwrap();
    std::fs::write(stage.file(), format!("{text}{policy}")).unwrap();
    let mut run = stage.start_streaming().await;
    stage
        .target_sql(
            "ALTER TABLE keyless ALTER v TYPE varchar(3); DROP TABLE gone;
             ALTER TABLE strict ALTER v TYPE varchar(3)",
        )
        .await;
    stage
        .source_sql("INSERT INTO keyless VALUES (1, 'abcd'); INSERT INTO gone VALUES (1)")
        .await;
    stage.wait_for_table("public.keyless", "quarantined").await;
    stage.wait_for_table("public.gone", "quarantined").await;
    stage.wait_for_marker().await;
    assert!(stage.kept().await.is_empty());
    stage
        .source_sql("INSERT INTO strict VALUES (1, 'abcd')")
        .await;
    assert_eq!(run.ended().await, Some(6), "{}", stage.log());
    stage.clear().await;
}
