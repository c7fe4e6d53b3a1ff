//! What mends a copy, and what it rests on, by way of a server: the same as where the pipeline's file is.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tidemark_lab::http::Request;
use tidemark_lab::wait::wait_for;

use super::access::token;
use super::fill;
use super::remote::Both;
use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

async fn make_slot(stage: &Stage, slot: &str, plugin: &str) {
    let sql = format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')");
    text(&stage.source, &sql).await.unwrap();
}

/// Nobody reads the pipeline's slot any more.
async fn wait_until_free(stage: &Stage) {
    let sql = format!(
        "SELECT bool_or(active) FROM pg_replication_slots WHERE slot_name = 'tidemark_{}'",
        stage.name
    );
    wait_for(PATIENCE, "the slot to be free", || async {
        Ok((text(&stage.source, &sql).await? == "f").then_some(()))
    })
    .await
    .unwrap();
}

/// What a reconcile says of `orders`.
#[track_caller]
fn of_orders(answer: &Value) -> Value {
    let tables = answer["data"]["tables"].as_array().cloned();
    let mut tables = tables.unwrap_or_default().into_iter();
    let found = tables.find(|table| table["source"] == "public.orders");
    found.unwrap_or_else(|| panic!("{answer}"))["reconciled"].clone()
}

fn counts(found: &Value) -> Value {
    json!([found["missing"], found["changed"], found["extra"]])
}

#[tokio::test]
async fn slots_are_dropped_and_adopted_by_way_of_a_server() {
    let mut both = Both::start("srv_slots").await;
    let name = both.stage.name.clone();
    let (name, own) = (name.as_str(), "tidemark_srv_slots");
    let (good, late, other) = ("srv_slots_good", "srv_slots_late", "srv_slots_other");
    let refused = both.alike(&["slots", "drop", name, "--yes"], 6).await;
    assert_eq!(refused["error"]["code"], "TM4015");
    make_slot(&both.stage, good, "pgoutput").await;
    make_slot(&both.stage, other, "test_decoding").await;
    both.stage
        .source_sql("INSERT INTO orders VALUES (2001, 'new')")
        .await;
    both.stage.wait_until_identical().await;
    both.with_server(&["stop", name]).await.expect(0);
    wait_until_free(&both.stage).await;
    both.stage
        .source_sql("INSERT INTO orders VALUES (2002, 'later')")
        .await;
    make_slot(&both.stage, late, "pgoutput").await;

    // It has everything; it has moved past what is in the target; it is of another kind; there is none.
    let adopt = |slot| ["slots", "adopt", name, "--slot", slot];
    let adopted = both.alike(&adopt(good), 0).await;
    assert_eq!(adopted["data"]["set"]["source.postgres.slot"], good);
    both.alike(&adopt(own), 0).await;
    for (slot, code) in [(late, "TM4011"), (other, "TM4014"), ("srv_no", "TM4010")] {
        let refused = both.alike(&adopt(slot), 6).await;
        assert_eq!(refused["error"]["code"], code, "{slot}: {refused}");
    }
    let drop = ["slots", "drop", name, "--slot", other, "--yes"];
    let refused = both.alike(&drop, 6).await;
    assert_eq!(refused["error"]["code"], "TM7041");

    // The API itself asks whose it is, and who asks.
    let route = format!("/pipelines/{name}/slots/{other}");
    let admin = both.server.token.clone();
    for (role, status) in [("viewer", 403), ("operator", 403), ("admin", 422)] {
        both.server.token.clone_from(&admin);
        both.server.token = Some(token(&both.server, role, role, "default").await);
        let answer = both
            .server
            .send(both.server.request("DELETE", &route))
            .await;
        assert_eq!(answer.status, status, "{role}: {}", answer.text());
    }
    both.server.token = admin;
    let mine = [&drop[..], &["--i-own", other]].concat();
    both.with_server(&mine).await.expect(0);
    let own_one = ["slots", "drop", name, "--yes", "--json"];
    let dropped = both.with_server(&own_one).await.expect(0);
    assert_eq!(dropped.json()["data"]["dropped"], own);
    let left = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots \
                WHERE slot_name LIKE '%srv_slots%'";
    let left = text(&both.stage.source, left).await.unwrap();
    assert_eq!(left, format!("{good} {late}"));
    let events = both
        .server
        .get(&format!("/pipelines/{name}/events?level=warn"))
        .await;
    assert!(
        events
            .to_string()
            .contains("slot srv_slots_other was dropped"),
        "{events}"
    );
    for slot in [good, late] {
        let drop = [
            "slots", "drop", name, "--slot", slot, "--yes", "--i-own", slot,
        ];
        both.with_server(&drop).await.expect(0);
    }
    both.server.terminate().await;
}

