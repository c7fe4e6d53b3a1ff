//! A run under which tables come and go all day begins anew without them.

use std::sync::Arc;
use std::time::Duration;

use tidemark_core::control::{Command, ResyncStrategy};
use tidemark_core::mapping::Rules;
use tidemark_core::pipeline::Pipeline;
use tidemark_core::pipeline::observe::{Observer, PipelineEvent};
use tidemark_core::pipeline::options::{NewTables, Options};
use tidemark_core::schema::TableName;
use tidemark_core::selection::{Pattern, Selection};
use tidemark_core::status::{By, PipelineState};
use tidemark_core::target::Owner;
use tokio::time::sleep;

use crate::history::Faults;
use crate::source::SimSource;
use crate::target::SimTarget;
use crate::world::{Shared, TABLES};

#[tokio::test(start_paused = true)]
async fn a_run_under_which_enough_tables_came_and_went_begins_anew_without_them() {
    let world = Shared::new(1, Faults::NONE);
    world.lock().settle();
    world.lock().tables = 2;
    let (observer, mut events) = Observer::new();
    let rules = Rules {
        selection: Selection {
            include: vec![Pattern::parse("*.*").unwrap()],
            exclude: Vec::new(),
        },
        ..Rules::default()
    };
    let options = Options {
        gone_tables_max: 1,
        catalog_interval: Duration::from_secs(1),
        new_tables: NewTables::Add,
        ..Options::default()
    };
    let owner = Owner {
        host: "sim".into(),
        pid: 1,
        lease: None,
    };
    let (source, target) = (SimSource(world.clone()), SimTarget::new(world.clone()));
    let (source, target) = (Arc::new(source), Arc::new(target));
    let (pipeline, commander) =
        Pipeline::new("sim", source, target, rules, options, owner, observer);
    let running = tokio::spawn(pipeline.run());
    let mut begun_and_left = || {
        let (mut begun, mut left) = (0, Vec::new());
        while let Ok(event) = events.try_recv() {
            match event {
                PipelineEvent::State {
                    state: PipelineState::Checking,
                    ..
                } => begun += 1,
                PipelineEvent::Retry { error, .. } => panic!("nothing went wrong: {error}"),
                PipelineEvent::Recorded { tables, .. } => {
                    left = tables
                        .into_iter()
                        .filter(|table| table.is_left_out)
                        .collect();
                }
                _ => {}
            }
        }
        let names: Vec<String> = left.iter().map(|table| table.source.to_string()).collect();
        (begun, names)
    };
    let name = |number: usize| TableName::new("public", TABLES[number]);
    let resync = async |number| {
        let strategy = ResyncStrategy::Truncate;
        let tables = vec![name(number)];
        commander.ask(Command::Resync { tables, strategy }).await
    };
    let mut look = async |tables| {
        world.lock().tables = tables;
        sleep(Duration::from_secs(5)).await;
        begun_and_left()
    };

    assert_eq!(look(2).await, (1, Vec::new()));
    assert_eq!(look(3).await, (0, Vec::new()), "one comes");
    let answer = resync(2).await;
    assert!(answer.ok, "it is followed: {}", answer.text);
    assert_eq!(look(2).await, (1, vec![name(2).to_string()]), "it goes");
    let answer = resync(2).await;
    assert!(!answer.ok, "it is not followed any more: {}", answer.text);
    // One that was there from the beginning may be called otherwise for a while, and is found again.
    assert_eq!(look(1).await, (0, Vec::new()));
    assert_eq!(look(2).await, (0, Vec::new()));
    // One that comes back misses what was passed meanwhile, and is loaded anew.
    assert_eq!(look(3).await, (0, Vec::new()));
    let answer = resync(2).await;
    assert!(answer.ok, "it is followed again: {}", answer.text);
    assert!(commander.ask(Command::Stop).await.ok);
    let outcome = running.await.unwrap().unwrap();
    assert_eq!(
        (outcome.state, outcome.by),
        (PipelineState::Stopped, By::User)
    );
}
