//! What was measured: contests, their medians, and what the requirements say to them.

use anyhow::Result;

use crate::meter::Cost;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contestant {
    RawPipes,
    PgDump,
    Pgcopydb,
    Native,
    Scan,
    DumpMd5,
    FullLoad,
    CommandLine,
    Watched,
    Tidemark,
}

impl Contestant {
    /// Its name on the page.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contestant::RawPipes => "raw pipes",
            Contestant::PgDump => "pg_dump \\| psql",
            Contestant::Pgcopydb => "pgcopydb clone",
            Contestant::Native => "native",
            Contestant::Scan => "scan of both",
            Contestant::DumpMd5 => "pg_dump \\| md5sum of both",
            Contestant::FullLoad => "full load",
            Contestant::CommandLine => "tidemark run",
            Contestant::Watched => "with 200 pages open",
            Contestant::Tidemark => "Tidemark",
        }
    }
}

/// How long rows took to be seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) worst_ms: f64,
}

/// One piece of work and what it cost whom.
pub(crate) struct Contest {
    pub(crate) work: &'static str,
    pub(crate) entries: Vec<Entry>,
}

/// One contestant's runs; one that was left out has a reason.
pub(crate) struct Entry {
    pub(crate) contestant: Contestant,
    pub(crate) runs: Vec<Cost>,
    pub(crate) left_out: Option<String>,
}

impl Contest {
    pub(crate) fn new(work: &'static str) -> Contest {
        Contest {
            work,
            entries: Vec::new(),
        }
    }

    /// A run, or why there is none: after one that failed a contestant is left out.
    pub(crate) fn add(&mut self, contestant: Contestant, ran: Result<Cost>) {
        match ran {
            Ok(cost) => self.entry(contestant).runs.push(cost),
            Err(error) => self.leave_out(contestant, &format!("{error:#}")),
        }
    }

    pub(crate) fn leave_out(&mut self, contestant: Contestant, reason: &str) {
        self.entry(contestant).left_out = Some(reason.to_owned());
    }

    pub(crate) fn is_left_out(&self, contestant: Contestant) -> bool {
        let entry = self.entries.iter().find(|e| e.contestant == contestant);
        entry.is_some_and(|e| e.left_out.is_some())
    }

    fn entry(&mut self, contestant: Contestant) -> &mut Entry {
        let place = self
            .entries
            .binary_search_by_key(&contestant, |e| e.contestant);
        let index = place.unwrap_or_else(|index| {
            let entry = Entry {
                contestant,
                runs: Vec::new(),
                left_out: None,
            };
            self.entries.insert(index, entry);
            index
        });
        &mut self.entries[index]
    }

    /// The median of something over a contestant's runs.
    pub(crate) fn median(&self, contestant: Contestant, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let entry = self.entries.iter().find(|e| e.contestant == contestant)?;
        if entry.left_out.is_some() {
            return None;
        }
        median(entry.runs.iter().map(of).collect())
    }

    /// How much longer in percent one takes than another: the median over runs that followed each other.
    fn longer(&self, one: Contestant, other: Contestant) -> Option<f64> {
        let runs = |who| {
            let entry = self.entries.iter().find(|entry| entry.contestant == who);
            entry.filter(|entry| entry.left_out.is_none())
        };
        let pairs = runs(one)?.runs.iter().zip(&runs(other)?.runs);
        median(
            pairs
                .map(|(one, other)| 100.0 * (one.wall_s / other.wall_s - 1.0))
                .collect(),
        )
    }

    fn wall(&self, contestant: Contestant) -> Option<f64> {
        self.median(contestant, |c| c.wall_s)
    }

    /// How many times as long as `other` Tidemark takes.
    fn times_of(&self, other: Contestant) -> Option<f64> {
        Some(self.wall(Contestant::Tidemark)? / self.wall(other)?)
    }
}

