//! A password is nowhere in what the program writes, shows or leaves in the target, whatever is asked
//! of it and however it fails.

use crate::asks::text;
use crate::stage::{Ran, Stage};

/// A password, as a URL has it, and as base64.
const PASSWORD: &str = "Geheim-7/hunter ß%";
const IN_URL: &str = "Geheim-7%2Fhunter%20%C3%9F%25";
const IN_BASE64: &str = "R2VoZWltLTcvaHVudGVyIMOfJQ==";

#[track_caller]
fn assert_free(what: &str, text: &str) {
    for secret in [PASSWORD, IN_URL, IN_BASE64] {
        assert!(!text.contains(secret), "{what} tells {secret}:\n{text}");
    }
    // Nor in a part: whoever quotes a URL that cannot be read quotes this.
    assert!(!text.contains("Geheim-7"), "{what} tells a part:\n{text}");
}

fn assert_silent(ran: &Ran) {
    assert_free(&ran.arguments, &ran.stdout);
    assert_free(&ran.arguments, &ran.stderr);
}

/// One side has it as a key of its own, the other in its URL.
fn write(stage: &Stage) {
    let source = stage.source_url();
    let target = stage
        .target_url()
        .replacen("postgres@", &format!("postgres:{IN_URL}@"), 1);
    assert!(target.contains(IN_URL), "{target}");
    stage.write_between(&source, &target, "");
    let file = stage.file();
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen(
        "[source]\n",
        &format!("[source]\npassword = \"{PASSWORD}\"\n"),
        1,
    );
    std::fs::write(file, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_s07_a_password_is_in_nothing_that_is_written_or_shown() {
    let stage = Stage::new("secrets").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    write(&stage);
    let run = stage.start(&["run", "FILE", "-vv"]);
    stage.wait_for_state("streaming").await;
    let command = std::fs::read(format!("/proc/{}/cmdline", run.pid())).unwrap();
    assert_free("the process list", &String::from_utf8_lossy(&command));
    let sessions = "SELECT string_agg(application_name || query, ' ') FROM pg_stat_activity";
    assert_free(
        "the server's activity",
        &text(&stage.target, sessions).await.unwrap(),
    );
    for words in [
        &["check", "FILE"][..],
        &["check", "FILE", "--fix-sql"],
        &["plan", "FILE"],
        &["status", "FILE"],
        &["tables", "FILE"],
        &["lag", "FILE"],
        &["verify", "FILE"],
        &["pause", "FILE"],
        &["resume", "FILE"],
        &["sequences", "FILE"],
        &["slots", "list", "FILE"],
        &["cutover", "FILE", "--dry-run"],
        &["config", "lint", "FILE", "--show-origin"],
    ] {
        for form in [&["-vv"][..], &["-vv", "--json"]] {
            assert_silent(&stage.run(&[words, form].concat()).await);
        }
    }
    assert_eq!(run.terminate().await, Some(0));
    assert_free("the log", &stage.log());
    for table in ["checkpoint", "table_state", "command", "status"] {
        let rows = format!("SELECT coalesce(string_agg(r::text, ' '), '') FROM tidemark.{table} r");
        assert_free(table, &text(&stage.target, &rows).await.unwrap());
    }

    // What cannot be read or reached is named without it.
    let file = stage.file();
    let good = std::fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("postgres://postgres", "postgrs://postgres"),
        ("@", "@@"),
        ("@127.0.0.1:", "@127.0.0.1:x"),
        ("@127.0.0.1:", "@nowhere.invalid:"),
        ("password = \"", "passwrod = \""),
        ("password = \"", "password = 7 \""),
    ] {
        std::fs::write(&file, good.replace(from, to)).unwrap();
        for form in [&["-vv"][..], &["-vv", "--json"]] {
            assert_silent(&stage.run(&[&["check", "FILE"][..], form].concat()).await);
        }
    }
    std::fs::write(&file, good).unwrap();
    let with_password = |url: String| url.replacen("postgres@", &format!("postgres:{IN_URL}@"), 1);
    let (from, to) = (
        with_password(stage.source_url()),
        with_password(stage.target_url()),
    );
    let ran = stage
        .run(&["init", &from, &to, "--name", "made", "-vv"])
        .await;
    assert_free("init", &ran.stdout);
    assert_free("init", &ran.stderr);
    ran.expect(0);
    let made = std::fs::read_to_string(stage.directory().join("made.toml")).unwrap();
    assert_free("its file", &made);
    stage.clear().await;
}
