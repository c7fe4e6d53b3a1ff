//! The contract of every verb, as one table: what it is given, how it ends, in both forms, and that
//! no verb is missing from the table.
//!
//! Whether an envelope is as published is checked for each row by [`Ran::envelope`]; here is what holds
//! for all verbs: nothing but the envelope on stdout with `--json`, results on stdout and everything
//! else on stderr without, no escape sequence in a pipe.

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::program::{Ran, tidemark};
use crate::stage::{Stage, ended, signal};

/// How a row ends: its exit code and, where something failed, the code of the catalogue.
#[derive(Clone, Copy)]
enum Ends {
    Well,
    Negative,
    Fails(i32, &'static str),
}

use Ends::{Fails, Negative, Well};

/// Forms a row is run in; what cannot be done twice is run in one.
#[derive(Clone, Copy, PartialEq)]
enum Forms {
    Both,
    Json,
}

use Forms::{Both, Json};

type Row = (&'static [&'static str], Forms, Ends);

/// What each verb answers without any database.
const OFFLINE: &[Row] = &[
    (&["explain", "TM1010"], Both, Well),
    (&["explain"], Both, Well),
    (&["explain", "TM0001"], Both, Fails(2, "TM7040")),
    (&["config", "lint", "verbs"], Both, Well),
    (&["config", "lint", "nope"], Both, Fails(2, "TM7045")),
    (&["config", "lint", "typo"], Both, Fails(2, "TM7003")),
    (&["config", "fmt", "--check", "verbs.toml"], Both, Negative),
    (&["config", "fmt", "nope.toml"], Both, Fails(2, "TM7014")),
    (&["config", "schema"], Both, Well),
    (
        &["serve", "--listen", "0.0.0.0:0", "--state", "served"],
        Both,
        Fails(6, "TM8011"),
    ),
    (&["apply", "verbs.toml"], Both, Fails(2, "TM7060")),
    (&["diff", "verbs.toml"], Both, Fails(2, "TM7060")),
    (
        &["diff", "verbs.toml", "--server", "http://127.0.0.1:1"],
        Both,
        Fails(5, "TM7070"),
    ),
    (&["export", "verbs"], Both, Fails(2, "TM7060")),
    (
        &["export", "verbs", "--format", "pdf"],
        Both,
        Fails(2, "TM7040"),
    ),
    (&["logs", "verbs", "--follow"], Both, Fails(2, "TM7060")),
    (&["peek", "verbs", "--table", "t"], Both, Fails(2, "TM7060")),
    (
        &["trace", "verbs", "--table", "t", "--key", "1"],
        Both,
        Fails(2, "TM7060"),
    ),
    (
        &["trace", "verbs", "--table", "t"],
        Both,
        Fails(2, "TM7040"),
    ),
    (&["start", "verbs"], Both, Fails(2, "TM7060")),
    (&["alerts", "list"], Both, Fails(2, "TM7060")),
    (&["alerts", "snooze", "x"], Both, Fails(2, "TM7060")),
    // It has no home here.
    (&["context", "list"], Both, Fails(2, "TM7072")),
    (&["completions", "fish"], Both, Well),
    (&["completions", "csh"], Both, Fails(2, "TM7040")),
    (&["man", "lag"], Both, Well),
    (&["man", "lga"], Both, Fails(2, "TM7040")),
    (&["version"], Both, Well),
    (&["demo", "break", "kill"], Both, Fails(2, "TM7047")),
    (&["demo", "psql", "source"], Both, Fails(2, "TM7047")),
    (&["demo", "--rows", "1"], Both, Fails(2, "TM7040")),
];

