//! The side door in memory, which counts what it is asked; and what a pipeline that rests asks of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidemark_core::board::Board;
use tidemark_core::control::{Answer, Command, CommandId, Control, door};
use tidemark_core::error::Result;
use tidemark_core::mapping::Rules;
use tidemark_core::pipeline::Pipeline;
use tidemark_core::pipeline::observe::{Observer, PipelineEvent};
use tidemark_core::pipeline::options::Options;
use tidemark_core::quarantine::KeptChange;
use tidemark_core::status::{By, PipelineState, Status};
use tidemark_core::target::Owner;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::history::Faults;
use crate::source::SimSource;
use crate::target::SimTarget;
use crate::world::Shared;

#[derive(Clone, Default)]
pub(crate) struct SimControl(Arc<Inside>);

#[derive(Default)]
struct Inside {
    asked: Mutex<Asked>,
    called: Notify,
}

#[derive(Default)]
struct Asked {
    waiting: Vec<(CommandId, Command)>,
    answered: Vec<CommandId>,
    looks: u32,
    reported: Vec<Status>,
}

impl SimControl {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Control for SimControl {
    async fn commands(&mut self) -> Result<Vec<(CommandId, Command)>> {
        let mut asked = self.asked();
        asked.looks += 1;
        Ok(asked.waiting.clone())
    }

    async fn called(&mut self) -> Result<()> {
        self.0.called.notified().await;
        Ok(())
    }

    async fn answer(&mut self, id: CommandId, _: &Answer) -> Result<()> {
        let mut asked = self.asked();
        asked.waiting.retain(|(waiting, _)| *waiting != id);
        asked.answered.push(id);
        Ok(())
    }

    async fn report(&mut self, status: &Status) -> Result<()> {
        self.asked().reported.push(status.clone());
        Ok(())
    }

    async fn send(&mut self, command: &Command) -> Result<CommandId> {
        let mut asked = self.asked();
        let id = asked.waiting.len() + asked.answered.len();
        let id = CommandId(i64::try_from(id).expect("few commands"));
        asked.waiting.push((id, command.clone()));
        self.0.called.notify_one();
        Ok(id)
    }

    async fn answer_to(&mut self, _: CommandId) -> Result<Option<Answer>> {
        Ok(None)
    }

    async fn last_status(&mut self) -> Result<Option<(Status, f64)>> {
        Ok(None)
    }

    async fn quarantined(&mut self) -> Result<Vec<KeptChange>> {
        Ok(Vec::new())
    }

    async fn owner(&mut self) -> Result<Option<Owner>> {
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_rests_asks_its_target_seldom_and_hears_at_once() {
    let target = SimTarget::new(Shared::new(1, Faults::NONE));
    let control = target.door.clone();
    let (pipeline, commander) = Pipeline::new(
        "sim",
        Arc::new(SimSource(target.world.clone())),
        Arc::new(target.clone()),
        Rules::default(),
        Options::default(),
        Owner {
            host: "sim".into(),
            pid: 1,
            lease: None,
        },
        Observer::new().0,
    );
    let board = Arc::new(Mutex::new(Board::new("sim", "full_load_and_cdc")));
    let say = |state| {
        let event = PipelineEvent::State {
            state,
            reason: None,
            by: By::Engine,
        };
        board.lock().unwrap().take(&event, Instant::now());
    };
    say(PipelineState::Streaming);
    let (stop, stopped) = watch::channel(false);
    let serving = door::serve(Arc::new(target), commander, Arc::clone(&board), stopped);
    let serving = tokio::spawn(serving);

    sleep(Duration::from_mins(1)).await;
    let looks = control.asked().looks;
    let reports = control.asked().reported.len();
    assert!((55..=61).contains(&looks), "{looks} looks in a minute");
    assert!(
        (15..=21).contains(&reports),
        "{reports} reports in a minute"
    );

    // What changes is told within a second all the same.
    say(PipelineState::CatchingUp);
    sleep(Duration::from_millis(1_500)).await;
    let told = control.asked().reported.last().map(|status| status.state);
    assert_eq!(told, Some(PipelineState::CatchingUp));

    control.clone().send(&Command::Stop).await.unwrap();
    let looks = control.asked().looks;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(control.asked().looks, looks + 1, "it was called");
    // Answered as soon as there is an answer.
    drop(pipeline);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(control.asked().answered.len(), 1);

    stop.send_replace(true);
    serving.await.unwrap();
}
