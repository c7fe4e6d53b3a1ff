//! `tidemark serve`, as a process of its own, and what is asked of it.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidemark_lab::http::{Request, Response};
use tidemark_lab::wait::{wait_for, wait_until};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::load::stop_tidemark;
use crate::stage::{Database, Stage, begin, last_lines, program};

const PATIENCE: Duration = Duration::from_mins(15);
const ASKED_EVERY: Duration = Duration::from_millis(500);

/// See the module's text.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Served {
    /// Starts one with an empty store.
    pub(crate) async fn start(stage: &Stage) -> Result<Served> {
        let state = stage.file("serve");
        if state.exists() {
            std::fs::remove_dir_all(&state)?;
        }
        let mut command = program(&stage.tidemark);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(&state)
            .current_dir(state.parent().unwrap_or(Path::new("/")));
        let log = stage.file("serve.log");
        let child = begin(&mut command, &log)?;
        let said = wait_for(Duration::from_mins(1), "the server to listen", || async {
            let text = std::fs::read_to_string(&log)?;
            let address = text.split("serves http://").nth(1);
            let is_over = |sign: char| !(sign.is_ascii_digit() || ".:".contains(sign));
            Ok(address.and_then(|rest| Some(rest.split(is_over).next()?.to_owned())))
        });
        let address = said.await.with_context(|| last_lines(&log))?;
        Ok(Served { child, address })
    }

    /// An answer that is good.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response> {
        let answer = request.send(&self.address).await?;
        ensure!(answer.status < 300, "{}", answer.text());
        Ok(answer)
    }

    pub(crate) async fn get(&self, route: &str) -> Result<Value> {
        let request = Request::new("GET", &format!("/api/v1{route}"));
        self.ask(request).await?.json()
    }

    /// Takes a pipeline of one schema up, and lets it begin.
    pub(crate) async fn begin(
        &self,
        name: &str,
        mode: &str,
        [source, target]: [&Database<'_>; 2],
        schema: &str,
    ) -> Result<()> {
        let definition = json!({
            "version": 1,
            "pipeline": { "name": name, "mode": mode },
            "source": { "type": "postgres", "url": source.url() },
            "target": { "type": "postgres", "url": target.url() },
            "tables": { "include": [format!("{schema}.*")] },
            "verify": { "after_load": "off" },
        });
        let request = Request::new("POST", "/api/v1/pipelines?start=true").json(&definition);
        self.ask(request).await?;
        Ok(())
    }

    /// Waits until every pipeline is in one of these states.
    pub(crate) async fn all_are(&self, states: &[&str], count: usize) -> Result<()> {
        let what = format!("{count} pipelines to be {}", states.join(" or "));
        wait_until(PATIENCE, &what, || async {
            // To ask for hundreds of pipelines all the time would be most of the work on two cores.
            tokio::time::sleep(ASKED_EVERY).await;
            let list = self.get("/pipelines?limit=500").await?;
            let list = list["pipelines"].as_array().context("no list")?;
            let of = |one: &Value| one["state"].as_str().unwrap_or_default().to_owned();
            if let Some(failed) = list.iter().find(|one| of(one) == "failed") {
                bail!("one failed: {failed}");
            }
            let there = list.iter().filter(|one| states.contains(&of(one).as_str()));
            let there = there.count();
            ensure!(there >= count, "{there} of {count}");
            Ok(true)
        })
        .await
    }

    /// So many pages that follow what happens, until they are dropped.
    pub(crate) async fn watch(&self, pages: usize) -> Result<JoinSet<()>> {
        let mut watching = JoinSet::new();
        for _ in 0..pages {
            let request = Request::new("GET", "/api/v1/events/stream");
            let mut stream = request.open(&self.address).await?;
            let mut bytes = vec![0; 16 * 1024];
            let read = stream.read(&mut bytes).await?;
            let begins = String::from_utf8_lossy(&bytes[..read]).into_owned();
            ensure!(begins.starts_with("HTTP/1.1 200"), "{begins}");
            watching.spawn(async move {
                while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            });
        }
        Ok(watching)
    }

    /// The resident memory of this moment, in bytes (`VmRSS` of proc(5)).
    pub(crate) fn resident(&self) -> u64 {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kb.unwrap_or(0) * 1024
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        stop_tidemark(&mut self.child).map(drop)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After an error nobody has stopped it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
