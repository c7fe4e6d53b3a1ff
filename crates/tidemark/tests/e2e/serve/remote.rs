//! The verbs by way of a server: what they say is what they say where the pipeline's file is.

use std::path::Path;

use serde_json::{Value, json};
use tidemark_lab::wait::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::access::token;
use super::{Server, fill};
use crate::stage::{PATIENCE, Ran, Stage};

/// What moves between two looks, whoever looks.
const MOVING: [&str; 20] = [
    "lsn",
    "seconds",
    "measured_at",
    "report_age_seconds",
    "source_lsn",
    "received_lsn",
    "processed_lsn",
    "confirmed_lsn",
    "restart_lsn",
    "gap_bytes",
    "latency_seconds",
    "latency_by_stage_seconds",
    "retained_bytes",
    "safe_bytes",
    "retained_bytes_per_second",
    "predicted_loss_at",
    "predicted_over_at",
    "last_known",
    "log_bytes_per_second",
    "log_bytes_during_load",
];

fn settled(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in MOVING {
                if fields.contains_key(name) {
                    fields.insert(name.to_owned(), json!("moves"));
                }
            }
            fields.values_mut().for_each(settled);
        }
        Value::Array(items) => items.iter_mut().for_each(settled),
        _ => {}
    }
}

/// A server with tokens, on whose pipeline the verbs are tried.
pub(super) struct Both {
    pub(super) stage: Stage,
    pub(super) server: Server,
}

impl Both {
    pub(super) async fn start(name: &str) -> Both {
        Both::start_with(name, "").await
    }

    /// With these lines more in the pipeline's file.
    pub(super) async fn start_with(name: &str, more: &str) -> Both {
        let both = Both::idle(name, more).await;
        fill(&both.stage).await;
        let place = both.server.pipelines().join(format!("{name}.toml"));
        std::fs::copy(both.stage.file(), place).unwrap();
        both.server.wait_for_state(name, "streaming").await;
        both
    }

    /// With a pipeline that never ran, of two empty databases.
    pub(super) async fn draft(name: &str, more: &str) -> Both {
        let both = Both::idle(name, more).await;
        let text = std::fs::read_to_string(both.stage.file()).unwrap();
        let request = both.server.request("POST", "/pipelines?start=false");
        let answer = both
            .server
            .send(request.body("application/toml", text))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        both
    }

    async fn idle(name: &str, more: &str) -> Both {
        let stage = Stage::new(name).await;
        stage.write(more);
        let mut server = Server::start(&["--auth", "token"]).await;
        server.token = Some(server.admin_token());
        Both { stage, server }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// By way of the server, in a directory where nothing is.
    async fn there(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let nowhere = tempfile::tempdir().unwrap();
        let mut command = self.stage.command(arguments);
        command
            .current_dir(nowhere.path())
            .envs(variables.iter().copied());
        let output = command.output().await.unwrap();
        Ran {
            arguments: arguments.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// By way of the server, with what is needed for it.
    pub(super) async fn with_server(&self, arguments: &[&str]) -> Ran {
        let (url, token) = (self.url(), self.server.token.clone().unwrap());
        let arguments = [arguments, &["--server", &url]].concat();
        self.there(&arguments, &[("TIDEMARK_TOKEN", &token)]).await
    }

    /// Both ways, once each: they say the same, and end with this.
    pub(super) async fn alike(&self, arguments: &[&str], code: i32) -> Value {
        let json = [arguments, &["--json"]].concat();
        let here = self.stage.run(&json).await.expect(code);
        let there = self.with_server(&json).await.expect(code);
        let (mut a, mut b) = (here.json(), there.json());
        settled(&mut a);
        settled(&mut b);
        assert_eq!(a, b, "{arguments:?}\n{}", self.server.log());
        b
    }

    /// Both ways until they say the same.
    async fn assert_same(&self, arguments: &[&str], code: i32) {
        let what = format!("{arguments:?} to say the same");
        let same = wait_for(PATIENCE, &what, || async {
            let json = [arguments, &["--json"]].concat();
            let here = self.stage.run(&json).await;
            let there = self.with_server(&json).await;
            let codes = (here.code, there.code);
            anyhow::ensure!(codes == (Some(code), Some(code)), "{here:?}\n{there:?}");
            let (mut a, mut b) = (here.json(), there.json());
            settled(&mut a);
            settled(&mut b);
            anyhow::ensure!(a == b, "here {a:#}\nthere {b:#}");
            let here = self.stage.run(arguments).await;
            let there = self.with_server(arguments).await;
            let labels = |ran: &Ran| -> Vec<String> {
                let lines = ran.stdout.lines();
                let first = |line: &str| line.split_whitespace().next().unwrap_or("").to_owned();
                lines.map(first).collect()
            };
            let (a, b) = (labels(&here), labels(&there));
            anyhow::ensure!(a == b, "here {here:?}\nthere {there:?}");
            Ok(Some(()))
        });
        if let Err(err) = same.await {
            panic!("{err:?}\n{}", self.server.log());
        }
    }
}

#[tokio::test]
async fn verbs_that_look_say_the_same_by_way_of_a_server() {
    let both = Both::start("srv_verbs").await;
    let name = both.stage.name.as_str();
    for (arguments, code) in [
        (&["status", name][..], 0),
        (&["status", name, "--require", "streaming"], 0),
        (&["status", name, "--require", "paused"], 3),
        (&["status"], 0),
        (&["tables", name], 0),
        (&["lag", name], 0),
        (&["lag", name, "--max", "1h"], 0),
        (&["check", name], 0),
        (&["check", name, "--fix-sql"], 0),
        (&["plan", name], 0),
        (&["slots", "list", name], 0),
    ] {
        both.assert_same(arguments, code).await;
    }

    // Where nobody runs it the server knows why.
    both.server.act(name, "stop", &json!({})).await;
    let stopped = both
        .with_server(&["status", name, "--json"])
        .await
        .expect(0);
    let data = &stopped.json()["data"];
    assert_eq!(
        (&data["state"], &data["running"]),
        (&json!("stopped"), &Value::Null),
        "{data}"
    );
    both.assert_same(&["tables", name], 0).await;
}

/// Another program, which answers whatever it is asked.
async fn stranger() -> (String, JoinHandle<()>) {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let answers = tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
        }
    });
    (url, answers)
}

