//! `run FILE`: the pipeline, here, now, in the foreground.
//!
//! The engine runs in a task of its own; around it are its readers: the board (status), the side door
//! (commands and status by way of the target) and the reporter (log and progress). None of them is on
//! the line a row travels. The first signal asks the engine to stop in order, the second gives up
//! waiting for that, which is as safe as any crash.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use tidemark_core::Error;
use tidemark_core::board::Board;
use tidemark_core::catalogue::codes;
use tidemark_core::control::{Command, door};
use tidemark_core::pipeline::observe::Observer;
use tidemark_core::pipeline::options::{Options, Until};
use tidemark_core::pipeline::{Commander, Outcome as Ended, Pipeline};
use tidemark_core::position::Position;
use tidemark_core::status::{PipelineState, Status};
use tidemark_core::target::Owner;
use tidemark_core::verify::compare::Report;
use tokio::sync::watch;

use crate::invocation::Invocation;
use crate::output::Outcome;
use crate::output::numbers::{parse_duration, parse_rfc3339};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;

mod ending;
pub(crate) mod options;
mod proof;
mod report;

use report::Reporter;

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    which: Which,
    /// End by itself: verified, caught-up, lsn:16/B374D848, time:10m, time:2026-11-21T14:00:00Z, or
    /// eof (when standard input closes)
    #[arg(long, value_name = "WHEN", value_parser = parse_until)]
    until: Option<UntilArg>,
    /// How much memory it may hold, about, such as 64MB; the file's `pipeline.memory` if not given
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
}

/// When a run ends by itself, as typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum UntilArg {
    Verified,
    CaughtUp,
    Position(String),
    Elapsed(Duration),
    At(SystemTime),
    Eof,
}

fn parse_until(text: &str) -> Result<UntilArg, String> {
    match text.split_once(':') {
        None if text == "verified" => Ok(UntilArg::Verified),
        None if text == "caught-up" => Ok(UntilArg::CaughtUp),
        None if text == "eof" => Ok(UntilArg::Eof),
        Some(("lsn", position)) => match Position::parse("pg_lsn", position) {
            Ok(_) => Ok(UntilArg::Position(position.to_owned())),
            Err(err) => Err(format!("{}; {}", err.message(), err.action())),
        },
        Some(("time", time)) => match parse_rfc3339(time) {
            Some(instant) => Ok(UntilArg::At(instant)),
            None => parse_duration(time).map(UntilArg::Elapsed),
        },
        _ => Err("write verified, caught-up, lsn:POSITION, time:DURATION or eof".to_owned()),
    }
}

pub(crate) async fn run(invocation: &Invocation, arguments: &RunArgs) -> Outcome {
    let which = arguments.which.clone();
    let memory = arguments.memory.as_ref();
    let which = which.with("pipeline.memory", "--memory", memory);
    let opened = Opened::open(invocation, &which)?;
    let until = engine_until(arguments.until.as_ref())?;
    let began = Instant::now();
    let mut running = Running::start(invocation, &opened, options::of(&opened.config, until));
    let ended = running
        .wait(invocation, &opened, arguments.until.as_ref())
        .await;
    // Whoever asks a second time does not want to wait for the last status either.
    let patience = match &ended {
        Err(Failure::Signalled(..)) => Duration::ZERO,
        _ => LAST_STATUS_WITHIN,
    };
    running.close(invocation, patience).await;
    let (ended, report) = ended?;
    let answer = ending::answer(
        &opened,
        &ended,
        &running.status(),
        arguments.until.as_ref(),
        began.elapsed(),
    );
    Ok(proof::on_top(
        answer,
        report.as_ref(),
        &opened,
        arguments.until.as_ref(),
    ))
}

