//! How long a table is applied row by row after sets went wrong for it.
//!
//! A set that meets a unique violation costs a rollback and a replay. Some tables do that all the
//! time (values that move between rows under a unique constraint, a second writer), so after a
//! failure the next stretches go the slow way at once; twice as many after each further failure,
//! and none any more after a clean pass.

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caution {
    left: u32,
    last: u32,
}

const LENGTH_FIRST: u32 = 4;
const LENGTH_MAX: u32 = 1024;

impl Caution {
    /// Whether the next stretch goes row by row.
    pub(super) fn is_due(self) -> bool {
        self.left > 0
    }

    /// A set failed.
    pub(super) fn raise(&mut self) {
        self.last = (self.last * 2).clamp(LENGTH_FIRST, LENGTH_MAX);
        self.left = self.last;
    }

    /// A stretch went well.
    pub(super) fn lower(&mut self) {
        if self.left > 0 {
            self.left -= 1;
        } else {
            self.last = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches_until_trust(caution: &mut Caution) -> u32 {
        let mut count = 0;
        while caution.is_due() {
            caution.lower();
            count += 1;
        }
        count
    }

    #[test]
    fn caution_grows_with_repeated_failure_and_is_forgotten_after_success() {
        let mut caution = Caution::default();
        assert!(!caution.is_due());
        caution.raise();
        assert_eq!(stretches_until_trust(&mut caution), 4);
        caution.raise();
        assert_eq!(stretches_until_trust(&mut caution), 8);
        caution.lower();
        caution.raise();
        assert_eq!(stretches_until_trust(&mut caution), 4);
        for _ in 0..40 {
            caution.raise();
        }
        assert_eq!(stretches_until_trust(&mut caution), LENGTH_MAX);
    }
}