/// Each is done here and then there; what it says is compared, and what came of it.
#[tokio::test]
async fn verbs_that_act_say_the_same_by_way_of_a_server() {
    let both = Both::start("srv_acts").await;
    let name = both.stage.name.as_str();
    let table = &["--table", "public.orders"][..];
    for (verb, more, then) in [
        ("pause", &[][..], "paused"),
        ("resume", &[], "streaming"),
        ("pause", table, "streaming"),
        ("resume", table, "streaming"),
    ] {
        let arguments = [&[verb, name, "--json"], more].concat();
        let here = both.stage.run(&arguments).await.expect(0);
        let there = both.with_server(&arguments).await.expect(0);
        assert_eq!(here.json()["data"], there.json()["data"], "{arguments:?}");
        both.server.wait_for_state(name, then).await;
    }
    // Rows that differ are counted the same way; their keys are for whoever has the databases.
    both.assert_same(&["verify", name, "--counts"], 0).await;
    both.assert_same(&["verify", name], 0).await;
    let lost = "DELETE FROM public.orders WHERE id = 7";
    both.stage.target.batch_execute(lost).await.unwrap();
    both.assert_same(&["verify", name, "--counts"], 3).await;
    let there = both
        .with_server(&["verify", name, "--json"])
        .await
        .expect(3);
    let table = &there.json()["data"]["tables"][0];
    assert_eq!(
        (&table["different"], &table["result"]),
        (&json!(1), &json!("different"))
    );
    let unknown = both
        .with_server(&["pause", "srv_act", "--json"])
        .await
        .expect(2);
    assert_eq!(unknown.json()["error"]["code"], "TM7045");

    both.with_server(&["stop", name]).await.expect(0);
    let stopped = both.server.get(&format!("/pipelines/{name}")).await;
    assert_eq!(
        (&stopped["state"], &stopped["by"]),
        (&json!("stopped"), &json!("admin"))
    );
    // One that is stopped is not paused: the server says so, as the pipeline itself does.
    both.with_server(&["pause", name]).await.expect(6);
    both.stage.run(&["pause", name]).await.expect(6);
}

