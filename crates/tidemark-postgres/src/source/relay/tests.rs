//! What is found after a kill, what may be removed, and what a stream gets to read.

use tempfile::TempDir;

use super::super::frames::tests::keepalive;
use super::reader::{Next, RelayReader};
use super::segment::{Meta, SegmentWriter};
use super::*;

const SLOT: &str = "tidemark_shop";

fn identity(system: &str) -> SourceIdentity {
    SourceIdentity {
        system: system.into(),
        timeline: 1,
        database: "d".into(),
    }
}

/// A segment from one boundary to another; gives its file.
fn write(home: &Path, number: u64, start: u64, end: u64) -> PathBuf {
    let meta = Meta {
        pipeline: "shop".into(),
        slot: SLOT.into(),
        system: "7".into(),
        timeline: 1,
        database: "d".into(),
        start,
    };
    fs::create_dir_all(home).unwrap();
    let path = segment_path(home, number);
    let mut writer = SegmentWriter::create(&path, None, &meta).unwrap();
    writer.append(&keepalive(end)).unwrap();
    writer.make_durable().unwrap();
    path
}

fn relay(directory: &TempDir) -> Arc<Relay> {
    let options = RelayOptions {
        directory: directory.path().to_owned(),
        bytes_max: 1 << 30,
        key: None,
        budget_bytes: 1000,
    };
    Arc::new(Relay::new(options, "shop"))
}

async fn opened(directory: &TempDir) -> Arc<Relay> {
    let relay = relay(directory);
    relay.open(SLOT, &identity("7")).await.unwrap();
    relay
}

fn range(relay: &Relay) -> Option<(u64, u64)> {
    let number = |position| {
        let Position::PgLsn(lsn) = position;
        lsn.0
    };
    let range = relay.relayed().unwrap().range;
    range.map(|(from, to)| (number(from), number(to)))
}

#[tokio::test]
async fn segments_that_hang_together_are_found_again() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("shop");
    // An older time, whose removal was cut short.
    write(&home, 1, 10, 20);
    write(&home, 3, 100, 200);
    write(&home, 4, 200, 300);
    let relay = opened(&directory).await;
    assert_eq!(range(&relay), Some((100, 300)));
    assert!(relay.holds(Lsn(150)) && relay.holds(Lsn(300)));
    assert!(!relay.holds(Lsn(99)) && !relay.holds(Lsn(301)));
}

#[tokio::test]
async fn a_damaged_segment_holds_nothing_past_the_damage() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("shop");
    let first = write(&home, 1, 100, 200);
    write(&home, 2, 200, 300);
    let mut bytes = fs::read(&first).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&first, bytes).unwrap();
    let relay = opened(&directory).await;
    assert_eq!(range(&relay), Some((200, 300)));
    let damage = relay.relayed().unwrap().damage.unwrap();
    assert!(damage.contains("record 1"), "{damage}");
}

/// A disk that is full has room for a name, and not for what belongs into the file.
#[tokio::test]
async fn a_segment_that_was_never_begun_takes_nothing_from_those_before_it() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("shop");
    write(&home, 1, 100, 200);
    fs::write(segment_path(&home, 2), b"TIDE").unwrap();
    let relay = opened(&directory).await;
    assert_eq!(range(&relay), Some((100, 200)));
    // Nor from one that was begun in its place.
    drop(relay);
    write(&home, 3, 200, 300);
    let relay = opened(&directory).await;
    assert_eq!(range(&relay), Some((100, 300)));
}

#[tokio::test]
async fn a_relay_log_of_another_source_is_none() {
    let directory = TempDir::new().unwrap();
    write(&directory.path().join("shop"), 1, 100, 200);
    let relay = relay(&directory);
    relay.open(SLOT, &identity("8")).await.unwrap();
    assert_eq!(range(&relay), None);
    assert!(
        relay
            .relayed()
            .unwrap()
            .damage
            .unwrap()
            .contains("another source")
    );
}

