//! The page: what was measured, on what, and how to repeat it.

use crate::meter::Cost;
use crate::report::{Contest, Contestant, requirements};
use crate::settings::Settings;
use crate::stage::{SERVER_SETTINGS, Stage, version_of};

/// The tables alone, for the terminal.
pub(crate) fn tables(contests: &[Contest]) -> String {
    let mut text = String::new();
    let rows = requirements(contests).into_iter().map(|r| {
        let measured = r
            .measured
            .map_or("not measured".to_owned(), |m| format!("{m:.2} {}", r.unit));
        let met = match r.is_met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "unknown",
        };
        vec![r.work, r.peer.to_owned(), r.must, measured, met.to_owned()]
    });
    table(
        &mut text,
        &["Work", "Measured beside it", "Must reach", "Reached", "Met"],
        &rows.collect::<Vec<_>>(),
    );
    text.push('\n');
    table(
        &mut text,
        &COLUMNS,
        &contests.iter().flat_map(rows_of).collect::<Vec<_>>(),
    );
    text
}

const COLUMNS: [&str; 10] = [
    "Work",
    "Who",
    "Seconds (median)",
    "Each run",
    "Own CPU s",
    "Source's CPU s",
    "Target's CPU s",
    "Walsender's CPU s",
    "Peak memory",
    "Source sent",
];

fn rows_of(contest: &Contest) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for entry in &contest.entries {
        let who = entry.contestant;
        let mut row = vec![contest.work.to_owned(), who.name().to_owned()];
        if let Some(reason) = &entry.left_out {
            let reason = reason.replace('|', "\\|").replace('\n', " ");
            row.push(format!("left out: {reason}"));
            row.resize(COLUMNS.len(), String::new());
            rows.push(row);
            continue;
        }
        let number = |of: fn(&Cost) -> f64| match contest.median(who, of) {
            Some(value) if value > 0.0 => format!("{value:.1}"),
            _ => String::new(),
        };
        let is_latency = entry.runs.iter().any(|c| c.latency.is_some());
        let shown = |c: &Cost| match &c.latency {
            Some(l) => format!(
                "p50 {:.2}, p99 {:.2}, worst {:.0} ms",
                l.p50_ms, l.p99_ms, l.worst_ms
            ),
            None => format!("{:.1}", c.wall_s),
        };
        let each: Vec<String> = entry.runs.iter().map(shown).collect();
        row.push(if is_latency {
            String::new()
        } else {
            number(|c| c.wall_s)
        });
        row.push(each.join(if is_latency { "; " } else { " " }));
        row.push(number(|c| c.own_cpu_s));
        row.push(number(|c| c.servers_cpu_s - c.target_cpu_s));
        row.push(number(|c| c.target_cpu_s));
        row.push(number(|c| c.walsender_cpu_s));
        let peak = contest
            .median(who, |c| c.peak_rss_bytes as f64 / 1e6)
            .unwrap_or(0.0);
        let is_ours = who == Contestant::Tidemark && peak > 0.0;
        row.push(if is_ours {
            format!("{peak:.0} MB")
        } else {
            String::new()
        });
        row.push(
            match contest.median(who, |c| c.from_source_bytes as f64 / 1e6) {
                Some(sent) if sent > 0.0 => format!("{sent:.1} MB"),
                _ => String::new(),
            },
        );
        rows.push(row);
    }
    rows
}

/// A table whose columns are as wide as what is in them, for people who read the source.
fn table(text: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows
            .iter()
            .chain([&head])
            .map(|row| row[column].chars().count());
        cells.filter(|w| *w <= 40).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    text.push_str(&line(&head));
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    text.push_str(&line(&rule));
    for row in rows {
        text.push_str(&line(row));
    }
}

/// The whole page.
pub(crate) fn page(
    stage: &Stage,
    settings: &Settings,
    load_before: f64,
    contests: &[Contest],
) -> String {
    let caution = caution(settings, load_before);
    let (machine, date) = (machine(), date());
    let server = &stage.version().version;
    let (runs, scale) = (settings.runs, settings.scale);
    let pgcopydb = version_of("pgcopydb").unwrap_or_else(|| "no pgcopydb".to_owned());
    let tables = tables(contests);
    let settings: String = SERVER_SETTINGS
        .iter()
        .flat_map(|(name, value)| ["    ", *name, " = ", *value, "\n"])
        .collect();
    format!(
        "{BEFORE}Measured {date} at scale {scale}, medians of {runs} runs, on {machine};\n\
         PostgreSQL {server} on both sides, {pgcopydb}.\n\n{caution}{tables}{METHOD}{settings}"
    )
}

