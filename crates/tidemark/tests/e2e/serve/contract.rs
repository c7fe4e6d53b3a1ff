//! The API does what its document says, whatever comes: made-up requests to every route.

use serde_json::{Value, json};
use tidemark_lab::Random;
use tidemark_lab::http::{Request, Response};

use super::shape::differs;
use super::{Server, definition, fill};
use crate::stage::Stage;

/// One operation of the document.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) takes_definition: bool,
    queries: Vec<String>,
    pub(super) statuses: Vec<String>,
    has_body: bool,
    /// The schema of a body of JSON.
    body: Value,
    responses: Value,
}

impl Operation {
    /// What of a body of JSON is not as the document says.
    pub(super) fn differs(&self, document: &Value, answer: &Response) -> Option<String> {
        let kind = "application/json";
        let is_json = answer.header("content-type") == Some(kind);
        let said = &self.responses[answer.status.to_string()]["content"][kind]["schema"];
        let schema = (is_json && !said.is_null()).then_some(said)?;
        differs(document, schema, &answer.json().unwrap(), &self.path)
    }

    /// The path with this in the place of a pipeline's name, and something that fits for the rest.
    pub(super) fn path_with(&self, id: &str) -> String {
        self.path
            .replace("{id}", id)
            .replace("{table}", "public.orders")
            .replace("{action}", "pause")
            .replace("{number}", "1")
            .replace("{code}", "TM1001")
            .replace("{slot}", &format!("tidemark_{id}"))
    }
}

/// The paths of a document.
pub(super) fn routes_of(document: &Value) -> Vec<String> {
    document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

/// Every operation of a document.
pub(super) fn operations(document: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, about) in methods.as_object().unwrap() {
            let parameters = about["parameters"].as_array().cloned().unwrap_or_default();
            let queries = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "query");
            let content = &about["requestBody"]["content"];
            found.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                takes_definition: content.get("application/toml").is_some(),
                queries: queries
                    .map(|q| q["name"].as_str().unwrap().to_owned())
                    .collect(),
                statuses: about["responses"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect(),
                has_body: about.get("requestBody").is_some(),
                body: content["application/json"]["schema"].clone(),
                responses: about["responses"].clone(),
            });
        }
    }
    assert!(found.len() > 30, "only {} operations", found.len());
    found
}

/// Texts that somebody may send, or that somebody may try.
const TEXTS: [&str; 20] = [
    "",
    "shop",
    "0",
    "-1",
    "501",
    "9223372036854775808",
    "1.5",
    "true",
    "%00",
    "%FF",
    "%2e%2e%2f",
    "a%22%3B%20DROP%20TABLE%20x%3B--",
    "%3Cimg%20src=x%20onerror=y%3E",
    "%F0%9F%92%A5",
    "null",
    // Cursors, each of another list, and what is a word elsewhere.
    "0.x",
    "3:public.orders",
    "999999999999",
    "streaming",
    "2026-11-29T15:00:00Z",
];

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    let at = random.below(from.len() as u64);
    from[usize::try_from(at).unwrap()]
}

fn value(random: &mut Random, depth: u64) -> Value {
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(random.bits()),
        3 => json!(-1.5e300),
        4 | 5 => json!(pick(random, &TEXTS)),
        6 => (0..random.below(4))
            .map(|_| value(random, depth - 1))
            .collect(),
        _ => {
            let names = [
                "tables", "strategy", "name", "role", "version", "pipeline", "source", "depth",
            ];
            let count = random.below(4);
            let fields =
                (0..count).map(|_| (pick(random, &names).to_owned(), value(random, depth - 1)));
            Value::Object(fields.collect())
        }
    }
}

