//! Partitions that change as a whole, of which the log of the table that they belong to says nothing.
//!
//! PostgreSQL announces changes under the partitioned table's own name, and then not that one partition
//! is emptied (`pgoutput_truncate`, PostgreSQL 15); and no log tells that a partition with rows in it is
//! attached, detached or dropped. So the catalog is compared with what it was at the last look: which
//! partitions there are, and since when each belongs to the table, for one may have gone and come again
//! with other rows in between; and a partition that was emptied has new storage. It has that as well after
//! `VACUUM FULL` or a rewrite, and after a TRUNCATE of the whole table, which the log does bring. So new
//! storage is a doubt until the stream has passed the look, and is dropped if such a TRUNCATE came by. Of
//! what is left only a comparison of the rows can tell. Where everything is to be followed both sides are
//! compared and brought to be the same; else it is said, since rows that go with a partition may be wanted on
//! the target.

use crate::position::Position;
use crate::schema::TableName;
use crate::source::Partition;

/// What is known of the partitions of a run's tables.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// At the last look.
    known: Option<Known>,
    doubts: Vec<Doubt>,
    /// Whole tables that the log emptied, and where.
    truncates: Vec<(TableName, Position)>,
    /// Partitions that rows came from, and where the transaction ended, until a look has told of them.
    written: Vec<(Written, Position)>,
    /// Those that looks have missed, until the stream has passed the look: by their numbers.
    gone: Vec<(u32, Position)>,
}

/// A partition that the log has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) root: TableName,
    pub(super) name: TableName,
    /// The source's number for it.
    pub(super) id: u32,
}

/// What a look found.
#[derive(Debug)]
struct Known {
    partitions: Vec<Partition>,
    /// Where the log ended after the look before.
    from: Option<Position>,
    /// Where it ended after this one.
    to: Position,
}

impl Known {
    fn has(&self, id: u32) -> bool {
        self.partitions.iter().any(|partition| partition.id == id)
    }
}

/// A change that may have left the target behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) root: TableName,
    kind: Kind,
    /// What was seen, of which partition.
    pub(super) seen: String,
    /// What it means for the target's rows as long as nobody compares them.
    pub(super) effect: &'static str,
    /// Between these ends of the log.
    from: Position,
    to: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Storage,
    Membership,
}

impl Partitions {
    /// Whether nobody has looked yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.known.is_none()
    }

    /// The catalog was looked at, and the log ended at `to` after that.
    pub(super) fn looked(&mut self, now: Vec<Partition>, to: Position) {
        let from = self.known.as_ref().map(|before| before.to);
        let before = self.known.replace(Known {
            partitions: now,
            from,
            to,
        });
        let (Some(before), Some(now)) = (before, &self.known) else {
            return;
        };
        let doubt = |(partition, kind, seen, effect): Difference<'_>| Doubt {
            root: partition.root.clone(),
            kind,
            seen: format!("{} of {} {seen}", partition.name, partition.root),
            effect,
            from: before.to,
            to,
        };
        let found = differences(&before.partitions, &now.partitions);
        self.doubts.extend(found.into_iter().map(doubt));
        let missed = before.partitions.iter().filter(|old| !now.has(old.id));
        self.gone.extend(missed.map(|old| (old.id, to)));
        let oldest = self.doubts.iter().map(|doubt| doubt.from).fold(to, min);
        self.truncates.retain(|(_, at)| *at >= oldest);
        for (partition, at) in std::mem::take(&mut self.written) {
            self.written(partition, at);
        }
    }

    /// Rows of a partition came, in a transaction that ended at `at`. The stream may be behind looks.
    pub(super) fn written(&mut self, partition: Written, at: Position) {
        let Some(known) = &self.known else {
            return;
        };
        let is_told =
            known.has(partition.id) || self.gone.iter().any(|(id, _)| *id == partition.id);
        if is_told {
            return;
        }
        if known.from.is_none_or(|from| from < at) {
            self.written.push((partition, at));
            return;
        }
        let Written { root, name, id } = partition;
        self.gone.push((id, known.to));
        self.doubts.push(Doubt {
            kind: Kind::Membership,
            seen: format!("{name} of {root} was made, and detached or dropped again"),
            effect: KEEPS_ITS_ROWS,
            from: at,
            to: known.to,
            root,
        });
    }

    /// The log emptied a whole table.
    pub(super) fn truncated(&mut self, table: TableName, at: Position) {
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.partitions.iter().any(|p| p.root == table))
        {
            self.truncates.push((table, at));
        }
    }

    /// What is to be looked into once everything before `position` was taken in, but for tables that are
    /// `busy` now.
    pub(super) fn due_at(
        &mut self,
        position: Position,
        is_busy: impl Fn(&TableName) -> bool,
    ) -> Vec<Doubt> {
        // No row of before comes any more.
        self.gone.retain(|(_, to)| position < *to);
        let truncates = &self.truncates;
        let is_explained = |doubt: &Doubt| {
            doubt.kind == Kind::Storage
                && truncates
                    .iter()
                    .any(|(table, at)| *table == doubt.root && (doubt.from..=doubt.to).contains(at))
        };
        let is_due = |doubt: &mut Doubt| doubt.to <= position && !is_busy(&doubt.root);
        let due = self.doubts.extract_if(.., is_due);
        due.filter(|doubt| !is_explained(doubt)).collect()
    }
}

