//! Lists: chosen by tag, page by page, and not sent again to whoever has them.

use serde_json::{Value, json};
use tidemark_lab::wait::wait_for;
use tokio::process::Command;

use super::Server;
use super::contract::operations;
use crate::stage::PATIENCE;

/// A pipeline whose databases do not answer.
fn nowhere(name: &str, tags: &[&str]) -> Value {
    json!({
        "version": 1,
        "pipeline": { "name": name, "mode": "full_load_and_cdc", "tags": tags },
        "source": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/x" },
        "target": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/y" },
        "tables": { "include": ["public.*"] },
    })
}

fn names(list: &Value) -> Vec<&str> {
    let all = list["pipelines"].as_array().unwrap().iter();
    all.map(|one| one["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pipelines_are_listed_by_their_tags_and_what_is_not_known_is_said() {
    let mut server = Server::start(&["--pipelines", "pipelines.d"]).await;
    let made = [
        ("a", &["tier 1", "finance"][..]),
        ("b", &["finance"]),
        ("c", &["finance"]),
        ("d", &[]),
    ];
    for (name, tags) in made {
        let answer = server.post("/pipelines", &nowhere(name, tags)).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.json().unwrap()["tags"], json!(tags));
    }
    let all = server.get("/pipelines?tag=finance&sort=name").await;
    assert_eq!(
        (names(&all), &all["total"]),
        (vec!["a", "b", "c"], &json!(3))
    );
    assert_eq!(all["counts"], json!({ "notice": 3 }), "{all}");
    // The next page is of the same tag, which may be any text.
    let first = server.get("/pipelines?tag=finance&limit=2").await;
    let next = first["next"].as_str().unwrap();
    let second = server.get(next.strip_prefix("/api/v1").unwrap()).await;
    assert_eq!((names(&first), names(&second)), (vec!["a", "b"], vec!["c"]));
    assert_eq!(names(&server.get("/pipelines?tag=tier%201").await), ["a"]);
    assert!(names(&server.get("/pipelines?tag=fin").await).is_empty());

    // A definition that is changed has other tags at once.
    let patch = json!({ "pipeline": { "tags": ["ops"] } });
    let request = server
        .request("PATCH", "/pipelines/b")
        .header("if-match", "*");
    let changed = server.send(request.json(&patch)).await;
    assert_eq!(changed.json().unwrap()["tags"], json!(["ops"]));
    assert_eq!(names(&server.get("/pipelines?tag=ops").await), ["b"]);

    // A file that cannot be read may say anything.
    std::fs::write(server.pipelines().join("torn.toml"), "version = 1\n[pipe").unwrap();
    let list = wait_for(PATIENCE, "the file to be seen", || async {
        let list = server.get("/pipelines?tag=ops").await;
        Ok((list["not_known"] != json!([])).then_some(list))
    });
    let list = list.await.unwrap();
    assert_eq!(
        (names(&list), &list["not_known"]),
        (vec!["b"], &json!(["torn"]))
    );
    let torn = server.get("/pipelines/torn").await;
    assert_eq!(torn["tags"], Value::Null, "{torn}");

    // A server that starts knows them of pipelines that never began.
    std::fs::remove_file(server.pipelines().join("torn.toml")).unwrap();
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    server.restart().await;
    let found = wait_for(PATIENCE, "the drafts to be read", || async {
        let list = server.get("/pipelines?tag=finance&sort=name").await;
        Ok((names(&list) == ["a", "c"]).then_some(list))
    });
    let found = found.await.unwrap();
    assert_eq!(found["pipelines"][0]["state"], "draft", "{found}");

    // A person asks by the command line; what may have the tag is there too.
    let ran = Command::new(env!("CARGO_BIN_EXE_tidemark"))
        .args(["status", "--tag", "ops", "--json", "--server"])
        .arg(format!("http://{}", server.address))
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let looked = said["data"]["pipelines"].as_array().unwrap().iter();
    let looked: Vec<_> = looked
        .map(|one| one["pipeline"].as_str().unwrap())
        .collect();
    assert_eq!(looked, ["torn", "b"], "{said}");
}

#[tokio::test]
async fn a_list_that_is_as_it_was_is_not_sent_again() {
    let server = Server::start(&[]).await;
    for name in ["a", "b", "c"] {
        let mut wanted = nowhere(name, &[]);
        wanted["alert"] = json!([
            { "when": "state", "is": ["stopped"], "severity": "notice" },
            { "when": "state", "is": ["failed", "stopped"], "severity": "critical" },
        ]);
        let answer = server.post("/pipelines", &wanted).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let named = json!({ "name": name, "url": "postgres://a@127.0.0.1:1/x" });
        assert_eq!(server.post("/connections", &named).await.status, 201);
        let token = json!({ "name": name, "role": "viewer" });
        assert_eq!(server.post("/tokens", &token).await.status, 201);
    }
    let ask = |route: &str, tag: &str| {
        let request = server.request("GET", route);
        server.send(request.header("if-none-match", tag))
    };
    let document = server.get("/openapi.json").await;
    let mut lists = 0;
    for operation in operations(&document) {
        let is_list = operation.method == "GET" && operation.statuses.contains(&"304".to_owned());
        if !is_list {
            continue;
        }
        let of_which = match operation.path.rsplit('/').next() {
            Some("columns") => "?table=public.orders",
            _ => "",
        };
        let route = format!("{}{of_which}", operation.path_with("a"));
        let route = route.strip_prefix("/api/v1").unwrap();
        let answer = server.send(server.request("GET", route)).await;
        if answer.status == 503 && operation.statuses.contains(&"503".to_owned()) {
            // What only the databases could tell.
            assert_eq!(answer.header("etag"), None, "{route}");
            continue;
        }
        lists += 1;
        assert_eq!(answer.status, 200, "{route}: {}", answer.text());
        let tag = answer.header("etag").expect(route).to_owned();
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        let same = ask(route, &tag).await;
        assert_eq!((same.status, same.body.len()), (304, 0), "{route}");
        assert_eq!(same.header("etag"), Some(tag.as_str()), "{route}");
        let other = ask(route, "\"0\"").await;
        assert_eq!((other.status, &other.body), (200, &answer.body), "{route}");
    }
    assert!(lists > 12, "only {lists} lists");

    // What changes has another tag, and who has the old one gets the new list.
    let before = server.send(server.request("GET", "/pipelines")).await;
    let tag = before.header("etag").unwrap().to_owned();
    let patch = json!({ "pipeline": { "tags": ["new"] } });
    let request = server
        .request("PATCH", "/pipelines/b")
        .header("if-match", "*");
    assert_eq!(server.send(request.json(&patch)).await.status, 200);
    let after = ask("/pipelines", &tag).await;
    assert_eq!(after.status, 200);
    assert_ne!(after.header("etag"), Some(tag.as_str()));
    // A tag of the definition says nothing of how the pipeline is now.
    let one = server.send(server.request("GET", "/pipelines/b")).await;
    let tag = one.header("etag").unwrap().to_owned();
    assert_eq!(ask("/pipelines/b", &tag).await.status, 200);

    everything_comes_once(&server).await;
}

/// Page by page, by the link alone, in the order of one page.
async fn everything_comes_once(server: &Server) {
    for action in ["start", "stop", "stop"] {
        for name in ["a", "b", "c"] {
            let route = format!("/pipelines/{name}/actions/{action}");
            let asked = server.post(&route, &json!({})).await;
            assert_eq!(asked.status, 202, "{route}: {}", asked.text());
        }
    }
    let all_fire = wait_for(PATIENCE, "the alerts to fire", || async {
        let active = server.get("/alerts/active").await;
        Ok((active["total"] == 6).then_some(()))
    });
    all_fire.await.unwrap();
    for (route, names, count) in [
        ("/audit", &["entries"][..], 19),
        ("/tokens", &["tokens"], 3),
        ("/alerts/active", &["alerts"], 6),
        ("/alerts/rules", &["rules"], 6),
        ("/pipelines/a/operations", &["operations"], 3),
        ("/connections", &["named", "connections"], 5),
    ] {
        let rows = |page: &Value| {
            let lists = names.iter().map(|name| page[*name].as_array().unwrap());
            let which = |row: &Value| {
                let parts = ["id", "pipeline_id", "rule", "name", "address"];
                parts.map(|part| row[part].to_string()).join(" ")
            };
            lists.flatten().map(which).collect::<Vec<_>>()
        };
        let whole = rows(&server.get(route).await);
        assert_eq!(whole.len(), count, "{route}: {whole:?}");
        let (mut seen, mut pages) = (Vec::new(), 0);
        let mut next = Some(format!("/api/v1{route}?limit=2"));
        while let Some(link) = next {
            let page = server.get(link.strip_prefix("/api/v1").unwrap()).await;
            let found = rows(&page);
            assert!((1..=2).contains(&found.len()), "{link}: {page}");
            seen.extend(found);
            pages += 1;
            next = page["next"].as_str().map(str::to_owned);
        }
        assert_eq!(seen, whole, "{route}");
        assert_eq!(pages, count.div_ceil(2), "{route}");
        let wrong = server.send(server.request("GET", &format!("{route}?cursor=x")));
        assert_eq!(wrong.await.status, 400, "{route}");
    }
}
