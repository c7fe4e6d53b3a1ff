//! The demo from nothing to a verified result, and then until it is told to end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::finding::Verdict as CheckVerdict;
use tidemark_core::status::PipelineState;
use tidemark_core::verify::compare::{Depth, Report};
use tidemark_lab::Workplace;
use tidemark_lab::demo::Shop;
use tidemark_lab::traffic::TrafficReport;

use crate::demo::lab;
use crate::demo::mark::{Left, Mark, started_ticks};
use crate::demo::orders;
use crate::demo::stage::{self, Customers, PIPELINE, Servers, Side};
use crate::demo::worker::{Address, Place, Port, Worker};
use crate::invocation::Invocation;
use crate::output::numbers::{bytes, counted, duration, grouped, seconds};
use crate::output::screen::Stream;
use crate::output::style::Tone;
use crate::output::waiting::during;
use crate::output::wrap;
use crate::output::{Answer, Form, Outcome, ProgressForm, Verdict, put};
use crate::pipeline_file::Opened;
use crate::problem::Failure;
use crate::progress::Room;
use crate::signals::SignalName;
use crate::standing::{Life, Standing};
use crate::verbs::{check, status, verify};

mod breaking;
mod feed;

use feed::Feed;

/// What was asked of the demo.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Servers to take instead of temporary ones.
    pub(super) source: Option<String>,
    pub(super) target: Option<String>,
    pub(super) rows: u64,
    pub(super) transactions_per_second: u32,
    pub(super) port: Port,
    pub(super) ends: Ends,
}

/// When it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    OnceVerified,
    WhenTold,
}

/// How often the pipeline is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(10);

/// Everything that is up.
pub(super) struct Show<'a> {
    invocation: &'a Invocation,
    servers: Servers,
    customers: Option<Customers>,
    opened: Opened,
    /// Where the page is.
    address: Address,
    worker: Option<Worker>,
    /// How often a table was altered.
    altered: u32,
    facts: serde_json::Map<String, Value>,
    _mark: Left,
}

/// Runs the demo. Whatever happens, servers, worker and files are gone when this returns.
pub(super) async fn run(invocation: &Invocation, wishes: Wishes) -> Outcome {
    let began = Instant::now();
    let shop = Shop::of(wishes.rows).map_err(|err| lab(&err))?;
    let address = wishes.port.hold()?;
    let servers = begin(invocation, &wishes).await?;
    let mut show = match Show::new(invocation, servers, address) {
        Ok(show) => show,
        Err((failure, servers)) => {
            servers.remove().await;
            return Err(failure);
        }
    };
    let outcome = tokio::select! {
        outcome = show.play(&shop, &wishes, began) => outcome,
        name = invocation.signals.stop() => Err(ended_by(name)),
    };
    show.close().await;
    invocation.talk.screen.clear();
    outcome
}

fn ended_by(name: SignalName) -> Failure {
    Failure::Signalled(
        name.exit(),
        "the demo is over; servers and temporary directory are gone".to_owned(),
    )
}

/// Both databases, empty. Where this fails nothing is left of them.
async fn begin(invocation: &Invocation, wishes: &Wishes) -> Result<Servers, Failure> {
    if let Some(mark) = Mark::of_running_demo() {
        return Err(Error::definite(
            codes::CLI_REFUSED,
            format!("a demo runs already, as pid {}", mark.pid),
        )
        .first_action("end it with Ctrl-C where it runs")
        .into());
    }
    let directory = Workplace::create().map_err(|err| lab(&err))?;
    let one = async |side: Side, url: Option<&str>| match url {
        None => timed(stage::own(side)).await,
        Some(url) => timed(stage::given(side, url)).await,
    };
    let both = async {
        tokio::join!(
            one(Side::Source, wishes.source.as_deref()),
            one(Side::Target, wishes.target.as_deref())
        )
    };
    let began = match during(&invocation.talk, "servers   starting", both).await {
        (Ok(source), Ok(target)) => (source, target),
        (source, target) => {
            let mut failure = None;
            for side in [source, target] {
                match side {
                    Ok(((database, _), _)) => database.remove().await,
                    Err(err) => failure = failure.or(Some(err)),
                }
            }
            return Err(failure.expect("one of them failed").into());
        }
    };
    let (((source, source_text), source_took), ((target, target_text), target_took)) = began;
    tell(invocation, "source", &source_text, source_took);
    tell(invocation, "target", &target_text, target_took);
    let wire = target.wire().await?;
    Ok(Servers {
        source,
        target,
        wire,
        directory,
    })
}