fn min(a: Position, b: Position) -> Position {
    if b < a { b } else { a }
}

/// What it means that a partition has gone.
const KEEPS_ITS_ROWS: &str = "the target keeps the rows that it had";

/// A partition, what was seen of it, and what it means.
type Difference<'a> = (&'a Partition, Kind, &'static str, &'static str);

fn differences<'a>(before: &'a [Partition], now: &'a [Partition]) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    for old in before {
        match now
            .iter()
            .find(|new| new.id == old.id && new.root == old.root)
        {
            None => found.push((
                old,
                Kind::Membership,
                "was detached or dropped",
                KEEPS_ITS_ROWS,
            )),
            Some(new) if new.since != old.since => found.push((
                new,
                Kind::Membership,
                "was detached and attached again",
                "the target has not what was done to it meanwhile",
            )),
            Some(new) if new.storage != old.storage => found.push(has_new_storage(new)),
            Some(_) => {}
        }
    }
    let is_known = |new: &Partition| before.iter().any(|p| p.id == new.id && p.root == new.root);
    for new in now.iter().filter(|new| !is_known(new)) {
        if new.is_attached {
            found.push((
                new,
                Kind::Membership,
                "was attached",
                "the target does not have the rows that it brought",
            ));
        } else if has_lost_its_first_storage(new) && before.iter().any(|p| p.root == new.root) {
            found.push(has_new_storage(new));
        }
    }
    found
}

fn has_new_storage(partition: &Partition) -> Difference<'_> {
    (
        partition,
        Kind::Storage,
        "has new storage",
        "if it was emptied by TRUNCATE, or unlogged for a while (and not by VACUUM FULL or a rewrite made \
         smaller), the target has not the rows that it has",
    )
}

