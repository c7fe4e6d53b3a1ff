//! A set of transaction ids that stays small: neighbours become one range.
//!
//! A transaction in progress may abort any number of its subtransactions (a savepoint in a loop),
//! and each must be remembered until it commits. Ids of such loops are handed out one after the
//! other, so ranges hold them in a few bytes.

use std::collections::BTreeMap;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct XidSet {
    /// First and last id of each range; ranges neither touch nor overlap.
    ranges: BTreeMap<u32, u32>,
}

impl XidSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn contains(&self, xid: u32) -> bool {
        self.ranges
            .range(..=xid)
            .next_back()
            .is_some_and(|(_, last)| xid <= *last)
    }

    pub(crate) fn insert(&mut self, xid: u32) {
        if self.contains(xid) {
            return;
        }
        let before = xid.checked_sub(1).and_then(|before| {
            let (first, last) = self.ranges.range(..=before).next_back()?;
            (*last == before).then_some(*first)
        });
        let after = xid
            .checked_add(1)
            .and_then(|after| self.ranges.remove(&after));
        self.ranges
            .insert(before.unwrap_or(xid), after.unwrap_or(xid));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one_range() {
        let mut set = XidSet::default();
        for xid in [7, 9, 8, 7, u32::MAX, 0] {
            set.insert(xid);
        }
        assert_eq!(
            set.ranges,
            BTreeMap::from([(0, 0), (7, 9), (u32::MAX, u32::MAX)])
        );
    }

    proptest! {
        #[test]
        fn holds_what_was_put_in(xids in proptest::collection::vec(0_u32..60, 0..60)) {
            let mut set = XidSet::default();
            for xid in &xids {
                set.insert(*xid);
            }
            let expected: HashSet<u32> = xids.into_iter().collect();
            for xid in 0..62 {
                prop_assert_eq!(set.contains(xid), expected.contains(&xid));
            }
            prop_assert_eq!(set.is_empty(), expected.is_empty());
        }
    }
}
