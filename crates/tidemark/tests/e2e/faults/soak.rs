//! Faults at random, for as long as it is asked, under load, from a seed that tells the same story again
//! (the story, not its timing). The oracle looks in between and at the end.
//!
//! A test run has a short one; `make soak MINUTES=10 SEED=7` is the same for longer.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemark_lab::proxy::Direction;
use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::{Proxy, Random, wait_for};
use tokio::task::JoinSet;

use super::Rig;
use crate::oracle;
use crate::stage::{PATIENCE, Running};
use crate::writers::Writers;

/// Pipelines that are killed side by side: most of a start is waiting.
const KILLED_AT_ONCE: u32 = 4;
const KILLS_EACH: u32 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn k07_k08_k10_two_hundred_kills_cost_nothing() {
    // Sessions of the killed linger for a while.
    let many = [("max_connections", "300")];
    let server = super::own_server(&many).await;
    let mut killed = JoinSet::new();
    for number in 0..KILLED_AT_ONCE {
        killed.spawn(async move {
            let rig = Rig::on(server, server, &format!("kills_{number}")).await;
            let mut random = Random::new(u64::from(number) + 101);
            let run = rig.streams().await;
            run.kill9().await;
            let mut life = start_takes(&rig).await;
            let mut in_stream = 0;
            for _ in 0..KILLS_EACH {
                let before = streams(&rig);
                let mut run = rig.stage.start(&["run", "FILE"]);
                // As often before the stream as in it, however busy the machine is.
                let moment = life.mul_f64(2.0 * random.below(1000) as f64 / 1000.0);
                tokio::time::sleep(moment).await;
                assert!(run.is_running(), "{}", rig.stage.log());
                run.kill9().await;
                in_stream += streams(&rig) - before;
                if random.below(10) == 0 {
                    life = start_takes(&rig).await;
                }
            }
            assert!(in_stream > 5, "{in_stream} of them came to the stream");
            let run = rig.streams().await;
            rig.ends_well(run).await;
        });
    }
    killed.join_all().await;
}

/// How often a run has come to the stream.
fn streams(rig: &Rig) -> usize {
    rig.stage.log().matches("step 5/5").count()
}

