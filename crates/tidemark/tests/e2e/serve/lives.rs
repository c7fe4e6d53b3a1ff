//! Lives of pipelines in a server: beside each other, through kills, without their store.

use serde_json::json;
use tidemark_lab::http::Request;
use tidemark_lab::wait::wait_for;

use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};
use crate::writing::Writers;

/// Copies a stage's file to where the server looks.
fn put(server: &Server, stage: &Stage) {
    let place = server.pipelines().join(format!("{}.toml", stage.name));
    std::fs::copy(stage.file(), place).unwrap();
}

#[tokio::test]
async fn pipelines_of_files_run_and_a_broken_one_leaves_the_others_alone() {
    let (one, two) = (Stage::new("srv_one").await, Stage::new("srv_two").await);
    fill(&one).await;
    fill(&two).await;
    let mut server = Server::start(&[]).await;
    put(&server, &one);
    put(&server, &two);
    std::fs::write(
        server.pipelines().join("srv_broken.toml"),
        "version = 1\n[pipelin",
    )
    .unwrap();
    server.wait_for_state("srv_one", "streaming").await;
    server.wait_for_state("srv_two", "streaming").await;
    let broken = server.wait_for_state("srv_broken", "failed").await;
    assert_eq!(broken["health"], "error");
    assert!(
        broken["error"]["code"]
            .as_str()
            .unwrap()
            .starts_with("TM70"),
        "{broken}"
    );
    one.source
        .batch_execute("INSERT INTO orders VALUES (5000, 'later')")
        .await
        .unwrap();
    one.wait_until_identical().await;
    two.wait_until_identical().await;
    what_happened_is_measured(&server).await;

    // The list has the worst first, and says how many there are of each.
    let list = server.get("/pipelines").await;
    assert_eq!(list["pipelines"][0]["id"], "srv_broken");
    assert_eq!(
        (&list["total"], &list["counts"]["error"]),
        (&json!(3), &json!(1))
    );

    // The file wins: the API changes nothing of it.
    let request = server
        .request("PUT", "/pipelines/srv_one")
        .header("if-match", "*");
    let answer = server.send(request.json(&definition(&one))).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    let problem = answer.json().unwrap();
    assert_eq!(problem["code"], "TM8034");
    assert!(
        problem["detail"].as_str().unwrap().contains("srv_one.toml"),
        "{problem}"
    );

    // A file that is mended is taken over, one that is gone stops its pipeline.
    std::fs::write(server.pipelines().join("srv_broken.toml"), "version = 1\n").unwrap();
    server.signal(rustix::process::Signal::HUP);
    std::fs::remove_file(server.pipelines().join("srv_two.toml")).unwrap();
    // The engine says first that it was told to stop.
    wait_for(PATIENCE, "the file to be named", || async {
        let gone = server.get("/pipelines/srv_two").await;
        let told = (&gone["state"], &gone["by"], &gone["reason"]);
        let expected = (
            &json!("stopped"),
            &json!("file"),
            &json!("its file is gone"),
        );
        Ok((told == expected).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    // What is on the source stays until a person decides.
    assert_eq!(two.slots().await.len(), 1);
    one.clear().await;
    two.clear().await;
}

/// What happens to files where people and programs keep them: none of it loses a pipeline or a change.
#[tokio::test]
async fn a_file_may_get_another_name_be_unreadable_for_a_while_or_keep_its_time() {
    let stage = Stage::new("srv_moves").await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    put(&server, &stage);
    let begun = server.wait_for_state("srv_moves", "streaming").await;
    let route = "/pipelines/srv_moves";
    let changes = async || {
        let events = server.get(&format!("{route}/events?limit=200")).await;
        let events = events["events"].as_array().unwrap().clone();
        events
            .iter()
            .filter(|event| event["kind"] == "definition")
            .count()
    };

    // Another name: the same pipeline, which goes on where it was.
    let (old, new) = ("srv_moves.toml", "renamed.toml");
    let (old, new) = (server.pipelines().join(old), server.pipelines().join(new));
    std::fs::rename(&old, &new).unwrap();
    let moved = wait_for(PATIENCE, "it to be taken over", || async {
        let one = server.get(route).await;
        let file = one["file"].as_str().unwrap_or_default();
        anyhow::ensure!(file.ends_with("renamed.toml"), "{one}");
        anyhow::ensure!(one["state"] == "streaming", "{one}");
        Ok(Some(one))
    });
    let moved = match moved.await {
        Ok(moved) => moved,
        Err(err) => panic!("{err:?}\n{}", server.log()),
    };
    assert_eq!(moved["full_load_lsn"], begun["full_load_lsn"]);

    // Other rights say nothing else; another text does, whatever the time of the file.
    let about = std::fs::metadata(&new).unwrap();
    let text = std::fs::read_to_string(&new).unwrap();
    let seven = text.replace("[stream]\n", "[stream]\nbatch_rows = 7000\n");
    let before = changes().await;
    std::fs::write(&new, &seven).unwrap();
    let is_changed = async |count: usize| {
        wait_for(PATIENCE, "the change to be taken over", || async {
            let found = changes().await;
            anyhow::ensure!(found >= count, "{found} of {count}");
            Ok(Some(found))
        })
        .await
        .unwrap()
    };
    assert_eq!(is_changed(before + 1).await, before + 1);
    let written = std::fs::metadata(&new).unwrap().modified().unwrap();
    let mut rights = about.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o600);
    std::fs::set_permissions(&new, rights).unwrap();
    std::fs::write(&new, seven.replace("7000", "8000")).unwrap();
    let file = std::fs::File::options().write(true).open(&new).unwrap();
    file.set_modified(written).unwrap();
    assert_eq!(is_changed(before + 2).await, before + 2);

    // One that is no text is in the list, with what is wrong with it, until it is mended.
    let latin = server.pipelines().join("srv_latin.toml");
    std::fs::write(&latin, b"# caf\xe9\nversion = 1\n").unwrap();
    let broken = server.wait_for_state("srv_latin", "failed").await;
    let why = broken["reason"].as_str().unwrap();
    assert!(
        why.contains("srv_latin.toml") && why.contains("UTF-8"),
        "{why}"
    );
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());

    // While nobody looks, too.
    std::fs::rename(&new, &old).unwrap();
    server.restart().await;
    let again = server.wait_for_state("srv_moves", "streaming").await;
    assert!(
        again["file"].as_str().unwrap().ends_with("srv_moves.toml"),
        "{again}"
    );
    assert_eq!(again["full_load_lsn"], begun["full_load_lsn"]);
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// The first pipeline has loaded 1000 rows, applied one change and compared both sides.
async fn what_happened_is_measured(server: &Server) {
    let series = [
        "tidemark_load_rows_total{pipeline=\"srv_one\",tenant=\"default\"} 1000\n",
        "tidemark_apply_batch_rows_sum{pipeline=\"srv_one\",tenant=\"default\"} 1\n",
        "tidemark_apply_batch_rows_count{pipeline=\"srv_one\",tenant=\"default\"} 1\n",
        "tidemark_commit_to_apply_seconds_count{pipeline=\"srv_one\",tenant=\"default\"} 1\n",
        "tidemark_stage_latency_seconds_count{pipeline=\"srv_one\",tenant=\"default\",stage=\"read\"} 1\n",
        "tidemark_checkpoint_age_seconds{pipeline=\"srv_one\"",
        "tidemark_verify_rows_different{pipeline=\"srv_one\",tenant=\"default\"} 0\n",
        "tidemark_errors_total{pipeline=\"srv_broken\",tenant=\"default\",code=\"TM70",
    ];
    let measured = wait_for(PATIENCE, "everything to be measured", || async {
        let text = server.send(Request::new("GET", "/metrics")).await.text();
        let missing: Vec<_> = series.iter().filter(|one| !text.contains(**one)).collect();
        anyhow::ensure!(missing.is_empty(), "{missing:?} in {text}");
        Ok(Some(text))
    });
    let text = measured.await.unwrap();
    // Nothing was applied there: absent, not zero.
    for absent in [
        "tidemark_apply_batch_rows_count{pipeline=\"srv_two\"",
        "tidemark_commit_to_apply_seconds_count{pipeline=\"srv_two\"",
        "tidemark_load_rows_total{pipeline=\"srv_broken\"",
        "tidemark_checkpoint_age_seconds{pipeline=\"srv_broken\"",
        "tidemark_errors_total{pipeline=\"srv_one\"",
    ] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
}

#[tokio::test]
async fn f58_a_panic_fails_one_pipeline_and_the_others_go_on() {
    let (one, two) = (
        Stage::new("srv_panic_a").await,
        Stage::new("srv_panic_b").await,
    );
    fill(&one).await;
    fill(&two).await;
    let variables = [("TIDEMARK_FAILPOINT", "start.snapshot_opened:1:panic")];
    let server = Server::start_with(&[], &variables).await;
    for stage in [&one, &two] {
        let answer = server
            .post("/pipelines?start=true", &definition(stage))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let names = ["srv_panic_a", "srv_panic_b"];
    let failed = wait_for(PATIENCE, "one to fail and one to stream", || async {
        let list = server.get("/pipelines").await;
        let states: Vec<_> = list["pipelines"].as_array().unwrap().iter().collect();
        let failed = states.iter().find(|one| one["state"] == "failed");
        // Whoever says that it failed says why.
        assert!(
            failed.is_none_or(|one| one["error"]["code"] == "TM9001"),
            "{list}"
        );
        let streams = states.iter().any(|one| one["state"] == "streaming");
        Ok(failed.filter(|_| streams).map(|one| (*one).clone()))
    })
    .await
    .unwrap();
    let error = &failed["error"];
    assert_eq!(error["code"], "TM9001", "{failed}");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("a defect that TIDEMARK_FAILPOINT asked for"),
        "{error}"
    );
    // A person starts it again, and it goes on: the fail point is behind us.
    let id = failed["id"].as_str().unwrap();
    let done = server.act(id, "start", &json!({})).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    for name in names {
        server.wait_for_state(name, "streaming").await;
    }
    one.wait_until_identical().await;
    two.wait_until_identical().await;
    for stage in [&one, &two] {
        let done = server.act(&stage.name, "stop", &json!({})).await;
        assert_eq!(done["state"], "succeeded", "{done}");
        stage.clear().await;
    }
}

#[tokio::test]
async fn a_server_that_is_killed_goes_on_and_losing_its_store_loses_no_data() {
    let stage = Stage::new("srv_kill").await;
    Writers::set_up(&stage).await;
    let mut server = Server::start(&[]).await;
    let answer = server
        .post("/pipelines?start=true", &definition(&stage))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let writers = Writers::start(&stage, 7);
    let begun = server.wait_for_state("srv_kill", "streaming").await;
    let full_load_lsn = begun["full_load_lsn"].clone();
    assert!(full_load_lsn.is_string(), "{begun}");
    for _ in 0..3 {
        writers.busy(30).await;
        server.child.kill().await.unwrap();
        server.restart().await;
        let again = server.wait_for_state("srv_kill", "streaming").await;
        assert_eq!(
            again["full_load_lsn"], full_load_lsn,
            "it is not loaded anew"
        );
    }
    writers.busy(30).await;
    server.child.kill().await.unwrap();
    std::fs::remove_dir_all(server.state()).unwrap();
    server.restart().await;
    assert_eq!(server.get("/pipelines").await["total"], 0);
    let answer = server
        .post("/pipelines?start=true", &definition(&stage))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let again = server.wait_for_state("srv_kill", "streaming").await;
    assert_eq!(
        again["full_load_lsn"], full_load_lsn,
        "it goes on from the target's checkpoint"
    );
    writers.busy(30).await;
    writers.stop().await;
    stage.wait_until_identical().await;

    // Stopped in order: what is wanted stays, and the next server goes on.
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    server.restart().await;
    server.wait_for_state("srv_kill", "streaming").await;
    let request = server
        .request("DELETE", "/pipelines/srv_kill")
        .header("if-match", "*");
    let answer = server.send(request).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let done = server.operation(&answer).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    assert_eq!(server.get("/pipelines").await["total"], 0);
    assert!(
        stage.slots().await.is_empty(),
        "what was made for it is gone with it"
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_read_keeps_the_server_from_starting() {
    let mut server = Server::start(&[]).await;
    assert_eq!(server.terminate().await, Some(0));
    let file = server.state().join("tidemark.db");
    let log = server.state().join("tidemark.db-wal");
    assert!(
        !log.exists(),
        "the file alone is the store once it has ended"
    );
    std::fs::write(&file, "not a store, whatever it was").unwrap();
    std::fs::remove_file(server.log_file()).unwrap();
    server.child = super::spawn(server.home.path(), &server.more, &[]);
    let ended = tokio::time::timeout(PATIENCE, server.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.code(), Some(6), "{}", server.log());
    assert!(server.log().contains("TM8001"), "{}", server.log());
}
