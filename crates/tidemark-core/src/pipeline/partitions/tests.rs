use super::*;
use crate::position::Lsn;
use crate::source::Logged;

fn at(lsn: u64) -> Position {
    Position::PgLsn(Lsn(lsn))
}

fn root() -> TableName {
    TableName::new("public", "m")
}

/// The transaction that gave it its storage has the number of that.
fn partition(id: u32, storage: u32) -> Partition {
    Partition {
        name: TableName::new("public", format!("m_{id}")),
        id,
        storage,
        written_by: storage,
        is_attached: false,
        since: "700".to_owned(),
        logged: Logged::Enough,
    }
}

fn before() -> Vec<Partition> {
    vec![partition(1, 10), partition(2, 20)]
}

fn said_at(partitions: &mut Partitions, position: u64) -> Vec<String> {
    let due = partitions.due_at(at(position), |_| false);
    due.into_iter().map(|doubt| doubt.seen).collect()
}

/// A run that found the target as another has left it.
fn begun(recorded: Option<Vec<Partition>>, now: Vec<Partition>, head: u64) -> Partitions {
    let mut partitions = Partitions::default();
    partitions.take_up(vec![KnownPartitions {
        table: root(),
        partitions: recorded,
        emptied_by: None,
    }]);
    partitions.looked(vec![(root(), now)], at(head));
    partitions
}

fn looked(now: Vec<Partition>) -> Partitions {
    let mut partitions = begun(None, before(), 100);
    assert_eq!(partitions.take_settled(), [(root(), before())]);
    partitions.looked(vec![(root(), now)], at(200));
    partitions
}

#[test]
fn what_stays_and_what_is_made_empty_raises_no_doubt() {
    let now = vec![partition(1, 10), partition(2, 20), partition(3, 3)];
    let mut same = looked(now.clone());
    assert_eq!(said_at(&mut same, 1000), [""; 0]);
    assert_eq!(same.take_settled(), [(root(), now.clone())]);
    same.looked(vec![(root(), now)], at(300));
    assert_eq!(same.take_settled(), [], "nothing is new");
}

#[test]
fn new_storage_is_said_once_the_stream_has_passed_the_look() {
    let now = vec![partition(1, 11), partition(2, 20)];
    let mut emptied = looked(now.clone());
    assert_eq!(said_at(&mut emptied, 199), [""; 0]);
    assert_eq!(emptied.take_settled(), [], "it is in doubt");
    let said = said_at(&mut emptied, 200);
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("public.m_1 of public.m has new storage"),
        "{said:?}"
    );
    assert_eq!(emptied.take_settled(), [(root(), now)]);
    assert_eq!(said_at(&mut emptied, 300), [""; 0], "once");
}

#[test]
fn a_truncate_of_the_whole_table_explains_the_storage_that_it_gave_alone() {
    for (xid, lines) in [(11, 1), (21, 1), (90, 2)] {
        let mut emptied = looked(vec![partition(1, 11), partition(2, 21)]);
        emptied.emptied(root(), xid);
        assert_eq!(said_at(&mut emptied, 200).len(), lines, "{xid}");
    }
    let mut emptied = looked(vec![partition(1, 11), partition(2, 21)]);
    for xid in [11, 21] {
        emptied.emptied(root(), xid);
    }
    assert_eq!(said_at(&mut emptied, 200), [""; 0]);
}

#[test]
fn partitions_that_come_with_rows_or_go_are_said() {
    let mut attached = partition(3, 30);
    attached.is_attached = true;
    let mut moved = looked(vec![partition(2, 20), attached]);
    moved.emptied(root(), 30);
    let said = said_at(&mut moved, 200);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("m_1 of public.m was detached"), "{said:?}");
    assert!(said[1].contains("m_3 of public.m was attached"), "{said:?}");
}