/// How long it takes now from a start to the stream; that run is killed as well.
async fn start_takes(rig: &Rig) -> Duration {
    let (before, began) = (streams(rig), Instant::now());
    let run = rig.stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "the run to follow the log", || async {
        Ok((streams(rig) > before).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", rig.stage.log()));
    run.kill9().await;
    began.elapsed()
}

/// What can happen; each leaves everything as it was, but for time.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillUs,
    StopUs,
    PauseUs,
    Cut,
    Reset,
    CutLater,
    Partition,
    Slow,
    KillSource,
    KillTarget,
    RestartSource,
    RestartTarget,
    FreezeSource,
    FreezeTarget,
    EndSessions,
    NewColumn,
    Resync,
}

const FAULTS: [Fault; 17] = [
    Fault::KillUs,
    Fault::StopUs,
    Fault::PauseUs,
    Fault::Cut,
    Fault::Reset,
    Fault::CutLater,
    Fault::Partition,
    Fault::Slow,
    Fault::KillSource,
    Fault::KillTarget,
    Fault::RestartSource,
    Fault::RestartTarget,
    Fault::FreezeSource,
    Fault::FreezeTarget,
    Fault::EndSessions,
    Fault::NewColumn,
    Fault::Resync,
];

/// Faults between two looks of the oracle.
const ROUND: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_random_cost_nothing() {
    let number = |name: &str| std::env::var_os(name)?.to_str()?.parse().ok();
    let minutes: Option<u64> = number("SOAK_MINUTES");
    let length = minutes.map_or(Duration::from_secs(20), Duration::from_mins);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number("SEED").unwrap_or_else(|| clock.unwrap().as_secs() % 100_000);
    say(&format!("soak: {length:?}, SEED={seed}"));
    Soak::new(seed).await.goes_on_for(length).await;
}

/// The harness shows what a test prints.
#[expect(
    clippy::print_stdout,
    reason = "a person waits for a soak and reads along"
)]
fn say(text: &str) {
    println!("{text}");
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

struct Soak {
    seed: u64,
    random: Random,
    source: &'static PostgresServer,
    target: &'static PostgresServer,
    rig: Rig,
    columns: u32,
}

impl Soak {
    async fn new(seed: u64) -> Soak {
        let small = [("logical_decoding_work_mem", "64kB")];
        let source = super::own_server(&small).await;
        let durable = [("fsync", "on"), ("full_page_writes", "on")];
        let target = super::own_server(&durable).await;
        Soak {
            seed,
            random: Random::new(seed),
            source,
            target,
            rig: Rig::on(source, target, "soak").await,
            columns: 0,
        }
    }

    async fn goes_on_for(mut self, length: Duration) {
        let began = Instant::now();
        let mut run = self.rig.streams().await;
        let mut faults = 0;
        loop {
            for _ in 0..ROUND {
                let fault = self.random.below(FAULTS.len() as u64);
                let fault = FAULTS[usize::try_from(fault).unwrap()];
                say(&format!(
                    "{:7.1} s  {fault:?}",
                    began.elapsed().as_secs_f64()
                ));
                run = self.strike(fault, run).await;
                faults += 1;
                if !run.is_running() {
                    let code = run.ended().await;
                    panic!(
                        "SEED={}: ended with {code:?} after {fault:?}\n{}",
                        self.seed,
                        run.log()
                    );
                }
                pause(self.random.below(1000)).await;
                if began.elapsed() > length {
                    break;
                }
            }
            if began.elapsed() > length {
                break;
            }
            run = self.looks(run).await;
            say(&format!(
                "{:7.1} s  equal after {faults} faults",
                began.elapsed().as_secs_f64()
            ));
        }
        self.rig.connect_again().await;
        self.rig.something_new_arrives().await;
        self.rig.ends_well(run).await;
        say(&format!("soak: {faults} faults, SEED={}", self.seed));
    }

    /// The oracle in between: the writers rest until both sides are equal.
    async fn looks(&mut self, run: Running) -> Running {
        self.rig.connect_again().await;
        let seed = self.random.below(1 << 32);
        self.rig.something_new_arrives().await;
        let writers = std::mem::replace(&mut self.rig.writers, Writers::none());
        writers.rest().await;
        oracle::comes_through(&self.rig.stage).await;
        self.rig
            .stage
            .wait_for_equal(self.rig.stage.comparison())
            .await;
        self.rig.writers = Writers::go_on(&self.rig.stage, seed);
        run
    }

    fn wire(&mut self) -> &Proxy {
        match self.random.below(2) {
            0 => &self.rig.source_wire,
            _ => &self.rig.target_wire,
        }
    }

    /// One fault, and its end.
    async fn strike(&mut self, fault: Fault, mut run: Running) -> Running {
        let a_while = self.random.below(3000);
        let (source, target) = (self.source, self.target);
        match fault {
            Fault::KillUs => {
                run.kill9().await;
                run = self.rig.stage.start(&["run", "FILE"]);
            }
            Fault::StopUs => {
                run.signal(Signal::TERM);
                let code = run.ended().await;
                assert_eq!(code, Some(0), "SEED={}\n{}", self.seed, run.log());
                run = self.rig.stage.start(&["run", "FILE"]);
            }
            Fault::PauseUs => {
                run.signal(Signal::STOP);
                pause(a_while).await;
                run.signal(Signal::CONT);
            }
            Fault::Cut => self.wire().cut(),
            Fault::Reset => self.wire().reset(),
            Fault::CutLater => {
                let bytes = 1 + self.random.below(200_000);
                let direction = match bytes % 2 {
                    0 => Direction::ToServer,
                    _ => Direction::ToClient,
                };
                self.wire().cut_after(direction, bytes);
            }
            Fault::Partition => {
                let wire = self.wire();
                wire.partition();
                pause(a_while).await;
                wire.heal();
            }
            Fault::Slow => {
                let wire = self.wire();
                wire.limit_rate(Some(50_000));
                wire.slice(Some(3000));
                pause(a_while).await;
                wire.limit_rate(None);
                wire.slice(None);
            }
            Fault::KillSource => back(source, source.kill9().await, a_while).await,
            Fault::KillTarget => back(target, target.kill9().await, a_while).await,
            Fault::RestartSource => back(source, source.stop(Shutdown::Fast).await, a_while).await,
            Fault::RestartTarget => back(target, target.stop(Shutdown::Fast).await, a_while).await,
            Fault::FreezeSource => {
                source.freeze().unwrap();
                pause(a_while).await;
                source.thaw().unwrap();
            }
            Fault::FreezeTarget => {
                target.freeze().unwrap();
                pause(a_while).await;
                target.thaw().unwrap();
            }
            Fault::EndSessions => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE application_name = 'tidemark soak'";
                source.execute(end).await.unwrap();
                target.execute(end).await.unwrap();
            }
            Fault::NewColumn => {
                self.columns += 1;
                let add = format!(
                    "ALTER TABLE mixed_scratch ADD COLUMN extra_{} int DEFAULT {}",
                    self.columns,
                    self.random.below(100)
                );
                let database = &self.rig.stage.source_name;
                source.execute_in(database, &add).await.unwrap();
            }
            Fault::Resync => {
                let table = crate::writers::RESYNCED;
                let ask = ["resync", "FILE", "--table", table, "--yes", "--no-wait"];
                // Somebody may be in the middle of it, or the run not yet ready to be asked.
                drop(self.rig.stage.run(&ask).await);
            }
        }
        run
    }
}

/// Starts a server again after a while.
async fn back(server: &PostgresServer, stopped: anyhow::Result<()>, milliseconds: u64) {
    stopped.unwrap();
    pause(milliseconds).await;
    server.start().await.unwrap();
}
