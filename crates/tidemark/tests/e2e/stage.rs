//! A source, a target, a pipeline file between them, and the program.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemark_lab::compare::{Comparison, Outcome};
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

/// How long anything may take before a test gives up; generous, because machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Two databases and a pipeline file.
pub(crate) struct Stage {
    pub(crate) source_server: &'static PostgresServer,
    pub(crate) target_server: &'static PostgresServer,
    pub(crate) source_name: String,
    pub(crate) target_name: String,
    pub(crate) source: Client,
    pub(crate) target: Client,
    pub(crate) name: String,
    directory: TempDir,
}

impl Stage {
    /// Fresh databases on the shared server, and a pipeline of this name. Slots are the server's, not
    /// a database's, so the pipeline's name must be the test's own.
    pub(crate) async fn new(name: &str) -> Stage {
        let server = PostgresServer::shared().await.unwrap();
        Stage::on(server, server, name).await
    }

    pub(crate) async fn on(
        source_server: &'static PostgresServer,
        target_server: &'static PostgresServer,
        name: &str,
    ) -> Stage {
        let source_name = source_server.fresh_database("source").await.unwrap();
        let target_name = target_server.fresh_database("target").await.unwrap();
        let stage = Stage {
            source: source_server.client_to(&source_name).await.unwrap(),
            target: target_server.client_to(&target_name).await.unwrap(),
            source_server,
            target_server,
            source_name,
            target_name,
            name: name.to_owned(),
            directory: tempfile::tempdir().unwrap(),
        };
        stage.write("");
        stage
    }

    pub(crate) fn source_url(&self) -> String {
        self.source_server.url_to(&self.source_name)
    }

    pub(crate) fn target_url(&self) -> String {
        self.target_server.url_to(&self.target_name)
    }

    pub(crate) fn source_config(&self) -> tokio_postgres::Config {
        self.source_server.config_to(&self.source_name)
    }

    pub(crate) fn target_config(&self) -> tokio_postgres::Config {
        self.target_server.config_to(&self.target_name)
    }

    /// Writes the pipeline file: both sides, all of `public`, and these lines more.
    pub(crate) fn write(&self, more: &str) {
        self.write_between(&self.source_url(), &self.target_url(), more);
    }

    /// The same with other addresses, for a proxy in between. Lines before the first `[` of `more`
    /// belong to `[pipeline]`, those of a section `[target]` to the target.
    pub(crate) fn write_between(&self, source: &str, target: &str, more: &str) {
        let (of_pipeline, sections) = match more.find('[') {
            Some(at) => more.split_at(at),
            None => (more, ""),
        };
        let (of_target, sections) = take_section(sections, "[target]\n");
        let (of_stream, sections) = take_section(&sections, "[stream]\n");
        // What no change announces is not waited for longer than need be.
        let of_catalog = if of_stream.contains("catalog_interval") {
            ""
        } else {
            "catalog_interval = \"3 s\"\n"
        };
        let tables = if sections.contains("[tables]") {
            ""
        } else {
            "[tables]\ninclude = [\"public.*\"]\n"
        };
        let text = format!(
            "version = 1\n\n[pipeline]\nname = \"{name}\"\n{mode}{of_pipeline}\n[source]\ntype = \"postgres\"\n\
             url = \"{source}\"\n\n[target]\ntype = \"postgres\"\nurl = \"{target}\"\n{of_target}\n{tables}\n\
             [stream]\n{of_catalog}{of_stream}\n\
             {sections}\n",
            name = self.name,
            mode = if of_pipeline.contains("mode") {
                ""
            } else {
                "mode = \"full_load_and_cdc\"\n"
            },
        );
        std::fs::write(self.file(), text).unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join(format!("{}.toml", self.name))
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program with these arguments; `FILE` stands for the pipeline file.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
        let file = self.file();
        for argument in arguments {
            match *argument {
                "FILE" => command.arg(&file),
                other => command.arg(other),
            };
        }
        command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .current_dir(self.directory.path());
        command
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        let ended = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        let output = ended
            .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
            .unwrap();
        Ran::of(arguments, &output)
    }