/// A body with every field that the document knows, or most of them, each of its kind and yet as nobody
/// expects it.
fn of_schema(document: &Value, schema: &Value, random: &mut Random, depth: u64) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        let place = name.trim_start_matches('#');
        let found = document.pointer(place).expect("a schema of the document");
        return of_schema(document, found, random, depth);
    }
    for word in ["oneOf", "anyOf", "allOf"] {
        if let Some(all) = schema[word].as_array().filter(|all| !all.is_empty()) {
            let at = usize::try_from(random.below(all.len() as u64)).unwrap();
            return of_schema(document, &all[at], random, depth);
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        let at = usize::try_from(random.below(words.len() as u64)).unwrap();
        return words[at].clone();
    }
    if let Some(fields) = schema["properties"].as_object().filter(|_| depth > 0) {
        let mut body = serde_json::Map::new();
        for (name, field) in fields {
            if random.below(8) > 0 {
                body.insert(name.clone(), of_schema(document, field, random, depth - 1));
            }
        }
        return Value::Object(body);
    }
    let kinds = &schema["type"];
    let is = |kind: &str| {
        *kinds == kind
            || kinds
                .as_array()
                .is_some_and(|all| all.contains(&json!(kind)))
    };
    if is("array") {
        let count = [0, 1, 3, 50][usize::try_from(random.below(4)).unwrap()];
        let items =
            (0..count).map(|_| of_schema(document, &schema["items"], random, depth.max(1) - 1));
        return items.collect();
    }
    if is("integer") || is("number") {
        let numbers = [
            json!(0),
            json!(-1),
            json!(1),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(0.5),
            json!(1e300),
        ];
        return numbers[usize::try_from(random.below(8)).unwrap()].clone();
    }
    if is("boolean") {
        return json!(random.below(2) == 0);
    }
    match random.below(12) {
        0 => json!("x".repeat(10_000)),
        1 => json!("\u{0}\u{1}\u{7f}"),
        2 => json!("\u{202e}exe.\u{1f4a5}\u{feff}"),
        3 => json!("public.\"a\"\"b\""),
        4 => json!("1h"),
        5 => json!("9999999999999999999d"),
        6 => json!("-5s"),
        7 => json!("9999-12-31T23:59:60+23:59"),
        8 => json!("swap"),
        9 => json!("public.orders"),
        _ => json!(pick(random, &TEXTS)),
    }
}

fn made_up(document: &Value, operation: &Operation, random: &mut Random) -> Request {
    let mut path = operation.path.clone();
    while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
        path.replace_range(from..=to, pick(random, &TEXTS[1..]));
    }
    let mut separator = '?';
    for query in &operation.queries {
        if random.below(2) == 0 {
            path = format!("{path}{separator}{query}={}", pick(random, &TEXTS));
            separator = '&';
        }
    }
    let mut request = Request::new(&operation.method, &path);
    for (header, values) in [
        ("if-match", ["*", "\"1\"", "nonsense"]),
        ("if-none-match", ["*", "\"1\"", "nonsense"]),
        ("idempotency-key", ["k", "", "é"]),
        ("last-event-id", ["7", "-1", "x"]),
        ("accept", ["application/x-ndjson", "text/html", "*/*"]),
    ] {
        if random.below(4) == 0 {
            request = request.header(header, pick(random, &values));
        }
    }
    if !operation.has_body {
        return request;
    }
    match random.below(11) {
        0 => request,
        6.. if operation.body.is_object() => {
            request.json(&of_schema(document, &operation.body, random, 3))
        }
        1 => request.body("application/json", "{\"a\":"),
        2 => request.body("text/plain", "hello"),
        3 => request.body("application/toml", "version = 1\n[pipeline]\nname = \"x"),
        4 => request.body("application/json", "[".repeat(10_000)),
        _ => request.json(&value(random, 3)),
    }
}

fn unreachable() -> Value {
    json!({
        "version": 1,
        "pipeline": { "name": "shop", "mode": "full_load_and_cdc" },
        "source": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/x" },
        "target": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/y" },
        "tables": { "include": ["public.*"] },
    })
}

