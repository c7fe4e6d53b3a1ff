//! What a piece of work costs: wall time, CPU time of everybody who took part, memory.
//!
//! A postmaster waits for its children, so its own time, that of the children it has waited for and
//! that of the living ones is all that a server has used, sessions that ended included (proc(5):
//! `utime`, `stime`, `cutime`, `cstime`). The same holds for the programs that we start. Times come
//! in ticks of 10 ms.

use std::collections::HashMap;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use tidemark_lab::PostgresServer;

use crate::report::Latency;
use crate::stage::Stage;

/// What one run of one contestant cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// From start to done.
    pub(crate) wall_s: f64,
    /// CPU seconds of the contestant's own programs.
    pub(crate) own_cpu_s: f64,
    /// CPU seconds of both servers.
    pub(crate) servers_cpu_s: f64,
    /// CPU seconds of the source's walsenders, which `servers_cpu_s` has too.
    pub(crate) walsender_cpu_s: f64,
    /// CPU seconds of the target server, which `servers_cpu_s` has too.
    pub(crate) target_cpu_s: f64,
    /// Peak resident memory of the program that was watched; 0 where none was.
    pub(crate) peak_rss_bytes: u64,
    /// Bytes that the source sent; 0 where they were not counted.
    pub(crate) from_source_bytes: u64,
    /// For the work that is about latency.
    pub(crate) latency: Option<Latency>,
}

/// Runs from its making to [`Meter::read`].
pub(crate) struct Meter<'a> {
    stage: &'a Stage,
    began: Instant,
    own_cpu_s: f64,
    source_cpu_s: f64,
    target_cpu_s: f64,
    walsenders: Walsenders,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(stage: &'a Stage) -> Meter<'a> {
        Meter {
            stage,
            own_cpu_s: cpu_of_ended_children(),
            source_cpu_s: cpu_of(&stage.source),
            target_cpu_s: cpu_of(&stage.target),
            walsenders: Walsenders::watch(postmaster(&stage.source)),
            began: Instant::now(),
        }
    }

    /// Call it at the moment the work is done and its programs have been waited for.
    pub(crate) fn read(self, peak_rss_bytes: u64) -> Cost {
        let wall_s = self.began.elapsed().as_secs_f64();
        let target_cpu_s = cpu_of(&self.stage.target) - self.target_cpu_s;
        let source_cpu_s = cpu_of(&self.stage.source) - self.source_cpu_s;
        Cost {
            wall_s,
            own_cpu_s: cpu_of_ended_children() - self.own_cpu_s,
            servers_cpu_s: source_cpu_s + target_cpu_s,
            walsender_cpu_s: self.walsenders.read(),
            target_cpu_s,
            peak_rss_bytes,
            from_source_bytes: 0,
            latency: None,
        }
    }
}

/// Waits for a program and notes the most memory it had (`VmHWM` of proc(5)).
pub(crate) fn wait_and_watch(child: &mut Child) -> Result<(ExitStatus, u64)> {
    let mut peak = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        peak = peak.max(peak_rss_bytes(child.id()));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The most resident memory a living process has had; 0 when it has just ended.
pub(crate) fn peak_rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kb = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}

/// The source's walsenders come and go; each is read until it ends.
struct Walsenders {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<f64>,
}

impl Walsenders {
    fn watch(postmaster: u32) -> Walsenders {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut first: HashMap<u32, f64> = HashMap::new();
            let mut last: HashMap<u32, f64> = HashMap::new();
            for round in 0.. {
                let is_last = stopped.load(Ordering::Acquire);
                if round % 20 == 0 || is_last {
                    for pid in children(postmaster)
                        .into_iter()
                        .filter(|p| is_walsender(*p))
                    {
                        // One that appears later has used nothing before we began.
                        let before = if round == 0 { cpu_of_process(pid) } else { 0.0 };
                        first.entry(pid).or_insert(before);
                    }
                }
                for pid in first.keys() {
                    let cpu = cpu_of_process(*pid);
                    let known = last.entry(*pid).or_default();
                    *known = known.max(cpu);
                }
                if is_last {
                    break;
                }
                std::thread::sleep(Duration::from_millis(25));
            }
            last.iter().map(|(pid, cpu)| cpu - first[pid]).sum()
        });
        Walsenders { stop, thread }
    }

    fn read(self) -> f64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or(0.0)
    }
}

fn postmaster(server: &PostgresServer) -> u32 {
    let file = server.data_directory().join("postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .next()
        .and_then(|l| l.trim().parse().ok())
        .unwrap_or(0)
}

fn cpu_of(server: &PostgresServer) -> f64 {
    let postmaster = postmaster(server);
    let living: f64 = children(postmaster).into_iter().map(cpu_of_process).sum();
    ticks(postmaster, 11..15) + living
}

fn cpu_of_ended_children() -> f64 {
    ticks(std::process::id(), 13..15)
}

fn cpu_of_process(pid: u32) -> f64 {
    ticks(pid, 11..13)
}

fn children(parent: u32) -> Vec<u32> {
    // A thread's file of children: one read, where a look at all processes would be hundreds.
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|p| p.parse().ok())
        .collect()
}

fn is_walsender(pid: u32) -> bool {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    title.starts_with(b"postgres: walsender")
}

/// Seconds in some fields of `/proc/PID/stat`, counted from the third on.
fn ticks(pid: u32, fields: std::ops::Range<usize>) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let values = rest
        .split_whitespace()
        .map(|f| f.parse::<u64>().unwrap_or(0));
    let sum: u64 = values.skip(fields.start).take(fields.len()).sum();
    sum as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::{cpu_of_ended_children, peak_rss_bytes, wait_and_watch};

    #[test]
    fn a_program_that_ended_has_been_counted() {
        let before = cpu_of_ended_children();
        let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", busy])
            .spawn()
            .unwrap();
        let (status, peak) = wait_and_watch(&mut child).unwrap();
        assert!(status.success() && peak > 100_000);
        assert!(cpu_of_ended_children() > before);
    }

    #[test]
    fn a_process_that_is_gone_has_no_memory() {
        assert_eq!(peak_rss_bytes(u32::MAX), 0);
        assert!(peak_rss_bytes(std::process::id()) > 1 << 20);
    }
}
