//! The pages of `docs/how-to` and `docs/tutorial`: their blocks are run, in their order, as a reader
//! would run them.
//!
//! A block says by its first line what becomes of it: `sh` is run, `sql source` and `sql target` are sent
//! there by a superuser, `toml NAME` becomes a file. Blocks of other systems (`ini`, `cron`,
//! `console`) are read only. A block that says nothing fails the test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tidemark_lab::PostgresServer;

use crate::stage::{PATIENCE, Stage};

/// Pages with the test that runs them; a page that is in no line fails.
const PAGES: [&str; 14] = [
    "how-to/alerts.md",
    "how-to/cutover.md",
    "how-to/files.md",
    "how-to/lost-slot.md",
    "how-to/managed-service.md",
    "how-to/migrate-once.md",
    "how-to/privileges.md",
    "how-to/protect-the-source.md",
    "how-to/resync-a-table.md",
    "how-to/rows-in-quarantine.md",
    "how-to/run-as-a-service.md",
    "how-to/schedules.md",
    "how-to/tls.md",
    "tutorial/first-copy.md",
];

const SEED: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric);
    INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 100) i;
    INSERT INTO orders SELECT i, 1 + i % 100, i / 10.0 FROM generate_series(1, 2000) i;
    ANALYZE";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Label and text of each fenced block.
fn blocks(page: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(docs().join(page)).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(""), Some(_)) => blocks.extend(open.take()),
            (Some(label), None) => open = Some((label.to_owned(), String::new())),
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => assert!(!line.starts_with("    "), "{page}: a block without a word"),
            (Some(label), Some(_)) => panic!("{page}: ```{label} within a block"),
        }
    }
    assert!(open.is_none(), "{page}: a block does not end");
    blocks
}

/// The page as one script.
pub(crate) fn script(page: &str) -> String {
    let mut script = "set -euo pipefail\n".to_owned();
    for (label, text) in blocks(page) {
        let piece = match label.split_once(' ') {
            None if label == "sh" => text,
            None if ["console", "cron", "ini", "yaml"].contains(&label.as_str()) => continue,
            Some(("sql", side @ ("source" | "target"))) => {
                let admin = format!("{}_ADMIN", side.to_uppercase());
                format!(
                    "psql -qX -v ON_ERROR_STOP=1 -o /dev/null \"${admin}\" <<'PAGE'\n{text}PAGE\n"
                )
            }
            Some(("toml", file)) => format!("cat > {file} <<'PAGE'\n{text}PAGE\n"),
            _ => panic!("{page}: nobody knows what becomes of a block `{label}`"),
        };
        script.push_str(&piece);
    }
    script.push_str("wait\n");
    script
}

/// Runs a page's script; fails with all that it said.
pub(crate) async fn follow(script: &str, directory: &Path, variables: &[(&str, &str)]) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_tidemark"));
    let psql = PostgresServer::shared().await.unwrap();
    let psql = psql.installation().client_program("psql").unwrap();
    let folders = [program.parent().unwrap(), psql.parent().unwrap()];
    let folders = folders.map(|folder| folder.display().to_string()).join(":");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let run = tokio::process::Command::new("bash")
        .args(["-c", script])
        .current_dir(directory)
        .env("PATH", format!("{folders}:{}", path.display()))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await;
    let output = output.expect("the page comes to its end").unwrap();
    let (said, shown) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    assert!(output.status.success(), "{said}\n{shown}\n{script}");
    shown
}

/// Follows a page on databases of its own, as roles that it makes itself or as the superuser.
async fn walk(page: &str, pipeline: &str, roles: Option<(&str, &str)>) -> String {
    let stage = Stage::new(pipeline).await;
    stage.source.batch_execute(SEED).await.unwrap();
    let (source_admin, target_admin) = (stage.source_url(), stage.target_url());
    let (reader, loader) = roles.unwrap_or(("postgres", "postgres"));
    let source = stage
        .source_server
        .url_with(reader, None, &stage.source_name);
    let target = stage
        .target_server
        .url_with(loader, None, &stage.target_name);
    // Names that a reader replaces as well; slots and roles are the whole server's.
    let script = script(page)
        .replace(
            "DATABASE orders ",
            &format!("DATABASE {} ", stage.source_name),
        )
        .replace("DATABASE dw ", &format!("DATABASE {} ", stage.target_name))
        .replace("tidemark_shop", &format!("tidemark_{pipeline}"))
        .replace("name = \"shop\"", &format!("name = \"{pipeline}\""))
        .replace("shop.toml", &format!("{pipeline}.toml"))
        .replace(" shop ", &format!(" {pipeline} "))
        .replace(" shop\n", &format!(" {pipeline}\n"));
    let variables = [
        ("SOURCE_ADMIN", source_admin.as_str()),
        ("TARGET_ADMIN", target_admin.as_str()),
        ("SOURCE_URL", source.as_str()),
        ("TARGET_URL", target.as_str()),
    ];
    let shown = follow(&script, stage.directory(), &variables).await;
    if roles.is_some() {
        stage.assert_identical().await;
    }
    stage.clear().await;
    shown
}