/// The middle value; of an even number of values the upper of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// One requirement and how it was met.
pub(crate) struct Requirement {
    pub(crate) work: String,
    pub(crate) peer: &'static str,
    pub(crate) must: String,
    pub(crate) measured: Option<f64>,
    pub(crate) is_met: Option<bool>,
    pub(crate) unit: &'static str,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

fn requirement(
    work: &str,
    peer: &'static str,
    bound: Bound,
    unit: &'static str,
    measured: Option<f64>,
) -> Requirement {
    let (must, is_met) = match bound {
        Bound::AtMost(most) => (format!("≤ {most} {unit}"), measured.map(|m| m <= most)),
        Bound::AtLeast(least) => (format!("≥ {least} {unit}"), measured.map(|m| m >= least)),
    };
    Requirement {
        work: work.to_owned(),
        peer,
        must,
        measured,
        is_met,
        unit,
    }
}

/// All requirements on what was measured.
pub(crate) fn requirements(contests: &[Contest]) -> Vec<Requirement> {
    contests.iter().flat_map(requirements_of).collect()
}

fn requirements_of(contest: &Contest) -> Vec<Requirement> {
    let speed = |peer| contest.times_of(peer).map(|times| 1.0 / times);
    let beside = |peer, name, least| {
        let least = Bound::AtLeast(least);
        requirement(contest.work, name, least, "× the speed", speed(peer))
    };
    let native = |least| beside(Contestant::Native, "native", least);
    let pipes = || {
        let measured = contest.times_of(Contestant::RawPipes);
        requirement(
            contest.work,
            "raw pipes",
            Bound::AtMost(1.05),
            "× the time",
            measured,
        )
    };
    let mut found = match contest.work {
        "load" => vec![pipes(), best_peer(contest), cpu_share(contest)],
        "wide" | "values" => vec![pipes()],
        "inserts" => vec![native(1.0), walsender(contest)],
        "updates" => vec![native(2.0)],
        "tpcb" => vec![native(2.5)],
        "latency" => latency(contest),
        "verify" => vec![
            beside(Contestant::Scan, "scan of both", 0.8),
            beside(Contestant::DumpMd5, "pg_dump \\| md5sum", 1.0),
        ],
        "reconcile" => vec![share_of_a_load(contest)],
        "serve" => served(contest),
        "fleet" => return fleet(contest),
        _ => vec![native(1.5)],
    };
    let peak = contest.median(Contestant::Tidemark, |c| c.peak_rss_bytes as f64 / 1e6);
    found.push(requirement(
        contest.work,
        "peak memory",
        Bound::AtMost(256.0),
        "MB",
        peak,
    ));
    found
}

fn best_peer(contest: &Contest) -> Requirement {
    let peers = [Contestant::PgDump, Contestant::Pgcopydb, Contestant::Native];
    let best = peers
        .iter()
        .filter_map(|p| contest.wall(*p))
        .min_by(f64::total_cmp);
    let measured = best
        .zip(contest.wall(Contestant::Tidemark))
        .map(|(b, t)| b / t);
    requirement(
        "load",
        "best of the others",
        Bound::AtLeast(1.4),
        "× the speed",
        measured,
    )
}

fn cpu_share(contest: &Contest) -> Requirement {
    let share = |c: &Cost| 100.0 * c.own_cpu_s / (c.own_cpu_s + c.servers_cpu_s);
    let measured = contest.median(Contestant::Tidemark, share);
    requirement(
        "load",
        "all CPU seconds",
        Bound::AtMost(8.0),
        "% its own",
        measured,
    )
}

fn walsender(contest: &Contest) -> Requirement {
    let measured = contest.median(Contestant::Tidemark, |c| c.wall_s / c.walsender_cpu_s);
    requirement(
        "inserts",
        "walsender's CPU seconds",
        Bound::AtMost(1.3),
        "× the time",
        measured,
    )
}

fn share_of_a_load(contest: &Contest) -> Requirement {
    let bytes = |who| contest.median(who, |c| c.from_source_bytes as f64);
    let measured = bytes(Contestant::Tidemark)
        .zip(bytes(Contestant::FullLoad))
        .map(|(reconciled, load)| 100.0 * reconciled / load);
    requirement(
        "reconcile",
        "bytes of a full load",
        Bound::AtMost(2.0),
        "%",
        measured,
    )
}

/// What a server costs, and who looks at it.
fn served(contest: &Contest) -> Vec<Requirement> {
    use Contestant::{CommandLine, Tidemark, Watched};
    let more = |most, one, other: Contestant| {
        let measured = contest.longer(one, other);
        let name = if other == CommandLine {
            "tidemark run"
        } else {
            "nobody looking"
        };
        requirement(
            contest.work,
            name,
            Bound::AtMost(most),
            "% longer",
            measured,
        )
    };
    let mut watched = more(3.0, Watched, Tidemark);
    "serve, 200 pages open".clone_into(&mut watched.work);
    vec![more(2.0, Tidemark, CommandLine), watched]
}

/// Many pipelines in one process.
fn fleet(contest: &Contest) -> Vec<Requirement> {
    let of = |value: fn(&Cost) -> f64| contest.median(Contestant::Tidemark, value);
    let slowest = of(|c| c.latency.as_ref().map_or(f64::NAN, |l| l.p99_ms));
    let memory = of(|c| c.peak_rss_bytes as f64 / 1e6);
    let mut api = requirement("", "", Bound::AtMost(100.0), "ms", slowest);
    "fleet, p99 of the slowest route".clone_into(&mut api.work);
    vec![
        requirement(contest.work, "memory", Bound::AtMost(400.0), "MB", memory),
        api,
    ]
}

fn latency(contest: &Contest) -> Vec<Requirement> {
    let of = |contestant, value: fn(&Latency) -> f64| {
        contest.median(contestant, |c| c.latency.as_ref().map_or(f64::NAN, value))
    };
    let times = |value: fn(&Latency) -> f64| {
        Some(of(Contestant::Tidemark, value)? / of(Contestant::Native, value)?)
    };
    let p99 = of(Contestant::Tidemark, |l| l.p99_ms);
    vec![
        requirement(
            "latency p50",
            "native",
            Bound::AtMost(1.5),
            "× the time",
            times(|l| l.p50_ms),
        ),
        requirement(
            "latency p99",
            "native",
            Bound::AtMost(1.5),
            "× the time",
            times(|l| l.p99_ms),
        ),
        requirement("latency p99", "", Bound::AtMost(50.0), "ms", p99),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Contest, Contestant, Cost, median, requirements};

    fn contest(work: &'static str, costs: &[(Contestant, f64)]) -> Contest {
        let mut contest = Contest::new(work);
        for (contestant, wall_s) in costs {
            let cost = Cost {
                wall_s: *wall_s,
                own_cpu_s: 1.0,
                servers_cpu_s: 9.0,
                ..Cost::default()
            };
            contest.add(*contestant, Ok(cost));
        }
        contest
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_load_is_judged_by_the_pipes_the_best_peer_and_its_cpu() {
        use Contestant::{Native, PgDump, RawPipes, Tidemark};
        let load = contest(
            "load",
            &[
                (RawPipes, 10.0),
                (PgDump, 20.0),
                (Native, 16.0),
                (Tidemark, 10.4),
            ],
        );
        let met: Vec<_> = requirements(&[load]).iter().map(|r| r.is_met).collect();
        assert_eq!(met, [Some(true), Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn a_server_is_judged_by_runs_that_followed_each_other() {
        use Contestant::{CommandLine, Tidemark, Watched};
        // The machine becomes slower from run to run, for all of them.
        let runs = [10.0, 20.0, 40.0];
        let all: Vec<_> = runs
            .iter()
            .flat_map(|run| {
                [
                    (CommandLine, *run),
                    (Tidemark, run * 1.01),
                    (Watched, run * 1.06),
                ]
            })
            .collect();
        let serve = contest("serve", &all);
        let met: Vec<_> = requirements(&[serve]).iter().map(|r| r.is_met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn what_was_left_out_is_unknown_not_met() {
        let mut load = contest(
            "updates",
            &[(Contestant::Native, 10.0), (Contestant::Tidemark, 1.0)],
        );
        load.leave_out(Contestant::Tidemark, "it failed");
        assert!(requirements(&[load]).iter().all(|r| r.is_met.is_none()));
    }
}
