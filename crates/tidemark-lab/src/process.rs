//! What `/proc` tells of a process (proc(5), Linux): its age, parent, title, CPU time and memory.

use std::path::PathBuf;

/// CPU time and memory of one process of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerProcess {
    /// Its id.
    pub pid: u32,
    /// `postmaster`, `walsender`, `checkpointer`, `autovacuum launcher`, ...; `backend` for a
    /// session of a client.
    pub role: String,
    /// User and system time since it started.
    pub cpu_seconds: f64,
    /// Resident memory, with the shared buffers it has touched.
    pub resident_bytes: u64,
    /// Resident memory that is its own.
    pub private_bytes: u64,
}

/// When a process started, in clock ticks since boot; `None` when there is no such process.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    // starttime is field 22; fields() begins at field 3.
    fields(pid)?.get(19)?.parse().ok()
}

/// Whether it is there and not merely waiting for its parent to notice its end.
pub(crate) fn is_alive(pid: u32) -> bool {
    fields(pid).is_some_and(|f| f.first().is_some_and(|state| state != "Z" && state != "X"))
}

/// The direct children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let parent = parent.to_string();
    pids.filter(|pid| fields(*pid).is_some_and(|f| f.get(1) == Some(&parent)))
        .collect()
}

/// Measures one process of a server; `None` when it has just ended.
pub(crate) fn measure(pid: u32, postmaster: u32) -> Option<ServerProcess> {
    let fields = fields(pid)?;
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let cpu_ticks = ticks(11)? + ticks(12)?;
    let memory = std::fs::read_to_string(path(pid, "statm")).ok()?;
    let mut pages = memory
        .split_whitespace()
        .skip(1)
        .map_while(|n| n.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    let page = rustix::param::page_size() as u64;
    let role = if pid == postmaster {
        "postmaster".to_owned()
    } else {
        role(&title(pid).unwrap_or_default())
    };
    Some(ServerProcess {
        pid,
        role,
        cpu_seconds: cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        resident_bytes: resident * page,
        private_bytes: resident.saturating_sub(shared) * page,
    })
}

fn title(pid: u32) -> Option<String> {
    let bytes = std::fs::read(path(pid, "cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

/// The role in a process title. PostgreSQL writes `postgres: walsender USER DATABASE HOST(PORT)
/// COMMAND` for walsenders, `postgres: USER DATABASE HOST(PORT) COMMAND` for sessions and
/// `postgres: ROLE` for the rest (15, 28.1); a `cluster_name` comes before all of that.
fn role(title: &str) -> String {
    const ROLES: [&str; 13] = [
        "walsender",
        "checkpointer",
        "background writer",
        "walwriter",
        "autovacuum launcher",
        "autovacuum worker",
        "logical replication launcher",
        "logical replication",
        "parallel worker",
        "stats collector",
        "startup",
        "io worker",
        "slotsync worker",
    ];
    let title = title.strip_prefix("postgres: ").unwrap_or(title);
    let found = ROLES.iter().find(|role| title.starts_with(**role));
    found.map_or("backend", |role| *role).to_owned()
}

/// The fields of `/proc/PID/stat` from the third on; the second may hold anything, in brackets.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(path(pid, "stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::{children, is_alive, measure, role, start_ticks};

    #[test]
    fn role_is_read_from_the_title() {
        let title = "postgres: walsender app shop 127.0.0.1(4711) START_REPLICATION";
        assert_eq!(role(title), "walsender");
        assert_eq!(
            role("postgres: postgres postgres 127.0.0.1(4711) idle"),
            "backend"
        );
        assert_eq!(role("postgres: io worker 1"), "io worker");
    }

    #[test]
    fn knows_its_own_process() {
        let pid = std::process::id();
        assert!(is_alive(pid) && start_ticks(pid).is_some());
        assert!(measure(pid, 0).is_some_and(|p| p.resident_bytes > p.private_bytes));
        let parent = std::os::unix::process::parent_id();
        assert!(children(parent).contains(&pid));
    }
}