/// What a reader must know before believing the figures.
fn caution(settings: &Settings, load_before: f64) -> String {
    let mut reasons = Vec::new();
    if settings.scale < 1.0 || settings.runs < 3 {
        reasons.push("it is smaller than what the requirements speak of".to_owned());
    }
    if load_before > BUSY {
        reasons.push(format!(
            "the machine had other work (a load of {load_before:.1} before it began)"
        ));
    }
    if reasons.is_empty() {
        return String::new();
    }
    format!("**A look, not a result**: {}.\n\n", reasons.join(", and "))
}

/// More than this was not idle.
const BUSY: f64 = 1.0;

/// How many programs wanted to run in the last minute (proc(5), `loadavg`).
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

fn date() -> String {
    let output = std::process::Command::new("date").arg("+%F").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    text.unwrap_or_default()
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("a CPU without a name", |(_, name)| name);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kb = memory.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    let gb = kb.unwrap_or(0) / 1_000_000;
    format!("{cpus} CPUs ({model}) and {gb} GB of memory, shared by both servers and all programs")
}

const BEFORE: &str = "\
# Performance

This page is written by `make bench`, which measures Tidemark in one run beside what you would use
instead, and beside the limit. Only figures of one run are compared with each other: another machine
has others, and so has this one on another day.

    make bench                                 # everything; about half an hour
    make bench BENCH_SCALE=0.1                 # a tenth of the rows: a look, not a result
    make bench BENCH_ONLY=load,latency         # some of it
    make bench BENCH_RUNS=5                    # medians of five

";

const METHOD: &str = "
## What is measured

| Work | |
|--|--|
| load | Tables like TPC-H's at scale 1: 8 tables, 8.66 million rows, their types and text lengths; primary keys included. |
| wide | One table of 16 columns of mixed types, four million rows. |
| values | 5,000 values of 100,000 bytes that cannot be compressed. |
| inserts | A backlog of a million transactions of one insert each. |
| updates | The same of one update each, over a million rows, by key. |
| tpcb | The same of `pgbench`'s TPC-B: 250,000 transactions of four changes, on 10 branches. |
| bulk … | A backlog of one transaction of a million inserts, updates or deletes. |
| verify | The tables of *load* on both sides compared, every value of every row. |
| reconcile | The same tables after a lost slot, with one row in a thousand changed in the four largest. |
| latency | 1,000 transactions a second for a minute, from the commit on the source to a reader on the target seeing the row. |
| serve | The backlog of *inserts* by `tidemark run`, by `tidemark serve`, and by a server whose news 200 pages follow, in turn. It is made while the program is frozen with its stream open; seconds count from when it goes on. Percentages are medians of runs that followed each other. |
| fleet | 200 pipelines that stream, one in twenty with traffic: the memory of the process. With 300 more that have loaded and rest, 20 tables each: 500 requests to each of six routes of the API, of which the slowest counts. |

- *Raw pipes* are two workers that run `psql -c 'COPY … TO STDOUT (FORMAT binary)' | psql -c 'COPY … FROM STDIN (FORMAT binary)'`, the
  largest table in two halves, and then make the primary keys: two servers with nothing in between.
- *native* is PostgreSQL's logical replication with its defaults: for loads `pg_dump --schema-only` and a subscription's initial copy, for
  backlogs a subscription that is enabled once the backlog is there.
- *pgcopydb* has two table jobs and two index jobs.
- *scan of both* is `SELECT count(*)` of every table, on both sides at once: it visits every row and looks at no value. *pg_dump | md5sum* is
  a checksum over the dumps of both sides, at once; it does not say what differs.
- Tidemark is the release build with the defaults of a pipeline file, without verification. Its time is that of the whole
  `tidemark run`, from start to exit.
- A backlog is made once; every run starts from a copy of the same slot and of the same target.
- After every run the target is compared with the source: row counts and keys after a load, a checksum over all rows after a
  backlog. A run that is wrong does not count.
- CPU seconds come from `/proc`, sessions that ended included. *Own* are the contestant's programs, not the servers'. The walsender's are
  within the source's.
- All programs reach both servers by TCP over loopback. A checkpoint before every run; no autovacuum, no writing to a real disk's platter:
  both servers have the same settings, which are the defaults but for these:

";