/// Before the pipeline ran, and while nobody runs it.
const STILL: &[Row] = &[
    (
        &["init", "SOURCE", "TARGET", "--name", "made", "--yes"],
        Json,
        Well,
    ),
    (
        &["init", "SOURCE", "TARGET", "--name", "made"],
        Both,
        Fails(6, "TM7041"),
    ),
    (
        &["init", "postgres://me@127.0.0.1:1/x", "TARGET"],
        Both,
        Fails(5, "TM1004"),
    ),
    (&["init", "nonsense", "TARGET"], Both, Fails(2, "TM7010")),
    (&["check", "verbs"], Both, Well),
    (&["check", "verbs", "--fix-sql"], Both, Well),
    (&["check", "denied"], Both, Negative),
    (&["plan", "verbs"], Both, Well),
    (
        &["plan", "verbs", "--set", "schedule.full_load=0 2 * * *"],
        Both,
        Well,
    ),
    (&["status", "verbs"], Both, Well),
    (&["status"], Both, Well),
    (&["status", "--tag", "of nobody"], Both, Well),
    (&["status", "verbs", "--tag", "x"], Both, Fails(2, "TM7040")),
    (
        &["status", "verbs", "--require", "streaming"],
        Both,
        Negative,
    ),
    (&["status", "--require", "streaming"], Both, Negative),
    (
        &["status", "verbs", "--require", "asleep"],
        Both,
        Fails(2, "TM7040"),
    ),
    (&["tables", "verbs"], Both, Well),
    (&["lag", "verbs"], Both, Well),
    (&["lag", "verbs", "--max", "30s"], Both, Negative),
    (&["lag", "verbs", "--max", "30s", "--watch"], Both, Negative),
    (&["lag", "verbs", "--max", "30"], Both, Fails(2, "TM7040")),
    (&["slots", "list", "verbs"], Both, Well),
    (
        &["slots", "drop", "verbs", "--yes"],
        Both,
        Fails(6, "TM4010"),
    ),
    (
        &["slots", "adopt", "verbs", "--slot", "nope"],
        Both,
        Fails(6, "TM4010"),
    ),
    (&["sequences", "verbs", "--dry-run"], Both, Well),
    (&["pause", "verbs"], Both, Fails(6, "TM7042")),
    (&["resume", "verbs"], Both, Fails(6, "TM7042")),
    (&["stop", "verbs"], Both, Well),
    (&["resync", "verbs", "--yes"], Both, Fails(6, "TM7042")),
    (&["reconcile", "verbs", "--yes"], Both, Fails(6, "TM4060")),
    (&["quarantine", "list", "verbs"], Both, Well),
    (&["retry", "verbs"], Both, Well),
    (
        &["skip", "verbs", "--table", "public.t", "--rows"],
        Both,
        Fails(6, "TM7042"),
    ),
    (&["verify", "verbs"], Both, Fails(6, "TM7042")),
    (&["cutover", "verbs", "--dry-run"], Both, Negative),
    (
        &["cutover", "verbs", "--start-writers", "true"],
        Both,
        Fails(2, "TM7040"),
    ),
    (
        &["run", "verbs", "--until", "soon"],
        Both,
        Fails(2, "TM7040"),
    ),
    (&["run", "denied"], Both, Fails(4, "TM1005")),
    (
        &["run", "notarget", "--until", "caught-up", "--timeout", "1s"],
        Both,
        Negative,
    ),
    (
        &["run", "nosource", "--until", "lsn:0/1", "--timeout", "1s"],
        Both,
        Negative,
    ),
    (&["run", "verbs", "--until", "verified"], Both, Well),
];

/// While it runs.
const RUNNING: &[Row] = &[
    (
        &["status", "verbs", "--require", "streaming", "--watch"],
        Both,
        Well,
    ),
    (&["status", "verbs", "--require", "paused"], Both, Negative),
    (&["tables", "verbs"], Both, Well),
    (&["lag", "verbs"], Both, Well),
    (&["run", "verbs"], Both, Fails(6, "TM2031")),
    (&["verify", "verbs", "--counts"], Both, Well),
    (&["verify", "verbs", "--table", "t", "--deep"], Both, Well),
    (
        &["verify", "verbs", "--table", "nope"],
        Both,
        Fails(2, "TM7020"),
    ),
    (
        &["verify", "verbs", "--timeout", "1ms"],
        Both,
        Fails(5, "TM7043"),
    ),
    (&["pause", "verbs", "--table", "t"], Both, Well),
    (&["resume", "verbs", "--table", "public.t"], Both, Well),
    (&["pause", "verbs"], Both, Well),
    (&["resume", "verbs"], Both, Well),
    (&["cutover", "verbs", "--dry-run"], Both, Well),
    (&["cutover", "verbs"], Both, Fails(6, "TM7041")),
    (&["cutover", "verbs", "--abort"], Both, Well),
    (
        &["resync", "verbs", "--table", "t"],
        Both,
        Fails(6, "TM7041"),
    ),
    (
        &["resync", "verbs", "--table", "tt", "--yes"],
        Both,
        Fails(2, "TM7020"),
    ),
    (
        &["resync", "verbs", "--table", "*"],
        Both,
        Fails(2, "TM7040"),
    ),
    (&["resync", "verbs", "--table", "t", "--yes"], Both, Well),
    (&["reconcile", "verbs"], Both, Fails(6, "TM7041")),
    (&["reconcile", "verbs", "--dry-run"], Both, Well),
    (&["reconcile", "verbs", "--yes"], Both, Well),
    (
        &["slots", "adopt", "verbs", "--slot", "tidemark_verbs"],
        Both,
        Well,
    ),
    (
        &["slots", "drop", "verbs", "--yes"],
        Both,
        Fails(6, "TM4015"),
    ),
    (&["sequences", "verbs"], Both, Well),
    (&["stop", "verbs"], Json, Well),
];