/// What the engine itself can watch for; the rest is watched from here.
fn engine_until(until: Option<&UntilArg>) -> Result<Until, Failure> {
    Ok(match until {
        Some(UntilArg::CaughtUp) => Until::CaughtUp,
        Some(UntilArg::Position(position)) => Until::Position(Position::parse("pg_lsn", position)?),
        _ => Until::Stopped,
    })
}

/// How long the last status may take to reach the target.
pub(crate) const LAST_STATUS_WITHIN: Duration = Duration::from_secs(5);

/// The engine in its task, and its readers around it.
pub(crate) struct Running {
    engine: tokio::task::JoinHandle<tidemark_core::Result<Ended>>,
    commander: Commander,
    board: door::SharedBoard,
    reader: tokio::task::JoinHandle<()>,
    door: tokio::task::JoinHandle<()>,
    screen: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
    /// Whether this run has brought a load in.
    loaded: watch::Receiver<bool>,
}

impl Running {
    pub(crate) fn start(invocation: &Invocation, opened: &Opened, options: Options) -> Running {
        let (observer, events) = Observer::new();
        let (pipeline, commander) = Pipeline::new(
            opened.name(),
            Arc::clone(&opened.source),
            Arc::clone(&opened.target),
            opened.config.rules.clone(),
            options,
            owner(),
            observer,
        );
        let mut board = Board::new(opened.name(), opened.config.mode.name());
        board.set_max_retained(opened.config.source.postgres.max_retained_bytes);
        let board = Arc::new(Mutex::new(board));
        let (stop, stopped) = watch::channel(false);
        let (reporter, loaded) = Reporter::new(invocation, opened.name());
        let mut reporter = reporter;
        let screen = tokio::spawn(reporter.screen(Arc::clone(&board), stopped.clone()));
        let reader = door::watch(Arc::clone(&board), events, move |event| {
            reporter.take(event);
        });
        let side_door = door::serve(
            Arc::clone(&opened.target),
            commander.clone(),
            Arc::clone(&board),
            stopped,
        );
        Running {
            engine: tokio::spawn(pipeline.run()),
            commander,
            board,
            reader: tokio::spawn(reader),
            door: tokio::spawn(side_door),
            screen,
            stop,
            loaded,
        }
    }

    /// Until the engine has ended, by itself or because it was told to.
    pub(crate) async fn wait(
        &mut self,
        invocation: &Invocation,
        opened: &Opened,
        until: Option<&UntilArg>,
    ) -> Result<(Ended, Option<Report>), Failure> {
        let commander = self.commander.clone();
        let told_to_stop = told_to_stop(invocation, until, &commander);
        let proof = proof::after_load(opened, until, &commander, &self.board, self.loaded.clone());
        tokio::pin!(told_to_stop, proof);
        let (mut is_told, mut report) = (false, None);
        loop {
            tokio::select! {
                ended = &mut self.engine => {
                    let ended = ended.map_err(|died| {
                        Error::definite(codes::INTERNAL, "the engine died").caused_by(died)
                    })??;
                    if report.is_none() && ended.state == PipelineState::Completed {
                        // All that was to be copied is in: a signal ends the comparison alone.
                        report = tokio::select! {
                            report = proof::of_full_load(opened, until) => report?,
                            _ = invocation.signals.stop() => None,
                        };
                    }
                    return Ok((ended, report));
                }
                name = invocation.signals.stop_now() => return Err(Failure::Signalled(
                    name.exit(),
                    format!(
                        "stopped at once, which is safe: tidemark run {} goes on from the checkpoint",
                        opened.word()
                    ),
                )),
                () = &mut told_to_stop, if !is_told => is_told = true,
                proven = &mut proof, if report.is_none() => {
                    report = Some(proven?);
                    if until == Some(&UntilArg::Verified) {
                        self.commander.ask(Command::Stop).await;
                    }
                }
            }
        }
    }

