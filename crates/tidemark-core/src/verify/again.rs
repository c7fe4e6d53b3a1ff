//! A comparison that failed beside a pipeline that goes on: whether, and when, it is begun again.

use std::time::Duration;

use crate::catalogue::codes;
use crate::error::{Error, ErrorKind};

/// The first pause and the longest: a comparison reads both sides as a whole.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_mins(30);
/// When one is tried again that would only fail again: unless somebody has mended it meanwhile.
pub const SELDOM: Duration = PAUSE_MAX;
/// The longest where a right is waited for: what lacks it fails before it has read anything.
const RIGHT_PAUSE_MAX: Duration = Duration::from_mins(1);

/// How long to wait after so many in a row that failed; `None` where it would only fail again. What goes
/// away by itself is waited for, and a right that the role lacks, as the stream waits for it.
pub fn pause(err: &Error, attempt: u32) -> Option<Duration> {
    let longest = if err.is_taken_away() {
        RIGHT_PAUSE_MAX
    } else if err.kind() == ErrorKind::Transient || err.code() == codes::VERIFY_NO_HOLD {
        PAUSE_MAX
    } else {
        return None;
    };
    let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(attempt));
    Some(doubled.min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_away_and_what_may_be_granted_is_waited_for_and_nothing_else() {
        let pauses = |err: &Error| -> Vec<_> { (0..40).map(|n| pause(err, n)).collect() };
        for (err, longest) in [
            (Error::transient(codes::SOURCE_UNREACHABLE, "x"), PAUSE_MAX),
            (Error::definite(codes::VERIFY_NO_HOLD, "x"), PAUSE_MAX),
            (
                Error::definite(codes::SOURCE_PERMISSION, "x"),
                RIGHT_PAUSE_MAX,
            ),
            (
                Error::definite(codes::SOURCE_NO_REPLICATION, "x"),
                RIGHT_PAUSE_MAX,
            ),
            (
                Error::definite(codes::TARGET_PERMISSION, "x"),
                RIGHT_PAUSE_MAX,
            ),
            (
                Error::definite(codes::TARGET_NO_DATABASE, "x"),
                RIGHT_PAUSE_MAX,
            ),
            (
                Error::definite(codes::SOURCE_TLS_EXPIRED, "x"),
                RIGHT_PAUSE_MAX,
            ),
        ] {
            let pauses = pauses(&err);
            assert!(pauses.is_sorted(), "{err:?}");
            assert_eq!(
                (pauses[0], pauses[39]),
                (Some(PAUSE_MIN), Some(longest)),
                "{err:?}"
            );
        }
        // A login that is refused is not tried again: somebody may be counting.
        for code in [
            codes::SOURCE_AUTHENTICATION,
            codes::CONFIG_VALUE,
            codes::INTERNAL,
        ] {
            assert_eq!(pause(&Error::definite(code, "x"), 0), None);
        }
    }
}