#[tokio::test]
async fn a_server_that_is_not_there_or_does_not_know_us_is_told_apart() {
    let both = Both::start("srv_wrong").await;
    let url = both.url();
    let token = both.server.token.clone().unwrap();
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let (stranger, strange) = stranger().await;
    let right = [("TIDEMARK_TOKEN", token.as_str())];
    let wrong = [("TIDEMARK_TOKEN", "tm_wrong")];
    let none: [(&str, &str); 0] = [];
    for (arguments, variables, code, exit, says) in [
        (
            &["status", "srv_wrong", "--server", &nobody][..],
            &right[..],
            "TM7070",
            5,
            nobody.as_str(),
        ),
        (
            &["status", "srv_wrong", "--server", &stranger],
            &right,
            "TM7071",
            5,
            &stranger,
        ),
        (
            &["status", "srv_wrong", "--server", &url],
            &wrong,
            "TM8021",
            4,
            "TIDEMARK_TOKEN",
        ),
        (
            &["status", "srv_wrong", "--server", &url],
            &none,
            "TM8021",
            4,
            "TIDEMARK_TOKEN",
        ),
        (
            &["lag", "srv_wrng", "--server", &url],
            &right,
            "TM7045",
            2,
            "did you mean srv_wrong?",
        ),
        (
            &["tables", "a/b", "--server", &url],
            &right,
            "TM7045",
            2,
            "there is no pipeline",
        ),
        (&["lag", "--server", &url], &right, "TM7045", 2, "is named"),
        (
            &["status", "x", "--server", "here"],
            &right,
            "TM7040",
            2,
            "http://HOST:PORT",
        ),
        (
            &["status", "x", "--context", "nope"],
            &right,
            "TM7072",
            2,
            "contexts",
        ),
        (
            &["status", "x", "--server", &url, "--token-file", "nope"],
            &none,
            "TM7072",
            2,
            "nope",
        ),
    ] {
        let arguments = [arguments, &["--json"]].concat();
        let ran = both.there(&arguments, variables).await.expect(exit);
        let error = &ran.json()["error"];
        assert_eq!(error["code"], code, "{arguments:?}: {error}");
        assert!(error.to_string().contains(says), "{says} in {error}");
        assert!(!error.to_string().contains(&token), "{error}");
    }
    strange.abort();
}

