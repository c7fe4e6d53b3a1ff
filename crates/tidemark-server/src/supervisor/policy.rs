//! What becomes of a pipeline whose run has ended with an error: one table.
//!
//! The engine tries again by itself, for ever, whatever goes away by itself. What reaches the
//! supervisor is what needs a person, with two exceptions: a pipeline that somebody else runs at the
//! moment, which may be over soon (a server that was killed leaves its lock for a while), and a side
//! that was lost while the engine was ending. Both are tried again, with growing pauses.

use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind};

/// The first pause and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another run, after a pause.
    Again,
    /// State `failed`, until a person acts.
    Failed,
}

pub(super) fn verdict(err: &Error) -> Verdict {
    let owned = [
        codes::TARGET_OWNED,
        codes::TARGET_FENCED,
        codes::SLOT_ACTIVE,
    ];
    if err.kind() == ErrorKind::Transient || owned.contains(&err.code()) {
        Verdict::Again
    } else {
        Verdict::Failed
    }
}

/// Whether a login was refused. It is tried again seldom, by a look from outside: somebody may be counting.
/// Who has given the role another password, and said it where the definition refers to, does no more.
pub(super) fn is_refused_login(code: &str) -> bool {
    let refused = [codes::SOURCE_AUTHENTICATION, codes::TARGET_AUTHENTICATION];
    refused.iter().any(|refused| refused.to_string() == code)
}

/// How long to wait before the next run, after so many in a row that ended like this.
pub(super) fn pause(attempt: u32) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(attempt.min(16)));
    doubled.min(PAUSE_MAX)
}

/// Whether it is written down that a run ended like so many before it: what stays so is said less and less often.
pub(super) fn is_told(attempt: u32) -> bool {
    attempt.saturating_add(1).is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_over_soon_is_tried_again_and_nothing_else() {
        for (err, expected) in [
            (Error::definite(codes::TARGET_OWNED, "x"), Verdict::Again),
            (Error::definite(codes::TARGET_FENCED, "x"), Verdict::Again),
            (
                Error::transient(codes::SOURCE_UNREACHABLE, "x"),
                Verdict::Again,
            ),
            (Error::definite(codes::SLOT_MISSING, "x"), Verdict::Failed),
            (Error::definite(codes::CONFIG_VALUE, "x"), Verdict::Failed),
            // A defect is looked at before it may do harm twice.
            (Error::definite(codes::INTERNAL, "x"), Verdict::Failed),
            (Error::data(codes::TARGET_VALUE, "x"), Verdict::Failed),
        ] {
            assert_eq!(verdict(&err), expected, "{err:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<Duration> = (0..20).map(pause).collect();
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[19]), (PAUSE_MIN, PAUSE_MAX));
    }

    #[test]
    fn what_stays_so_for_a_day_is_told_a_dozen_times() {
        let a_day = 0..24 * 3600 / u32::try_from(PAUSE_MAX.as_secs()).unwrap();
        let told: Vec<u32> = a_day.filter(|attempt| is_told(*attempt)).collect();
        assert_eq!(told[..3], [0, 1, 3]);
        assert_eq!(told.len(), 12);
    }
}
