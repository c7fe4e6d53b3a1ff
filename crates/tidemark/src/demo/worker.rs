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
use tokio::net::TcpSocket;
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
    /// Takes the page's address for as long as the demo goes on, before anything is started for it.
    pub(crate) fn hold(self) -> Result<Address, Error> {
        match self {
            Port::Usual => Address::hold(USUAL_PORT).or_else(|_| Address::hold(0)),
            Port::Given(port) => Address::hold(port),
        }
    }
}

/// Where the page is, whichever worker shows it: nobody else gets the port while one is killed and the
/// next has not begun to listen.
///
/// Only one socket can be bound to a port, unless all of them say `SO_REUSEPORT` and are of one user
/// (Linux, socket(7)). This one says so when it is bound already, so that it is refused a port that
/// another demo holds; workers say so before. It never listens, so nobody is connected to it.
#[derive(Debug)]
pub(crate) struct Address {
    at: SocketAddr,
    _held: TcpSocket,
}

impl Address {
    /// As it is opened in a browser.
    pub(crate) fn page(&self) -> String {
        format!("http://{}/", self.at)
    }

    fn hold(port: u16) -> Result<Address, Error> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let held = || {
            let held = TcpSocket::new_v4()?;
            // Connections of an earlier demo that wait for their end are not in the way of this one, which
            // is in the way of everybody else.
            held.set_reuseaddr(true)?;
            held.bind(wanted)?;
            held.set_reuseaddr(false)?;
            held.set_reuseport(true)?;
            let at = held.local_addr()?;
            Ok(Address { at, _held: held })
        };
        held().map_err(|err: std::io::Error| {
            Error::definite(codes::LISTEN_FAILED, format!("{wanted}: {err}"))
        })
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
}

impl Worker {
    /// Starts it; returns once it listens.
    pub(crate) async fn start(place: &Place, address: &Address) -> Result<Worker, Error> {
        let log = Log::continued(place.directory.join("serve.log"));
        let child = spawn(place, address.at, &log.file);
        let mut child = child.map_err(|err| {
            Error::definite(codes::CLI_MACHINE, format!("start the worker: {err}"))
        })?;
        let input = child.stdin.take();
        let mut worker = Worker {
            child,
            _input: input,
            log,
        };
        let began = Instant::now();
        loop {
            if worker.log.listens() {
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

    /// Whether it said where it listens.
    fn listens(&self) -> bool {
        self.lines().iter().any(|line| line["address"].is_string())
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{Address, Port};

    #[tokio::test]
    async fn an_address_that_is_held_is_for_workers_alone() {
        let held = Address::hold(0).unwrap();
        let worker = || tidemark_server::demo::listen(held.at);
        for _ in 0..2 {
            let listens = worker().unwrap();
            assert!(
                TcpListener::bind(held.at).is_err(),
                "while a worker listens"
            );
            drop(listens);
            assert!(TcpListener::bind(held.at).is_err(), "while none does");
        }
        let again = Port::Given(held.at.port());
        assert!(again.hold().is_err(), "another demo got it");

        // A connection that the worker ended first keeps the port for a while.
        let listens = worker().unwrap();
        let client = std::net::TcpStream::connect(held.at).unwrap();
        drop(listens.accept().await.unwrap());
        drop((client, listens, held));
        again.hold().unwrap();
    }
}
