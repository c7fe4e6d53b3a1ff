//! One history: pipelines run, fail, are killed and run again until both sides are equal.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidemark_core::checkpoint::Chunk;
use tidemark_core::control::{Command, ResyncStrategy};
use tidemark_core::mapping::Rules;
use tidemark_core::pipeline::observe::{Observer, PipelineEvent};
use tidemark_core::pipeline::options::{Options, Until};
use tidemark_core::pipeline::{Commander, Pipeline};
use tidemark_core::quarantine::{Bounds, Chosen, OnRowError};
use tidemark_core::schema::TableName;
use tidemark_core::selection::{Pattern, Selection};
use tidemark_core::status::By;
use tidemark_core::target::Owner;

use crate::rng::Rng;
use crate::source::SimSource;
use crate::target::SimTarget;
use crate::world::{Shared, TABLES, at};

/// What may go wrong in a history.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each kind of fault by itself"
)]
pub(crate) struct Faults {
    /// Calls fail, before or after they had their effect.
    pub(crate) errors: bool,
    /// The process ends at a call.
    pub(crate) kills: bool,
    /// Tables are loaded anew, some of their rows are, and tables are paused, while others stream.
    pub(crate) requests: bool,
    /// The target refuses some rows until the end, when its fault is mended.
    pub(crate) refusals: bool,
}

impl Faults {
    pub(crate) const NONE: Faults = Faults {
        errors: false,
        kills: false,
        requests: false,
        refusals: false,
    };
}

/// What a history went through.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) kills: u64,
    pub(crate) retries: u64,
    /// Runs that ended because they were told to.
    pub(crate) stops: u64,
    /// Repairs that had to load a row more, because it moved out of those that they load.
    pub(crate) repairs_extended: u64,
    /// Times that rows of a table went into quarantine.
    pub(crate) refusals: u64,
}

pub(crate) struct History;

impl History {
    /// Runs a history to its end; panics, naming the seed, where a promise is broken.
    pub(crate) fn run(seed: u64, faults: Faults) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let told = std::panic::AssertUnwindSafe(|| runtime.block_on(live(seed, faults)));
        match std::panic::catch_unwind(told) {
            Ok(report) => report,
            Err(cause) => {
                println!("seed {seed} with {faults:?} breaks a promise");
                std::panic::resume_unwind(cause);
            }
        }
    }
}

async fn live(seed: u64, faults: Faults) -> Report {
    let world = Shared::new(seed, faults);
    let target = SimTarget::new(world.clone());
    let mut report = Report::default();
    for run in 0.. {
        assert!(run < 200, "seed {seed} does not come to an end");
        let is_last = world.lock().to_begin == 0;
        if is_last {
            world.lock().settle();
            world.lock().is_mended = true;
        }
        let ended = run_once(&world, &target.reopened(), is_last, &mut report).await;
        if ended && is_last && target.is_following() && target.kept() == 0 {
            break;
        }
    }
    let head = world.lock().head;
    let expected = world.lock().rows_before(head + 1);
    let position = target.position().expect("started");
    let late = world.lock().transactions.iter().any(|t| {
        t.commit
            .is_some_and(|(start, _)| !position.contains(at(start)))
    });
    assert!(!late, "caught up, but {position} does not cover everything");
    assert_eq!(target.rows(), expected, "seed {seed}: target differs");
    assert_eq!(target.parked(), 0, "seed {seed}: parked changes are left");
    report
}