/// Whether a table's rows are elsewhere than where they were first: its number is that of its first file
/// (`heap_create`, PostgreSQL 15). One without files of its own has 0.
fn has_lost_its_first_storage(partition: &Partition) -> bool {
    partition.storage != 0 && partition.storage != partition.id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;
    use crate::source::Logged;

    fn at(lsn: u64) -> Position {
        Position::PgLsn(Lsn(lsn))
    }

    fn root() -> TableName {
        TableName::new("public", "m")
    }

    fn partition(id: u32, storage: u32) -> Partition {
        Partition {
            root: root(),
            name: TableName::new("public", format!("m_{id}")),
            id,
            storage,
            is_attached: false,
            since: "700".to_owned(),
            logged: Logged::Enough,
        }
    }

    fn said_at(partitions: &mut Partitions, position: u64) -> Vec<String> {
        let due = partitions.due_at(at(position), |_| false);
        due.into_iter().map(|doubt| doubt.seen).collect()
    }

    fn looked(now: Vec<Partition>) -> Partitions {
        let mut partitions = Partitions::default();
        partitions.looked(vec![partition(1, 10), partition(2, 20)], at(100));
        partitions.looked(now, at(200));
        partitions
    }

    #[test]
    fn what_stays_and_what_is_made_empty_raises_no_doubt() {
        let mut same = looked(vec![partition(1, 10), partition(2, 20), partition(3, 3)]);
        assert_eq!(said_at(&mut same, 1000), [""; 0]);
    }

    #[test]
    fn new_storage_is_said_once_the_stream_has_passed_the_look() {
        let mut emptied = looked(vec![partition(1, 11), partition(2, 20)]);
        assert_eq!(said_at(&mut emptied, 199), [""; 0]);
        let said = said_at(&mut emptied, 200);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("public.m_1 of public.m has new storage"),
            "{said:?}"
        );
        assert_eq!(said_at(&mut emptied, 300), [""; 0], "once");
    }

    #[test]
    fn a_truncate_of_the_whole_table_explains_new_storage_of_its_time_alone() {
        for (truncated, lines) in [(150, 0), (90, 2), (250, 2)] {
            let mut emptied = looked(vec![partition(1, 11), partition(2, 21)]);
            emptied.truncated(root(), at(truncated));
            assert_eq!(said_at(&mut emptied, 200).len(), lines, "{truncated}");
        }
    }

    #[test]
    fn partitions_that_come_with_rows_or_go_are_said() {
        let mut attached = partition(3, 30);
        attached.is_attached = true;
        let mut moved = looked(vec![partition(2, 20), attached]);
        moved.truncated(root(), at(150));
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
            moved.truncated(root(), at(150));
            let said = said_at(&mut moved, 200);
            let text = "public.m_1 of public.m was detached and attached again";
            assert_eq!(said, [text]);
        }
    }

    #[test]
    fn a_partition_that_was_made_and_emptied_between_two_looks_is_said() {
        let mut emptied = looked(vec![partition(1, 10), partition(2, 20), partition(3, 30)]);
        let said = said_at(&mut emptied, 200);
        assert_eq!(said, ["public.m_3 of public.m has new storage"]);
        // One of a table that nobody knew may have been so for long.
        let mut new = Partitions::default();
        new.looked(Vec::new(), at(100));
        new.looked(vec![partition(3, 30)], at(200));
        assert_eq!(said_at(&mut new, 200), [""; 0]);
    }

    fn written(id: u32) -> Written {
        let Partition { root, name, id, .. } = partition(id, id);
        Written { root, name, id }
    }

    #[test]
    fn a_partition_that_was_made_and_dropped_between_two_looks_is_said_once() {
        let there = || vec![partition(1, 10), partition(2, 20)];
        // The stream comes to its rows before the look, and after the next one.
        let mut in_time = looked(there());
        in_time.written(written(3), at(250));
        in_time.looked(there(), at(300));
        assert_eq!(
            said_at(&mut in_time, 300),
            [""; 0],
            "it may not be seen yet"
        );
        in_time.looked(there(), at(400));
        let mut late = looked(there());
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
        let now = || vec![partition(1, 10), partition(3, 3)];
        known.looked(now(), at(300));
        known.looked(now(), at(400));
        assert_eq!(said_at(&mut known, 400), [""; 0]);
    }

    #[test]
    fn a_doubt_of_a_table_that_is_busy_waits() {
        let mut emptied = looked(vec![partition(1, 11), partition(2, 20)]);
        assert_eq!(emptied.due_at(at(200), |table| *table == root()), []);
        assert_eq!(said_at(&mut emptied, 200).len(), 1);
    }
}