/// Once it has ended.
const ENDED: &[Row] = &[
    (&["slots", "drop", "verbs"], Both, Fails(6, "TM7041")),
    (&["slots", "drop", "verbs", "--yes"], Json, Well),
    // The slot is gone and the checkpoint is not: changes may be missing, so nothing goes on.
    (&["run", "verbs"], Both, Fails(6, "TM4010")),
    (&["reconcile", "verbs", "--dry-run"], Both, Well),
    (&["reconcile", "verbs", "--yes"], Both, Well),
    (&["slots", "drop", "verbs", "--yes"], Json, Well),
];

/// Verbs of a pipeline, with what they cannot do without.
const OF_A_PIPELINE: &[&[&str]] = &[
    &["check"],
    &["plan"],
    &["run"],
    &["status"],
    &["tables"],
    &["lag"],
    &["verify"],
    &["pause"],
    &["resume"],
    &["stop"],
    &["reconcile"],
    &["resync"],
    &["cutover"],
    &["sequences"],
    &["slots", "list"],
    &["slots", "drop"],
    &["slots", "adopt", "--slot", "x"],
    &["config", "lint"],
];

/// Verbs of a pipeline that can do nothing without its target.
const NEEDS_TARGET: &[&[&str]] = &[
    &["plan"],
    &["status"],
    &["tables"],
    &["lag"],
    &["verify"],
    &["pause"],
    &["resume"],
    &["stop"],
    &["reconcile", "--yes"],
    &["resync", "--yes"],
    &["cutover"],
];

impl Ends {
    fn assert(self, arguments: &[&str], ran: &Ran) {
        let (code, _) = self.codes();
        assert_eq!(ran.code, code, "{arguments:?} {ran:?}");
        ran.assert_no_ansi();
    }

    fn codes(self) -> (i32, Option<&'static str>) {
        match self {
            Well => (0, None),
            Negative => (3, None),
            Fails(code, catalogue) => (code, Some(catalogue)),
        }
    }
}

impl Stage {
    fn meets(&self, rows: &[Row]) {
        for (arguments, forms, ends) in rows {
            self.meets_one(arguments, *forms, *ends);
        }
    }

    fn meets_one(&self, arguments: &[&str], forms: Forms, ends: Ends) {
        let (source, target) = (self.source_url(), self.target_url());
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|argument| match *argument {
                "SOURCE" => &source,
                "TARGET" => &target,
                other => other,
            })
            .collect();
        if forms == Both {
            let ran = self.tidemark(&arguments);
            ends.assert(&arguments, &ran);
            if let (_, Some(code)) = ends.codes() {
                // Usage errors of the parser name no code.
                let said = ran.err.contains(code) || ran.err.starts_with("error: ");
                assert!(said && ran.out.is_empty(), "{arguments:?} {ran:?}");
            }
        }
        let json = [arguments.as_slice(), &["--json"]].concat();
        let ran = self.tidemark(&json);
        ends.assert(&json, &ran);
        // A watch answers more than once.
        let last = Ran {
            out: ran.out.lines().last().unwrap_or_default().to_owned(),
            ..ran
        };
        let envelope = last.envelope();
        assert_eq!(envelope["command"], arguments[0], "{json:?}");
        let (_, code) = ends.codes();
        assert_eq!(envelope["error"]["code"].as_str(), code, "{json:?}");
    }
}

