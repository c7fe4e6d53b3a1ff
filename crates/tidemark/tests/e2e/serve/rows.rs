//! Rows of both sides, side by side: masked, bounded, shown to who may see them, and never claimed to differ
//! while a change is on its way.

use serde_json::{Value, json};
use tidemark_lab::wait::wait_for;

use super::access::{guarded, token};
use super::names::in_path;
use super::{Server, definition};
use crate::stage::{PATIENCE, Stage};

const TABLES: &str = "CREATE TABLE people (id int PRIMARY KEY, mail text, note text);
    INSERT INTO people SELECT i, 'p' || i || '@secret.example', 'note ' || i FROM generate_series(1, 20) i;
    CREATE TABLE parts (a text, b int, v bytea, PRIMARY KEY (a, b));
    INSERT INTO parts VALUES ('x, y', 1, decode(repeat('ab', 3000), 'hex'));
    CREATE TABLE marks (v text);
    INSERT INTO marks VALUES ('one'), ('one');
    ALTER TABLE marks REPLICA IDENTITY FULL;
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE odd (b bytea, t timestamptz, n numeric, j jsonb, c pair, PRIMARY KEY (b, t, n, j, c));
    INSERT INTO odd VALUES ('\\x00ff27', '2026-10-25 00:30:00.5+00', 'NaN', '[\"a\", {\"b\": \"''\"}]', '(1,\"x \\\\ \"\"y\"\"\")'),
        ('', 'infinity', '-Infinity', 'null', '(,)'), ('a', '0044-03-15 12:00:00+00 BC', 1.50, '\"\"', '(0,\"\")');";

fn wanted(stage: &Stage) -> Value {
    let mut wanted = definition(stage);
    wanted["verify"] = json!({ "after_load": "off" });
    wanted["mask"] =
        json!([{ "columns": ["public.people.mail"], "with": "hash", "salt": "sea salt" }]);
    wanted
}

/// A row of an answer, by its key.
fn row<'a>(found: &'a Value, key: &str) -> &'a Value {
    let rows = found["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["key"] == json!([key]));
    row.unwrap_or_else(|| panic!("no row {key}: {found}"))
}