#[tokio::test]
async fn sequences_and_remedies_are_the_same_by_way_of_a_server() {
    let never = "[source.postgres]\ncreate = \"never\"\n";
    let both = Both::draft("srv_remedies", never).await;
    let name = both.stage.name.as_str();
    both.stage
        .source_sql("CREATE TABLE bills (id bigserial PRIMARY KEY, what text)")
        .await;
    let create = "CREATE TABLE bills (id bigserial PRIMARY KEY, what text)";
    both.stage.target_sql(create).await;
    both.stage
        .source_sql("SELECT setval('bills_id_seq', 5000)")
        .await;
    both.alike(&["sequences", name, "--dry-run"], 0).await;
    let value = "SELECT last_value FROM bills_id_seq";
    assert_eq!(text(&both.stage.target, value).await.unwrap(), "1");
    let set = both
        .with_server(&["sequences", name, "--json"])
        .await
        .expect(0);
    assert_eq!(text(&both.stage.target, value).await.unwrap(), "5000");
    let here = both.stage.run(&["sequences", name, "--json"]).await;
    assert_eq!(here.expect(0).json(), set.json());

    // A check names a statement that may be run; nobody runs it unasked, and no other one at all.
    let asked = both.alike(&["check", name, "--fix"], 6).await;
    let said = asked["error"]["detail"].as_str().unwrap();
    assert!(said.contains("on the source: CREATE PUBLICATION"), "{said}");
    let made = "SELECT count(*) FROM pg_publication WHERE pubname = 'tidemark_srv_remedies'";
    assert_eq!(text(&both.stage.source, made).await.unwrap(), "0");
    let other = json!({ "statements": [{ "on": "target", "sql": "DROP TABLE bills" }] });
    let refused = both.server.act(name, "fix", &other).await;
    assert_eq!(
        (&refused["state"], &refused["code"]),
        (&json!("failed"), &json!("TM8024")),
        "{refused}"
    );
    assert_eq!(text(&both.stage.target, value).await.unwrap(), "5000");
    // The slot is still for a person to make.
    let fixed = ["check", name, "--fix", "--yes", "--json"];
    let fixed = both.with_server(&fixed).await.expect(3);
    assert_eq!(text(&both.stage.source, made).await.unwrap(), "1");
    let findings = fixed.json()["data"]["findings"].to_string();
    assert!(!findings.contains("CREATE PUBLICATION"), "{findings}");
}

#[tokio::test]
async fn only_an_administrator_has_statements_run_and_only_who_acts_sees_what_came_of_it() {
    let mut both = Both::draft("srv_fix_roles", "").await;
    fill(&both.stage).await;
    let name = both.stage.name.clone();
    let done = both.server.act(&name, "sequences", &json!({})).await;
    assert_eq!(done["data"]["set"], true, "{done}");
    let operation = format!("/operations/{}", done["id"].as_str().unwrap());
    let admin = both.server.token.clone();
    for (role, status, sees) in [
        ("viewer", 403, false),
        ("operator", 403, true),
        ("admin", 202, true),
    ] {
        both.server.token.clone_from(&admin);
        both.server.token = Some(token(&both.server, role, role, "default").await);
        let route = format!("/pipelines/{name}/actions/fix");
        let answer = both.server.post(&route, &json!({})).await;
        assert_eq!(answer.status, status, "{role}: {}", answer.text());
        let seen = both.server.get(&operation).await;
        assert_eq!(seen["data"].is_object(), sees, "{role}: {seen}");
    }
}

#[tokio::test]
async fn rows_that_differ_are_repaired_by_way_of_a_server() {
    let mut both = Both::start("srv_repair").await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    let wrong = "DELETE FROM orders WHERE id = 7; UPDATE orders SET note = 'x' WHERE id = 8";
    both.stage.target_sql(wrong).await;
    let asked = both.alike(&["verify", name, "--repair"], 6).await;
    let said = asked["error"]["detail"].as_str().unwrap();
    assert!(said.contains("2 rows of 1 000 are copied anew"), "{said}");

    let route = format!("/pipelines/{name}/actions/repair");
    let none = both.server.post(&route, &json!({})).await;
    assert_eq!(none.status, 400, "{}", none.text());
    let unknown = json!({ "verification": 1_000_000 });
    let unknown = both.server.act(name, "repair", &unknown).await;
    assert_eq!(unknown["code"], "TM8024", "{unknown}");

    let repaired = both
        .with_server(&["verify", name, "--repair", "--yes", "--json"])
        .await
        .expect(0);
    let data = &repaired.json()["data"];
    assert_eq!(
        (&data["result"], &data["rows"]),
        (&json!("identical"), &json!(1000)),
        "{data}"
    );
    both.stage.assert_identical().await;
    // Both comparisons are kept, the one that found it and the one that proves it.
    let kept = both
        .server
        .get(&format!("/pipelines/{name}/verifications?limit=2"))
        .await;
    let results: Vec<&Value> = kept["verifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["result"])
        .collect();
    assert_eq!(results, ["identical", "different"], "{kept}");
    // Where nothing differs there is nothing to agree to.
    both.alike(&["verify", name, "--repair"], 0).await;
    both.server.terminate().await;
    both.stage.clear().await;
}

/// The table is altered, and a row of it repaired, before the log tells of the change: the log passes over
/// what it says of that row, whose snapshot has seen it.
#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_row_keeps_what_it_was_given_in_a_column_that_is_new() {
    let name = "srv_repair_new";
    let mut both = Both::start(name).await;
    both.stage
        .target_sql("DELETE FROM orders WHERE id = 7")
        .await;
    both.with_server(&["verify", name]).await.expect(3);
    let kept = both
        .server
        .get(&format!("/pipelines/{name}/verifications"))
        .await;
    let repair = json!({ "verification": kept["verifications"][0]["id"] });

    let sender = "SELECT active_pid::text FROM pg_replication_slots
        WHERE database = current_database() AND active_pid IS NOT NULL";
    let sender = text(&both.stage.source, sender).await.unwrap();
    let sender = Pid::from_raw(sender.parse().unwrap()).unwrap();
    kill_process(sender, Signal::STOP).unwrap();
    let given = "ALTER TABLE orders ADD given text; UPDATE orders SET given = 'x' WHERE id < 10";
    both.stage.source_sql(given).await;
    let route = format!("/pipelines/{name}/actions/repair");
    let asked = both.server.post(&route, &repair).await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    let repaired =
        "SELECT count(*) FROM orders, tidemark.table_state WHERE id = 7 AND state = 'streaming'";
    both.stage.wait_for_target(repaired, "1").await;
    kill_process(sender, Signal::CONT).unwrap();

    both.stage.wait_until_identical().await;
    let done = both.server.operation(&asked).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    both.server.terminate().await;
    both.stage.clear().await;
}