impl<'a> Show<'a> {
    /// The pipeline file, and the mark by which others find the demo.
    fn new(
        invocation: &'a Invocation,
        servers: Servers,
        address: Address,
    ) -> Result<Show<'a>, (Failure, Box<Servers>)> {
        let opened = (|| {
            let file = servers.write_file()?;
            let mark = leave_mark(&servers, file.clone())?;
            Ok((Opened::open_file(&file)?, mark))
        })();
        let (opened, mark) = match opened {
            Ok(opened) => opened,
            Err(failure) => return Err((failure, Box::new(servers))),
        };
        Ok(Show {
            invocation,
            servers,
            customers: None,
            opened,
            address,
            worker: None,
            altered: 0,
            facts: serde_json::Map::new(),
            _mark: mark,
        })
    }

    /// Makes the shop.
    async fn fill(&mut self, shop: &Shop, wishes: &Wishes) -> Result<(), Failure> {
        let filled = timed(self.servers.fill(shop));
        let waiting = "data      filling the shop";
        let ((), took) = during(&self.invocation.talk, waiting, filled).await?;
        let selection = self.opened.config.rules.selection();
        let described = self.opened.source.describe(selection).await?;
        let size: u64 = described.tables.iter().map(|table| table.bytes).sum();
        let text = format!(
            "{} · {} · {} (odd types included on purpose)",
            counted(described.tables.len() as u64, "table"),
            counted(shop.rows(), "row"),
            bytes(size)
        );
        tell(self.invocation, "data", &text, took);
        self.fact("postgres_major", self.servers.source.major());
        self.fact("rows", shop.rows());
        self.fact("bytes", size);
        self.fact("tps", wishes.transactions_per_second);
        Ok(())
    }

    /// Check, traffic, load, stream, verified; then, if wanted, until told to end.
    async fn play(&mut self, shop: &Shop, wishes: &Wishes, began: Instant) -> Outcome {
        self.fill(shop, wishes).await?;
        let looked = check::look(&self.opened);
        let checked = during(&self.invocation.talk, "check     looking", looked).await?;
        let count = |verdict| check::count(&checked.findings, verdict);
        let (warnings, notes) = (count(CheckVerdict::Warning), count(CheckVerdict::Note));
        if let Some(failed) = checked
            .findings
            .iter()
            .find(|f| f.verdict == CheckVerdict::Failed)
        {
            return Err(Error::definite(failed.code, failed.found.clone()).into());
        }
        let mut text = format!("{} passed", count(CheckVerdict::Passed));
        for (number, one, many) in [(warnings, "warning", "warnings"), (notes, "note", "notes")] {
            match number {
                0 => {}
                1 => put!(text, " · 1 {one}"),
                _ => put!(text, " · {number} {many}"),
            }
        }
        put!(text, "   (tidemark check {PIPELINE})");
        tell(self.invocation, "check", &text, checked.took);

        let rate = wishes.transactions_per_second;
        self.customers = Some(self.servers.open_shop(shop, f64::from(rate)));
        let text = format!(
            "{} transactions/s are now changing the source",
            grouped(rate.into())
        );
        tell(self.invocation, "traffic", &text, Duration::ZERO);

        self.serve().await?;
        self.load().await?;
        self.stream().await?;
        let (report, took) = self.verify().await?;
        let changes = self.written().changes;
        let word = report.word();
        let text = format!(
            "{} rows and {} changes made meanwhile: {word} at {}",
            grouped(report.rows()),
            grouped(changes),
            report.position
        );
        self.fact(
            "verified",
            json!({
                "lsn": report.position, "result": word, "rows": report.rows(), "changes": changes,
                "seconds": took.as_secs_f64(),
            }),
        );
        self.fact("seconds", began.elapsed().as_secs_f64());
        if !report.is_identical() {
            let verdict = self.invocation.talk.err.paint(Tone::Bad, "✗ verified");
            self.invocation.talk.say(&format!("{verdict}  {text}"));
            return Ok(self.answer(Verdict::Negative));
        }
        tell(self.invocation, "verified", &text, took);
        if wishes.ends == Ends::WhenTold {
            self.menu();
            self.until_told().await?;
        }
        Ok(self.answer(Verdict::Positive))
    }

    fn answer(&self, verdict: Verdict) -> Answer {
        Answer::new("", Value::Object(self.facts.clone())).verdict(verdict)
    }

    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// What the customers wrote so far.
    fn written(&self) -> TrafficReport {
        let customers = self.customers.as_ref();
        customers.map_or_else(TrafficReport::default, Customers::report)
    }

    /// Has the pipeline run and its page shown.
    async fn serve(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        self.worker = Some(self.start_worker().await?);
        let page = self.address.page();
        let text = format!("{page} shows all of this as it happens");
        tell(self.invocation, "page", &text, began.elapsed());
        self.fact("page", page);
        Ok(())
    }

    async fn start_worker(&self) -> Result<Worker, Error> {
        let place = Place {
            directory: self.servers.directory().to_path_buf(),
            pipelines: self.servers.pipelines(),
            state: self.servers.state(),
            orders: orders::socket(self.servers.directory()),
        };
        Worker::start(&place, &self.address).await
    }

    /// The process that runs the pipeline is gone: another one takes its place, on the same port.
    async fn replace_worker(&mut self) -> Result<&Worker, Error> {
        self.worker = None;
        let worker = self.start_worker().await?;
        Ok(self.worker.insert(worker))
    }

    /// Until the rows are in; shows how far they are.
    async fn load(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let mut feed = Feed::default();
        let talk = self.invocation.talk.clone();
        let is_live = talk.progress == ProgressForm::Live && talk.form == Form::Human;
        let loaded = self
            .wait_for("the load", |standing| {
                feed.take(&standing.status, Instant::now());
                if is_live {
                    let (width, lines) = talk.screen.room();
                    let room = Room { width, lines };
                    let lines = feed.progress.region(talk.err, room, Instant::now());
                    let first = lines.first().map(|line| format!("  {line}"));
                    talk.screen.show(Stream::Err, first.into_iter().collect());
                }
                matches!(
                    standing.status.state,
                    PipelineState::CatchingUp | PipelineState::Streaming
                )
            })
            .await?
            .status;
        talk.screen.clear();
        let took = began.elapsed();
        let rows: u64 = loaded.tables.iter().map(|table| table.rows_loaded).sum();
        let at = loaded
            .full_load_lsn
            .map_or_else(|| "unknown".to_owned(), |at| at.to_string());
        let text = format!(
            "{} rows in {}, snapshot taken at {at}",
            grouped(rows),
            duration(took)
        );
        tell(self.invocation, "load", &text, Duration::ZERO);
        self.fact(
            "load",
            json!({
                "rows": rows, "seconds": took.as_secs_f64(), "full_load_lsn": loaded.full_load_lsn,
            }),
        );
        Ok(())
    }

    /// Until the stream has caught up.
    async fn stream(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let standing = self
            .wait_for("the stream to catch up", is_caught_up)
            .await?;
        let latency = standing.status.latency_seconds.unwrap_or_default();
        let text = format!(
            "{} after the load ended the target was {} behind",
            duration(began.elapsed()),
            seconds(latency)
        );
        tell(self.invocation, "stream", &text, Duration::ZERO);
        self.fact(
            "stream",
            json!({
                "caught_up_seconds": began.elapsed().as_secs_f64(), "latency_seconds": latency,
            }),
        );
        Ok(())
    }

    async fn verify(&self) -> Result<(Report, Duration), Failure> {
        let began = Instant::now();
        let request = verify::request(&self.opened, &[], Depth::Deep).await?;
        let report = verify::compare(self.invocation, &self.opened, &request).await?;
        Ok((report, began.elapsed()))
    }

    /// Looks again and again until it is as wanted. A worker that ends meanwhile ends the demo, with
    /// its own words.
    async fn wait_for(
        &mut self,
        what: &str,
        mut is_reached: impl FnMut(&Standing) -> bool,
    ) -> Result<Standing, Failure> {
        let began = Instant::now();
        loop {
            // The target may be cut off on purpose.
            if let Ok(standing) = status::look(&self.opened).await {
                if is_reached(&standing) {
                    return Ok(standing);
                }
                if let Some(err) = failed(&standing) {
                    return Err(err.into());
                }
            }
            if began.elapsed() > PATIENCE {
                let text = format!("waited {} for {what}", duration(PATIENCE));
                return Err(Error::transient(codes::CLI_NO_ANSWER, text).into());
            }
            let worker = self.worker.as_mut();
            let ended = async {
                match worker {
                    Some(worker) => worker.ended().await,
                    // One was killed, and what came in its place did not start.
                    None => "none is left".to_owned(),
                }
            };
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                words = ended => return Err(Error::definite(
                    codes::CLI_REFUSED,
                    format!("the pipeline's process ended: {words}"),
                ).into()),
            }
        }
    }

    fn menu(&self) {
        const MENU: &str = "\
Watch     tidemark lag shop --watch
Break it  tidemark demo break kill      kill -9 the worker: see that nothing is lost or doubled
          tidemark demo break network   cut the target for 10 s
          tidemark demo break freeze    stop every process of the target for 10 s
          tidemark demo break ddl       ALTER TABLE under load
          tidemark demo break poison    a row that the target refuses
Look      tidemark demo psql source     (or target)
Ctrl-C stops everything and removes what the demo made.";
        let breaks = orders::choices(self.servers.wire.is_some());
        let can = |line: &&str| match line.split_once("demo break ") {
            None => true,
            Some((_, rest)) => breaks.iter().any(|one| rest.starts_with(&one.what)),
        };
        let lines = MENU.lines().filter(can);
        let menu: Vec<&str> = lines.collect();
        let page = self.address.page();
        let menu = format!("\nOpen      {page}\n{}", menu.join("\n"));
        self.invocation.talk.screen.write(Stream::Out, &menu);
    }

    /// Carries out orders; returns only when the worker ends by itself.
    async fn until_told(&mut self) -> Result<(), Failure> {
        let socket = orders::socket(self.servers.directory());
        let breaks = orders::choices(self.servers.wire.is_some());
        let mut orders = orders::listen(&socket, breaks)?;
        loop {
            let ended = async {
                match self.worker.as_mut() {
                    Some(worker) => worker.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return Ok(()),
                },
                words = ended => {
                    self.invocation.talk.say(&format!("the pipeline's process ended: {words}"));
                    self.invocation.talk.say("starting it again, from the checkpoint");
                    self.replace_worker().await?;
                }
            }
        }
    }

    /// Ends all in order: the customers, the worker, the servers.
    async fn close(mut self) {
        if let Some(customers) = self.customers.take()
            && let Err(err) = customers.leave().await
        {
            tracing::debug!(error = %err, "a customer left early");
        }
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
        self.servers.remove().await;
    }
}

