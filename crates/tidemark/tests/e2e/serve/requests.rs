//! Requests that nobody sends who means well: large, deep, many, cut off.

use std::time::Instant;

use serde_json::json;
use tidemark_lab::http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::access::guarded;
use super::{Server, definition};
use crate::stage::{PATIENCE, Stage};

/// Bytes that a process has in memory.
fn resident_bytes(server: &Server) -> u64 {
    let pid = server.child.id().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse::<u64>().unwrap() * 1024
}

/// Sends these bytes and gives the status, or `None` where the connection was closed without one.
async fn raw(server: &Server, head: &str, body: impl Iterator<Item = Vec<u8>>) -> Option<u16> {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        for piece in body {
            stream.write_all(&piece).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    // The server may have answered, and hung up, before everything was sent.
    let _is_sent = sent.await.is_ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _is_whole = read.expect("the server waits for ever").is_ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    status.parse().ok()
}

fn pieces(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|_| vec![b'x'; 64 << 10])
}

#[tokio::test(flavor = "multi_thread")]
async fn s23_what_is_too_large_is_refused_and_memory_does_not_grow() {
    let server = Server::start(&[]).await;
    let before = resident_bytes(&server);
    let host = &server.address;
    let post = format!("POST /api/v1/pipelines HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    let json = "content-type: application/json\r\n";
    // A body as it is announced, and one that has no end.
    let announced = format!("{post}{json}content-length: 100000000\r\n\r\n");
    // (Who still sends when the other end hangs up may find the answer gone.)
    let status = raw(&server, &announced, pieces(100)).await;
    assert!(matches!(status, None | Some(413)), "{status:?}");
    let endless = format!("{post}{json}transfer-encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let chunks = (0..1600).map(|_| chunk.clone());
    let status = raw(&server, &endless, chunks).await;
    assert!(matches!(status, None | Some(413)), "{status:?}");
    // A head without an end, as one field or as many.
    let get = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer ");
    let status = raw(&server, &get, pieces(160)).await;
    assert!(matches!(status, None | Some(400 | 431)), "{status:?}");
    let many: Vec<String> = (0..10_000)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect();
    let many = format!(
        "GET /livez HTTP/1.1\r\nhost: {host}\r\n{}\r\n",
        many.concat()
    );
    let status = raw(&server, &many, pieces(0)).await;
    assert!(matches!(status, None | Some(400 | 431)), "{status:?}");
    // Two ways to say where a body ends.
    let both =
        format!("{post}{json}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    let status = raw(&server, &both, pieces(0)).await;
    assert!(matches!(status, None | Some(400 | 422)), "{status:?}");
    // What fits and is deep or long is read in no time, and refused.
    let began = Instant::now();
    for body in [
        format!("{{\"tables\": {}", "[".repeat(10_000)),
        format!("{{\"tables\": [{}1]}}", "1,".repeat(500_000)),
        format!("{{\"a\": \"{}\"}}", "\\u0000".repeat(150_000)),
        "{\"a\": 1e400}".to_owned(),
        format!("{{\"a\": {}}}", "9".repeat(500_000)),
    ] {
        let request = server.request("POST", "/pipelines");
        let answer = server.send(request.body("application/json", body)).await;
        assert!([400, 422].contains(&answer.status), "{}", answer.status);
        assert!(answer.body.len() < 4 << 20, "{} bytes", answer.body.len());
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    let after = resident_bytes(&server);
    assert!(after < before + (128 << 20), "from {before} to {after}");
    assert_eq!(server.send(Request::new("GET", "/livez")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn s23_those_who_wait_on_purpose_keep_nobody_else_waiting() {
    let server = Server::start(&[]).await;
    let mut slow = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream
            .write_all(b"POST /api/v1/checks HTTP/1.1\r\n")
            .await
            .unwrap();
        slow.push(stream);
    }
    let began = Instant::now();
    assert_eq!(server.send(Request::new("GET", "/livez")).await.status, 200);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _is_orderly = ended.expect("the server waits for ever").is_ok();
    }
}

#[tokio::test]
async fn s10_a_token_counts_until_it_expires_and_in_its_place_alone() {
    let mut server = guarded().await;
    let admin = server.token.clone().unwrap();
    let stage = Stage::new("srv_tokens").await;
    let new = |at: &str| json!({ "name": "past", "role": "admin", "expires_at": at });
    let old = server.post("/tokens", &new("2020-01-01T00:00:00Z")).await;
    assert_eq!(old.status, 201, "{}", old.text());
    let old = old.json().unwrap()["token"].as_str().unwrap().to_owned();
    let young = server.post("/tokens", &new("2100-01-01T00:00:00Z")).await;
    let young = young.json().unwrap()["token"].as_str().unwrap().to_owned();
    server.token = None;
    let who = |name: &str, value: &str| Request::new("GET", "/api/v1/whoami").header(name, value);
    for (name, value, status) in [
        ("authorization", format!("Bearer {young}"), 200),
        ("authorization", format!("bearer {young}"), 200),
        ("authorization", format!("Bearer {old}"), 401),
        ("authorization", format!("Basic {young}"), 401),
        ("authorization", young.clone(), 401),
        (
            "authorization",
            format!("Bearer {}", young.to_uppercase()),
            401,
        ),
        ("authorization", format!("Bearer {young:.20}"), 401),
        ("authorization", "Bearer ".to_owned(), 401),
        ("x-api-key", young.clone(), 401),
        ("cookie", format!("token={young}"), 401),
    ] {
        let answer = server.send(who(name, &value)).await;
        assert_eq!(answer.status, status, "{name}: {value}");
        assert!(!answer.text().contains(&young), "{}", answer.text());
    }
    // Whether there is such a pipeline is not for whoever has no token.
    server.token = Some(admin);
    let made = server.post("/pipelines", &definition(&stage)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let without = |id: &str| Request::new("GET", &format!("/api/v1/pipelines/{id}"));
    let mut told = Vec::new();
    for id in ["srv_tokens", "nothing"] {
        let answer = server.send(without(id)).await;
        let mut body = answer.json().unwrap();
        body["request_id"] = json!("");
        assert!(body["instance"].as_str().unwrap().ends_with(id), "{body}");
        body["instance"] = json!("");
        told.push((answer.status, body));
    }
    assert_eq!(told[0], told[1]);
}

/// What is asked for and is no such thing finds nothing, which would look as if nothing were there.
#[tokio::test]
async fn b64_filters_that_no_list_knows_are_refused() {
    let server = Server::start(&[]).await;
    let stage = Stage::new("srv_filters").await;
    let made = server.post("/pipelines", &definition(&stage)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let one = "/pipelines/srv_filters";
    for route in [
        "/pipelines?state=streamin".to_owned(),
        "/pipelines?health=good".to_owned(),
        "/pipelines?sort=colour".to_owned(),
        format!("{one}/tables?state=stopped"),
        format!("{one}/events?since=yesterday"),
        format!("{one}/events?until=1795233735"),
        format!("{one}/errors?since=2026-13-01T00:00:00Z"),
        format!("{one}/events?since=2026-11-29T15:00:00Z&until=2026-11-29T14:59:59Z"),
    ] {
        let answer = server.send(server.request("GET", &route)).await;
        let problem = answer.json().unwrap();
        assert_eq!(
            (answer.status, &problem["code"]),
            (400, &json!("TM8020")),
            "{route}: {problem}"
        );
    }
    for route in [
        "/pipelines?state=draft&health=notice".to_owned(),
        format!("{one}/tables?state=streaming"),
    ] {
        server.get(&route).await;
    }
    // An instant is one in every zone.
    let events = server.get(&format!("{one}/events")).await;
    let event = &events["events"][0];
    let at = event["at"].as_str().unwrap();
    let us = tidemark_core::clock::parse(at).unwrap();
    let later = tidemark_core::clock::rfc3339(us + 2 * 3_600_000_000);
    let there = later.replace('Z', "%2B02:00");
    let since = server.get(&format!("{one}/events?since={there}")).await;
    assert!(
        since["events"].as_array().unwrap().contains(event),
        "{since}"
    );
    let until = server.get(&format!("{one}/events?until={there}")).await;
    assert!(
        !until["events"].as_array().unwrap().contains(event),
        "{until}"
    );
}

/// How many rounds what comes and goes is watched for; more of them by `make soak`.
fn rounds() -> usize {
    let minutes = std::env::var_os("SOAK_MINUTES").map(|minutes| minutes.into_string().unwrap());
    minutes.map_or(150, |minutes| minutes.parse::<usize>().unwrap() * 1_000)
}

/// Pipelines, readers of news and requests of all kinds leave nothing behind when they are gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_leaves_no_memory_behind() {
    let server = Server::start(&[]).await;
    let made = json!({
        "version": 1,
        "pipeline": { "name": "x", "mode": "full_load_and_cdc" },
        "source": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/x" },
        "target": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/y" },
        "tables": { "include": ["public.*"] },
        "alert": [{ "when": "lag_unknown" }],
    });
    let round = async |number: usize| {
        let name = format!("comes_{number}");
        let mut wanted = made.clone();
        wanted["pipeline"]["name"] = json!(name);
        let request = server.request("POST", "/pipelines").json(&wanted);
        let made = server.send(request.header("idempotency-key", &name)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let mut readers = Vec::new();
        for _ in 0..10 {
            let reader = server.request("GET", "/events/stream");
            readers.push(reader.open(&server.address).await.unwrap());
        }
        for route in ["", "/events", "/status", "/logs", "/nothing"] {
            let route = format!("/pipelines/{name}{route}");
            server.send(server.request("GET", &route)).await;
        }
        server.get("/monitoring/overview").await;
        server.get_text("/metrics").await;
        let gone = server.request("DELETE", &format!("/pipelines/{name}"));
        let gone = server.send(gone.header("if-match", "*")).await;
        let gone = server.operation(&gone).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
    };
    let rounds = rounds();
    for number in 0..rounds {
        round(number).await;
    }
    let before = resident_bytes(&server);
    for number in rounds..2 * rounds {
        round(number).await;
    }
    let after = resident_bytes(&server);
    println!(
        "{} kB after {rounds} rounds, {} kB after as many more",
        before >> 10,
        after >> 10
    );
    // News that are kept for readers who come back are bounded in bytes, and filled by and by.
    assert!(after < before + (16 << 20), "from {before} to {after}");
    let metrics = server.get_text("/metrics").await;
    assert!(!metrics.contains("comes_"), "{metrics}");
}
