//! Thousands of histories of the real pipeline between an in-memory source and target, with seeded
//! faults: lost connections, refused and ambiguous commits, and kills at any call.
//!
//! The source writes transactions while it is read, makes them visible in another order than it
//! commits them, and hands out snapshots that tell what they have seen, as PostgreSQL does. The
//! target checks at *every* commit that what it holds is a state that the source really had
//! ([`target::SimTarget`]); the history ends when both sides are equal. A failing seed is printed and
//! becomes a named test.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of a history are small"
)]
#![expect(clippy::print_stdout, reason = "a failing seed is told")]

mod change;
mod door;
mod history;
mod outgrown;
mod rng;
mod source;
mod target;
mod world;

use history::{Faults, History};

/// Seeds with one kind of fault in one run. All are ten thousand histories, which take about three
/// minutes in an unoptimised build on two cores. Another range is one environment variable away:
/// `TIDEMARK_SIM_FROM=100000 cargo test --test sim`.
const SEEDS: u64 = 2_000;

fn run_seeds(name: &str, seeds: std::ops::Range<u64>, faults: Faults) {
    let (mut kills, mut retries, mut stops, mut extended) = (0, 0, 0, 0);
    let mut refusals = 0;
    let from = option_env!("TIDEMARK_SIM_FROM")
        .and_then(|from| from.parse().ok())
        .unwrap_or(0);
    for seed in seeds.map(|seed: u64| seed + from) {
        let report = History::run(seed, faults);
        kills += report.kills;
        retries += report.retries;
        stops += report.stops;
        extended += report.repairs_extended;
        refusals += report.refusals;
    }
    println!(
        "{name}: {kills} kills, {retries} retries, {stops} stops, {extended} repairs extended"
    );
    if faults.kills {
        assert!(kills > 0, "no history was killed: the faults do not work");
    }
    if faults.errors {
        assert!(
            retries > 0,
            "no history met an error: the faults do not work"
        );
    }
    if faults.requests {
        assert!(stops > 0, "no run was told to stop");
    }
    if faults.refusals {
        assert!(refusals > 0, "no row was refused");
    }
    if faults.requests && !faults.kills && !faults.refusals {
        assert!(extended > 0, "no row moved out of those under repair");
    }
}

#[test]
fn histories_without_faults_end_equal() {
    run_seeds("calm", 0..500, Faults::NONE);
}

#[test]
fn histories_with_lost_connections_end_equal() {
    run_seeds(
        "errors",
        0..SEEDS,
        Faults {
            errors: true,
            ..Faults::NONE
        },
    );
}

#[test]
fn histories_killed_at_any_call_end_equal() {
    run_seeds(
        "kills",
        0..SEEDS,
        Faults {
            kills: true,
            ..Faults::NONE
        },
    );
}

#[test]
fn histories_with_everything_end_equal() {
    run_seeds(
        "all",
        0..SEEDS * 3 / 2,
        Faults {
            errors: true,
            kills: true,
            requests: true,
            refusals: false,
        },
    );
}

#[test]
fn histories_with_requests_end_equal() {
    run_seeds(
        "requests",
        0..SEEDS * 5 / 4,
        Faults {
            requests: true,
            ..Faults::NONE
        },
    );
}

/// Rows that the target refuses wait with what comes for them, and nothing else does.
#[test]
fn histories_with_rows_that_cannot_be_applied_end_equal() {
    run_seeds(
        "refusals",
        0..SEEDS / 2,
        Faults {
            refusals: true,
            ..Faults::NONE
        },
    );
    run_seeds(
        "refusals and everything else",
        0..SEEDS,
        Faults {
            errors: true,
            kills: true,
            requests: true,
            refusals: true,
        },
    );
}
