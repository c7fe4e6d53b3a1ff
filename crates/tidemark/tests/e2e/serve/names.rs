//! Names that are SQL, in a file and through the API: quoted on both sides, in every statement.

use serde_json::{Value, json};
use tidemark_lab::compare::Comparison;
use tidemark_lab::http::Request;

use super::{Server, definition};
use crate::asks::text;
use crate::stage::Stage;

/// A table, a column, a publication and a schema of this name drop the canary where they are not quoted.
const EVIL: &str = "x\"; DROP TABLE public.canary; --";
const EVIL_TOO: &str = "y'); DROP TABLE public.canary; --$1 %2F/ `id`\u{1f4a5}";
const VALUE: &str = "Robert'); DROP TABLE public.canary; -- \\. \\N \\' \u{1f4a5}";

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Evil names with evil values, and a canary on both sides that is not copied.
async fn stage(name: &str) -> Stage {
    let stage = Stage::new(name).await;
    let (evil, too) = (quoted(EVIL), quoted(EVIL_TOO));
    let value = VALUE.replace('\'', "''");
    let canary = "CREATE TABLE public.canary (id int PRIMARY KEY)";
    stage.target_sql(canary).await;
    stage.source_sql(canary).await;
    let sql = format!(
        "CREATE SCHEMA {evil};
         CREATE TABLE {evil}.{too} (id int PRIMARY KEY, {evil} text, {too} text DEFAULT 'a');
         INSERT INTO {evil}.{too} VALUES (1, '{value}', '\\.'), (2, NULL, '\\N'), (3, 'x', '');
         CREATE TABLE public.{evil} ({too} text PRIMARY KEY, n int);
         INSERT INTO public.{evil} VALUES ('{value}', 1), ('\\.', 2), ('', 3);"
    );
    stage.source_sql(&sql).await;
    stage
}

/// What its tables are called on the target.
fn wanted(stage: &Stage) -> Value {
    let mut wanted = definition(stage);
    wanted["source"]["postgres"] = json!({ "publication": format!("p{EVIL}") });
    wanted["target"]["schema"] = json!("{schema}");
    let evil = quoted(EVIL);
    wanted["tables"] = json!({ "include": [format!("{evil}.*"), format!("public.{evil}")] });
    wanted["table"] = json!([{
        "source": format!("public.{evil}"),
        "target": format!("{}.{}", quoted(EVIL_TOO), evil),
        "rename": { EVIL_TOO: format!("k{EVIL}") },
        "where": format!("\"{EVIL_TOO}\" <> 'x''); DROP TABLE public.canary; --'"),
    }]);
    wanted
}

fn comparison(stage: &Stage) -> Comparison<'_> {
    stage
        .comparison()
        .schema(EVIL, EVIL)
        .table(("public", EVIL), (EVIL_TOO, EVIL))
        .column(("public", EVIL), EVIL_TOO, &format!("k{EVIL}"))
        .only(EVIL, EVIL_TOO)
        .only("public", EVIL)
}

async fn change(stage: &Stage) {
    let (evil, too) = (quoted(EVIL), quoted(EVIL_TOO));
    let value = VALUE.replace('\'', "''");
    let sql = format!(
        "UPDATE {evil}.{too} SET {evil} = '{value}{value}' WHERE id = 2;
         UPDATE {evil}.{too} SET id = 20 WHERE id = 3; DELETE FROM {evil}.{too} WHERE id = 1;
         INSERT INTO {evil}.{too} SELECT i, '{value}', '\\N' FROM generate_series(100, 120) i;
         UPDATE public.{evil} SET {too} = {too} || '{value}' WHERE n = 2;
         INSERT INTO public.{evil} VALUES ('E''\\'';', 4);
         ALTER TABLE {evil}.{too} ADD COLUMN \"z{}\" int; UPDATE {evil}.{too} SET id = id + 1000;",
        EVIL.replace('"', "\"\"")
    );
    stage.source_sql(&sql).await;
}

async fn assert_canaries_live(stage: &Stage) {
    for client in [&stage.source, &stage.target] {
        let canary = "SELECT to_regclass('public.canary') IS NOT NULL";
        assert_eq!(text(client, canary).await.unwrap(), "t");
    }
}

