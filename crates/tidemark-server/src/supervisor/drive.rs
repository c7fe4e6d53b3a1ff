//! The life of one pipeline: it runs while that is wanted, and rests otherwise.
//!
//! A run has a task of its own for the engine and for each of its readers, as `tidemark run` has. What
//! panics in them ends that run; this loop, and the pipelines beside it, go on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidemark_core::board::Board;
use tidemark_core::catalogue::codes;
use tidemark_core::config::AfterLoad;
use tidemark_core::control::door::SharedBoard;
use tidemark_core::control::{Command, door};
use tidemark_core::pipeline::observe::{Observer, PipelineEvent};
use tidemark_core::pipeline::options::{Options, Reconcile};
use tidemark_core::pipeline::{Outcome, Pipeline};
use tidemark_core::status::PipelineState;
use tidemark_core::verify::again;
use tidemark_core::verify::compare::Depth;
use tidemark_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::member::{Alive, Member, Orders, Rest, status_of};
use super::policy::{self, Verdict};
use super::{Shared, verify};
use crate::store::{Desired, DesiredState, Entry, Level};
use crate::systems::Opened;

/// How often a pipeline that does not run is looked at from outside, and how long that may take: both
/// together are less than what is not true any more may be said for.
const LOOK_EVERY: Duration = Duration::from_secs(9);
const LOOK_WITHIN: Duration = Duration::from_secs(4);
/// At the longest, how long one whose target does not answer is left alone: nothing is said of it meanwhile.
const LOOK_SELDOM: Duration = Duration::from_mins(1);
/// How long a run may take to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(25);
/// How long the last events and the last status may take.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the stream has caught up after a load.
const CAUGHT_UP_EVERY: Duration = Duration::from_millis(200);

/// How a run ended.
enum Ended {
    /// In order, because it was asked to, or because something else is wanted now.
    Asked,
    /// In order, because somebody asked it by way of the target.
    Elsewhere,
    /// It was a full load alone, and is done.
    Completed,
    /// With an error.
    Err(Error),
}

/// Until the server ends, or the pipeline is gone.
pub(super) async fn drive(shared: Arc<Shared>, member: Arc<Member>) {
    let mut closing = member.closing.subscribe();
    let mut orders = member.orders.subscribe();
    let mut attempt = 0;
    loop {
        let order = orders.borrow_and_update().clone();
        if *closing.borrow() {
            return;
        }
        if order.desired.state != DesiredState::Running {
            attempt = 0;
            let rest = Rest::wanted(&order.desired);
            if rest_until_told(&shared, &member, rest, None, &mut orders, &mut closing).await {
                return;
            }
            continue;
        }
        if !shared.store.is_certain() {
            // Where another server may have taken over, a run that has ended is for that one to begin.
            let why =
                "TM7090: the store is away, and another server may have taken over".to_owned();
            member.rests(Rest::of("starting", "engine", Some(why)));
            tokio::select! {
                () = tokio::time::sleep(CAUGHT_UP_EVERY) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
            continue;
        }
        // Whoever wants something else either finds it busy, and waits, or is seen here.
        member.set_busy(true);
        let is_wanted = *member.orders.borrow() == order;
        let ended = if is_wanted {
            run(
                &shared,
                &member,
                &order,
                &mut orders,
                &mut closing,
                &mut attempt,
            )
            .await
        } else {
            Ended::Asked
        };
        member.set_busy(false);
        let (rest, failed) = match ended {
            Ended::Asked => continue,
            Ended::Elsewhere => {
                let why = Some("stopped by way of the target".to_owned());
                let desired = Desired::now(DesiredState::Stopped, "user", why);
                settle(&shared, &member, desired);
                continue;
            }
            Ended::Completed => {
                let desired = Desired::now(DesiredState::Completed, "engine", None);
                settle(&shared, &member, desired);
                continue;
            }
            Ended::Err(err) if policy::verdict(&err) == Verdict::Again => {
                let pause = policy::pause(attempt);
                let is_told = policy::is_told(attempt);
                attempt = attempt.saturating_add(1);
                let seconds = pause.as_secs_f64();
                let more = format!("; tries again in {seconds:.1} s");
                if is_told {
                    note(&shared, &member, Level::Warn, "retry", &err, &more);
                } else {
                    member.measures().failed(&err);
                }
                member.rests(Rest::because("starting", &err, &more));
                super::tell_state(&shared, &member);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = orders.changed() => {}
                    _ = closing.wait_for(|closing| *closing) => {}
                }
                continue;
            }
            Ended::Err(err) => {
                attempt = 0;
                tracing::error!(
                    pipeline = member.key.id, tenant = member.key.tenant, code = %err.code(),
                    error = %err, "failed: {err}"
                );
                note(&shared, &member, Level::Error, "failed", &err, "");
                (Rest::because("failed", &err, ""), err)
            }
        };
        if rest_until_told(
            &shared,
            &member,
            rest,
            Some(&failed),
            &mut orders,
            &mut closing,
        )
        .await
        {
            return;
        }
    }
}