#[test]
fn a_partition_that_went_and_came_again_is_said_whatever_its_storage() {
    for storage in [10, 11] {
        let mut again = partition(1, storage);
        (again.since, again.is_attached) = ("712".to_owned(), true);
        let mut moved = looked(vec![again, partition(2, 20)]);
        moved.emptied(root(), storage);
        let said = said_at(&mut moved, 200);
        let text = "public.m_1 of public.m was detached and attached again";
        assert_eq!(said, [text]);
    }
}

#[test]
fn a_doubt_of_a_table_that_is_busy_waits() {
    let mut emptied = looked(vec![partition(1, 11), partition(2, 20)]);
    assert_eq!(emptied.due_at(at(200), |table| *table == root()), []);
    assert_eq!(said_at(&mut emptied, 200).len(), 1);
}

#[test]
fn what_changed_while_nobody_looked_is_in_doubt_until_it_is_recorded() {
    let now = vec![partition(1, 11), partition(2, 20)];
    let mut run = begun(Some(before()), now.clone(), 200);
    assert_eq!(said_at(&mut run, 200).len(), 1);
    // The commit that says what is done about it never comes: the next attempt begins with the same.
    assert_eq!(run.take_settled(), [(root(), now.clone())]);
    let recorded = |partitions| KnownPartitions {
        table: root(),
        partitions: Some(partitions),
        emptied_by: None,
    };
    run.take_up(vec![recorded(before())]);
    run.looked(vec![(root(), now.clone())], at(300));
    assert_eq!(said_at(&mut run, 300).len(), 1);
    run.take_up(vec![recorded(now.clone())]);
    run.looked(vec![(root(), now)], at(400));
    assert_eq!(said_at(&mut run, 400), [""; 0]);
    assert_eq!(run.take_settled(), []);
}

#[test]
fn an_attempt_that_is_cut_off_forgets_nothing_that_it_has_seen() {
    let recorded = || KnownPartitions {
        table: root(),
        partitions: Some(before()),
        emptied_by: None,
    };
    let there = || vec![(root(), before())];
    // One came, and goes while nobody looks; of another only the log tells.
    let mut attached = partition(3, 30);
    attached.is_attached = true;
    let mut run = looked([before(), vec![attached]].concat());
    run.take_up(vec![recorded()]);
    run.looked(there(), at(300));
    let said = said_at(&mut run, 300);
    assert!(
        said.iter()
            .any(|text| text.contains("m_3 of public.m was detached")),
        "{said:?}"
    );
    let mut run = looked(before());
    run.looked(there(), at(300));
    run.looked(there(), at(400));
    run.written(written(4), at(250));
    run.take_up(vec![recorded()]);
    run.looked(there(), at(500));
    assert_eq!(said_at(&mut run, 500).len(), 1);
}

#[test]
fn a_truncate_that_an_earlier_run_carried_out_explains_what_it_did() {
    let mut run = Partitions::default();
    run.take_up(vec![KnownPartitions {
        table: root(),
        partitions: Some(before()),
        emptied_by: Some(30),
    }]);
    let mut now = vec![partition(1, 30), partition(2, 30)];
    run.looked(vec![(root(), now.clone())], at(100));
    assert_eq!(said_at(&mut run, 100), [""; 0]);
    // One of them is emptied once more, by a transaction of which the log says nothing.
    now[1] = partition(2, 31);
    run.looked(vec![(root(), now)], at(200));
    assert_eq!(said_at(&mut run, 200).len(), 1);
}

#[test]
fn a_load_that_has_seen_new_storage_leaves_no_doubt_of_it() {
    let tidemark = |xmin| Tidemark {
        seen: Seen::PgSnapshot(PgSnapshot {
            xmin,
            xmax: 100,
            xip: Vec::new(),
        }),
        after: at(150),
    };
    for (xmin, lines) in [(11, 1), (12, 0)] {
        let mut rewritten = looked(vec![partition(1, 11), partition(2, 20)]);
        rewritten.loaded(&root(), &tidemark(xmin));
        assert_eq!(said_at(&mut rewritten, 200).len(), lines, "{xmin}");
        // The same where it is looked at after the load.
        let mut rewritten = looked(before());
        rewritten.loaded(&root(), &tidemark(xmin));
        let now = vec![partition(1, 11), partition(2, 20)];
        rewritten.looked(vec![(root(), now.clone())], at(300));
        assert_eq!(said_at(&mut rewritten, 300).len(), lines, "{xmin}");
        assert_eq!(rewritten.take_settled(), [(root(), now)]);
    }
    let mut moved = looked(vec![partition(2, 20)]);
    moved.loaded(&root(), &tidemark(50));
    assert_eq!(said_at(&mut moved, 200).len(), 1, "not of what is gone");
}

