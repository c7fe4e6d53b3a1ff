//! Pipeline files and a server: applied, compared, exported.

use serde_json::{Value, json};
use tidemark_lab::wait::wait_for;

use super::access::guarded;
use super::{Server, definition, fill};
use crate::pages;
use crate::stage::{PATIENCE, Ran, Stage};

/// A pipeline file on this machine, and a server with tokens elsewhere.
struct Away {
    stage: Stage,
    server: Server,
}

impl Away {
    async fn start(name: &str) -> Away {
        let stage = Stage::new(name).await;
        fill(&stage).await;
        let server = guarded().await;
        Away { stage, server }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let url = format!("http://{}", self.server.address);
        let mut command = self.stage.command(arguments);
        command
            .args(["--server", &url])
            .env("TIDEMARK_TOKEN", self.server.token.as_deref().unwrap());
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.expect("it ends").unwrap();
        Ran {
            arguments: arguments.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What is said about the one file.
    async fn one(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat()).await;
        ran.expect(code).json()["data"]["pipelines"][0].clone()
    }

    async fn runs(&self) -> usize {
        let route = format!("/pipelines/{}/runs", self.stage.name);
        let runs = self.server.get(&route).await;
        runs["runs"].as_array().unwrap().len()
    }

    async fn end(mut self) {
        self.server.terminate().await;
        self.stage.clear().await;
    }
}

#[tokio::test]
async fn a_file_is_applied_once_and_what_changes_is_shown_before() {
    let away = Away::start("srv_apply").await;
    let name = away.stage.name.as_str();
    let route = format!("/pipelines/{name}");

    // Nothing is changed by looking, nor without consent.
    let dry = away.one(&["apply", "FILE", "--dry-run"], 0).await;
    assert_eq!(
        (&dry["change"], &dry["applied"]),
        (&json!("new"), &json!(false))
    );
    assert_eq!(dry["plan"]["tables"][0]["source"], "public.orders");
    assert_eq!(away.one(&["diff", "FILE"], 3).await["change"], "new");
    let asked = away.run(&["apply", "FILE"]).await.expect(6);
    assert!(
        asked.stderr.contains("new, and starts: 1 table"),
        "{asked:?}"
    );
    assert_eq!(away.server.get("/pipelines").await["total"], 0);

    let applied = away.one(&["apply", "FILE", "--yes"], 0).await;
    assert_eq!(
        (&applied["change"], &applied["applied"]),
        (&json!("new"), &json!(true))
    );
    away.server.wait_for_state(name, "streaming").await;

    // The same again is nothing: no new version, no new run.
    let (before, runs) = (away.server.get(&route).await, away.runs().await);
    let again = away.one(&["apply", "FILE", "--yes"], 0).await;
    assert_eq!(
        (&again["change"], &again["applied"]),
        (&json!("unchanged"), &json!(false))
    );
    away.run(&["diff", "FILE"]).await.expect(0);
    let text = std::fs::read_to_string(away.stage.file()).unwrap();
    let request = away.server.request("PUT", &route).header("if-match", "*");
    let put = away
        .server
        .send(request.body("application/toml", text))
        .await;
    assert_eq!(put.status, 200, "{}", put.text());
    let after = away.server.get(&route).await;
    assert_eq!((&before["etag"], runs), (&after["etag"], away.runs().await));

    // What changes is shown line by line; the pipeline goes on with it.
    away.stage.write("[stream]\nbatch_rows = 7\n");
    let shown = away.run(&["diff", "FILE"]).await.expect(3).stdout;
    assert!(shown.contains(&format!("--- {name} on http://")), "{shown}");
    assert!(shown.contains("\n+batch_rows = 7"), "{shown}");
    let dry = away
        .run(&["apply", "FILE", "--dry-run"])
        .await
        .expect(0)
        .stdout;
    assert!(
        dry.contains("stops at a checkpoint and goes on with it"),
        "{dry}"
    );
    assert!(dry.ends_with("Nothing was changed.\n"), "{dry}");
    let changed = away.one(&["apply", "FILE", "--yes"], 0).await;
    assert_eq!(
        (&changed["change"], &changed["applied"]),
        (&json!("changed"), &json!(true))
    );
    wait_for(PATIENCE, "the pipeline to run with it", || async {
        let now = away
            .server
            .get(&format!("{route}/definition/changes"))
            .await;
        let is_new = away.runs().await > runs && now["running"] == true;
        Ok((is_new && now["changed"] == false).then_some(()))
    })
    .await
    .unwrap();
    away.server.wait_for_state(name, "streaming").await;
    let more = "INSERT INTO orders VALUES (1001, 'after')";
    away.stage.source.batch_execute(more).await.unwrap();
    away.stage.wait_until_identical().await;
    away.end().await;
}

#[tokio::test]
async fn s06_secrets_of_files_are_compared_and_never_shown() {
    let away = Away::start("srv_apply_secret").await;
    let name = away.stage.name.clone();
    let with = |secret: &str| {
        away.stage
            .write(&format!("[target]\npassword = \"{secret}\"\n"));
    };
    let mut said = String::new();

    with("hunter2");
    let ran = away
        .run(&["apply", "FILE", "--yes", "--no-start"])
        .await
        .expect(0);
    said += &(ran.stdout + &ran.stderr);
    let draft = away.server.get(&format!("/pipelines/{name}")).await;
    assert_eq!(draft["state"], "draft");

    // Only the secret is another: that is a change, and all that is seen of it.
    with("hunter3");
    let changed = away.one(&["diff", "FILE"], 3).await;
    let lines: Vec<&str> = changed["diff"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        lines.contains(&"-password = \"***\"") && lines.contains(&"+password = \"***\""),
        "{lines:?}"
    );
    said += &changed.to_string();
    with("hunter2");

    // What is exported says the same to the server that has the secret, and nothing to another.
    let exported = away.run(&["export", &name]).await.expect(0);
    assert!(
        exported.stdout.contains("password = \"***\""),
        "{exported:?}"
    );
    assert!(exported.stderr.contains("are not shown"), "{exported:?}");
    let to = away.stage.directory().join("out");
    let directory = to.to_str().unwrap();
    let all = away.run(&["export", "--to", directory]).await.expect(0);
    assert!(all.stdout.starts_with("✓ "), "{all:?}");
    let file = to.join(format!("{name}.toml"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), exported.stdout);
    let file = file.to_str().unwrap();
    assert_eq!(
        away.one(&["apply", file, "--yes"], 0).await["change"],
        "unchanged"
    );
    let commented = format!("# ours\n{}", exported.stdout);
    std::fs::write(file, commented).unwrap();
    let refused = away
        .run(&["export", &name, "--to", directory])
        .await
        .expect(6);
    assert!(
        refused.stderr.contains("says something else"),
        "{refused:?}"
    );
    let changed = away.one(&["apply", file, "--yes"], 0).await;
    let lines = &changed["diff"];
    assert_eq!(lines[1], "+# ours", "nothing else changes: {lines}");
    said += &(exported.stdout + &exported.stderr + &all.stdout + &changed.to_string());

    with("hunter2");
    let removed = away.one(&["diff", "FILE"], 3).await["diff"].clone();
    assert_eq!(
        removed[1], "-# ours",
        "the secret is what it was: {removed}"
    );
    let other = guarded().await;
    let away = Away {
        stage: away.stage,
        server: other,
    };
    let nobody = away
        .run(&["apply", file, "--yes", "--json"])
        .await
        .expect(2);
    assert_eq!(nobody.json()["error"]["code"], "TM7007", "{nobody:?}");
    assert!(!said.contains("hunter"), "{said}");
    assert!(
        !away.server.log().contains("hunter"),
        "{}",
        away.server.log()
    );
}

#[tokio::test]
async fn files_are_applied_all_or_none() {
    let away = Away::start("srv_apply_all").await;
    let good = std::fs::read_to_string(away.stage.file()).unwrap();
    let write = |name: &str, text: &str| {
        let file = away.stage.directory().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let typo = write(
        "typo.toml",
        &good
            .replace("srv_apply_all", "typo")
            .replace("mode =", "modee ="),
    );
    let broken = write("broken.toml", "[pipeline\n");
    let twice = write("twice.toml", &good);
    for (file, code, says) in [
        (&typo, "TM7003", "typo.toml:5:1"),
        (&broken, "TM7001", "broken.toml:1"),
        (
            &twice,
            "TM7040",
            "are both about the pipeline srv_apply_all",
        ),
    ] {
        let ran = away
            .run(&["apply", "FILE", file, "--yes", "--json"])
            .await
            .expect(2);
        let error = &ran.json()["error"];
        assert_eq!(error["code"], code, "{error}");
        assert!(error.to_string().contains(says), "{says} in {error}");
    }
    assert_eq!(away.server.get("/pipelines").await["total"], 0);

    // A database that is away is no fault of a definition, and is told.
    let nowhere = good
        .replace("srv_apply_all", "nowhere")
        .replace(&away.stage.target_url(), "postgres://me@127.0.0.1:1/x");
    let nowhere = write("nowhere.toml", &nowhere);
    let ran = away
        .run(&["apply", &nowhere, "--yes", "--no-start", "--json"])
        .await
        .expect(0);
    let answer = ran.json();
    assert_eq!(answer["data"]["pipelines"][0]["plan"], Value::Null);
    assert!(
        answer["notices"][0]["text"]
            .as_str()
            .unwrap()
            .contains("not known now: TM2"),
        "{answer}"
    );

    // Which server is to be asked must be said.
    for verb in ["apply", "diff", "export"] {
        let ran = away.stage.run(&[verb, "FILE", "--json"]).await.expect(2);
        assert_eq!(ran.json()["error"]["code"], "TM7060", "{verb}");
    }
    let unknown = away.run(&["export", "nowher", "--json"]).await.expect(2);
    assert!(
        unknown.stdout.contains("did you mean nowhere?"),
        "{unknown:?}"
    );
    for arguments in [&["export"][..], &["export", "a", "b"]] {
        away.run(arguments).await.expect(2);
    }
}

#[tokio::test]
async fn what_a_file_of_the_server_has_is_changed_there_alone() {
    let away = Away::start("srv_apply_file").await;
    let name = away.stage.name.as_str();
    let route = format!("/pipelines/{name}");
    let place = away.server.pipelines().join("shop.toml");
    std::fs::copy(away.stage.file(), &place).unwrap();
    let place = place.canonicalize().unwrap();
    away.server.wait_for_state(name, "streaming").await;
    assert_eq!(
        away.one(&["apply", "FILE", "--yes"], 0).await["change"],
        "unchanged"
    );

    away.stage.write("[stream]\nbatch_rows = 7\n");
    let shown = away.run(&["diff", "FILE"]).await.expect(3).stdout;
    assert!(
        shown.contains(&format!("defined by {}", place.display())),
        "{shown}"
    );
    let refused = away
        .run(&["apply", "FILE", "--yes", "--json"])
        .await
        .expect(6);
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "TM8034");
    assert!(
        error["detail"]
            .as_str()
            .unwrap()
            .contains(place.to_str().unwrap()),
        "{error}"
    );
    let put = away.server.request("PUT", &route).header("if-match", "*");
    let text = std::fs::read_to_string(away.stage.file()).unwrap();
    let put = away.server.send(put.body("application/toml", text)).await;
    assert_eq!(
        (put.status, &put.json().unwrap()["code"]),
        (409, &json!("TM8034"))
    );

    // A file that is not taken over is told apart from what runs.
    let text = std::fs::read_to_string(&place).unwrap();
    std::fs::write(&place, text.replace("mode =", "modee =")).unwrap();
    let now = away
        .server
        .get(&format!("{route}/definition/changes"))
        .await;
    assert_eq!(
        (&now["running"], &now["changed"]),
        (&json!(true), &json!(true)),
        "{now}"
    );
    assert_eq!(now["file"], place.to_str().unwrap());
    let lines = now["diff"].to_string();
    assert!(
        lines.contains("-mode = ") && lines.contains("+modee = "),
        "{lines}"
    );
    std::fs::write(&place, text).unwrap();
    let now = away
        .server
        .get(&format!("{route}/definition/changes"))
        .await;
    assert_eq!(now["changed"], false, "{now}");
    away.end().await;
}

#[tokio::test]
async fn files_reach_a_server_as_the_page_says() {
    let stage = Stage::new("page_files").await;
    fill(&stage).await;
    let (source, target) = (stage.source_url(), stage.target_url());
    // The server has what the file refers to; whoever applies it has not.
    let urls = [("SOURCE_URL", &*source), ("TARGET_URL", &*target)];
    let mut server = Server::start_with(&[], &urls).await;
    let script = pages::script("how-to/files.md")
        .replace("127.0.0.1:7070", &server.address)
        .replace("name = \"shop\"", "name = \"page_files\"")
        .replace(" shop ", " page_files ")
        .replace(" shop\n", " page_files\n");
    let home = stage.directory().join("home");
    let home = [("XDG_CONFIG_HOME", home.to_str().unwrap())];
    let shown = pages::follow(&script, stage.directory(), &home).await;
    for words in [
        "new, and starts: 1 table",
        "agrees with the files",
        "+batch_rows = 1000",
    ] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    server.wait_for_state("page_files", "streaming").await;
    stage.wait_until_identical().await;
    server.terminate().await;
    stage.clear().await;
}

/// A secret in a file of its own, which goes and comes: what runs has it, what begins says what it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_gone_stops_nothing_that_runs_and_one_that_is_back_is_taken() {
    let name = "srv_secret_gone";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let secret = server.pipelines().join("source.pw");
    std::fs::write(&secret, "any\n").unwrap();
    let mut wanted = definition(&stage);
    wanted["source"]["password"] = json!("${file:source.pw}");
    let file = server.pipelines().join("srv_secret_gone.toml");
    std::fs::write(file, toml::to_string(&wanted).unwrap()).unwrap();
    server.wait_for_state(name, "streaming").await;

    std::fs::remove_file(&secret).unwrap();
    stage
        .source_sql("INSERT INTO orders VALUES (5000, 'meanwhile')")
        .await;
    stage.wait_until_identical().await;
    let still = server.get("/pipelines/srv_secret_gone").await;
    assert_eq!(still["state"], "streaming", "{still}");

    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    server.restart().await;
    let failed = server.wait_for_state(name, "failed").await;
    assert_eq!(failed["error"]["code"], "TM7007", "{failed}");
    assert!(failed.to_string().contains("source.pw"), "{failed}");
    std::fs::write(&secret, "any\n").unwrap();
    server.wait_for_state(name, "streaming").await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}
