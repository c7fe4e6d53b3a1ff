//! Many pipelines in one process: the server as a team runs it, and its API as a program meets it.

mod access;
mod alerts;
mod api;
mod asked;
mod audit;
mod connections;
mod contract;
mod cut_over;
mod files;
mod leavers;
mod lists;
mod lives;
mod logins;
mod logs;
mod mail;
mod managed;
mod mended;
mod names;
mod notify;
mod operations;
mod proven;
mod quarantine;
mod races;
mod reach;
mod remote;
mod report;
mod requests;
mod rows;
mod schedules;
mod scraped;
mod secrets;
mod settings;
mod shape;
mod shared;
mod standing;
mod traffic;
mod truth;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_lab::http::{Request, Response};
use tidemark_lab::wait::wait_for;
use tokio::process::{Child, Command};

use crate::stage::{PATIENCE, Stage};

/// A server that runs, with directories of its own.
struct Server {
    home: TempDir,
    child: Child,
    address: String,
    token: Option<String>,
    more: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Server {
    /// A server with an empty store and an empty directory of pipelines.
    async fn start(more: &[&str]) -> Server {
        Server::start_with(more, &[]).await
    }

    async fn start_with(more: &[&str], variables: &[(&str, &str)]) -> Server {
        Server::begin(&[&["--state", "state"], more].concat(), variables).await
    }

    /// A server that is told nothing else than this.
    async fn begin(more: &[&str], variables: &[(&str, &str)]) -> Server {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("pipelines.d")).unwrap();
        let more = more
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: Vec<(String, String)> = variables.iter().map(owned).collect();
        let child = spawn(home.path(), &more, &variables);
        let mut server = Server {
            home,
            child,
            address: String::new(),
            token: None,
            more,
            variables,
        };
        server.listens().await;
        server
    }

    /// Starts it again on what it left.
    async fn restart(&mut self) {
        std::fs::remove_file(self.log_file()).unwrap();
        self.child = spawn(self.home.path(), &self.more, &self.variables);
        self.listens().await;
    }

    async fn listens(&mut self) {
        let address = wait_for(PATIENCE, "the server to listen", || async {
            let log = self.log();
            let said = log.lines().find_map(|line| {
                let after = |words| line.split(words).nth(1);
                after("serves http://").or_else(|| after("stands by at http://"))
            });
            let is_over = |sign: char| !(sign.is_ascii_digit() || sign == '.' || sign == ':');
            Ok(said.and_then(|rest| rest.split(is_over).next().map(str::to_owned)))
        });
        self.address = match address.await {
            Ok(address) => address,
            Err(err) => panic!("{err}\n{}", self.log()),
        };
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("serve.log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn pipelines(&self) -> PathBuf {
        self.home.path().join("pipelines.d")
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// The token of the first start.
    fn admin_token(&self) -> String {
        let text = std::fs::read_to_string(self.state().join("admin.token")).unwrap();
        text.trim().to_owned()
    }

    fn request(&self, method: &str, route: &str) -> Request {
        let request = Request::new(method, &format!("/api/v1{route}"));
        match &self.token {
            Some(token) => request.header("authorization", &format!("Bearer {token}")),
            None => request,
        }
    }

    async fn send(&self, request: Request) -> Response {
        request.send(&self.address).await.unwrap()
    }

    /// A GET that must succeed.
    async fn get(&self, route: &str) -> Value {
        let answer = self.send(self.request("GET", route)).await;
        assert_eq!(answer.status, 200, "{route}: {}", answer.text());
        answer.json().unwrap()
    }

    /// The text of a route that is not the API's.
    async fn get_text(&self, path: &str) -> String {
        self.send(Request::new("GET", path)).await.text()
    }

    /// A POST of JSON.
    async fn post(&self, route: &str, body: &Value) -> Response {
        self.send(self.request("POST", route).json(body)).await
    }

    /// Has a pipeline do something, and waits for the end of it.
    async fn act(&self, pipeline: &str, action: &str, body: &Value) -> Value {
        let route = format!("/pipelines/{pipeline}/actions/{action}");
        let answer = self.post(&route, body).await;
        assert_eq!(answer.status, 202, "{action}: {}", answer.text());
        self.operation(&answer).await
    }

    /// The end of an operation.
    async fn operation(&self, answer: &Response) -> Value {
        let place = answer.header("location").unwrap().to_owned();
        let route = place.strip_prefix("/api/v1").unwrap().to_owned();
        wait_for(PATIENCE, "the operation to end", || async {
            let operation = self.get(&route).await;
            Ok((operation["state"] != "running").then_some(operation))
        })
        .await
        .unwrap()
    }

    async fn wait_for_state(&self, pipeline: &str, state: &str) -> Value {
        let route = format!("/pipelines/{pipeline}");
        let what = format!("{pipeline} to be {state}");
        let found = wait_for(PATIENCE, &what, || async {
            let answer = self.send(self.request("GET", &route)).await;
            let body = answer.json()?;
            anyhow::ensure!(body["state"] == state, "{body}");
            Ok(Some(body))
        });
        match found.await {
            Ok(found) => found,
            Err(err) => panic!("{err:?}\n{}", self.log()),
        }
    }

    /// Waits until a server that stood by has the store.
    async fn wait_to_lead(&self) {
        let leads = wait_for(PATIENCE, "the server to lead", || async {
            let answer = self.send(self.request("GET", "/pipelines")).await;
            Ok((answer.status == 200).then_some(()))
        });
        if let Err(err) = leads.await {
            panic!("{err:?}\n{}", self.log());
        }
    }

    /// SIGTERM; gives the exit code.
    async fn terminate(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id().expect("runs")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("does not end\n{}", self.log()))
            .unwrap()
            .code()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().expect("runs")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

fn spawn(home: &Path, more: &[String], variables: &[(String, String)]) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.join("serve.log"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(more)
        .envs(variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir(home)
        .kill_on_drop(true);
    command.spawn().unwrap()
}

/// The definition of a stage's pipeline, as JSON has it.
fn definition(stage: &Stage) -> Value {
    json!({
        "version": 1,
        "pipeline": { "name": stage.name, "mode": "full_load_and_cdc" },
        "source": { "type": "postgres", "url": stage.source_url() },
        "target": { "type": "postgres", "url": stage.target_url() },
        "tables": { "include": ["public.*"] },
    })
}

/// A table with some rows.
async fn fill(stage: &Stage) {
    let sql = "CREATE TABLE orders (id int PRIMARY KEY, note text);
        INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 1000) i;";
    stage.source.batch_execute(sql).await.unwrap();
}