#[tokio::test]
async fn what_only_the_databases_know_is_not_asked_of_a_server() {
    let both = Both::start("srv_not_there").await;
    let url = both.url();
    let token = both.server.token.clone().unwrap();
    let right = [("TIDEMARK_TOKEN", token.as_str())];
    for (arguments, says) in [
        (&["run", "x", "--server", &url][..], "databases themselves"),
        (&["lag", "x", "--set", "a.b=1", "--server", &url], "--set"),
    ] {
        let arguments = [arguments, &["--json"]].concat();
        let ran = both.there(&arguments, &right).await.expect(2);
        let error = &ran.json()["error"];
        assert_eq!(error["code"], "TM7073", "{arguments:?}: {error}");
        assert!(error.to_string().contains(says), "{says} in {error}");
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(directory.join("tidemark")).unwrap();
    std::fs::write(directory.join("tidemark").join(name), text).unwrap();
}

#[tokio::test]
async fn a_context_has_the_server_and_says_where_its_token_is() {
    let both = Both::start("srv_context").await;
    let (url, token) = (both.url(), both.server.token.clone().unwrap());
    let home = tempfile::tempdir().unwrap();
    let place = home.path().to_str().unwrap();
    write(home.path(), "prod.token", &format!("{token}\n"));
    let text = format!(
        "[context.prod]\nserver = {url:?}\ntoken_file = \"prod.token\"\n\
         [context.other]\nserver = {url:?}\ntoken_env = \"OTHER_TOKEN\"\n"
    );
    write(home.path(), "contexts.toml", &text);
    let place = ("XDG_CONFIG_HOME", place);
    let status = ["status", "srv_context"];
    let by_flag = |name| [&status[..], &["--context", name]].concat();
    both.there(&by_flag("prod"), &[place]).await.expect(0);
    both.there(&status, &[place, ("TIDEMARK_CONTEXT", "prod")])
        .await
        .expect(0);
    let by_variable = [place, ("OTHER_TOKEN", token.as_str())];
    both.there(&by_flag("other"), &by_variable).await.expect(0);
    both.there(&by_flag("other"), &[place]).await.expect(2);
    let near = both.there(&by_flag("prd"), &[place]).await.expect(2);
    assert!(near.stderr.contains("did you mean prod?"), "{near:?}");
    // A flag counts more than a variable.
    let elsewhere = ("TIDEMARK_SERVER", "http://127.0.0.1:1");
    both.there(&by_flag("prod"), &[place, elsewhere])
        .await
        .expect(0);
    both.there(&status, &[place, elsewhere]).await.expect(5);
}

#[tokio::test]
async fn rows_in_quarantine_are_the_same_by_way_of_a_server() {
    let by_row = "[stream]\non_row_error = \"quarantine_row\"\n[verify]\nafter_load = \"off\"\n";
    let mut both = Both::start_with("srv_rows", by_row).await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    both.alike(&["quarantine", "list", name], 0).await;
    let strict = "ALTER TABLE orders ADD CONSTRAINT no_odd CHECK (note <> 'odd')";
    both.stage.target_sql(strict).await;
    let changes = "INSERT INTO orders VALUES (2001, 'odd'), (2003, 'odd');
        UPDATE orders SET id = 2002 WHERE id = 2001;";
    both.stage.source_sql(changes).await;
    let kept = "SELECT count(*) FROM tidemark.quarantine";
    both.stage.wait_for_target(kept, "3").await;

    for more in [
        &[][..],
        &["--table", "orders"],
        &["--key", "2002"],
        &["--key", "7"],
    ] {
        for verb in ["list", "show", "export"] {
            both.alike(&[&["quarantine", verb, name], more].concat(), 0)
                .await;
        }
    }
    let listed = both.alike(&["quarantine", "list", name], 0).await;
    assert_eq!(
        listed["data"]["rows"][0]["keys"],
        json!([["2001"], ["2002"]])
    );

    // What is refused again stays, whoever asks.
    let refused = both.alike(&["retry", name], 6).await;
    assert_eq!(refused["error"]["code"], "TM4080");
    both.alike(&["quarantine", "release", name, "--key", "2001"], 6)
        .await;
    both.alike(&["quarantine", "release", name, "--key", "7"], 6)
        .await;
    both.alike(&["skip", name, "--table", "orders", "--rows"], 6)
        .await;
    let asked = both
        .alike(&["quarantine", "drop", name, "--key", "2003"], 6)
        .await;
    assert_eq!(asked["error"]["code"], "TM7041");
    both.stage.wait_for_target(kept, "3").await;

    // A viewer is told how many and why; keys and values are for others.
    let admin = both.server.token.clone();
    both.server.token = Some(token(&both.server, "vic", "viewer", "default").await);
    let seen = both
        .with_server(&["quarantine", "list", name, "--json"])
        .await
        .expect(0);
    let row = &seen.json()["data"]["rows"][0];
    assert_eq!(
        (&row["keys"], &row["changes"]),
        (&Value::Null, &json!(2)),
        "{row}"
    );
    both.with_server(&["quarantine", "show", name])
        .await
        .expect(4);
    both.with_server(&["retry", name]).await.expect(4);
    both.server.token = admin;

    // What the source takes back waits as well, and is discarded with it.
    let gone = "DELETE FROM orders WHERE id = 2003";
    both.stage.source_sql(gone).await;
    both.stage.wait_for_target(kept, "4").await;
    let dropped = ["quarantine", "drop", name, "--key", "2003", "--yes"];
    both.with_server(&dropped).await.expect(0);
    both.stage.wait_for_target(kept, "2").await;
    both.stage
        .target_sql("ALTER TABLE orders DROP CONSTRAINT no_odd")
        .await;
    let released = both.with_server(&["retry", name, "--json"]).await.expect(0);
    assert_eq!(released.json()["data"]["answer"], "1 row is in");
    both.stage.wait_until_identical().await;
    both.server.terminate().await;
    both.stage.clear().await;
}

#[tokio::test]
async fn a_resync_is_the_same_by_way_of_a_server() {
    let mut both = Both::start("srv_resync").await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    let table = &["resync", name, "--table", "orders"][..];
    let effect = both.alike(table, 6).await;
    let said = effect["error"]["detail"].as_str().unwrap();
    assert!(
        said.contains("Resync of 1 table: public.orders → public.orders"),
        "{said}"
    );
    let truncate = [table, &["--strategy", "truncate"]].concat();
    let effect = both.alike(&truncate, 6).await;
    assert!(
        effect["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("the old rows go first")
    );
    both.alike(&["resync", name], 6).await;
    let near = both
        .alike(&["resync", name, "--table", "order", "--yes"], 2)
        .await;
    assert_eq!(near["error"]["code"], "TM7020");

    // Only a load anew brings back what somebody deleted on the target.
    both.stage
        .target_sql("DELETE FROM orders WHERE id <= 10")
        .await;
    let done = both
        .with_server(&[table, &["--yes", "--json"]].concat())
        .await
        .expect(0);
    let data = &done.json()["data"];
    assert_eq!(
        (&data["tables"], &data["rows"]),
        (&json!(["public.orders"]), &json!(1000))
    );
    both.stage.wait_until_identical().await;
    let begun = [table, &["--yes", "--no-wait"]].concat();
    let begun = both.with_server(&begun).await.expect(0);
    assert!(begun.stdout.contains("operation "), "{begun:?}");
    both.server.wait_for_state(name, "streaming").await;

    both.with_server(&["stop", name]).await.expect(0);
    let stopped = [table, &["--yes"]].concat();
    both.with_server(&stopped).await.expect(6);
    both.server.terminate().await;
    both.stage.clear().await;
}