/// Percent-encodes everything.
pub(super) fn in_path(text: &str) -> String {
    let parts: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    parts.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_s02_names_and_values_of_a_file_are_names_and_values() {
    let stage = stage("srv_names_file").await;
    let text = toml::to_string(&wanted(&stage)).unwrap();
    std::fs::write(stage.file(), text).unwrap();
    let run = stage.start_streaming().await;
    change(&stage).await;
    stage.wait_for_equal(comparison(&stage)).await;
    stage.verify_identical().await;
    let evil = quoted(EVIL);
    let (one, two) = (
        format!("{evil}.{}", quoted(EVIL_TOO)),
        format!("public.{evil}"),
    );
    for words in [
        &["pause", "FILE", "--table", &one][..],
        &["resume", "FILE", "--table", &one],
        &["resync", "FILE", "--table", &two, "--yes"],
        &["tables", "FILE"],
        &["lag", "FILE"],
        &["sequences", "FILE"],
        &["verify", "FILE", "--deep", "--repair", "--yes"],
    ] {
        stage.run(words).await.expect(0);
    }
    stage.wait_for_equal(comparison(&stage)).await;
    assert_canaries_live(&stage).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    assert_canaries_live(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_s02_names_and_values_through_the_api_are_names_and_values() {
    let stage = stage("srv_names_api").await;
    let server = Server::start(&[]).await;
    // A slot has letters alone; a name with a zero byte is nobody's.
    for (section, key, value) in [
        ("source", "slot", json!("a'; DROP TABLE canary; --")),
        ("source", "publication", json!("a\0b")),
    ] {
        let mut wrong = wanted(&stage);
        wrong[section]["postgres"] = json!({ key: value });
        let refused = server.post("/pipelines", &wrong).await;
        assert_eq!(refused.status, 422, "{}", refused.text());
    }
    for name in ["", "../x", "a;b", "a\"b", "A", "\u{1f4a5}", "x y", "a\0"] {
        let mut wrong = wanted(&stage);
        wrong["pipeline"]["name"] = json!(name);
        let refused = server.post("/pipelines", &wrong).await;
        assert_eq!(refused.status, 422, "{name:?}: {}", refused.text());
    }
    let made = server.post("/pipelines?start=true", &wanted(&stage)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    server.wait_for_state("srv_names_api", "streaming").await;
    change(&stage).await;
    stage.wait_for_equal(comparison(&stage)).await;
    // As the API calls it, so it is asked for.
    let all = server.get("/pipelines/srv_names_api/tables").await;
    let mut names = all["tables"].as_array().unwrap().iter();
    let name = names
        .find_map(|one| one["source"].as_str().filter(|name| name.contains("%2F/")))
        .unwrap_or_else(|| panic!("{all}"))
        .to_owned();
    assert_eq!(name, format!("{}.{}", quoted(EVIL), quoted(EVIL_TOO)));
    let route = format!("/pipelines/srv_names_api/preview?table={}", in_path(&name));
    assert_eq!(server.get(&route).await["table"], name.as_str());
    for action in ["pause", "resume", "resync", "verify"] {
        let route = format!(
            "/pipelines/srv_names_api/tables/{}/actions/{action}",
            in_path(&name)
        );
        let answer = server.post(&route, &json!({})).await;
        assert_eq!(answer.status, 202, "{action}: {}", answer.text());
        let done = server.operation(&answer).await;
        assert_eq!(
            done["state"],
            "succeeded",
            "{action}: {done}\n{}",
            server.log()
        );
    }
    let route = format!("/pipelines/srv_names_api/tables?q={}", in_path(EVIL));
    let tables = server.get(&route).await;
    assert_eq!(tables["tables"].as_array().unwrap().len(), 2, "{tables}");
    let metrics = server.send(Request::new("GET", "/metrics")).await.text();
    let begins = ["#", "tidemark_", "http_", "process_"];
    let is_whole = |line: &str| begins.iter().any(|begin| line.starts_with(begin));
    let broken: Vec<&str> = metrics.lines().filter(|line| !is_whole(line)).collect();
    assert!(broken.is_empty(), "{broken:?}");
    stage.wait_for_equal(comparison(&stage)).await;
    // Deleting it drops what bears these names, and nothing else.
    let request = server
        .request("DELETE", "/pipelines/srv_names_api")
        .header("if-match", "*");
    let done = server.operation(&server.send(request).await).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    stage.assert_nothing_on_the_source().await;
    assert_canaries_live(&stage).await;
}
