//! What a person gets wrong, or a machine: each is told in four lines with its code, ends the program
//! with the right exit code (or is waited for, where it may pass by itself), leaves nothing half made,
//! and once the cause is gone the same command succeeds.

use serde_json::Value;
use tidemark_lab::server::{PostgresServer, PostgresServerBuilder};
use tidemark_lab::wait_for;

use crate::stage::{PATIENCE, Ran, Running, Stage};

mod disks;
mod files;
mod hooks;
mod later;
mod pooler;
mod reach;
mod source;
mod target;

/// What is copied, unless a test needs something else.
const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); \
                    INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i;";

/// The one command of these tests: it fails while the cause is there, and succeeds without it.
const RUN: [&str; 4] = ["run", "FILE", "--until", "verified"];

/// How a start ends that cannot be.
#[derive(Clone, Copy, Debug)]
struct Refusal<'a> {
    code: &'a str,
    exit: i32,
    /// What the text must name: the cause, the way out.
    words: &'a [&'a str],
}

/// The start is refused, in text and in JSON, and nothing is left of it. Gives the first action.
async fn assert_refused(stage: &Stage, refusal: Refusal<'_>) -> String {
    let Refusal { code, exit, words } = refusal;
    let before = relations(stage).await;
    let ran = stage.run(&RUN).await.expect(exit);
    assert_eq!(ran.stdout, "", "results only");
    let lines = four_lines(&ran);
    assert!(lines[0].starts_with(&format!("✗ {code}  ")), "{lines:?}");
    let last = format!("tidemark explain {code}");
    assert!(lines[lines.len() - 1].ends_with(&last), "{lines:?}");
    let said = lines.join("\n");
    let as_words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(as_words.contains(word), "{word} in\n{said}");
    }

    let ran = stage.run(&[&RUN[..], &["--json"]].concat()).await;
    let answer = ran.expect(exit).json();
    assert_eq!(answer["ok"], false, "{answer}");
    let error = &answer["error"];
    assert_eq!(error["code"], code, "{answer}");
    for field in ["title", "detail", "effect"] {
        assert!(!text(&error[field]).is_empty(), "{field} in {answer}");
    }
    let action = text(&error["fix"][0]["text"]).to_owned();
    assert!(!action.is_empty(), "{answer}");
    assert_nothing_is_left(stage, &before).await;
    action
}

/// The pipeline file is refused: every problem with its place and a caret, before anything is made.
async fn assert_file_is_refused(stage: &Stage, code: &str, marked: &str, words: &[&str]) {
    let before = relations(stage).await;
    let said = stage.run(&RUN).await.expect(2).stderr;
    assert!(said.contains(&format!("error[{code}]")), "{said}");
    let shown: Vec<Vec<char>> = said.lines().map(|line| line.chars().collect()).collect();
    let carets = shown.iter().position(|line| line.contains(&'^'));
    let carets = carets.unwrap_or_else(|| panic!("no caret in {said}"));
    let under = |line: &[char]| -> String {
        let places = shown[carets].iter().zip(line);
        let marked = places.filter_map(|(caret, c)| (*caret == '^').then_some(*c));
        marked.collect()
    };
    assert_eq!(under(&shown[carets - 1]), marked, "{said}");
    for word in words {
        assert!(said.contains(word), "{word} in {said}");
    }
    let answer = stage.run(&[&RUN[..], &["--json"]].concat()).await;
    let error = answer.expect(2).json()["error"].clone();
    assert_eq!(error["code"], code, "{error}");
    let place = text(&error["errors"][0]["pointer"]).to_owned();
    assert!(place.contains(".toml:"), "{error}");
    assert!(said.contains(&place), "{place} in {said}");
    assert_nothing_is_left(stage, &before).await;
}