#[test]
fn a_table_that_is_away_is_compared_when_it_is_back() {
    let mut renamed = looked(before());
    renamed.looked(Vec::new(), at(300));
    assert_eq!(said_at(&mut renamed, 300), [""; 0]);
    renamed.looked(vec![(root(), vec![partition(2, 20)])], at(400));
    assert_eq!(said_at(&mut renamed, 400).len(), 1);
    // All of its partitions have gone.
    renamed.looked(vec![(root(), Vec::new())], at(500));
    assert_eq!(said_at(&mut renamed, 500).len(), 1);
    assert_eq!(renamed.take_settled(), [(root(), Vec::new())]);
}

#[test]
fn nothing_is_kept_of_a_table_before_the_target_has_a_record_of_it() {
    let mut partitions = Partitions::default();
    partitions.looked(vec![(root(), before())], at(100));
    assert_eq!(partitions.take_settled(), []);
    partitions.comes(root());
    assert_eq!(partitions.take_settled(), [(root(), before())]);
}

#[test]
fn a_partition_that_was_made_and_emptied_between_two_looks_is_said() {
    let mut emptied = looked(vec![partition(1, 10), partition(2, 20), partition(3, 30)]);
    let said = said_at(&mut emptied, 200);
    assert_eq!(said, ["public.m_3 of public.m has new storage"]);
    // One of a table that nobody knew may have been so for long.
    let mut new = Partitions::default();
    new.looked(Vec::new(), at(100));
    new.looked(vec![(root(), vec![partition(3, 30)])], at(200));
    assert_eq!(said_at(&mut new, 200), [""; 0]);
}

fn written(id: u32) -> Written {
    let Partition { name, id, .. } = partition(id, id);
    Written {
        root: root(),
        name,
        id,
    }
}

#[test]
fn a_partition_that_was_made_and_dropped_between_two_looks_is_said_once() {
    let there = || vec![(root(), before())];
    // The stream comes to its rows before the look, and after the next one.
    let mut in_time = looked(before());
    in_time.written(written(3), at(250));
    in_time.looked(there(), at(300));
    assert_eq!(
        said_at(&mut in_time, 300),
        [""; 0],
        "it may not be seen yet"
    );
    in_time.looked(there(), at(400));
    let mut late = looked(before());
    late.looked(there(), at(300));
    late.looked(there(), at(400));
    late.written(written(3), at(250));
    for mut partitions in [in_time, late] {
        assert_eq!(said_at(&mut partitions, 399), [""; 0]);
        partitions.written(written(3), at(260));
        let text = "public.m_3 of public.m was made, and detached or dropped again";
        assert_eq!(said_at(&mut partitions, 400), [text]);
        partitions.looked(there(), at(500));
        assert_eq!(said_at(&mut partitions, 500), [""; 0], "once");
    }
}

#[test]
fn a_partition_that_is_written_to_is_no_doubt_if_a_look_tells_of_it() {
    // It is there; it went and that is said; it is seen by the next look.
    let mut known = looked(vec![partition(1, 10)]);
    for (id, end) in [(1, 90), (2, 90), (3, 195)] {
        known.written(written(id), at(end));
    }
    let said = said_at(&mut known, 200);
    assert_eq!(said, ["public.m_2 of public.m was detached or dropped"]);
    let now = || vec![(root(), vec![partition(1, 10), partition(3, 3)])];
    known.looked(now(), at(300));
    known.looked(now(), at(400));
    assert_eq!(said_at(&mut known, 400), [""; 0]);
}