#[tokio::test]
async fn rows_of_both_sides_are_shown_masked_to_who_may_see_them() {
    let stage = Stage::new("srv_rows").await;
    let mut server = guarded().await;
    let viewer = token(&server, "vic", "viewer", "default").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    let answer = server.post("/pipelines?start=true", &wanted(&stage)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_rows", "streaming").await;
    let base = "/pipelines/srv_rows";
    let preview = format!("{base}/preview?table=public.people");

    let found = server.get(&format!("{preview}&limit=5")).await;
    assert_eq!(found["rows"].as_array().unwrap().len(), 5, "{found}");
    assert_eq!(found["columns"][1]["mask"], "hash");
    let first = row(&found, "1");
    assert_eq!(
        (&first["verdict"], &first["is_settled"]),
        (&json!("same"), &json!(true))
    );
    let masked = first["source"][1]["text"].as_str().unwrap();
    assert_eq!(masked.len(), 64, "{first}");
    assert_eq!(first["source"], first["target"]);
    assert_eq!(first["source"][2]["text"], "note 1");
    assert!(!found.to_string().contains("secret.example"), "{found}");

    // What somebody did to the target is told row by row; what no mask made of a value is not shown.
    stage
        .target_sql(
            "UPDATE people SET note = 'other' WHERE id = 2; DELETE FROM people WHERE id = 3;
             UPDATE people SET mail = 'clear@secret.example' WHERE id = 4;
             INSERT INTO people VALUES (0, 'zero@secret.example', 'zero');",
        )
        .await;
    let found = server.get(&preview).await;
    let told = |key: &str| {
        let row = row(&found, key);
        let verdict = row["verdict"].as_str().unwrap().to_owned();
        (verdict, row["is_settled"].clone(), row["different"].clone())
    };
    let settled = |verdict: &str, different: Value| (verdict.to_owned(), json!(true), different);
    assert_eq!(told("2"), settled("changed", json!([2])));
    assert_eq!(told("3"), settled("missing", json!([])));
    assert_eq!(told("4"), settled("changed", json!([1])));
    assert_eq!(told("0"), settled("extra", json!([])));
    for key in ["0", "4"] {
        assert_eq!(row(&found, key)["target"][1]["kind"], "hidden", "{found}");
    }
    assert_eq!(row(&found, "0")["target"][2]["text"], "zero");
    assert!(!found.to_string().contains("secret.example"), "{found}");

    one_row_is_traced(&server, base).await;
    what_is_asked_wrongly_is_refused(&server, base).await;
    tables_without_a_plain_key_are_shown(&server, base).await;

    // A viewer sees no values, and whoever does is written down, without the key.
    let audit = server.get("/audit?limit=500").await;
    let objects: Vec<&str> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["object"].as_str())
        .collect();
    for what in ["preview", "trace"] {
        let looked = format!("/api/v1{base}/{what}?table=public.people");
        assert!(objects.contains(&looked.as_str()), "{objects:?}");
    }
    server.token = Some(viewer);
    for route in [preview, format!("{base}/trace?table=public.people&key=1")] {
        let answer = server.send(server.request("GET", &route)).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    server.terminate().await;
    stage.clear().await;
}

/// One row, with what else is known of it.
async fn one_row_is_traced(server: &Server, base: &str) {
    let trace = format!("{base}/trace?table=public.people&key");
    let found = server.get(&format!("{trace}=2")).await;
    assert_eq!(found["rows"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(row(&found, "2")["different"], json!([2]));
    assert_eq!(
        (&found["quarantine"], &found["compared"]),
        (&json!([]), &Value::Null)
    );
    let compared = server.act("srv_rows", "verify", &json!({})).await;
    assert_eq!(compared["state"], "succeeded", "{compared}");
    let found = server.get(&format!("{trace}=%5B%222%22%5D")).await;
    assert_eq!(found["compared"]["result"], "different", "{found}");
    let nowhere = server.get(&format!("{trace}=12345")).await;
    assert_eq!(nowhere["rows"], json!([]));
}

async fn what_is_asked_wrongly_is_refused(server: &Server, base: &str) {
    for (route, status) in [
        ("preview", 400),
        ("preview?table=public.nothing", 404),
        ("preview?table=public.people&limit=51", 400),
        ("trace?table=public.people", 400),
        ("trace?table=public.people&key=x", 400),
        ("trace?table=public.people&key=%00", 400),
        ("trace?table=public.parts&key=x", 400),
        ("trace?table=public.marks&key=x", 409),
    ] {
        let answer = server
            .send(server.request("GET", &format!("{base}/{route}")))
            .await;
        assert_eq!(answer.status, status, "{route}: {}", answer.text());
    }
}

async fn tables_without_a_plain_key_are_shown(server: &Server, base: &str) {
    let key = "%5B%22x,%20y%22,%221%22%5D";
    let found = server
        .get(&format!("{base}/trace?table=public.parts&key={key}"))
        .await;
    let only = &found["rows"][0];
    assert_eq!(
        (&only["verdict"], &only["source"][2]["kind"]),
        (&json!("same"), &json!("cut")),
        "{found}"
    );
    let found = server
        .get(&format!("{base}/preview?table=public.marks"))
        .await;
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "two of each side: {found}");
    assert!(rows.iter().all(|row| row["verdict"] == "unpaired"));
    // A row is found by the key that is shown of it, whatever its types are.
    let found = server
        .get(&format!("{base}/preview?table=public.odd"))
        .await;
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{found}");
    for row in rows {
        assert_eq!(row["verdict"], "same", "{found}");
        let key = in_path(&row["key"].to_string());
        let route = format!("{base}/trace?table=public.odd&key={key}");
        let traced = server.get(&route).await;
        assert_eq!(traced["rows"], json!([row]), "{traced}");
    }
}

#[tokio::test]
async fn what_is_on_its_way_is_not_called_a_difference() {
    let stage = Stage::new("srv_on_its_way").await;
    let mut server = Server::start(&[]).await;
    stage.source.batch_execute(TABLES).await.unwrap();
    let answer = server.post("/pipelines?start=true", &wanted(&stage)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_on_its_way", "streaming").await;
    let trace = "/pipelines/srv_on_its_way/trace?table=public.people&key=30";

    // As long as changes do not come nobody can say, a table alone or all of them.
    for route in ["/tables/public.people/actions", "/actions"] {
        let ask = async |action: &str| {
            let route = format!("/pipelines/srv_on_its_way{route}/{action}");
            let answer = server.post(&route, &json!({})).await;
            let done = server.operation(&answer).await;
            assert_eq!(done["state"], "succeeded", "{done}");
        };
        ask("pause").await;
        stage
            .source_sql("INSERT INTO people VALUES (30, 'm', 'n')")
            .await;
        let found = server.get(trace).await;
        let missing = row(&found, "30");
        assert_eq!(
            (&missing["verdict"], &missing["is_settled"]),
            (&json!("missing"), &json!(false)),
            "{found}"
        );
        ask("resume").await;
        let same = wait_for(PATIENCE, "the row", || async {
            let found = server.get(trace).await;
            let row = row(&found, "30").clone();
            Ok((row["verdict"] == "same").then_some(row))
        });
        assert_eq!(same.await.unwrap()["is_settled"], true);
        stage.source_sql("DELETE FROM people WHERE id = 30").await;
        stage
            .wait_for_target("SELECT count(*) FROM people WHERE id = 30", "0")
            .await;
    }

    // Rows are shown without a run as well; while somebody writes nothing false is said.
    let writes = (0..200).map(|i| format!("UPDATE people SET note = 'w{i}' WHERE id = 5"));
    for write in writes {
        stage.source_sql(&write).await;
        if write.contains("w50'") || write.contains("w150'") {
            let found = server
                .get("/pipelines/srv_on_its_way/preview?table=public.people")
                .await;
            for row in found["rows"].as_array().unwrap() {
                let is_claimed = row["is_settled"] == true && row["verdict"] != "same";
                assert!(!is_claimed, "{row}");
            }
        }
    }
    let stopped = server.act("srv_on_its_way", "stop", &json!({})).await;
    assert_eq!(stopped["state"], "succeeded", "{stopped}");
    let found = server
        .get("/pipelines/srv_on_its_way/preview?table=public.people&limit=1")
        .await;
    assert_eq!(row(&found, "1")["verdict"], "same", "{found}");
    server.terminate().await;
    stage.clear().await;
}