#[test]
fn every_page_is_followed() {
    let mut found = BTreeSet::new();
    for folder in ["how-to", "tutorial"] {
        for entry in std::fs::read_dir(docs().join(folder)).unwrap() {
            let name = entry.unwrap().file_name();
            found.insert(format!("{folder}/{}", name.to_str().unwrap()));
        }
    }
    let followed: BTreeSet<String> = PAGES.map(str::to_owned).into();
    assert_eq!(found, followed);
    for page in PAGES {
        assert!(
            blocks(page).iter().any(|(label, _)| label == "sh"),
            "{page}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_written_down_as_the_page_says() {
    let shown = walk("how-to/alerts.md", "page_alerts", None).await;
    assert!(
        shown.contains("✓ page_alerts.toml: pipeline page_alerts"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_written_down_as_the_page_says() {
    let shown = walk("how-to/schedules.md", "page_schedules", None).await;
    let next = "Schedule   \"30 2 * * 1-5\" Europe/Berlin, where a server runs it";
    assert_eq!(shown.matches(next).count(), 2, "{shown}");
    assert_eq!(shown.matches("T02:30:00+0").count(), 10, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_is_protected_as_the_page_says() {
    let shown = walk("how-to/protect-the-source.md", "page_protect", None).await;
    assert!(shown.contains("GB allowed"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_s29_roles_of_the_page_on_privileges_are_enough() {
    let roles = Some(("tidemark_reader", "tidemark_loader"));
    walk("how-to/privileges.md", "page_rights", roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_a_managed_service_are_enough() {
    let roles = Some(("managed_reader", "managed_loader"));
    walk("how-to/managed-service.md", "page_managed", roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_is_copied_anew_as_the_page_says() {
    let shown = walk("how-to/resync-a-table.md", "page_resync", None).await;
    assert!(shown.contains("200 rows differ"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_quarantine_come_back_as_the_page_says() {
    let shown = walk("how-to/rows-in-quarantine.md", "page_rows", None).await;
    for words in ["not_too_much", "23514"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_becomes_the_primary_as_the_page_says() {
    let shown = walk("how-to/cutover.md", "page_cutover", None).await;
    for words in ["could be cut over", "is cut over", "| switched |"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_out_of_a_lost_slot_leads_out() {
    walk("how-to/lost-slot.md", "page_slot", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_moved_once_as_the_page_says() {
    walk("how-to/migrate-once.md", "page_move", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_runs_as_the_page_says() {
    walk("how-to/run-as-a-service.md", "page_service", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_proven_as_the_page_says() {
    let source = PostgresServer::builder().tls().start().await.unwrap();
    let target = PostgresServer::shared().await.unwrap();
    let copy = target.fresh_database("target").await.unwrap();
    let authority = source.certificates().unwrap().authority();
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        source.url(),
        authority.display()
    );
    let directory = tempfile::tempdir().unwrap();
    source
        .execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    let variables = [
        ("TLS_URL", url.as_str()),
        ("TARGET_URL", &target.url_to(&copy)),
    ];
    let shown = follow(&script("how-to/tls.md"), directory.path(), &variables).await;
    assert!(shown.contains("TM1001") && shown.contains("TLS"), "{shown}");
}

/// As nobody in particular: servers are not started by root.
#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_leads_from_nothing_to_a_proven_copy() {
    let script = script("tutorial/first-copy.md");
    let [source, target] = free_ports();
    let script = script
        .replace("5441", &source.to_string())
        .replace("5442", &target.to_string());
    // Other tests of this server have no pipeline of this name.
    let directory = tidemark_lab::Workplace::create().unwrap();
    let program = directory.path().join("tidemark");
    std::fs::copy(env!("CARGO_BIN_EXE_tidemark"), &program).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = format!("{}:{}", directory.path().display(), path.display());
    let mut run = directory.command("bash");
    run.args(["-c", &script])
        .env("PATH", path)
        .stdin(Stdio::null());
    let run = tokio::process::Command::from(run)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await;
    let output = output.expect("the tutorial comes to its end").unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{shown}");
    assert!(
        shown.contains("50 900 rows, every value: identical"),
        "{shown}"
    );
}

/// Two ports that nobody listens on.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