/// Rests, looking at it from outside now and then, until something else is wanted, or until a login is right,
/// or a secret there, for which it failed. `true`: the server ends.
async fn rest_until_told(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    rest: Rest,
    failed: Option<&Error>,
    orders: &mut watch::Receiver<Orders>,
    closing: &mut watch::Receiver<bool>,
) -> bool {
    let is_draft = rest.state == "draft";
    // What a full load has come to stays so: once it is known it is known.
    let is_over = rest.state == "completed";
    member.rests(rest);
    super::tell_state(shared, member);
    let looks = async {
        if is_draft && member.tags().is_none() {
            // Nothing else of it is looked at, and lists are asked for tags. What is wrong with it is
            // told to whoever starts it.
            if let Ok(opened) = super::open(shared, member).await {
                member.set_tags(&opened.config.tags);
            }
        }
        let is_settled = || is_draft || is_over && member.is_known();
        let is_login = |code: &str| policy::is_refused_login(code);
        let waits_for_login = failed.is_some_and(|err| is_login(&err.code().to_string()));
        let lacks_secret = failed.is_some_and(|err| err.code() == codes::CONFIG_SECRET);
        let began = Instant::now();
        let mut pause = LOOK_EVERY;
        while !is_settled() {
            pause = match look(shared, member).await {
                // It could be read this time, and nobody was asked without it.
                Ok(_) if lacks_secret => return,
                // What logs in now may be another way than what was refused.
                Ok(None) if waits_for_login && began.elapsed() >= LOOK_SELDOM => return,
                Ok(Some(code)) if is_login(&code) => LOOK_SELDOM,
                Err(err) if is_login(&err.code().to_string()) => LOOK_SELDOM,
                Err(err) if err.kind() == ErrorKind::Transient => (pause * 2).min(LOOK_SELDOM),
                Ok(_) | Err(_) => LOOK_EVERY,
            };
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        _ = closing.wait_for(|closing| *closing) => true,
        changed = orders.changed() => changed.is_err(),
        () = looks => false,
    }
}

/// How it stands, from what both sides say, and why the source said nothing, if so; an error where it is
/// nothing at all.
async fn look(shared: &Arc<Shared>, member: &Arc<Member>) -> Result<Option<String>> {
    let looked = async {
        let opened = super::open(shared, member).await?;
        member.set_route(&opened);
        shared.systems.look(&opened).await
    };
    let looked = tokio::time::timeout(LOOK_WITHIN, looked).await;
    let looked = looked.unwrap_or_else(|_| {
        let text = "both sides were not looked at in time";
        Err(Error::transient(codes::API_TIMEOUT, text))
    });
    match looked {
        Ok(standing) => {
            let silent = standing.status.unknown_reason.clone();
            member.looked(standing.status);
            Ok(silent)
        }
        Err(err) => {
            tracing::debug!(pipeline = member.key.id, error = %err, "not looked at");
            member.not_seen(&err);
            Err(err)
        }
    }
}

/// Another state is wanted from now on, and nobody asked for it here. Written down as soon as the store
/// lets us, unless something else is wanted by then.
fn settle(shared: &Arc<Shared>, member: &Arc<Member>, desired: Desired) {
    member.order(desired.clone());
    let (ours, member) = (Arc::clone(shared), Arc::clone(member));
    written_down(shared, "the state is not written down yet", move || {
        let (shared, member) = (Arc::clone(&ours), Arc::clone(&member));
        let desired = desired.clone();
        async move {
            // Whoever wants something else is seen here, or writes it down after this.
            let _wanting = shared.wanting.lock().await;
            if member.row().desired != desired {
                return Ok(());
            }
            shared.store.desire(&member.key, desired).await
        }
    });
}

/// Writes something down, beside everything else, however long the store is away. A server that ends waits
/// for it as it waits for events.
fn written_down<F>(
    shared: &Shared,
    what: &'static str,
    mut write: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = Result<()>> + Send,
{
    let awaited = shared.scribe.awaits();
    let writing = async move {
        let _awaited = awaited;
        for attempt in 0.. {
            let Err(err) = write().await else { return };
            if err.code() == codes::STORE_TAKEN_OVER {
                // What is true now is for the other server to write.
                return;
            }
            tracing::warn!(code = %err.code(), error = %err, "{what}");
            tokio::time::sleep(policy::pause(attempt)).await;
        }
    };
    tokio::spawn(writing.in_current_span());
}

fn note(
    shared: &Arc<Shared>,
    member: &Member,
    level: Level,
    kind: &'static str,
    err: &Error,
    more: &str,
) {
    member.measures().failed(err);
    shared.scribe.note(Entry {
        code: Some(err.code().to_string()),
        table: err.table_name().map(str::to_owned),
        by: Some("engine".to_owned()),
        ..Entry::plain(&member.key, level, kind, format!("{err}{more}"))
    });
}

/// The tasks of one run.
struct Run {
    engine: JoinHandle<Result<Outcome>>,
    reader: JoinHandle<()>,
    door: JoinHandle<()>,
    proof: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// One run. Where it ends with an error it stands as it ended, for the caller to say what comes of it.
async fn run(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    order: &Orders,
    orders: &mut watch::Receiver<Orders>,
    closing: &mut watch::Receiver<bool>,
    attempt: &mut u32,
) -> Ended {
    member.rests(Rest::wanted(&order.desired));
    super::tell_state(shared, member);
    let (opened, definition) = match super::open_with_text(shared, member).await {
        Ok((opened, text)) => (Arc::new(opened), text),
        Err(err) => return Ended::Err(err),
    };
    member.set_route(&opened);
    let number = match shared.store.begin_run(&member.key).await {
        Ok(number) => Some(number),
        Err(err) => {
            tracing::warn!(pipeline = member.key.id, error = %err, "a run is not written down");
            None
        }
    };
    let (mut run, alive) = Run::start(shared, member, &opened, definition);
    member.begins(alive.clone());
    let mut is_stopping = false;
    let ended = loop {
        let give_up = async {
            if is_stopping {
                tokio::time::sleep(STOP_WITHIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = &mut run.engine => break match ended {
                Ok(Ok(outcome)) if outcome.state == PipelineState::Completed => Ended::Completed,
                Ok(Ok(_)) if is_stopping => Ended::Asked,
                Ok(Ok(_)) => Ended::Elsewhere,
                Ok(Err(err)) => Ended::Err(err),
                Err(died) => Ended::Err(
                    Error::definite(codes::INTERNAL, "a task of the pipeline died").caused_by(died)
                ),
            },
            () = give_up => {
                // As safe as any crash: what counts is committed with its data.
                run.engine.abort();
                break Ended::Asked;
            }
            _ = closing.wait_for(|closing| *closing), if !is_stopping => is_stopping = true,
            changed = orders.changed(), if !is_stopping => {
                let now = orders.borrow_and_update().clone();
                let goes_on = matches!(now.desired.state, DesiredState::Running | DesiredState::Paused);
                is_stopping = changed.is_err() || !goes_on || now.version != order.version;
            }
        }
        if is_stopping {
            let commander = alive.commander.clone();
            tokio::spawn(async move { commander.ask(Command::Stop).await });
        }
    };
    if has_run(&alive) {
        *attempt = 0;
        // It streams, so what it was to begin with is recorded in the target.
        member.reconciles(Reconcile::Nothing);
    }
    run.end().await;
    end_run(shared, number, &ended);
    let ended = match ended {
        // What went wrong on the way to its end is told, and then what is wanted now counts.
        Ended::Err(err) if is_stopping => {
            note(
                shared,
                member,
                Level::Warn,
                "warning",
                &err,
                "; it was to end",
            );
            Ended::Asked
        }
        ended => ended,
    };
    if !matches!(ended, Ended::Err(_)) {
        member.rests(Rest::wanted(&member.orders.borrow().desired));
    }
    ended
}

/// Whether the run got as far as to read or apply something.
fn has_run(alive: &Alive) -> bool {
    let status = status_of(&alive.board, tokio::time::Instant::now());
    status.processed_lsn.is_some() && status.received_lsn.is_some()
}

fn end_run(shared: &Arc<Shared>, number: Option<i64>, ended: &Ended) {
    let Some(number) = number else { return };
    let (outcome, err) = match ended {
        Ended::Asked | Ended::Elsewhere => ("stopped", None),
        Ended::Completed => ("completed", None),
        Ended::Err(err) => ("failed", Some(err)),
    };
    let (code, reason) = (
        err.map(|e| e.code().to_string()),
        err.map(ToString::to_string),
    );
    let store = shared.store.clone();
    written_down(
        shared,
        "the end of a run is not written down yet",
        move || {
            let (store, code, reason) = (store.clone(), code.clone(), reason.clone());
            async move { store.end_run(number, outcome, code, reason).await }
        },
    );
}

impl Run {
    fn start(
        shared: &Arc<Shared>,
        member: &Arc<Member>,
        opened: &Arc<Opened>,
        definition: Arc<str>,
    ) -> (Run, Alive) {
        let config = &opened.config;
        let (observer, events) = Observer::new();
        let reconcile = member.reconcile();
        let (pipeline, commander) = Pipeline::new(
            config.name.as_str(),
            Arc::clone(&opened.source),
            Arc::clone(&opened.target),
            config.rules.clone(),
            Options {
                reconcile: reconcile.clone(),
                ..opened.options.clone()
            },
            shared.owner.clone(),
            observer,
        );
        let mut board = Board::new(config.name.as_str(), config.mode.name());
        board.set_max_retained(opened.options.max_retained_bytes);
        if let Some(verified) = member.verified() {
            board.set_verified(verified);
        }
        let board = Arc::new(Mutex::new(board));
        let (stop, stopped) = watch::channel(false);
        let (loaded, is_loaded) = watch::channel(false);
        let listener = {
            let (shared, member) = (Arc::clone(shared), Arc::clone(member));
            let board = Arc::clone(&board);
            move |event: PipelineEvent| {
                measure(&member, &board, &event);
                heard(&shared, &member, &event, &loaded);
            }
        };
        let reader = door::watch(Arc::clone(&board), events, listener);
        let side_door = door::serve(
            Arc::clone(&opened.target),
            commander.clone(),
            Arc::clone(&board),
            stopped,
        );
        let alive = Alive {
            commander,
            opened: Arc::clone(opened),
            definition,
            reconcile,
            board,
        };
        let proof = after_load(
            Arc::clone(shared),
            Arc::clone(member),
            alive.clone(),
            is_loaded,
        );
        let run = Run {
            engine: tokio::spawn(pipeline.run().in_current_span()),
            reader: tokio::spawn(reader.in_current_span()),
            door: tokio::spawn(side_door.in_current_span()),
            proof: tokio::spawn(proof.in_current_span()),
            stop,
        };
        (run, alive)
    }

    /// Ends the readers, the last status reported.
    async fn end(mut self) {
        self.proof.abort();
        if tokio::time::timeout(LAST_WORD_WITHIN, &mut self.reader)
            .await
            .is_err()
        {
            self.reader.abort();
        }
        self.stop.send_replace(true);
        // A target that does not answer must not keep us: what counts is committed.
        if tokio::time::timeout(LAST_WORD_WITHIN, &mut self.door)
            .await
            .is_err()
        {
            self.door.abort();
        }
    }
}

/// Counts what the engine says.
fn measure(member: &Member, board: &SharedBoard, event: &PipelineEvent) {
    match event {
        PipelineEvent::Committed(committed) => {
            let latency = {
                let board = board.lock().unwrap_or_else(PoisonError::into_inner);
                board.latency_of(committed)
            };
            member.measures().committed(committed, latency);
        }
        PipelineEvent::LoadProgress { rows, bytes, .. } => member.measures().copied(*rows, *bytes),
        PipelineEvent::Retry { error, .. } => member.measures().failed(error),
        _ => {}
    }
}

/// Takes in what the engine says.
fn heard(
    shared: &Arc<Shared>,
    member: &Arc<Member>,
    event: &PipelineEvent,
    loaded: &watch::Sender<bool>,
) {
    shared.scribe.note_event(&member.key, event);
    let (pipeline, tenant) = (member.key.id.as_str(), member.key.tenant.as_str());
    match event {
        PipelineEvent::State { state, .. } => {
            tracing::info!(pipeline, tenant, "state {}", super::word_of(state));
            super::tell_state(shared, member);
        }
        // The run's end tells of it in the log.
        PipelineEvent::Failed(_) => super::tell_state(shared, member),
        PipelineEvent::Loaded { rows, .. } => {
            tracing::info!(pipeline, tenant, rows, "loaded");
            loaded.send_replace(true);
        }
        PipelineEvent::LoadPosition(position)
        | PipelineEvent::Checkpoint {
            load_position: position,
            ..
        } => {
            let text = position.to_string();
            let begins = matches!(event, PipelineEvent::LoadPosition(_));
            if !begins && member.row().full_load_lsn.as_ref() == Some(&text) {
                return;
            }
            member.set_full_load_lsn(*position, begins);
            let (store, key) = (shared.store.clone(), member.key.clone());
            written_down(shared, "full_load_lsn is not written down yet", move || {
                let (store, key, text) = (store.clone(), key.clone(), text.clone());
                async move { store.set_full_load_lsn(&key, text, begins).await }
            });
        }
        // As with events: many pipelines of a side that stays away would fill the disk with it.
        PipelineEvent::Retry { error, attempt, .. } if attempt.is_power_of_two() => {
            tracing::warn!(pipeline, tenant, code = %error.code(), error = %error, "tries again");
        }
        _ => {}
    }
}

/// Compares both sides once a load is in and the stream has caught up, if the definition says so: a load of
/// this run, or one that no run has compared since, because its server was killed or gave the comparison up.
async fn after_load(
    shared: Arc<Shared>,
    member: Arc<Member>,
    alive: Alive,
    mut loaded: watch::Receiver<bool>,
) {
    let config = &alive.opened.config;
    let depth = match config.verify.after_load {
        AfterLoad::Deep => Depth::Deep,
        AfterLoad::Counts => Depth::Counts,
        AfterLoad::Off => return,
    };
    if !(config.mode.loads() && config.mode.streams()) {
        return;
    }
    streams(&alive).await;
    if member.verified().is_some() && loaded.wait_for(|is_loaded| *is_loaded).await.is_err() {
        return;
    }
    for attempt in 0.. {
        streams(&alive).await;
        let Err(err) = verify::verify(&shared, &member, &alive, &[], depth).await else {
            return;
        };
        let pause = again::pause(&err, attempt);
        not_compared(&shared, &member, &alive, &err, pause, attempt);
        tokio::time::sleep(pause.unwrap_or(again::SELDOM)).await;
    }
}

/// Waits until it has caught up.
async fn streams(alive: &Alive) {
    let state = || {
        let board = alive.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.state_now()
    };
    while state() != PipelineState::Streaming {
        tokio::time::sleep(CAUGHT_UP_EVERY).await;
    }
}

/// Says that what was loaded is not compared. One that fails again and again is said less and less often.
fn not_compared(
    shared: &Arc<Shared>,
    member: &Member,
    alive: &Alive,
    err: &Error,
    pause: Option<Duration>,
    attempt: u32,
) {
    {
        let mut board = alive.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.set_unverified(err);
    }
    let (level, wait) = match pause {
        Some(pause) => (Level::Warn, pause),
        None => (Level::Error, again::SELDOM),
    };
    let text = format!(
        "the copy is not compared after its load: {err}; tries again in {:.0} s",
        wait.as_secs_f64()
    );
    tracing::warn!(pipeline = member.key.id, code = %err.code(), error = %err, "{text}");
    if (attempt + 1).is_power_of_two() {
        shared.scribe.note(Entry {
            code: Some(err.code().to_string()),
            ..Entry::plain(&member.key, level, "verification", text)
        });
    }
}