fn stage_files(stage: &Stage) {
    let (source, target) = (stage.source_url(), stage.target_url());
    let mode = "full_load_and_cdc";
    let nowhere = "postgres://me@127.0.0.1:1/db";
    let as_nobody = |url: &str| url.replacen("postgres@", "no_such_role@", 1);
    stage.write_other("nosource", mode, nowhere, &target);
    stage.write_other("notarget", mode, &source, nowhere);
    stage.write_other("denied", mode, &as_nobody(&source), &as_nobody(&target));
    let file = stage.directory.path().join("verbs.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let typo = text.replace("mode =", "modee =");
    std::fs::write(stage.directory.path().join("typo.toml"), typo).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_keeps_the_contract_in_both_forms() {
    let stage = Stage::new("verbs", "full_load_and_cdc").await;
    stage_files(&stage);
    stage.meets(OFFLINE);
    stage.meets(STILL);
    let mut child = stage.start(&["run", "verbs"]);
    stage.meets(RUNNING);
    assert_eq!(ended(&mut child), Some(0), "{}", stage.log());
    stage.meets(ENDED);

    let met: BTreeSet<&str> = [OFFLINE, STILL, RUNNING, ENDED]
        .concat()
        .iter()
        .map(|(arguments, ..)| arguments[0])
        .collect();
    let all = crate::contract::verbs();
    let missing: Vec<&String> = all.iter().filter(|v| !met.contains(v.as_str())).collect();
    assert!(missing.is_empty(), "verbs without a row: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_cannot_be_opened_fails_alike_in_every_verb() {
    let stage = Stage::new("verbs", "full_load_and_cdc").await;
    stage_files(&stage);
    for words in OF_A_PIPELINE {
        for (name, ends) in [
            ("verbz", Fails(2, "TM7045")),
            ("./nope.toml", Fails(2, "TM7014")),
            ("typo", Fails(2, "TM7003")),
        ] {
            stage.meets_one(&[words, &[name][..]].concat(), Json, ends);
        }
        let near = stage.tidemark(&[words, &["verbz"][..]].concat());
        assert!(near.err.contains("did you mean verbs?"), "{near:?}");
        let wrong = stage.tidemark(&[words, &["verbs", "--bogus"][..]].concat());
        assert_eq!((wrong.code, wrong.out.as_str()), (2, ""), "{wrong:?}");
        assert!(wrong.err.contains("'--bogus'"), "{wrong:?}");
    }
    for words in NEEDS_TARGET {
        let with = |name| [&words[..1], &[name], &words[1..]].concat();
        stage.meets_one(&with("notarget"), Json, Fails(5, "TM2004"));
        let denied = stage.json(&with("denied"), 4);
        let code = denied["error"]["code"].as_str().unwrap();
        assert!(["TM1005", "TM2005"].contains(&code), "{denied}");
    }
}

#[test]
fn quiet_says_nothing_but_the_result() {
    let loud = tidemark(&["status"]);
    assert!(loud.err.contains("hint:"), "{loud:?}");
    let quiet = tidemark(&["status", "--quiet"]);
    assert_eq!((quiet.err.as_str(), &quiet.out), ("", &loud.out));
    let failed = tidemark(&["status", "nope", "-q"]);
    assert!(
        failed.code == 2 && failed.err.contains("TM7045"),
        "{failed:?}"
    );
    let both = tidemark(&["status", "-q", "-v"]);
    assert_eq!(both.code, 2, "{both:?}");
}

/// What was asked for and agreed to is done even if nobody waits for it: no verb that changes
/// something says otherwise when it is interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_resync_is_not_said_to_have_changed_nothing() {
    let stage = Stage::new("interrupted", "full_load_and_cdc").await;
    let mut child = stage.start(&["run", "interrupted"]);
    stage.wait_for_state("streaming").await;
    // The switch of the tables waits for this reader.
    let reader = stage.server.client_to(&stage.target).await.unwrap();
    reader
        .batch_execute("BEGIN; SELECT * FROM t")
        .await
        .unwrap();
    let resync = stage.spawn(&["resync", "interrupted", "--table", "t", "--yes"]);
    tidemark_lab::wait_for(crate::stage::PATIENCE, "the resync to begin", || async {
        let tables = stage.json(&["tables", "interrupted"], 0);
        let state = &tables["data"]["tables"][0]["state"];
        Ok((state != "streaming").then_some(()))
    })
    .await
    .unwrap();
    signal(&resync, Signal::INT);
    let output = resync.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("is done all the same"), "{said}");
    assert!(!said.contains("nothing was changed"), "{said}");
    reader.batch_execute("ROLLBACK").await.unwrap();
    tidemark_lab::wait_for(
        crate::stage::PATIENCE,
        "the log to tell the end",
        || async { Ok(stage.log().contains("table streaming again").then_some(())) },
    )
    .await
    .unwrap();
    stage.json(&["stop", "interrupted"], 0);
    assert_eq!(ended(&mut child), Some(0), "{}", stage.log());
    stage.drop_slot().await;
}