#[tokio::test]
async fn one_process_at_a_time_uses_a_directory() {
    let directory = TempDir::new().unwrap();
    let first = opened(&directory).await;
    let second = relay(&directory);
    let refused = second.open(SLOT, &identity("7")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.kind()),
        (codes::RELAY_FAILED, ErrorKind::Transient)
    );
    let id = first.relayed().unwrap().id;
    drop(first);
    second.open(SLOT, &identity("7")).await.unwrap();
    assert_eq!(
        second.relayed().unwrap().id,
        id,
        "the directory is the same"
    );
}

#[tokio::test]
async fn a_stream_reads_from_the_segment_that_holds_its_position_to_the_end() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("shop");
    for (number, start) in [(1, 100), (2, 200), (3, 300)] {
        write(&home, number, start, start + 100);
    }
    let relay = opened(&directory).await;
    let mut reader = RelayReader::new(Arc::clone(&relay), Lsn(250));
    let mut read = Vec::new();
    loop {
        match reader.next().await.unwrap() {
            Next::Segment(start) => read.push(start.0),
            Next::Frames(frames) => assert_eq!(frames, keepalive(read.last().unwrap() + 100)),
            Next::End(end) => {
                read.push(end.0);
                break;
            }
        }
    }
    assert_eq!(read, [200, 300, 400]);
    // The target has all of it before the stream has asked for the end.
    relay.acknowledge(Lsn(400));
    assert!(matches!(reader.next().await.unwrap(), Next::End(Lsn(400))));
    let missing = RelayReader::new(relay, Lsn(50)).next().await.unwrap_err();
    assert_eq!(missing.code(), codes::RELAY_LOST);
}

#[tokio::test]
async fn damage_that_comes_later_ends_the_stream() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory.path().join("shop"), 1, 100, 200);
    let relay = opened(&directory).await;
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut reader = RelayReader::new(relay, Lsn(100));
    assert!(matches!(
        reader.next().await.unwrap(),
        Next::Segment(Lsn(100))
    ));
    let damaged = reader.next().await.unwrap_err();
    assert_eq!(
        (damaged.code(), damaged.kind()),
        (codes::RELAY_LOST, ErrorKind::Definite)
    );
}

#[tokio::test]
async fn what_the_target_has_is_removed_but_for_what_is_written() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("shop");
    for (number, start) in [(1, 100), (2, 200), (3, 300)] {
        write(&home, number, start, start + 100);
    }
    let relay = opened(&directory).await;
    relay.kept.send_modify(|kept| kept.writer = Writer::Running);
    for (acknowledged, left) in [
        (199, Some((100, 400))),
        (200, Some((200, 400))),
        (500, Some((300, 400))),
    ] {
        relay.acknowledge(Lsn(acknowledged));
        assert_eq!(range(&relay), left, "{acknowledged}");
    }
    relay.kept.send_modify(|kept| kept.writer = Writer::None);
    relay.acknowledge(Lsn(399));
    assert_eq!(range(&relay), Some((300, 400)));
    relay.discard();
    assert_eq!(range(&relay), None);
    let mut tasks = std::mem::take(&mut *lock(&relay.tasks));
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(segment_files(&home).unwrap(), []);
}

#[tokio::test]
async fn it_begins_at_half_the_budget_and_only_where_it_helps() {
    let directory = TempDir::new().unwrap();
    let relay = opened(&directory).await;
    let at = |confirmed| Slot {
        name: SLOT.into(),
        database: "d".into(),
        foreign: None,
        holder: None,
        confirmed: Position::PgLsn(Lsn(confirmed)),
        restart: Position::PgLsn(Lsn(0)),
        retained_bytes: 600,
        safe_bytes: None,
        wal_status: "reserved".into(),
        lost: None,
    };
    assert!(
        !relay.is_due(&at(100), Lsn(600)),
        "the target does not know"
    );
    relay.permit();
    assert!(relay.is_due(&at(100), Lsn(600)));
    // Another transaction keeps the log: nothing is gained by acknowledging it.
    assert!(!relay.is_due(&at(500), Lsn(600)));
    let little = Slot {
        retained_bytes: 499,
        ..at(100)
    };
    assert!(!relay.is_due(&little, Lsn(600)));
    relay.kept.send_modify(|kept| kept.writer = Writer::Running);
    assert!(!relay.is_due(&at(100), Lsn(600)), "it runs");
}
