//! Who may come in, and what they then may.

use serde_json::{Value, json};
use tidemark_lab::http::Request;
use tidemark_lab::wait::wait_for;
use tokio::io::AsyncReadExt as _;

use super::contract::{operations, routes_of};
use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

/// A server that asks for tokens, spoken to by its administrator.
pub(super) async fn guarded() -> Server {
    let mut server = Server::start(&["--auth", "token"]).await;
    server.token = Some(server.admin_token());
    server
}

pub(super) async fn token(server: &Server, name: &str, role: &str, tenant: &str) -> String {
    let body = json!({ "name": name, "role": role, "tenant": tenant });
    let answer = server.post("/tokens", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json().unwrap()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn s10_every_route_needs_a_token_and_guessing_is_slowed_down() {
    use std::os::unix::fs::PermissionsExt;
    let mut server = guarded().await;
    let mode = std::fs::metadata(server.state().join("admin.token"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let document = server.get("/openapi.json").await;
    assert_eq!(server.get("/whoami").await["role"], "admin");
    let admin = server.token.take().unwrap();
    for operation in operations(&document) {
        let answer = server
            .send(Request::new(&operation.method, &operation.path_with("x")))
            .await;
        assert_eq!(answer.status, 401, "{operation:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
    }
    // A token in the address is none, and what is kept of a token is not the token.
    let by_query = format!("/api/v1/whoami?token={admin}");
    assert_eq!(
        server.send(Request::new("GET", &by_query)).await.status,
        401
    );
    for entry in std::fs::read_dir(server.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "admin.token") {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes
                    .windows(admin.len())
                    .any(|part| part == admin.as_bytes()),
                "{path:?}"
            );
        }
    }
    let wrong = || Request::new("GET", "/api/v1/whoami").header("authorization", "Bearer tm_0");
    let mut statuses = Vec::new();
    for _ in 0..25 {
        statuses.push(server.send(wrong()).await.status);
    }
    assert_eq!((statuses[0], statuses[24]), (401, 429), "{statuses:?}");
    let slowed = server.send(wrong()).await;
    assert!(slowed.header("retry-after").is_some());
    // Whether the server lives is for everybody.
    assert_eq!(server.send(Request::new("GET", "/livez")).await.status, 200);
    assert_eq!(
        server.send(Request::new("GET", "/readyz")).await.status,
        200
    );
    assert_eq!(
        server.send(Request::new("GET", "/metrics")).await.status,
        429
    );
}

#[tokio::test]
async fn s11_tenants_see_nothing_of_each_other_and_roles_hold() {
    let stage = Stage::new("srv_tenant_a").await;
    fill(&stage).await;
    let mut server = guarded().await;
    let of_a = token(&server, "ann", "admin", "a").await;
    let of_b = token(&server, "bob", "admin", "b").await;
    let viewer = token(&server, "vic", "viewer", "a").await;
    let operator = token(&server, "olga", "operator", "a").await;
    let document = server.get("/openapi.json").await;

    server.token = Some(of_a.clone());
    let mut wanted = definition(&stage);
    wanted["alert"] = json!([{ "when": "state", "is": ["streaming", "catching_up"] }]);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_tenant_a", "streaming").await;
    let verified = server.act("srv_tenant_a", "verify", &json!({})).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");
    let operation = verified["id"].as_str().unwrap().to_owned();
    let alert = wait_for(PATIENCE, "its alert to fire", || async {
        let active = server.get("/alerts/active").await;
        Ok(active["alerts"][0]["id"].as_str().map(str::to_owned))
    });
    let alert = alert.await.unwrap();
    keep_connection(&server, &stage).await;
    // A confined definition refers to nothing of the server's machine.
    let mut spy = definition(&stage);
    spy["pipeline"]["name"] = json!("spy");
    spy["source"]["password"] = json!("${file:/etc/hostname}");
    let spied = server.post("/pipelines", &spy).await;
    assert_eq!(spied.status, 422, "{}", spied.text());

    server.token = Some(of_b.clone());
    let ids = [
        ("/api/v1/operations", operation.as_str()),
        ("/api/v1/alerts", &alert),
    ];
    nothing_is_found(&server, &stage, &document, ids).await;
    assert_eq!(server.get("/pipelines").await["total"], 0);
    let metrics =
        Request::new("GET", "/metrics").header("authorization", &format!("Bearer {of_b}"));
    assert!(!server.send(metrics).await.text().contains("srv_tenant_a"));
    let more = json!({ "name": "eve", "role": "admin", "tenant": "a" });
    assert_eq!(server.post("/tokens", &more).await.status, 403);

    // A viewer looks, an operator acts and does not define.
    server.token = Some(viewer.clone());
    assert_eq!(server.get("/pipelines").await["total"], 1);
    for route in operations(&document)
        .iter()
        .filter(|route| route.method != "GET" && !route.path.ends_with("/session"))
    {
        let request = Request::new(&route.method, &route.path_with("srv_tenant_a"))
            .header("authorization", &format!("Bearer {viewer}"))
            .json(&json!({}));
        let answer = server.send(request).await;
        assert_eq!(answer.status, 403, "{route:?}: {}", answer.text());
    }
    server.token = Some(operator);
    assert_eq!(
        server.act("srv_tenant_a", "pause", &json!({})).await["state"],
        "succeeded"
    );
    let paused = server.wait_for_state("srv_tenant_a", "paused").await;
    assert_eq!(paused["by"], "olga");
    let request = server
        .request("DELETE", "/pipelines/srv_tenant_a")
        .header("if-match", "*");
    assert_eq!(server.send(request).await.status, 403);
    assert_eq!(
        server.send(server.request("GET", "/audit")).await.status,
        403
    );

    // A token that is revoked opens nothing from then on.
    server.token = Some(of_a);
    let tokens = server.get("/tokens").await;
    let tokens = tokens["tokens"].as_array().unwrap().clone();
    assert!(
        tokens.iter().all(|token| token["tenant"] == "a"),
        "{tokens:?}"
    );
    let id = tokens.iter().find(|token| token["name"] == "vic").unwrap()["id"].clone();
    let route = format!("/tokens/{}", id.as_str().unwrap());
    assert_eq!(
        server.send(server.request("DELETE", &route)).await.status,
        204
    );
    let request =
        Request::new("GET", "/api/v1/whoami").header("authorization", &format!("Bearer {viewer}"));
    assert_eq!(server.send(request).await.status, 401);
    let audit = server.get("/audit").await;
    let who: Vec<&Value> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["who"])
        .collect();
    assert!(
        who.contains(&&json!("olga")) && !who.contains(&&json!("bob")),
        "{audit}"
    );

    let request = server
        .request("DELETE", "/pipelines/srv_tenant_a")
        .header("if-match", "*");
    let done = server.operation(&server.send(request).await).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    assert!(stage.slots().await.is_empty());
}

/// A connection of the name of the pipeline.
async fn keep_connection(server: &Server, stage: &Stage) {
    let named = json!({ "name": stage.name, "url": stage.source_url() });
    let answer = server.post("/connections", &named).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Every route, as the document has them: this tenant finds nothing, whatever the other has.
async fn nothing_is_found(
    server: &Server,
    stage: &Stage,
    document: &Value,
    ids: [(&str, &str); 2],
) {
    let token = server.token.as_ref().unwrap();
    for route in operations(document) {
        let mut ids = ids.iter();
        let named = ids.find(|(path, _)| route.path.starts_with(path));
        let id = named.map_or("srv_tenant_a", |(_, id)| id);
        let path = route.path_with(id);
        if route.path.contains("stream") || route.path.contains("/codes/") {
            continue;
        }
        let request = Request::new(&route.method, &path)
            .header("authorization", &format!("Bearer {token}"))
            .header("if-match", "*");
        let request = match route.method.as_str() {
            "POST" | "PUT" if route.takes_definition => request.json(&definition(stage)),
            "POST" | "PUT" | "PATCH" => request.json(&json!({})),
            _ => request,
        };
        if route.method == "POST" && route.takes_definition && !route.path.contains("{id}") {
            // It is b's own then.
            continue;
        }
        let answer = server.send(request).await;
        // A problem names the path that was asked for: what the caller said, whatever there is.
        let asked = path.split('?').next().unwrap();
        let text = answer.text().replace(asked, "");
        assert!(!text.contains("srv_tenant_a"), "{route:?}: {text}");
        assert!(!text.contains("public.orders"), "{route:?}: {text}");
        if route.path.contains("{id}") {
            assert_eq!(answer.status, 404, "{route:?}: {text}");
        }
    }
}

#[tokio::test]
async fn s12_s13_s15_other_names_and_other_origins_are_refused() {
    let server = Server::start(&[]).await;
    let rebound = Request::new("GET", "/api/v1/pipelines").header("host", "evil.example");
    let answer = server.send(rebound).await;
    assert_eq!(
        (answer.status, &answer.json().unwrap()["code"]),
        (421, &json!("TM8033"))
    );
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let request = server
            .request("POST", "/pipelines/x/actions/stop")
            .header(name, value);
        assert_eq!(server.send(request).await.status, 403, "{name}: {value}");
    }
    let own = format!("http://{}", server.address);
    let request = server
        .request("POST", "/pipelines/x/actions/stop")
        .header("origin", &own);
    assert_eq!(
        server.send(request).await.status,
        404,
        "our own page may ask"
    );
    let answer = server.send(server.request("GET", "/version")).await;
    let policy = answer.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert!(answer.header("x-request-id").is_some());
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // A text that a form could send is no JSON.
    let form = server
        .request("POST", "/tokens")
        .body("text/plain", "{\"name\":\"x\",\"role\":\"admin\"}");
    assert_eq!(server.send(form).await.status, 415);
    let large = server
        .request("POST", "/tokens")
        .body("application/json", vec![b' '; (1 << 20) + 1]);
    assert_eq!(server.send(large).await.status, 413);
    assert!(!routes_of(&server.get("/openapi.json").await).is_empty());
}

#[tokio::test]
async fn s10_s36_an_address_that_others_reach_needs_tokens() {
    let stage = Stage::new("srv_open").await;
    let arguments = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--state",
        "state",
        "--json",
    ];
    let ran = stage.run(&arguments).await.expect(6);
    assert_eq!(ran.json()["error"]["code"], "TM8011");
    let ran = tokio::time::timeout(
        PATIENCE,
        stage.run(&[
            "serve",
            "--listen",
            "192.0.2.1:7",
            "--auth",
            "token",
            "--state",
            "state",
            "--json",
        ]),
    );
    let ran = ran.await.unwrap().expect(5);
    assert_eq!(ran.json()["error"]["code"], "TM8010");
}

#[tokio::test]
async fn s12_s15_a_browser_signs_in_and_no_other_site_rides_on_it() {
    let mut server = guarded().await;
    let viewer = token(&server, "vic", "viewer", "default").await;
    let admin = server.token.take().unwrap();
    let sign_in = |token: &str| {
        let said = format!("Bearer {token}");
        Request::new("POST", "/api/v1/session").header("authorization", &said)
    };
    assert_eq!(server.send(sign_in("tm_0")).await.status, 401);
    let answer = server.send(sign_in(&admin)).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let kept = answer.header("set-cookie").unwrap().to_owned();
    assert!(
        kept.ends_with("; Path=/; HttpOnly; SameSite=Strict"),
        "{kept}"
    );
    let cookie = kept.split(';').next().unwrap().to_owned();
    let with = |method: &str, route: &str| {
        let path = format!("/api/v1{route}");
        Request::new(method, &path).header("cookie", &cookie)
    };
    let who = server.send(with("GET", "/whoami")).await;
    assert_eq!(who.json().unwrap()["name"], "admin");
    // What another site can have sent changes nothing; the page says that it is ours.
    let body = json!({ "name": "eve", "role": "admin" });
    let ridden = server.send(with("POST", "/tokens").json(&body)).await;
    assert_eq!(
        (ridden.status, &ridden.json().unwrap()["code"]),
        (403, &json!("TM8060"))
    );
    let ours = with("POST", "/tokens")
        .header("x-tidemark", "page")
        .json(&body);
    let made = server.send(ours).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let foreign = with("POST", "/tokens")
        .header("x-tidemark", "page")
        .header("origin", "http://evil.example");
    assert_eq!(server.send(foreign.json(&body)).await.status, 403);
    // The server next door on this host does not take it.
    let other = with("GET", "/whoami").header("host", "localhost:1");
    assert_eq!(server.send(other).await.status, 401);
    // A viewer comes and goes as well, and can do no more than before.
    let answer = server.send(sign_in(&viewer)).await;
    let seen = answer
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let by_viewer = |method: &str, path: &str| {
        Request::new(method, path)
            .header("cookie", &seen)
            .header("x-tidemark", "page")
    };
    let refused = by_viewer("POST", "/api/v1/tokens").json(&body);
    assert_eq!(server.send(refused).await.status, 403);
    let gone = server.send(by_viewer("DELETE", "/api/v1/session")).await;
    assert_eq!(gone.status, 204);
    assert!(gone.header("set-cookie").unwrap().contains("Max-Age=0"));
    // A cookie that does not count is forgotten by the answer.
    let stale =
        Request::new("GET", "/api/v1/whoami").header("cookie", &cookie.replace(&admin, "tm_1"));
    let answer = server.send(stale).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn s23_whoever_sends_a_request_drop_by_drop_is_not_waited_for() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start(&[]).await;
    let mut slow = tokio::net::TcpStream::connect(&server.address)
        .await
        .unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: local")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await;
    ended.expect("the server waits for ever").unwrap();
    assert!(
        !rest.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    assert_eq!(server.send(Request::new("GET", "/livez")).await.status, 200);
}

#[tokio::test]
async fn s23_a_body_that_comes_drop_by_drop_is_answered_and_its_connection_closed() {
    use std::time::{Duration, Instant};
    use tokio::io::AsyncWriteExt;
    let server = Server::start(&[]).await;
    let begun = |head: &str| {
        let head = format!(
            "{head} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n",
            server.address
        );
        let address = server.address.clone();
        async move {
            let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
            slow.write_all(head.as_bytes()).await.unwrap();
            slow
        }
    };
    // One that stops, one that sends a byte now and then, one whose answer is kept for its key, and one
    // whose body nobody wants.
    let mut tries = Vec::new();
    for (head, more, drops, expected) in [
        ("POST /api/v1/tokens", "\r\n{", false, 408),
        ("POST /api/v1/tokens", "\r\n{", true, 408),
        (
            "POST /api/v1/checks",
            "Idempotency-Key: k\r\n\r\n{",
            true,
            408,
        ),
        ("POST /api/v1/nothing", "\r\n{", true, 404),
    ] {
        let mut slow = begun(head).await;
        slow.write_all(more.as_bytes()).await.unwrap();
        tries.push(async move {
            let (mut reads, mut writes) = slow.into_split();
            let dripping = async {
                let mut pace = tokio::time::interval(Duration::from_millis(500));
                while drops && writes.write_all(b" ").await.is_ok() {
                    pace.tick().await;
                }
                std::future::pending::<()>().await;
            };
            let mut said = Vec::new();
            let ended = async {
                // A reset ends it as well.
                drop(reads.read_to_end(&mut said).await);
            };
            let ended = async {
                tokio::select! {
                    () = ended => {}
                    () = dripping => {}
                }
            };
            let in_time = tokio::time::timeout(PATIENCE, ended).await.is_ok();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(in_time, "{head}: the connection stays open: {said}");
            let line = format!("HTTP/1.1 {expected} ");
            assert!(said.starts_with(&line), "{head}, {drops}: {said}");
            if expected == 408 {
                assert!(said.contains("\"code\":\"TM8061\""), "{said}");
                assert!(said.to_lowercase().contains("connection: close"), "{said}");
            }
        });
    }
    let began = Instant::now();
    futures_util::future::join_all(tries).await;
    assert!(
        began.elapsed() < Duration::from_secs(28),
        "{:?}",
        began.elapsed()
    );
    // The key is free: the answer was to no request.
    let body = json!({ "a": 1 });
    let again = server
        .request("POST", "/checks")
        .header("idempotency-key", "k");
    let again = server.send(again.json(&body)).await;
    assert_eq!(again.status, 422, "{}", again.text());
    assert_eq!(again.header("idempotency-replayed"), None);
}

/// A stream of news is one answer that lasts: what its reader may see ends with the token.
#[tokio::test]
async fn s10_news_end_with_the_token_of_who_reads_them() {
    let mut server = guarded().await;
    let admin = server.token.clone().unwrap();
    let end = tidemark_core::clock::rfc3339(tidemark_core::clock::now_us() + 4_000_000);
    let end = format!("{}Z", end.get(..19).unwrap());
    let short = json!({ "name": "short", "role": "viewer", "expires_at": end });
    let short = server.post("/tokens", &short).await.json().unwrap();
    let revoked = json!({ "name": "revoked", "role": "viewer" });
    let revoked = server.post("/tokens", &revoked).await.json().unwrap();
    let mut readers = Vec::new();
    for token in [&short, &revoked] {
        server.token = Some(token["token"].as_str().unwrap().to_owned());
        let request = server.request("GET", "/events/stream");
        readers.push(request.open(&server.address).await.unwrap());
    }
    server.token = Some(admin);
    let mut still = server
        .request("GET", "/events/stream")
        .open(&server.address)
        .await
        .unwrap();
    let route = format!("/tokens/{}", revoked["id"].as_str().unwrap());
    let gone = server.send(server.request("DELETE", &route)).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    for mut reader in readers {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut said)).await;
        let said = String::from_utf8_lossy(&said);
        assert!(ended.is_ok(), "it reads on: {said}");
        assert!(said.contains("event: hello"), "{said}");
    }
    // The others read on.
    let mut said = [0; 4096];
    let read = tokio::time::timeout(std::time::Duration::from_millis(100), async {
        while still.read(&mut said).await.unwrap() > 0 {}
    });
    assert!(
        read.await.is_err(),
        "the reader whose token counts was sent away"
    );
}

