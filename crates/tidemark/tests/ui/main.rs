//! The pages in a real browser, against a real server with real databases.
//!
//! The cases are in `web/test/cases/`: they start `tidemark serve`, kill it, cut its wire to the source,
//! and look at what a person sees. Here are the databases, and what a machine must have for it.
//! `UPDATE_DOCS=1` writes what the pages look like into `docs/images`.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without ends it")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::skip::skipped;

const BROWSERS: [&str; 3] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-headless-shell",
    "/usr/bin/google-chrome",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// What this machine lacks for it.
fn lacks(web: &Path) -> Option<&'static str> {
    let has_node = Command::new("node").arg("--version").output().is_ok();
    let has_browser = BROWSERS.iter().any(|path| Path::new(path).exists());
    let has_packages = web.join("node_modules/playwright-core").is_dir();
    match (has_node, has_browser, has_packages) {
        (false, ..) => Some("node is not installed (scripts/setup test installs it)"),
        (_, false, _) => Some("chromium is not installed (scripts/setup test installs it)"),
        (.., false) => Some("web/node_modules is not there (scripts/setup test installs it)"),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_say_what_is_true_in_a_real_browser() {
    let web = root().join("web");
    if let Some(why) = lacks(&web) {
        skipped("the_pages_say_what_is_true_in_a_real_browser", why);
        return;
    }
    let server = PostgresServer::shared().await.unwrap();
    let source = server.fresh_database("source").await.unwrap();
    let target = server.fresh_database("target").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let images = std::env::var_os("UPDATE_DOCS").map(|_| root().join("docs/images"));
    let given = json!({
        "tidemark": env!("CARGO_BIN_EXE_tidemark"),
        "admin": server.url_to("postgres"),
        "source": server.url_to(&source),
        "target": server.url_to(&target),
        "directory": directory.path(),
        "images": images,
    });
    let ran = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .arg(web.join("test/run.mjs"))
            .arg(given.to_string())
            .output()
    });
    let ran = ran.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}");
    let complaints = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{complaints}");
    let shown = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(shown >= 30, "only {shown} cases ran: {said}");
}
