//! Death on demand: `TIDEMARK_FAILPOINT=name` (or `name:nth`) has this process killed where the fail
//! point of that name is reached; `name:nth:panic` has the task there panic. For tests alone;
//! CONTRIBUTING.md tells how they use it.
//!
//! SIGKILL and nothing else: no handler runs, no destructor, no goodbye to either database.

use rustix::process::{Signal, getpid, kill_process};
use tidemark_core::failpoint::{self, FailPoint};

use crate::problem::Failure;
use crate::surroundings::env;

const VARIABLE: &str = "TIDEMARK_FAILPOINT";

/// Arms what the environment names, if it names something.
pub(crate) fn arm() -> Result<(), Failure> {
    let Some(wanted) = env(VARIABLE) else {
        return Ok(());
    };
    let (asked, end): (&str, fn()) = match wanted.strip_suffix(":panic") {
        Some(asked) => (asked, panics),
        None => (&wanted, die),
    };
    let (name, nth) = asked.split_once(':').unwrap_or((asked, "1"));
    let point = FailPoint::named(name);
    let (Some(point), Ok(nth)) = (point, nth.parse()) else {
        let names: Vec<&str> = failpoint::ALL.iter().map(|point| point.name()).collect();
        return Err(Failure::usage(format!(
            "{VARIABLE}={wanted} names no fail point; there are {}",
            names.join(", ")
        )));
    };
    failpoint::arm(point, nth, end);
    Ok(())
}

#[expect(clippy::panic, reason = "a defect on demand, for tests")]
fn panics() {
    panic!("a defect that {VARIABLE} asked for");
}

fn die() {
    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
    loop {
        std::thread::park();
    }
}
