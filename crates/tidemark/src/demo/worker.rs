//! The process that runs the demo's pipeline and shows its page: `tidemark serve`.
//!
//! It is in a process group of its own, so that Ctrl-C at the terminal is ours alone, and ends in
//! order when its standard input closes, which happens however we end.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidemark_core::Error;
use tidemark_core::catalogue::{Code, codes};
use tokio::process::{Child, ChildStdin, Command};

/// How long it may take to listen, and how often it is looked whether it does.
const LISTENS_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long it may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Where the page is if nothing else is there.
const USUAL_PORT: u16 = 7070;

/// Which port the page is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The usual one, or any other if that is taken.
    Usual,
    /// This one.
    Given(u16),
}

impl Port {
    /// Refuses a wish that cannot be met, before anything is started for it.
    pub(crate) fn check(self) -> Result<(), Error> {
        let Port::Given(port) = self else {
            return Ok(());
        };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match std::net::TcpListener::bind(listen) {
            Ok(_) => Ok(()),
            Err(err) => Err(Error::definite(
                codes::LISTEN_FAILED,
                format!("{listen}: {err}"),
            )),
        }
    }
}

/// Where it works, and on what.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its log goes here.
    pub(crate) directory: PathBuf,
    /// Pipeline files.
    pub(crate) pipelines: PathBuf,
    /// Its store.
    pub(crate) state: PathBuf,
    /// Where its page's wishes to break something go.
    pub(crate) orders: PathBuf,
}

/// See the module's text.
pub(crate) struct Worker {
    child: Child,
    /// Its standing order to go on. Apart from `child`, which closes it when waited for.
    _input: Option<ChildStdin>,
    log: Log,
    address: SocketAddr,
}

impl Worker {
    /// Starts it; returns once it listens.
    pub(crate) async fn start(place: &Place, port: Port) -> Result<Worker, Error> {
        let (first, other) = match port {
            Port::Usual => (USUAL_PORT, Some(0)),
            Port::Given(port) => (port, None),
        };
        match Worker::listening(place, first).await {
            Err(err) if err.code() == codes::LISTEN_FAILED && other.is_some() => {
                let any = other.unwrap_or_default();
                Worker::listening(place, any).await
            }
            started => started,
        }
    }

    async fn listening(place: &Place, port: u16) -> Result<Worker, Error> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let log = Log::continued(place.directory.join("serve.log"));
        let child = spawn(place, listen, &log.file);
        let mut child = child.map_err(|err| {
            Error::definite(codes::CLI_MACHINE, format!("start the worker: {err}"))
        })?;
        let input = child.stdin.take();
        let mut worker = Worker {
            child,
            _input: input,
            log,
            address: listen,
        };
        let began = Instant::now();
        loop {
            if let Some(address) = worker.log.address() {
                worker.address = address;
                return Ok(worker);
            }
            if began.elapsed() > LISTENS_WITHIN {
                let text = "the demo's server does not listen";
                return Err(Error::transient(codes::CLI_NO_ANSWER, text));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                words = worker.ended() => {
                    let code = worker.log.last_code().unwrap_or(codes::CLI_MACHINE);
                    return Err(Error::definite(code, format!("the demo's server ended: {words}")));
                }
            }
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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
        match self.log.last_words() {
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
}

fn spawn(place: &Place, listen: SocketAddr, log: &Path) -> std::io::Result<Child> {
    let to_log = File::options().create(true).append(true).open(log)?;
    let answers = to_log.try_clone()?;
    Command::new(std::env::current_exe()?)
        .arg("serve")
        .args(["--listen", &listen.to_string(), "--auth", "open"])
        .arg("--pipelines")
        .arg(&place.pipelines)
        .arg("--state")
        .arg(&place.state)
        .arg("--demo")
        .arg(&place.orders)
        .args([
            "--until",
            "eof",
            "--log-format",
            "json",
            "--json",
            "--no-input",
        ])
        .current_dir(&place.directory)
        .env_remove("TIDEMARK_JSON")
        .env_remove("TIDEMARK_TIMEOUT")
        .env_remove("TIDEMARK_STORE_KEY")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(answers)
        .stderr(to_log)
        .kill_on_drop(true)
        .spawn()
}

/// Its log and at last its answer, a JSON object a line, behind those of the workers before it.
struct Log {
    file: PathBuf,
    from: usize,
}

impl Log {
    fn continued(file: PathBuf) -> Log {
        let before = std::fs::metadata(&file).map_or(0, |about| about.len());
        let from = usize::try_from(before).unwrap_or(usize::MAX);
        Log { file, from }
    }

    /// Its lines, the last first.
    fn lines(&self) -> Vec<Value> {
        let bytes = std::fs::read(&self.file).unwrap_or_default();
        let own = bytes.get(self.from..).unwrap_or_default();
        let lines = own.rsplit(|byte| *byte == b'\n');
        lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// Where it said that it listens.
    fn address(&self) -> Option<SocketAddr> {
        let lines = self.lines();
        lines
            .iter()
            .find_map(|line| line["address"].as_str()?.parse().ok())
    }

    /// The code that it failed with.
    fn last_code(&self) -> Option<Code> {
        let lines = self.lines();
        let mut codes = lines
            .iter()
            .filter_map(|line| line["error"]["code"].as_str());
        codes.find_map(Code::parse)
    }

    /// What it failed with or else the last line that is an error, as a sentence.
    fn last_words(&self) -> Option<String> {
        let lines = self.lines();
        let is_error = |line: &&Value| line["ok"] == false || line["level"] == "error";
        let line = lines.iter().find(is_error)?;
        let error = &line["error"];
        let words = [&error["detail"], &error["message"], &line["msg"]];
        words
            .iter()
            .find_map(|words| words.as_str())
            .map(str::to_owned)
    }
}