    /// Waits until the engine fails; one that ends in order does not.
    pub(crate) async fn failed(&mut self) -> Failure {
        match (&mut self.engine).await {
            Ok(Ok(_)) => std::future::pending().await,
            Ok(Err(err)) => err.into(),
            Err(died) => Error::definite(codes::INTERNAL, "the engine died")
                .caused_by(died)
                .into(),
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self, invocation: &Invocation) {
        if !self.engine.is_finished() {
            self.commander.ask(Command::Stop).await;
        }
        self.close(invocation, LAST_STATUS_WITHIN).await;
    }

    /// Ends the readers, the last status reported.
    pub(crate) async fn close(&mut self, invocation: &Invocation, patience: Duration) {
        self.engine.abort();
        // The engine's last event is on the board before the others are told to look at it for the
        // last time.
        if tokio::time::timeout(patience, &mut self.reader)
            .await
            .is_err()
        {
            tracing::debug!("the last events are not on the board");
        }
        self.stop.send_replace(true);
        let readers = async {
            for reader in [&mut self.screen, &mut self.door] {
                if let Err(died) = reader.await {
                    tracing::debug!(error = %died, "a reader of the pipeline ended early");
                }
            }
        };
        // A target that does not answer must not keep us: what counts is committed.
        if tokio::time::timeout(patience, readers).await.is_err() {
            tracing::debug!("the last status could not be left in the target in time");
        }
        invocation.talk.screen.clear();
    }

    pub(crate) fn status(&self) -> Status {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.status(tokio::time::Instant::now())
    }
}

/// Asks the engine to stop in order as soon as somebody wants that.
async fn told_to_stop(invocation: &Invocation, until: Option<&UntilArg>, commander: &Commander) {
    let limit = after(invocation.everywhere.timeout);
    // From here, whatever the run does by then: connecting, loading, streaming.
    let time = after(match until {
        Some(UntilArg::Elapsed(time)) => Some(*time),
        Some(UntilArg::At(instant)) => Some(
            instant
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        ),
        _ => None,
    });
    let closed = async {
        match until {
            Some(UntilArg::Eof) => input_closed().await,
            _ => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        _ = invocation.signals.stop() => "finishing the batch; Ctrl-C again stops at once",
        () = limit => "the time is over: finishing the batch",
        () = time => "the time has come: finishing the batch",
        () = closed => "standard input is closed: finishing the batch",
    };
    // It is asked first: there may be nobody who reads what is said. Whether it was ending already is told by
    // how it ends.
    tokio::join!(commander.ask(Command::Stop), async {
        invocation.talk.say(why);
    });
}

/// Returns after a time; without one, never.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Returns when standard input is at its end, or cannot be read. The thread that waits for it ends
/// with the process: a read of standard input cannot be called off.
pub(crate) async fn input_closed() {
    let (closed, is_closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut waste = [0; 1024];
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut waste), Ok(count) if count > 0) {}
        // Nobody waits any more when the run has ended for another reason.
        closed.send(()).ok();
    });
    is_closed.await.ok();
}

/// Who we are, for the message to whoever comes second.
pub(crate) fn owner() -> Owner {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Owner {
        host,
        pid: std::process::id(),
        lease: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_read() {
        assert_eq!(parse_until("verified"), Ok(UntilArg::Verified));
        assert_eq!(parse_until("caught-up"), Ok(UntilArg::CaughtUp));
        assert_eq!(
            parse_until("lsn:16/B374D848"),
            Ok(UntilArg::Position("16/B374D848".into()))
        );
        assert_eq!(
            parse_until("time:90s"),
            Ok(UntilArg::Elapsed(Duration::from_secs(90)))
        );
        assert!(matches!(
            parse_until("time:2026-11-21T14:00:00Z"),
            Ok(UntilArg::At(_))
        ));
        for wrong in [
            "",
            "soon",
            "lsn:",
            "lsn:x",
            "time:",
            "time:90",
            "verified:now",
        ] {
            assert!(parse_until(wrong).is_err(), "{wrong}");
        }
    }
}
