//! Two databases on the shared server, a pipeline file between them, and the program.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use crate::program::{Ran, command_in, tidemark_in};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Two databases, a table, a pipeline file.
pub(crate) struct Stage {
    pub(crate) directory: TempDir,
    pub(crate) server: &'static PostgresServer,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) name: String,
}

impl Stage {
    pub(crate) async fn new(name: &str, mode: &str) -> Stage {
        let server = PostgresServer::shared().await.unwrap();
        let source = server.fresh_database("source").await.unwrap();
        let target = server.fresh_database("target").await.unwrap();
        server
            .execute_in(
                &source,
                "CREATE TABLE t (id int PRIMARY KEY, v text);
                 INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000) i; ANALYZE",
            )
            .await
            .unwrap();
        let stage = Stage {
            directory: tempdir().unwrap(),
            server,
            source,
            target,
            name: name.to_owned(),
        };
        stage.write(mode, &stage.source_url(), &stage.target_url());
        stage
    }

    pub(crate) fn source_url(&self) -> String {
        self.server.url_to(&self.source)
    }

    pub(crate) fn target_url(&self) -> String {
        self.server.url_to(&self.target)
    }

    pub(crate) fn write(&self, mode: &str, source: &str, target: &str) {
        self.write_other(&self.name, mode, source, target);
    }

    /// The file of another pipeline beside it.
    pub(crate) fn write_other(&self, name: &str, mode: &str, source: &str, target: &str) {
        let text = format!(
            "version = 1\n[pipeline]\nname = \"{name}\"\nmode = \"{mode}\"\n[source]\nurl = \"{source}\"\n\
             [target]\nurl = \"{target}\"\n[tables]\ninclude = [\"public.*\"]\n"
        );
        let file = self.directory.path().join(format!("{name}.toml"));
        std::fs::write(file, text).unwrap();
    }

    pub(crate) fn tidemark(&self, arguments: &[&str]) -> Ran {
        tidemark_in(self.directory.path(), arguments)
    }

    pub(crate) fn json(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.tidemark(&[arguments, &["--json"]].concat());
        assert_eq!(ran.code, code, "{arguments:?} {ran:?}");
        ran.envelope()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Started {
        self.started(command_in(self.directory.path(), arguments))
    }

    /// Starts the program by way of another: `nohup`, or `env --default-signal=HUP`, since whoever runs the
    /// tests may have been started by `nohup`.
    pub(crate) fn start_by(&self, launcher: &[&str], arguments: &[&str]) -> Started {
        let plain = command_in(self.directory.path(), arguments);
        let mut command = Command::new(launcher[0]);
        command
            .args(&launcher[1..])
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(self.directory.path());
        self.started(command)
    }

    fn started(&self, mut command: Command) -> Started {
        let log = std::fs::File::create(self.directory.path().join("run.log")).unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Started(child)
    }

    /// Starts the program and keeps what it says.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        command_in(self.directory.path(), arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("run.log")).unwrap()
    }

    pub(crate) async fn wait_for_state(&self, state: &str) {
        wait_for(PATIENCE, state, || async {
            let status = self.json(&["status", &self.name], 0);
            Ok((status["data"]["state"] == state).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err}: {}", self.log()));
    }

    /// The target's server needs a moment to see that a run is gone.
    pub(crate) async fn wait_for_nobody(&self) {
        wait_for(PATIENCE, "nobody to run it", || async {
            let status = self.json(&["status", &self.name], 0);
            Ok(status["data"]["running"].is_null().then_some(()))
        })
        .await
        .unwrap();
    }

    pub(crate) async fn drop_slot(&self) {
        let sql = format!("SELECT pg_drop_replication_slot('tidemark_{}')", self.name);
        self.server.execute_in(&self.source, &sql).await.unwrap();
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

pub(crate) fn ended(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::yield_now();
    }
}

/// A program that runs; it ends with this, however a test ends.
pub(crate) struct Started(Child);

impl std::ops::Deref for Started {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