    /// Starts the program and leaves it running, its log in a file.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.spawn(self.command(arguments))
    }

    /// The same for a command that was given something more.
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        let log = self.directory.path().join("run.log");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Running { child, log }
    }

    /// What the program reports about its pipeline, asked as a user would.
    pub(crate) async fn status(&self) -> Value {
        self.run(&["status", "FILE", "--json"]).await.json()["data"].clone()
    }

    /// Waits until the pipeline says it is in this state.
    pub(crate) async fn wait_for_state(&self, state: &str) {
        wait_for(PATIENCE, &format!("state {state}"), || async {
            let status = self.status().await;
            Ok((find(&status, "state")? == state).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Both sides compared row by row by the lab, once the target has what the source had when this
    /// was asked.
    pub(crate) async fn wait_until_identical(&self) -> Outcome {
        let outcome = Comparison::new(&self.source, &self.target)
            .schema("public", "public")
            .wait_until_identical(PATIENCE)
            .await;
        outcome.unwrap_or_else(|err| panic!("{err:#}\n{}", self.log()))
    }

    /// Both sides compared now.
    pub(crate) async fn assert_identical(&self) {
        let outcome = Comparison::new(&self.source, &self.target)
            .schema("public", "public")
            .run()
            .await;
        let outcome = outcome.unwrap();
        assert!(outcome.is_identical(), "{outcome}");
    }

    /// Slots on the source that bear the pipeline's name.
    pub(crate) async fn slots(&self) -> Vec<String> {
        let slot = format!("tidemark_{}", self.name.replace('-', "_"));
        let sql = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = $1";
        let rows = self.source.query(sql, &[&slot]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Drops the pipeline's slot, so that the shared server keeps no log for a test that is over.
    pub(crate) async fn clear(&self) {
        let slot = format!("tidemark_{}", self.name.replace('-', "_"));
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                   WHERE slot_name = $1 AND NOT active";
        wait_for(PATIENCE, "the slot to be free", || async {
            self.source.execute(sql, &[&slot]).await?;
            Ok(self.slots().await.is_empty().then_some(()))
        })
        .await
        .unwrap();
    }
}

/// The lines of a section, and the text without it.
fn take_section(text: &str, head: &str) -> (String, String) {
    let Some((before, after)) = text.split_once(head) else {
        return (String::new(), text.to_owned());
    };
    let end = after.find("\n[").map_or(after.len(), |at| at + 1);
    let (lines, rest) = after.split_at(end);
    (lines.to_owned(), format!("{before}{rest}"))
}

fn find<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    let at = value
        .get(key)
        .or_else(|| value.get("status").and_then(|status| status.get(key)));
    at.and_then(Value::as_str)
        .ok_or_else(|| anyhow::anyhow!("no {key} in {value}"))
}

/// A run of the program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) arguments: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(arguments: &[&str], output: &Output) -> Ran {
        Ran {
            arguments: arguments.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(
            self.code,
            Some(code),
            "tidemark {}\n--- stdout\n{}\n--- stderr\n{}",
            self.arguments,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Its `--json` answer.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .unwrap_or_else(|err| panic!("{err}: {line}\n--- stderr\n{}", self.stderr))
    }
}

/// A run of the program that goes on.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log holds a text.
    pub(crate) async fn wait_for_log(&mut self, text: &str) {
        wait_for(PATIENCE, &format!("`{text}` in the log"), || async {
            Ok(self.log().contains(text).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err}\n{}", self.log()));
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) async fn kill9(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; waits for its end and gives its exit code.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// Waits for its end and gives its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.ended_how().await.code()
    }

    /// Waits for its end and gives the signal that ended it.
    pub(crate) async fn killed_by(&mut self) -> Option<i32> {
        self.ended_how().await.signal()
    }

    async fn ended_how(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("does not end\n{}", self.log()))
            .unwrap()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("runs")
    }
}
