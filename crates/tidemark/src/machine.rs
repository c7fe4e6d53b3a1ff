//! How much memory there is for this process: the machine's, or less where a control group says so.

use std::path::Path;

use tidemark_core::catalogue::codes;
use tidemark_core::config::Memory;
use tidemark_core::finding::{Finding, Fix, Report, Side};

use crate::output::numbers::bytes;

/// Memory that a process may have, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    bytes: u64,
    whose: String,
}

/// What is told of memory where the pipeline may take more than there is. What is read on the way from the
/// source fills it.
pub(crate) fn of_memory(memory: Memory) -> Vec<Finding> {
    room(Path::new("/")).map_or_else(Vec::new, |room| told(memory, &room))
}

fn told(memory: Memory, room: &Room) -> Vec<Finding> {
    let mut report = Report::of(Side::Source);
    if memory.0 > room.bytes {
        let (wanted, there) = (bytes(memory.0), bytes(room.bytes));
        report.warn(
            codes::MEMORY_LARGER_THAN_THERE_IS,
            format!(
                "pipeline.memory is {wanted}, and where the pipeline runs there is {there} ({})",
                room.whose
            ),
            &codes::MEMORY_LARGER_THAN_THERE_IS.entry().effect,
            [Fix::text(
                "make pipeline.memory less than half of what there is, or give more",
            )],
        );
    }
    report.into_findings()
}

/// `None` where the system does not tell.
fn room(root: &Path) -> Option<Room> {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let machine = Room {
        bytes: total(&meminfo)?,
        whose: "MemTotal of the machine".to_owned(),
    };
    let group = std::fs::read_to_string(root.join("proc/self/cgroup"));
    let group = group.ok().and_then(|groups| limit(root, &groups));
    let rooms = group.into_iter().chain([machine]);
    rooms.min_by_key(|room| room.bytes)
}

/// `MemTotal:       24689660 kB` (proc(5)).
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The least `memory.max` of the process's control group and of those around it (Linux, cgroup-v2.rst; in a
/// container the outermost that is seen has the container's).
fn limit(root: &Path, groups: &str) -> Option<Room> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let top = root.join("sys/fs/cgroup");
    let around = Path::new(own).ancestors().filter_map(|group| {
        let text = std::fs::read_to_string(top.join(group).join("memory.max")).ok()?;
        Some(Room {
            bytes: text.trim().parse().ok()?,
            whose: format!("memory.max of control group /{}", group.display()),
        })
    });
    around.min_by_key(|room| room.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::finding::Verdict;

    /// A system of files that says this.
    fn system(groups: &str, limits: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "proc/meminfo",
            "MemTotal:       16000000 kB\nMemFree:  1 kB\n",
        );
        write("proc/self/cgroup", groups);
        for (group, limit) in limits {
            write(&format!("sys/fs/cgroup/{group}/memory.max"), limit);
        }
        root
    }

    #[test]
    fn the_least_of_machine_and_control_groups_counts() {
        let nested = "0::/system.slice/tidemark.service\n";
        let slice = ("system.slice", "2000000000\n");
        for (groups, limits, bytes, whose) in [
            (nested, &[][..], 16_384_000_000, "MemTotal"),
            (
                nested,
                &[("system.slice", "max\n")],
                16_384_000_000,
                "MemTotal",
            ),
            (nested, &[slice], 2_000_000_000, "/system.slice"),
            (
                nested,
                &[slice, ("system.slice/tidemark.service", "512000000\n")],
                512_000_000,
                "/system.slice/tidemark.service",
            ),
            (
                "0::/\n",
                &[("", "64000000\n")],
                64_000_000,
                "control group /",
            ),
            // The first version of control groups alone.
            ("4:memory:/x\n", &[], 16_384_000_000, "MemTotal"),
        ] {
            let root = system(groups, limits);
            let found = room(root.path()).unwrap();
            assert_eq!(found.bytes, bytes, "{groups} {limits:?}");
            assert!(found.whose.contains(whose), "{found:?}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(room(empty.path()), None);
    }

    #[test]
    fn b43_more_memory_than_there_is_is_told_with_both_numbers() {
        let room = Room {
            bytes: 512_000_000,
            whose: "memory.max of control group /".to_owned(),
        };
        assert_eq!(told(Memory(512_000_000), &room), []);
        let told = told(Memory(64_000_000_000), &room);
        assert_eq!(told[0].verdict, Verdict::Warning);
        let found = &told[0].found;
        let numbers = [&bytes(64_000_000_000), &bytes(512_000_000), "memory.max"];
        assert!(numbers.iter().all(|it| found.contains(*it)), "{found}");
    }
}
