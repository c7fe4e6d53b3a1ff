//! Databases in other encodings: text is converted, or refused by name, and never mangled.

use tidemark_lab::server::PostgresServer;

use crate::asks::text;
use crate::stage::Stage;

/// A source in this encoding; the target is in UTF8.
async fn stage_from(encoding: &str, name: &str) -> Stage {
    let source = PostgresServer::builder().encoding(encoding);
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    Stage::on(source, target, name).await
}

/// Types that hold text, by themselves and within others, and names that are not ASCII.
const LATIN1: &str = r#"SET client_encoding = 'UTF8';
    CREATE TYPE "Größe" AS ENUM ('groß', 'klein'); CREATE TYPE paar AS (a text, "ö" varchar(9));
    CREATE TABLE "Straße" (id int PRIMARY KEY, "Größe" "Größe", t text, c char(4), n name, one "char",
      j jsonb, js json, a text[], p paar, ps paar[], ts tsvector, b bytea);
    INSERT INTO "Straße" VALUES (1, 'groß', 'äöü ÿ¡ß', 'é', 'Ñame', 'x', '{"ä": "\u00fc"}', '{"ä":  "ü"}',
      '{ä,"ö\"ü",NULL}', ROW('ä', 'ö"'), ARRAY[ROW('ü', NULL)::paar], to_tsvector('simple', 'straße über'), '\xe4ff');
    CREATE TABLE keyed (k text PRIMARY KEY, n int); INSERT INTO keyed VALUES ('ä', 1), ('ÿ', 2);
    CREATE TABLE keyless (t text, n int); ALTER TABLE keyless REPLICA IDENTITY FULL;
    INSERT INTO keyless VALUES ('ä', 1), ('ö', 2);"#;
const LATIN1_CHANGES: &str = r#"
    INSERT INTO "Straße" SELECT id + 10, "Größe", t, c, n, one, j, js, a, p, ps, ts, b FROM "Straße";
    UPDATE "Straße" SET t = 'Ærøskøbing', "Größe" = 'klein', p."ö" = 'ê' WHERE id = 1;
    UPDATE keyed SET n = 10 WHERE k = 'ä'; UPDATE keyed SET k = 'þ' WHERE k = 'ÿ';
    INSERT INTO keyed VALUES ('Å', 3); DELETE FROM keyed WHERE k = 'ä';
    UPDATE keyless SET t = t || 'ß' WHERE n = 1; DELETE FROM keyless WHERE t = 'ö';"#;

#[tokio::test(flavor = "multi_thread")]
async fn latin1_is_converted_by_load_and_stream() {
    let stage = stage_from("LATIN1", "encodings_latin1").await;
    stage.source_sql(LATIN1).await;
    let run = stage.start_streaming().await;
    stage.source_sql(LATIN1_CHANGES).await;
    stage.wait_until_identical().await;
    let bytes = r#"SELECT encode(convert_to(t, 'UTF8'), 'hex') FROM "Straße" WHERE id = 11"#;
    let expected = "c3a4c3b6c3bc20c3bfc2a1c39f";
    assert_eq!(text(&stage.target, bytes).await.unwrap(), expected);
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}

/// `SQL_ASCII` says nothing about its bytes. Those that are UTF-8 pass as they are.
#[tokio::test(flavor = "multi_thread")]
async fn sql_ascii_passes_what_is_utf8() {
    let stage = stage_from("SQL_ASCII", "encodings_ascii").await;
    let sql = "CREATE TABLE good (id int PRIMARY KEY, t text); INSERT INTO good VALUES (1, 'ä🐘'), (2, 'plain')";
    stage.source_sql(sql).await;
    let run = stage.start_streaming().await;
    stage
        .source_sql(
            "INSERT INTO good SELECT id + 10, t FROM good; UPDATE good SET t = '🌊' WHERE id = 2",
        )
        .await;
    stage.wait_until_identical().await;
    let bytes = "SELECT encode(convert_to(t, 'UTF8'), 'hex') FROM good WHERE id = 11";
    assert_eq!(text(&stage.target, bytes).await.unwrap(), "c3a4f09f9098");
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}