/// Why the pipeline does not go on by itself, where it does not.
fn failed(standing: &Standing) -> Option<Error> {
    let status = &standing.status;
    if status.state != PipelineState::Failed || matches!(standing.life, Life::Running(_)) {
        return None;
    }
    let text = status.reason.clone().unwrap_or_default();
    let Some(error) = &status.error else {
        return Some(Error::definite(
            codes::CLI_REFUSED,
            format!("the pipeline failed: {text}"),
        ));
    };
    let code = Code::parse(&error.code).unwrap_or(codes::CLI_REFUSED);
    Some(Error::definite(
        code,
        format!("the pipeline failed: {}", error.message),
    ))
}

/// Whether the target is less than a second behind, as measured.
pub(super) fn is_caught_up(standing: &Standing) -> bool {
    let status = &standing.status;
    let is_near = status.latency_seconds.is_some_and(|latency| latency < 1.0);
    status.state == PipelineState::Streaming && is_near
}

/// Columns for how long something took.
const TIME_WIDTH: usize = 6;

/// `✓ source    PostgreSQL 15, temporary   0.9 s`, on as many lines as it takes.
fn tell(invocation: &Invocation, name: &str, text: &str, took: Duration) {
    let talk = &invocation.talk;
    if talk.form == Form::Json {
        return;
    }
    let tick = talk.out.paint(Tone::Good, "✓");
    let time = if took.is_zero() {
        String::new()
    } else {
        duration(took)
    };
    let room = text_room(talk.out_width());
    let mut lines = wrap::lines(text, room).into_iter();
    let first = lines.next().unwrap_or_default();
    let line = format!("{tick} {name:<9} {first:<room$} {time:>TIME_WIDTH$}");
    talk.screen.write(Stream::Out, line.trim_end());
    for more in lines {
        talk.screen.write(Stream::Out, &format!("{:12}{more}", ""));
    }
}

/// Columns for the text of a line, between its name and the time that it took.
fn text_room(width: Option<usize>) -> usize {
    const TEXT_MAX: usize = 70;
    const TEXT_MIN: usize = 24;
    let room = width.map(|width| width.saturating_sub(12 + 1 + TIME_WIDTH));
    room.map_or(TEXT_MAX, |room| room.clamp(TEXT_MIN, TEXT_MAX))
}

async fn timed<T>(work: impl Future<Output = Result<T, Error>>) -> Result<(T, Duration), Error> {
    let began = Instant::now();
    let done = work.await?;
    Ok((done, began.elapsed()))
}

fn leave_mark(servers: &Servers, file: PathBuf) -> Result<Left, Failure> {
    let pid = std::process::id();
    let mark = Mark {
        pid,
        started_ticks: started_ticks(pid).unwrap_or_default(),
        pipeline: PIPELINE.to_owned(),
        file,
        source_url: servers.source_url(),
        target_url: servers.target_url(),
        socket: orders::socket(servers.directory()),
    };
    mark.leave().map_err(|err| {
        Error::definite(codes::CLI_MACHINE, format!("leave the demo's mark: {err}")).into()
    })
}
