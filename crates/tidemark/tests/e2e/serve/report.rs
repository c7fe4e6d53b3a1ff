//! A pipeline's report: one document that says what the API says, and needs nothing beside itself.

use serde_json::json;
use tidemark_lab::wait::wait_for;

use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

#[tokio::test]
async fn a_report_has_everything_in_it_and_asks_nobody() {
    let stage = Stage::new("srv_report").await;
    fill(&stage).await;
    let hostile = "CREATE TABLE \"<script src=x>&\" (id int PRIMARY KEY)";
    stage.source.batch_execute(hostile).await.unwrap();
    let mut server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["source"]["password"] = json!("hunter2");
    wanted["verify"] = json!({ "after_load": "off" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_report", "streaming").await;
    let verified = server.act("srv_report", "verify", &json!({})).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");
    stage.target_sql("DELETE FROM orders WHERE id = 1").await;
    let found = server.act("srv_report", "verify", &json!({})).await;
    assert_eq!(found["state"], "succeeded", "{found}");

    let route = "/pipelines/srv_report/report.html?hours=1";
    let report = wait_for(PATIENCE, "charts", || async {
        let answer = server.send(server.request("GET", route)).await;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok((answer.text().matches("class=\"line\"").count() > 1).then_some(answer))
    });
    let report = report.await.unwrap();
    assert_eq!(
        report.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = report.header("content-security-policy").unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let text = report.text();
    for said in [
        "srv_report",
        "streaming",
        "&lt;script src=x&gt;&amp;",
        "<b class=\"error\">different</b>",
        "1000 rows",
        "state streaming",
        "full_load_and_cdc",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    for never in ["<script", "http:", "https:", "hunter2", "src=\"", "order 1"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
    let open = text.matches("<table").count();
    assert_eq!(
        (open, open),
        (
            text.matches("</table>").count(),
            text.matches("<thead>").count()
        )
    );
    // Each comparison has a document of its own: what was so then.
    let list = server.get("/pipelines/srv_report/verifications").await;
    let number = |at: usize| list["verifications"][at]["id"].as_i64().unwrap();
    for (at, result, never) in [
        (0, "different", "identical</b>"),
        (1, "identical", "different</b>"),
    ] {
        let number = number(at);
        let route = format!("/pipelines/srv_report/verifications/{number}/report.html");
        let answer = server.send(server.request("GET", &route)).await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        assert_eq!(
            answer.header("content-security-policy"),
            Some(policy.as_str())
        );
        let verdict = format!("{result}</b>");
        let title = format!("srv_report: verification {number}</title>");
        for said in [
            verdict.as_str(),
            &title,
            "&lt;script src=x&gt;&amp;",
            "Every row was compared",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        for never in [
            never, "<script", "http:", "https:", "hunter2", "src=\"", "order 1",
        ] {
            assert!(!text.contains(never), "{never}: {text}");
        }
    }
    for (route, status) in [
        ("/pipelines/srv_report/verifications/0/report.html", 404),
        ("/pipelines/srv_report/report.html?hours=0", 400),
        ("/pipelines/srv_report/report.html?hours=721", 400),
        ("/pipelines/nothing/report.html", 404),
    ] {
        let answer = server.send(server.request("GET", route)).await;
        assert_eq!(answer.status, status, "{route}");
    }
    server.terminate().await;
    stage.clear().await;
}