/// What is not UTF-8 is refused with its row named; its table waits, the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn sql_ascii_sets_aside_a_table_whose_load_is_not_utf8() {
    let stage = stage_from("SQL_ASCII", "encodings_load").await;
    stage
        .source_sql(
            "CREATE TABLE good (id int PRIMARY KEY, t text); INSERT INTO good VALUES (1, 'ä');
             CREATE TABLE bad (id int PRIMARY KEY, t text); INSERT INTO bad VALUES (1, 'x');
             INSERT INTO bad VALUES (2, convert_from('\\xe4', 'SQL_ASCII'))",
        )
        .await;
    let run = stage.start_streaming().await;
    stage.wait_for_table("public.bad", "quarantined").await;
    let notes = stage.table("public.bad").await.to_string();
    assert!(notes.contains("ctid (0,2)"), "the row is named: {notes}");
    stage.source_sql("INSERT INTO good VALUES (2, 'ö')").await;
    stage
        .wait_for_equal(stage.comparison().only("public", "good"))
        .await;
    assert_eq!(
        text(&stage.target, "SELECT count(*) FROM bad")
            .await
            .unwrap(),
        "0"
    );

    // What TM3002 says to do first.
    let mend = "convert_from(convert(convert_to(col, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'UTF8')";
    let said = stage.run(&["explain", "TM3002", "--json"]).await.expect(0);
    assert!(said.stdout.contains(mend), "{}", said.stdout);
    let mend = mend.replace("col", "t");
    stage
        .source_sql(&format!("UPDATE bad SET t = {mend} WHERE id = 2"))
        .await;
    stage.resync("public.bad").await;
    stage.wait_until_identical().await;
    let mended = "SELECT t FROM bad WHERE id = 2";
    assert_eq!(text(&stage.target, mended).await.unwrap(), "ä");
    run.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_ascii_sets_aside_a_table_whose_changes_are_not_utf8() {
    let stage = stage_from("SQL_ASCII", "encodings_stream").await;
    stage
        .source_sql(
            "CREATE TABLE good (id int PRIMARY KEY, t text); INSERT INTO good VALUES (1, 'ä');
             CREATE TABLE bad (id int PRIMARY KEY, t text); INSERT INTO bad VALUES (1, 'x')",
        )
        .await;
    let run = stage.start_streaming().await;
    stage
        .source_sql("INSERT INTO bad VALUES (2, convert_from('\\xe4', 'SQL_ASCII'))")
        .await;
    stage.source_sql("INSERT INTO good VALUES (2, 'ö')").await;
    stage
        .wait_for_equal(stage.comparison().only("public", "good"))
        .await;
    stage.wait_for_table("public.bad", "quarantined").await;
    let reason = stage.table("public.bad").await["reason"].to_string();
    let words = [
        "TM2041",
        "insert (change 1 of",
        "public.bad (key id = 2)",
        "22021",
    ];
    for word in words {
        assert!(reason.contains(word), "no {word} in {reason}");
    }
    assert_eq!(
        text(&stage.target, "SELECT count(*) FROM bad")
            .await
            .unwrap(),
        "1"
    );
    run.terminate().await;
}

/// A character that the target's encoding does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lacks_a_character_refuses_its_row() {
    let source = PostgresServer::shared().await.unwrap();
    let target = PostgresServer::builder().encoding("LATIN1");
    let target = Box::leak(Box::new(target.start().await.unwrap()));
    let stage = Stage::on(source, target, "encodings_target").await;
    stage
        .source_sql(
            "CREATE TABLE good (id int PRIMARY KEY, t text); INSERT INTO good VALUES (1, 'äÿ');
             CREATE TABLE bad (id int PRIMARY KEY, t text); INSERT INTO bad VALUES (1, 'é');
             CREATE TABLE worse (id int PRIMARY KEY, t text); INSERT INTO worse VALUES (1, '🌊')",
        )
        .await;
    let run = stage.start_streaming().await;
    stage.wait_for_table("public.worse", "quarantined").await;
    stage.wait_for_table("public.good", "streaming").await;
    stage
        .source_sql("INSERT INTO bad VALUES (2, 'ok'); UPDATE good SET t = 'ß'")
        .await;
    // By itself, or it would wait with the change that cannot be applied.
    stage.wait_for_target("SELECT count(*) FROM bad", "2").await;
    stage.source_sql("INSERT INTO bad VALUES (3, '€')").await;
    stage.source_sql("INSERT INTO good VALUES (2, 'ö')").await;
    stage
        .wait_for_equal(stage.comparison().only("public", "good"))
        .await;
    stage.wait_for_table("public.bad", "quarantined").await;
    let kept = "SELECT string_agg(id || t, ',' ORDER BY id) FROM bad";
    assert_eq!(text(&stage.target, kept).await.unwrap(), "1é,2ok");
    run.terminate().await;
    stage.clear().await;
}