/// An answer that is kept for its key is sealed as definitions are, and is no one else's of the same name.
#[tokio::test]
async fn s10_a_token_that_was_given_out_under_a_key_is_in_no_file() {
    let mut server = guarded().await;
    let body = json!({ "name": "twin", "role": "admin" });
    let keyed = |server: &Server| {
        let request = server.request("POST", "/tokens").json(&body);
        request.header("idempotency-key", "once")
    };
    let given = server.send(keyed(&server)).await;
    assert_eq!(given.status, 201, "{}", given.text());
    let again = server.send(keyed(&server)).await;
    assert_eq!(again.text(), given.text(), "it is answered once");
    let given = given.json().unwrap()["token"].as_str().unwrap().to_owned();
    for entry in std::fs::read_dir(server.state()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let is_there = bytes
            .windows(given.len())
            .any(|part| part == given.as_bytes());
        assert!(!is_there, "{} has the token", path.display());
    }
    // Another of the same name and tenant, who may do less.
    server.token = Some(given);
    let under_a_key = server.send(keyed(&server)).await;
    assert_eq!(under_a_key.status, 201, "{}", under_a_key.text());
    let weak = json!({ "name": "twin", "role": "operator" });
    let weak = server.post("/tokens", &weak).await.json().unwrap();
    server.token = Some(weak["token"].as_str().unwrap().to_owned());
    let refused = server.send(keyed(&server)).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
}