#[tokio::test]
async fn s23_whatever_is_sent_no_answer_is_a_defect() {
    const EACH: u64 = 25;
    let server = Server::start(&[]).await;
    let document = server.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut seen = std::collections::BTreeSet::new();
    for (number, operation) in operations(&document).iter().enumerate() {
        if operation.path.contains("stream") {
            // It has no end; its own test reads it.
            continue;
        }
        // One that may have been deleted by what came before; its databases do not answer.
        let again = server.post("/pipelines", &unreachable()).await;
        assert!([201, 409].contains(&again.status), "{}", again.text());
        let mut random = Random::new(number as u64);
        for round in 0..EACH {
            let request = made_up(&document, operation, &mut random);
            let answer = server.send(request.clone()).await;
            let about = format!(
                "round {round} of {operation:?}: {request:?}\n{}",
                answer.text()
            );
            let is_away =
                answer.status == 503 && operation.statuses.iter().any(|known| known == "503");
            assert!(answer.status < 500 || is_away, "{about}\n{}", server.log());
            seen.insert(answer.status);
            if answer.status < 400 {
                let status = answer.status.to_string();
                assert!(
                    operation.statuses.contains(&status),
                    "not in the document: {about}"
                );
                assert_eq!(operation.differs(&document, &answer), None, "{about}");
                continue;
            }
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{about}"
            );
            let problem = answer.json().unwrap();
            assert_eq!(problem["status"], answer.status, "{about}");
            // What is said again for an Idempotency-Key names the request that it was said to.
            if answer.header("idempotency-replayed").is_none() {
                assert_eq!(
                    problem["request_id"].as_str(),
                    answer.header("x-request-id"),
                    "{about}"
                );
            }
            let code = problem["code"].as_str().unwrap();
            let meaning = server
                .send(Request::new("GET", problem["type"].as_str().unwrap()))
                .await;
            assert_eq!(meaning.json().unwrap()["code"], code, "{about}");
        }
    }
    for status in [200, 400, 404, 415, 422] {
        assert!(seen.contains(&status), "{status} never came: {seen:?}");
    }
    let is_conditional = seen.contains(&412) || seen.contains(&428);
    assert!(is_conditional, "nothing met a precondition: {seen:?}");
    let nothing = server.send(Request::new("GET", "/api/v1/nothing")).await;
    assert_eq!(
        (nothing.status, &nothing.json().unwrap()["code"]),
        (404, &json!("TM8023"))
    );
    let method = server.send(Request::new("DELETE", "/api/v1/version")).await;
    assert_eq!(
        (method.status, &method.json().unwrap()["code"]),
        (405, &json!("TM8030"))
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// With a pipeline that runs: fields that a server at rest leaves out are there.
#[tokio::test]
async fn answers_about_a_pipeline_that_runs_are_as_the_document_says() {
    let stage = Stage::new("srv_shape").await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["schedule"] = json!({ "full_load": "0 0 29 2 *" });
    wanted["alert"] = json!([{ "when": "lag_seconds", "above": 3600 }]);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_shape", "streaming").await;
    let verified = server.act("srv_shape", "verify", &json!({})).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");
    let named = json!({ "name": "srv_shape", "url": stage.source_url() });
    assert_eq!(server.post("/connections", &named).await.status, 201);
    let document = server.get("/openapi.json").await;
    let mut looked = 0;
    for operation in operations(&document) {
        if operation.method != "GET" || operation.path.contains("stream") {
            continue;
        }
        let id = if operation.path.contains("/operations/") {
            verified["id"].as_str().unwrap()
        } else {
            "srv_shape"
        };
        let of_which = match operation.path.rsplit('/').next() {
            Some("preview" | "columns") => "?table=public.orders",
            Some("trace") => "?table=public.orders&key=1",
            _ => "",
        };
        let path = format!("{}{of_which}", operation.path_with(id));
        let answer = server.send(Request::new("GET", &path)).await;
        // No row is in quarantine.
        if operation.path.ends_with("/quarantine/{number}") {
            assert_eq!(answer.status, 404);
            continue;
        }
        let about = format!("{operation:?}\n{}", answer.text());
        assert_eq!(answer.status, 200, "{about}");
        assert_eq!(operation.differs(&document, &answer), None, "{about}");
        looked += 1;
    }
    assert!(looked > 20, "only {looked} routes were looked at");
    server.terminate().await;
    stage.clear().await;
}
