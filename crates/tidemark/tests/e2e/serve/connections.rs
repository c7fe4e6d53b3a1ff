//! Connections that have a name: made, used, changed and tested by the API; secrets that never come out.

use serde_json::{Value, json};
use tidemark_lab::http::Request;
use tidemark_lab::wait::wait_for;

use super::access::{guarded, token};
use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

/// The definition of a stage's pipeline, with its source by name.
fn by_name(stage: &Stage, name: &str) -> Value {
    let mut wanted = definition(stage);
    wanted["source"] = json!({ "connection": name });
    wanted
}

async fn change(server: &Server, method: &str, name: &str, body: &Value) -> (u16, Value) {
    let route = format!("/connections/{name}");
    let request = server.request(method, &route).header("if-match", "*");
    let answer = server.send(request.json(body)).await;
    (answer.status, answer.json().unwrap_or_default())
}

#[tokio::test]
async fn a_connection_is_used_by_name_and_stays_as_long_as_it_is() {
    let stage = Stage::new("srv_named").await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let url = stage.source_url();
    let keys = json!({ "name": "orders", "url": url, "password": "hunter2" });
    let made = server.post("/connections", &keys).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("location"), Some("/api/v1/connections/orders"));
    let one = made.json().unwrap();
    assert_eq!(
        (&one["used_by"], &one["problem"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(one["keys"]["password"], "***", "{one}");
    let twice = server.post("/connections", &keys).await;
    assert_eq!(twice.status, 409, "{}", twice.text());
    what_is_wrong_is_refused(&server, &url).await;
    what_is_in_the_database_is_told(&server, &stage).await;

    // A pipeline runs with it, also after a restart, and keeps it from being deleted.
    let copies = json!({ "name": "copies", "url": stage.target_url() });
    let copies = server.post("/connections", &copies).await.json().unwrap();
    let mut wanted = by_name(&stage, "orders");
    wanted["target"] = json!({ "connection": "copies" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_named", "streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    server.restart().await;
    server.wait_for_state("srv_named", "streaming").await;
    let (status, problem) = change(&server, "DELETE", "orders", &json!({})).await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("TM8062")),
        "{problem}"
    );
    assert!(
        problem["detail"].as_str().unwrap().contains("srv_named"),
        "{problem}"
    );
    let stale = server
        .request("PUT", "/connections/orders")
        .header("if-match", "\"0\"");
    assert_eq!(server.send(stale.json(&keys)).await.status, 412);
    let bare = server.request("PUT", "/connections/orders");
    assert_eq!(server.send(bare.json(&keys)).await.status, 428);

    what_runs_takes_a_change_over(&server, &stage, &copies).await;
    let request = server
        .request("DELETE", "/pipelines/srv_named")
        .header("if-match", "*");
    let done = server.operation(&server.send(request).await).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    let (status, _) = change(&server, "DELETE", "orders", &json!({})).await;
    assert_eq!(status, 204);
    let gone = server.post("/pipelines", &by_name(&stage, "orders")).await;
    assert_eq!(
        (gone.status, &gone.json().unwrap()["code"]),
        (422, &json!("TM7013"))
    );

    // Nothing of what was secret is in the store, the log or an answer.
    let list = server
        .send(server.request("GET", "/connections"))
        .await
        .text();
    assert!(!list.contains("hunter2") && !server.log().contains("hunter2"));
    let audit = server.get("/audit?limit=500").await.to_string();
    assert!(audit.contains("/api/v1/connections/orders") && !audit.contains("hunter2"));
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    for entry in std::fs::read_dir(server.state()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"), "{path:?}");
    }
    stage.clear().await;
}

async fn what_is_wrong_is_refused(server: &Server, url: &str) {
    for wrong in [
        json!({ "url": url }),
        json!({ "name": "Not A Name", "url": url }),
        json!({ "name": "x", "url": "mysql://a@b/c" }),
        json!({ "name": "x", "url": url, "host": "a" }),
        json!({ "name": "x", "url": url, "password": "***" }),
        json!({ "name": "x" }),
        json!({ "name": "x", "url": url, "colour": "blue" }),
    ] {
        let refused = server.post("/connections", &wrong).await;
        assert!(
            [400, 422].contains(&refused.status),
            "{wrong}: {}",
            refused.text()
        );
    }
}

/// For whoever chooses what to copy.
async fn what_is_in_the_database_is_told(server: &Server, stage: &Stage) {
    let tested = server.post("/connections/orders/test", &json!({})).await;
    let tested = tested.json().unwrap();
    assert_eq!(
        (&tested["ok"], &tested["code"]),
        (&json!(true), &Value::Null),
        "{tested}"
    );
    assert_eq!(tested["about"]["wal_level"], "logical", "{tested}");
    let more = "CREATE SCHEMA other; CREATE TABLE other.b (x int, y text, PRIMARY KEY (y, x)); \
        CREATE TABLE other.a (z numeric(8,2) NOT NULL)";
    stage.source.batch_execute(more).await.unwrap();
    let first = server.get("/connections/orders/schemas?limit=1").await;
    let next = first["next"].as_str().unwrap();
    let second = server.get(next.strip_prefix("/api/v1").unwrap()).await;
    let schemas = [&first["schemas"][0], &second["schemas"][0]];
    let expected = [
        json!({ "name": "other", "tables": 2 }),
        json!({ "name": "public", "tables": 1 }),
    ];
    assert_eq!(schemas, [&expected[0], &expected[1]]);
    assert_eq!(second["next"], Value::Null);
    let tables = server.get("/connections/orders/tables?schema=other").await;
    let known: Vec<_> = tables["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["name"].clone(), t["has_key"].clone()))
        .collect();
    assert_eq!(
        known,
        [(json!("a"), json!(false)), (json!("b"), json!(true))]
    );
    let columns = server
        .get("/connections/orders/columns?table=other.b")
        .await;
    let expected = json!([
        { "name": "x", "data_type": "integer", "nullable": false, "key_position": 2 },
        { "name": "y", "data_type": "text", "nullable": false, "key_position": 1 },
    ]);
    assert_eq!(columns["columns"], expected);
    let none = server
        .send(server.request("GET", "/connections/orders/columns?table=other.c"))
        .await;
    assert_eq!(none.status, 404);
    stage
        .source
        .batch_execute("DROP SCHEMA other CASCADE")
        .await
        .unwrap();
}

/// What is sent back as it was shown changes nothing; a change is taken over by what runs.
async fn what_runs_takes_a_change_over(server: &Server, stage: &Stage, copies: &Value) {
    let url = stage.source_url();
    let shown = server.get("/connections/orders").await;
    assert_eq!(shown["used_by"], json!(["srv_named"]), "{shown}");
    let (status, same) = change(server, "PUT", "orders", &shown["keys"]).await;
    assert_eq!((status, &same["etag"]), (200, &shown["etag"]), "{same}");
    let before = runs(server).await;
    let moved = json!({ "url": format!("{url}?application_name=moved"), "password": "***" });
    let (status, refused) = change(server, "PUT", "orders", &moved).await;
    assert_eq!(status, 200, "{refused}");
    wait_for(PATIENCE, "another run", || async {
        Ok((runs(server).await > before).then_some(()))
    })
    .await
    .unwrap();
    server.wait_for_state("srv_named", "streaming").await;
    stage
        .source
        .batch_execute("INSERT INTO orders VALUES (2000, 'later')")
        .await
        .unwrap();
    stage.wait_until_identical().await;
    // Where it would not do for who uses it, nothing is changed.
    let (status, refused) = change(server, "PUT", "orders", &json!({ "url": "nonsense" })).await;
    assert_eq!(status, 422, "{refused}");
    let (status, refused) = change(server, "PUT", "copies", &json!({ "url": url })).await;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("TM8024")),
        "{refused}"
    );
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .starts_with("target.url"),
        "{refused}"
    );
    let kept = server.get("/connections/copies").await;
    assert_eq!(kept["etag"], copies["etag"], "{kept}");
}

