//! The process that runs the demo's pipeline: `tidemark run shop.toml`.
//!
//! It is in a process group of its own, so that Ctrl-C at the terminal is ours alone, and ends in
//! order when its standard input closes, which happens however we end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tokio::process::{Child, ChildStdin, Command};

/// How long it may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// See the module's text.
pub(crate) struct Worker {
    child: Child,
    /// Its standing order to go on. Apart from `child`, which closes it when waited for.
    _input: Option<ChildStdin>,
    log: PathBuf,
}

impl Worker {
    /// Starts it.
    pub(crate) fn start(file: &Path) -> Result<Worker, Error> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        let log = directory.join("run.log");
        let started = (|| {
            let to_log = File::options().create(true).append(true).open(&log)?;
            Command::new(std::env::current_exe()?)
                .arg("run")
                .arg(file)
                .args(["--until", "eof", "--log-format", "json", "--no-input"])
                .current_dir(directory)
                .env_remove("TIDEMARK_JSON")
                .env_remove("TIDEMARK_TIMEOUT")
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(to_log)
                .kill_on_drop(true)
                .spawn()
        })();
        let mut child: Child = started.map_err(|err: std::io::Error| {
            Error::definite(codes::CLI_MACHINE, format!("start the worker: {err}"))
        })?;
        let input = child.stdin.take();
        Ok(Worker {
            child,
            _input: input,
            log,
        })
    }

    /// Its process; `None` once it has ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns when it has ended, with what it said last.
    pub(crate) async fn ended(&mut self) -> String {
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(err) => err.to_string(),
        };
        match self.last_words() {
            Some(words) => format!("{status}: {words}"),
            None => status,
        }
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) async fn kill9(&mut self) -> Result<(), Error> {
        self.child
            .kill()
            .await
            .map_err(|err| Error::definite(codes::CLI_MACHINE, format!("kill the worker: {err}")))
    }

    /// Ends it in order; one that does not follow is killed.
    pub(crate) async fn stop(mut self) {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid
            && let Err(err) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(error = %err, "tell the worker to stop");
        }
        if tokio::time::timeout(STOP_WITHIN, self.child.wait())
            .await
            .is_err()
            && let Err(err) = self.child.kill().await
        {
            tracing::debug!(error = %err, "kill the worker");
        }
    }

    /// The last line of its log that is an error, as a sentence.
    fn last_words(&self) -> Option<String> {
        let log = std::fs::read_to_string(&self.log).ok()?;
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains("\"level\":\"error\""))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let said = |name: &str| line[name].as_str().map(str::to_owned);
        let error = line["error"]["message"].as_str().map(str::to_owned);
        error.or_else(|| said("msg"))
    }
}