/// One process: true if it ended by itself.
async fn run_once(world: &Shared, target: &SimTarget, is_last: bool, report: &mut Report) -> bool {
    let faults = world.lock().faults;
    let (observer, mut events) = Observer::new();
    let options = Options {
        until: Until::CaughtUp,
        parallel_tables: 2,
        parallel_chunks: 2,
        batch_rows_max: if world.lock().rng.once_in(2) { 3 } else { 50 },
        retry_wait_min: Duration::from_millis(10),
        // Whoever waits for the pipeline looks every millisecond of the clock that stands still.
        retry_wait_max: Duration::from_millis(40),
        ..Options::default()
    };
    let any = Pattern::parse("*.*").expect("a pattern");
    let rules = Rules {
        selection: Selection {
            include: vec![any],
            exclude: Vec::new(),
        },
        on_row_error: if faults.refusals {
            OnRowError::QuarantineRow(Bounds::default())
        } else {
            OnRowError::default()
        },
        ..Rules::default()
    };
    let (pipeline, commander) = Pipeline::new(
        "sim",
        Arc::new(SimSource(world.clone())),
        Arc::new(target.clone()),
        rules,
        options,
        Owner {
            host: "sim".into(),
            pid: 1,
            lease: None,
        },
        observer,
    );
    let Faults {
        requests: asks,
        refusals: refuses,
        ..
    } = world.lock().faults;
    let is_told_to_stop = Cell::new(false);
    let mut commands = Box::pin(async {
        if (asks || refuses) && is_last {
            resume_all(&commander).await;
            if target.kept() > 0 {
                commander.ask(Command::Retry(Chosen::default())).await;
            }
        } else if asks {
            let told = ask_at_random(world, target, &commander).await;
            is_told_to_stop.set(told);
        }
        std::future::pending::<()>().await;
    });
    let ended = tokio::select! {
        outcome = pipeline.run() => Some(outcome.expect("no history has an error that needs a person")),
        () = tokio::time::sleep(Duration::from_hours(1)) => panic!("an hour passes and nothing ends"),
        () = world.killed() => None,
        () = &mut commands => unreachable!("waits for ever"),
    };
    if let Some(outcome) = &ended {
        // A stop that was agreed to is what ended the run.
        let answered = tokio::time::timeout(Duration::from_mins(1), commands).await;
        answered.expect_err("waits for ever");
        let is_by_user = outcome.by == By::User;
        assert_eq!(is_by_user, is_told_to_stop.get(), "how it ended");
        report.stops += u64::from(is_by_user);
    } else {
        report.kills += 1;
    }
    let mut under_repair = HashSet::new();
    while let Ok(event) = events.try_recv() {
        match event {
            PipelineEvent::Retry { .. } => report.retries += 1,
            PipelineEvent::Quarantined(tables) => report.refusals += tables.len() as u64,
            PipelineEvent::TableState { table, reason, .. } => {
                if reason.is_none_or(|reason| reason.text != "repair") {
                    under_repair.remove(&table);
                } else if !under_repair.insert(table) {
                    report.repairs_extended += 1;
                }
            }
            _ => {}
        }
    }
    ended.is_some()
}

/// What people and `verify --repair` ask of a pipeline, at any moment; it may refuse. Gives whether it
/// agreed to stop.
async fn ask_at_random(world: &Shared, target: &SimTarget, commander: &Commander) -> bool {
    let count = 1 + world.lock().rng.below(8);
    for _ in 0..count {
        // Time stands still while anything is done: what passes is turns.
        let turns = world.lock().rng.below(200);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let command = {
            let rng = &mut world.lock().rng;
            let named = |number: u64| TableName::new("public", TABLES[number as usize]);
            let tables = vec![named(rng.below(3))];
            match rng.below(12) {
                0 | 1 => Command::Resync {
                    tables,
                    strategy: ResyncStrategy::Swap,
                },
                2 => Command::Resync {
                    tables,
                    strategy: ResyncStrategy::Truncate,
                },
                3..6 => Command::Repair {
                    table: named(rng.below(2)),
                    chunks: (0..=rng.below(2))
                        .map(|part| some_rows(rng, part))
                        .collect(),
                },
                6 => Command::Pause { tables },
                7 => Command::Resume { tables },
                8 => Command::Pause { tables: Vec::new() },
                9 | 10 => Command::Retry(Chosen::default()),
                _ => Command::Stop,
            }
        };
        let answer = commander.ask(command.clone()).await;
        match command {
            Command::Stop => return answer.ok,
            Command::Pause { tables } if tables.is_empty() && answer.ok => {
                stand_still(target, commander).await;
            }
            _ => {}
        }
    }
    false
}

/// A pipeline that is paused stays so, whatever it loses meanwhile.
async fn stand_still(target: &SimTarget, commander: &Commander) {
    // What was on its way when it was asked comes in, or does not.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let position = target.position();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(target.position(), position, "goes on although it is paused");
    let all = Command::Resume { tables: Vec::new() };
    while !commander.ask(all.clone()).await.ok {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Rows by key, as `verify` names them; different ones for each part.
fn some_rows(rng: &mut Rng, part: u64) -> Chunk {
    let keys = (0..60).filter(|id| id % 2 == part && rng.once_in(4));
    Chunk::Rows {
        columns: vec!["id".into()],
        keys: keys.map(|id| vec![id.to_string()]).collect(),
    }
}

/// Nothing may stay paused at the end.
async fn resume_all(commander: &Commander) {
    let tables: Vec<TableName> = TABLES.map(|name| TableName::new("public", name)).into();
    let resume = || Command::Resume {
        tables: tables.clone(),
    };
    loop {
        // By turns, since the clock stands still until everybody waits and a run may end before; and
        // by time, since a pipeline that waits to try again needs the clock.
        for _ in 0..50 {
            tokio::task::yield_now().await;
            if commander.ask(resume()).await.ok {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