#[tokio::test]
async fn a_gap_is_bridged_by_way_of_a_server() {
    let mut both = Both::start("srv_reconcile").await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    both.with_server(&["stop", name]).await.expect(0);
    both.stage.clear().await;
    let hidden =
        "DELETE FROM orders WHERE id <= 10; UPDATE orders SET note = 'other' WHERE id = 11;
        INSERT INTO orders VALUES (2001, 'new'), (2002, 'new')";
    both.stage.source_sql(hidden).await;
    both.server.act(name, "start", &json!({})).await;
    both.server.wait_for_state(name, "failed").await;

    let looked = both.alike(&["reconcile", name, "--dry-run"], 3).await;
    assert_eq!(counts(&of_orders(&looked)), json!([2, 1, 10]), "{looked}");
    let asked = both.alike(&["reconcile", name], 6).await;
    let said = asked["error"]["detail"].as_str().unwrap();
    assert!(said.contains("which nobody runs now: 1 table"), "{said}");
    assert!(said.contains("a new slot is made"), "{said}");
    assert!(both.stage.slots().await.is_empty());

    let bridged = both
        .with_server(&["reconcile", name, "--yes", "--json"])
        .await
        .expect(0);
    let bridged = bridged.json();
    assert_eq!(counts(&of_orders(&bridged)), json!([2, 1, 10]), "{bridged}");
    assert_eq!(of_orders(&bridged)["rows_moved"], 3, "{bridged}");
    both.server.wait_for_state(name, "streaming").await;
    both.stage.assert_identical().await;

    // One that runs is asked, and its log goes on where it was.
    both.stage
        .target_sql("DELETE FROM orders WHERE id IN (50, 51)")
        .await;
    let table = ["reconcile", name, "--table", "orders"];
    let asked = both.alike(&table, 6).await;
    assert!(
        asked["error"]["detail"].to_string().contains("pid "),
        "{asked}"
    );
    let unknown = [&table[..3], &["order", "--yes"]].concat();
    both.alike(&unknown, 2).await;
    let mended = [&table[..], &["--yes", "--json"]].concat();
    let mended = both.with_server(&mended).await.expect(0).json();
    assert_eq!(counts(&of_orders(&mended)), json!([2, 0, 0]), "{mended}");
    both.stage.assert_identical().await;
    both.stage
        .source_sql("INSERT INTO orders VALUES (3001, 'and on')")
        .await;
    both.stage.wait_until_identical().await;

    // A run that cannot begin with it says why, and nothing is told as done.
    both.with_server(&["stop", name]).await.expect(0);
    both.stage.clear().await;
    let own = format!("tidemark_{name}");
    make_slot(&both.stage, &own, "test_decoding").await;
    let failed = ["reconcile", name, "--yes", "--json"];
    let failed = both.with_server(&failed).await.expect(6).json();
    assert_eq!(failed["error"]["code"], "TM4014", "{failed}");
    both.server.wait_for_state(name, "failed").await;
    both.server.terminate().await;
    both.stage.clear().await;
}

/// Somebody of another tenant finds nothing to mend.
#[tokio::test]
async fn slots_of_another_tenant_are_not_there() {
    let mut both = Both::draft("srv_slots_tenant", "").await;
    let name = both.stage.name.clone();
    let other = token(&both.server, "bob", "admin", "b").await;
    both.server.token = Some(other);
    for (method, more) in [("DELETE", ""), ("GET", "/adoption")] {
        let route = format!("/pipelines/{name}/slots/tidemark_{name}{more}");
        let asked: Request = both.server.request(method, &route);
        assert_eq!(both.server.send(asked).await.status, 404, "{method}");
    }
}
