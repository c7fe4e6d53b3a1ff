//! When something is due, on the days on which clocks jump too.

use super::*;

fn schedule(text: &str, zone_name: &str) -> Schedule {
    Schedule::new(
        text,
        parse_due(text).unwrap(),
        zone(zone_name).unwrap(),
        Overlap::Skip,
        Missed::RunOnce,
    )
}

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_microsecond()
}

fn shown(schedule: &Schedule, after: &str, count: usize) -> Vec<String> {
    let times = schedule.next(at(after), count);
    times.iter().map(|time| schedule.show(*time)).collect()
}

/// Schedule, zone, behind what, and the next times as the zone's clock shows them.
const NEXT: &[(&str, &str, &str, &[&str])] = &[
    // Berlin goes from 02:00 to 03:00 on 29 March 2026, and from 03:00 to 02:00 on 25 October.
    (
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T00:00:00+01:00",
        &[
            "2026-03-28T02:30:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-30T02:30:00+02:00",
        ],
    ),
    // Three times that are left out are one run at the jump.
    (
        "0,20,40 2 * * *",
        "Europe/Berlin",
        "2026-03-29T00:00:00+01:00",
        &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"],
    ),
    (
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-25T00:00:00+02:00",
        &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
    ),
    // Asked between the two: the second is not another run.
    (
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-25T02:30:00+02:00",
        &["2026-10-26T02:30:00+01:00"],
    ),
    (
        "hourly",
        "Europe/Berlin",
        "2026-03-29T00:30:00+01:00",
        &[
            "2026-03-29T01:00:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T04:00:00+02:00",
        ],
    ),
    (
        "hourly",
        "Europe/Berlin",
        "2026-10-25T01:30:00+02:00",
        &[
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ],
    ),
    (
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-03-29T00:00:00+01:00",
        &["2026-03-30T02:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    ),
    (
        "daily",
        "Europe/Berlin",
        "2026-03-28T12:00:00+01:00",
        &[
            "2026-03-29T00:00:00+01:00",
            "2026-03-30T00:00:00+02:00",
            "2026-03-31T00:00:00+02:00",
        ],
    ),
    // Lord Howe jumps by half an hour: 02:00 to 02:30 on 4 October 2026, 02:00 to 01:30 on 5 April.
    (
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00+10:30",
        &[
            "2026-10-03T02:15:00+10:30",
            "2026-10-04T02:30:00+11:00",
            "2026-10-05T02:15:00+11:00",
        ],
    ),
    (
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T12:00:00+11:00",
        &["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
    ),
    (
        "45 * * * *",
        "Australia/Lord_Howe",
        "2026-04-05T01:00:00+11:00",
        &[
            "2026-04-05T01:45:00+11:00",
            "2026-04-05T01:45:00+10:30",
            "2026-04-05T02:45:00+10:30",
        ],
    ),
    // Cairo leaves midnight itself out on 24 April 2026, and shows 23:00 twice on 29 October.
    (
        "daily",
        "Africa/Cairo",
        "2026-04-23T12:00:00+02:00",
        &["2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"],
    ),
    (
        "30 23 * * *",
        "Africa/Cairo",
        "2026-10-29T12:00:00+03:00",
        &["2026-10-29T23:30:00+03:00", "2026-10-30T23:30:00+02:00"],
    ),
    (
        "daily",
        "UTC",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T00:00:00+00:00", "2026-03-30T00:00:00+00:00"],
    ),
    // A time at which it is due is not behind itself.
    (
        "0 2 * * *",
        "UTC",
        "2026-03-29T02:00:00Z",
        &["2026-03-30T02:00:00+00:00"],
    ),
    (
        "every 6h",
        "UTC",
        "2026-03-28T23:00:00Z",
        &["2026-03-29T00:00:00+00:00", "2026-03-29T06:00:00+00:00"],
    ),
    (
        "every 2s",
        "UTC",
        "2026-03-28T23:59:57Z",
        &["2026-03-28T23:59:58+00:00", "2026-03-29T00:00:00+00:00"],
    ),
    // Days: the end of February, one weekday of a leap day, and a day or a weekday.
    (
        "0 0 29 2 *",
        "UTC",
        "2097-01-01T00:00:00Z",
        &["2104-02-29T00:00:00+00:00"],
    ),
    (
        "0 0 29 2 */7",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2032-02-29T00:00:00+00:00"],
    ),
    (
        "0 0 13 * fri",
        "UTC",
        "2026-11-10T00:00:00Z",
        &[
            "2026-11-13T00:00:00+00:00",
            "2026-11-20T00:00:00+00:00",
            "2026-11-27T00:00:00+00:00",
            "2026-12-04T00:00:00+00:00",
            "2026-12-11T00:00:00+00:00",
            "2026-12-13T00:00:00+00:00",
        ],
    ),
    (
        "30 9-17/4 * JAN,dec 1-5",
        "UTC",
        "2026-12-31T12:00:00Z",
        &[
            "2026-12-31T13:30:00+00:00",
            "2026-12-31T17:30:00+00:00",
            "2027-01-01T09:30:00+00:00",
            "2027-01-01T13:30:00+00:00",
            "2027-01-01T17:30:00+00:00",
            "2027-01-04T09:30:00+00:00",
        ],
    ),
    (
        "0 12 * * 7",
        "UTC",
        "2026-11-29T13:00:00Z",
        &["2026-12-06T12:00:00+00:00"],
    ),
];

#[test]
fn f60_the_next_times_are_right_on_days_on_which_clocks_jump() {
    for (text, zone, after, expected) in NEXT {
        let schedule = schedule(text, zone);
        let found = shown(&schedule, after, expected.len());
        assert_eq!(found, *expected, "{text} {zone} behind {after}");
    }
}

/// Forwards and backwards tell the same times, over two years, in zones that jump each in their way.
#[test]
fn f60_the_last_time_is_the_one_before_the_next() {
    for zone in [
        "UTC",
        "Europe/Berlin",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Africa/Casablanca",
        "Asia/Kathmandu",
    ] {
        for text in [
            "30 2 * * *",
            "hourly",
            "*/20 1-3 * * *",
            "0 0 1 * *",
            "every 7h",
        ] {
            let schedule = schedule(text, zone);
            let times = schedule.next(at("2026-01-15T00:00:00Z"), 800);
            assert!(times.is_sorted_by(|a, b| a < b), "{text} {zone}");
            for pair in times.windows(2).filter(|pair| is_near_a_jump(pair[0])) {
                assert_eq!(schedule.last(pair[1] - 1), Some(pair[0]), "{text} {zone}");
                assert_eq!(schedule.last(pair[1]), Some(pair[1]), "{text} {zone}");
                assert_eq!(schedule.next(pair[0], 1), [pair[1]], "{text} {zone}");
            }
        }
    }
}

/// Spring and autumn; the rest of the year is the same everywhere.
fn is_near_a_jump(time: i64) -> bool {
    let month = Timestamp::from_microsecond(time).unwrap();
    let month = TimeZone::UTC.to_datetime(month).date();
    matches!(
        (month.month(), month.day()),
        (3, 25..) | (4, ..=7) | (10, ..=5 | 22..)
    )
}

#[test]
fn a_zone_that_is_none_is_told_with_one_that_is() {
    assert_eq!(
        zone("europe/berlin").unwrap().iana_name(),
        Some("Europe/Berlin")
    );
    for (name, near) in [
        ("Berlin", Some("Europe/Berlin")),
        ("Europe/Berln", Some("Europe/Berlin")),
        ("Mars/Phobos", None),
        ("", None),
    ] {
        assert_eq!(zone(name).unwrap_err().as_deref(), near, "{name}");
    }
    assert_eq!(schedule("daily", "UTC").zone(), Some("UTC"));
    assert_eq!(schedule("every 6h", "UTC").zone(), None);
}