async fn runs(server: &Server) -> usize {
    let list = server.get("/pipelines/srv_named/runs?limit=500").await;
    list["runs"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_connection_that_does_not_answer_says_why_and_the_one_of_a_file_is_read_only() {
    let stage = Stage::new("srv_filed").await;
    fill(&stage).await;
    let server = Server::start(&["--pipelines", "pipelines.d"]).await;
    let nowhere =
        json!({ "name": "nowhere", "url": "postgres://a@127.0.0.1:1/x?connect_timeout=3600" });
    assert_eq!(server.post("/connections", &nowhere).await.status, 201);
    let tested = server.post("/connections/nowhere/test", &json!({})).await;
    let told = tested.json().unwrap();
    assert_eq!(
        (tested.status, &told["ok"], &told["about"]),
        (200, &json!(false), &Value::Null),
        "{told}"
    );
    assert_eq!(told["code"], "TM1004", "{told}");
    assert!(!told["action"].as_str().unwrap().is_empty(), "{told}");
    let listed = server
        .send(server.request("GET", "/connections/nowhere/schemas"))
        .await;
    assert_eq!(listed.status, 503, "{}", listed.text());

    let file = server.pipelines().join("connections.toml");
    let text = format!(
        "version = 1\n[[connection]]\nname = \"filed\"\nurl = \"{}\"\n",
        stage.source_url()
    );
    std::fs::write(&file, text).unwrap();
    let pipeline = std::fs::read_to_string(stage.file()).unwrap();
    std::fs::write(server.pipelines().join("srv_filed.toml"), pipeline).unwrap();
    server.wait_for_state("srv_filed", "streaming").await;
    let one = server.get("/connections/filed").await;
    assert_eq!(
        one["file"],
        file.canonicalize().unwrap().display().to_string()
    );
    assert_eq!(
        (&one["etag"], &one["keys"]),
        (&Value::Null, &Value::Null),
        "{one}"
    );
    let tested = server
        .post("/connections/filed/test", &json!({}))
        .await
        .json()
        .unwrap();
    assert_eq!(tested["ok"], true, "{tested}");
    for method in ["PUT", "DELETE"] {
        let (status, problem) = change(
            &server,
            method,
            "filed",
            &json!({ "url": stage.source_url() }),
        )
        .await;
        assert_eq!(
            (status, &problem["code"]),
            (409, &json!("TM8034")),
            "{problem}"
        );
    }
    let taken = json!({ "name": "filed", "url": "postgres://a@b/c" });
    assert_eq!(server.post("/connections", &taken).await.status, 409);
    // Where the file is torn, what is in it is not known, and that is said.
    std::fs::write(&file, "version = 1\n[[conn").unwrap();
    let list = server.get("/connections").await;
    assert!(list["problem"].as_str().unwrap().contains("TM70"), "{list}");
    assert_eq!(list["named"].as_array().unwrap().len(), 1, "{list}");
    drop(server);
    stage.clear().await;
}

#[tokio::test]
async fn s11_s16_connections_of_a_tenant_are_its_own_and_reach_nothing_of_the_server() {
    let stage = Stage::new("srv_named_of").await;
    let mut server = guarded().await;
    let of_a = token(&server, "ann", "admin", "a").await;
    let of_b = token(&server, "bob", "admin", "b").await;
    let viewer = token(&server, "vic", "viewer", "a").await;
    let ours = server.token.replace(of_a);
    let url = stage.source_url();
    let made = server
        .post("/connections", &json!({ "name": "orders", "url": url }))
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    let ca = format!("{url}?sslmode=verify-ca&sslrootcert=/etc/passwd");
    for (keys, code) in [
        (
            json!({ "name": "x", "url": "postgres://a@/x?host=/var/run/postgresql" }),
            "TM7086",
        ),
        (json!({ "name": "x", "url": ca }), "TM7086"),
        (
            json!({ "name": "x", "url": url, "password": "${file:/etc/hostname}" }),
            "TM7007",
        ),
    ] {
        let refused = server.post("/connections", &keys).await;
        let problem = refused.json().unwrap();
        assert_eq!(
            (refused.status, problem["code"].as_str()),
            (422, Some(code)),
            "{keys}: {problem}"
        );
    }
    // Whom the server must not ask it does not ask.
    let link = json!({ "name": "link", "url": "postgres://a@169.254.169.254:80/x" });
    assert_eq!(server.post("/connections", &link).await.status, 201);
    let tested = server
        .post("/connections/link/test", &json!({}))
        .await
        .json()
        .unwrap();
    assert_eq!(
        (&tested["ok"], &tested["code"]),
        (&json!(false), &json!("TM7085")),
        "{tested}"
    );
    // Another tenant has a name of its own, and uses nobody else's.
    server.token = Some(of_b);
    let spied = server.post("/pipelines", &by_name(&stage, "orders")).await;
    assert_eq!(
        (spied.status, &spied.json().unwrap()["code"]),
        (422, &json!("TM7013"))
    );
    let own = json!({ "name": "orders", "url": "postgres://b@127.0.0.1:1/y" });
    assert_eq!(server.post("/connections", &own).await.status, 201);
    let list = server.get("/connections").await;
    assert_eq!(list["named"].as_array().unwrap().len(), 1, "{list}");
    assert!(list.to_string().contains("127.0.0.1:1/y"), "{list}");
    server.token = ours;
    assert_eq!(server.get("/connections").await["named"], json!([]));
    // Who only looks has no database asked.
    for (method, route) in [
        ("POST", "test"),
        ("GET", "schemas"),
        ("GET", "tables"),
        ("GET", "columns"),
    ] {
        let path = format!("/api/v1/connections/orders/{route}");
        let request =
            Request::new(method, &path).header("authorization", &format!("Bearer {viewer}"));
        assert_eq!(
            server.send(request.json(&json!({}))).await.status,
            403,
            "{route}"
        );
    }
}