/// What happened, what it means for the data, what to do first, where to read more: the end of what
/// the program said.
fn four_lines(ran: &Ran) -> Vec<String> {
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let begin = lines.iter().rposition(|line| line.starts_with("✗ TM"));
    let begin = begin.unwrap_or_else(|| panic!("no error in\n{}", ran.stderr));
    let said: Vec<String> = lines[begin..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect();
    let labels = ["  What ", "  Effect ", "  Do first ", "  Read more "];
    let places = labels.map(|label| said.iter().position(|line| line.starts_with(label)));
    assert!(places.iter().all(Option::is_some), "{said:#?}");
    assert!(places.is_sorted(), "{said:#?}");
    said
}

/// No slot and no publication on the source, nothing new on the target, no position.
async fn assert_nothing_is_left(stage: &Stage, target_before: &[String]) {
    assert!(stage.slots().await.is_empty(), "a slot is left");
    let publications = "SELECT pubname FROM pg_publication";
    let left = stage.source.query(publications, &[]).await.unwrap();
    assert!(left.is_empty(), "a publication is left");
    assert_eq!(relations(stage).await, target_before, "on the target");
    let recorded = "SELECT to_regclass('tidemark.checkpoint') IS NOT NULL";
    if stage.target.query_one(recorded, &[]).await.unwrap().get(0) {
        let positions = "SELECT 1 FROM tidemark.checkpoint WHERE position IS NOT NULL";
        let recorded = stage.target.query(positions, &[]).await.unwrap();
        assert!(recorded.is_empty(), "a position is recorded");
    }
}

/// Everything of the target that is not a system's, but for the schema that we keep our own in.
async fn relations(stage: &Stage) -> Vec<String> {
    let sql = "SELECT c.oid::regclass::text FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'tidemark') \
               ORDER BY 1";
    let rows = stage.target.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The cause is gone: the same command succeeds, and both sides are equal.
async fn assert_succeeds(stage: &Stage) {
    stage.run(&RUN).await.expect(0);
    stage.assert_identical().await;
}

/// What `check` says of a code: verdict, and its fixes put together.
async fn checked(stage: &Stage, code: &str) -> (String, String) {
    said_of(&stage.run(&["check", "FILE", "--json"]).await, code)
}

/// `check` fails at this code, with exit code 3.
async fn assert_check_fails(stage: &Stage, code: &str) {
    let ran = stage.run(&["check", "FILE", "--json"]).await.expect(3);
    let (verdict, fixes) = said_of(&ran, code);
    assert_eq!(verdict, "failed", "{code}");
    assert!(fixes.contains("\"text\""), "{code}: {fixes}");
}

fn said_of(check: &Ran, code: &str) -> (String, String) {
    let answer = check.json();
    let findings = answer["data"]["findings"].as_array().unwrap();
    let verdicts = ["failed", "warning", "note", "passed"];
    let worst = verdicts.iter().find_map(|verdict| {
        let of_code = |it: &&Value| it["code"] == code && it["verdict"] == *verdict;
        findings.iter().find(of_code)
    });
    let finding = worst.unwrap_or_else(|| panic!("no {code} in {answer:#}"));
    (
        text(&finding["verdict"]).to_owned(),
        finding["fix"].to_string(),
    )
}

/// The run is alive and has tried several times, each time told with this code.
async fn assert_waits(run: &mut Running, code: &str) {
    let named = format!("\"code\":\"{code}\"");
    wait_for(
        PATIENCE,
        &format!("two attempts that end in {code}"),
        || async {
            let log = run.log();
            let lines = log.lines();
            let retries = lines.filter(|l| l.contains(&named) && l.contains("\"attempt\":"));
            Ok((retries.count() > 1).then_some(()))
        },
    )
    .await
    .unwrap_or_else(|err| panic!("{err}\n{}", run.log()));
    assert!(run.is_running(), "{}", run.log());
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A server of the test's own, which lives as long as the process.
async fn server_of(builder: PostgresServerBuilder) -> &'static PostgresServer {
    Box::leak(Box::new(builder.start().await.unwrap()))
}
