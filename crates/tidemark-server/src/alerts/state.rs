//! How an alert moves, as a pure function of what stands, the verdict and the time.

use std::time::Duration;

use tidemark_core::config::AlertRule;

use super::judge::{Verdict, about};
use crate::store::{AlertRow, AlertState, Key, Snooze};

/// So far back it counts how often an alert fired.
const REMEMBERED: Duration = Duration::from_hours(1);
/// What comes and goes is over after so long at the latest, unless its rule says more.
const CALM_MAX: Duration = Duration::from_mins(30);

/// What becomes of an alert.
#[derive(Debug, PartialEq)]
pub(super) struct Next {
    /// As it stands from now on; `None`: not at all.
    pub(super) row: Option<AlertRow>,
    /// Whether people are told.
    pub(super) told: bool,
}

/// What moves, if anything.
pub(super) fn step(
    key: &Key,
    rule: &AlertRule,
    was: Option<&AlertRow>,
    verdict: &Verdict,
    now: i64,
) -> Option<Next> {
    let quiet = |row| Some(Next { row, told: false });
    if let Some(row) = was.filter(|row| has_woken(row, verdict, now)) {
        // Those who were told before its snooze are told again: it was not forgotten.
        let row = AlertRow {
            text: match verdict {
                Verdict::Met(said) => said.text(row.since_us),
                _ => row.text.clone(),
            },
            notify: rule.notify.clone(),
            snooze: None,
            ..row.clone()
        };
        return Some(Next {
            row: Some(row),
            told: true,
        });
    }
    match (verdict, was.map(|row| row.state)) {
        (Verdict::Unknown, _) | (Verdict::Over, None) => None,
        (Verdict::Met(said), None | Some(AlertState::Calm)) => {
            let row = AlertRow {
                key: key.clone(),
                rule: rule.id(),
                when: rule.when.word().to_owned(),
                severity: rule.severity.word().to_owned(),
                state: AlertState::Pending,
                since_us: now,
                fired_us: None,
                over_us: None,
                fires: was.map(|row| recent(row, now)).unwrap_or_default(),
                text: said.text(now),
                notify: Vec::new(),
                snooze: was.and_then(|row| still(row, now)),
            };
            Some(fire(row, rule, now))
        }
        (Verdict::Met(said), Some(AlertState::Pending)) => {
            let mut row = was?.clone();
            row.text = said.text(row.since_us);
            Some(fire(row, rule, now)).filter(|next| next.told)
        }
        (Verdict::Met(_), Some(AlertState::Firing)) => {
            let row = was.filter(|row| row.over_us.is_some())?;
            quiet(Some(AlertRow {
                over_us: None,
                ..row.clone()
            }))
        }
        (Verdict::Over, Some(AlertState::Pending)) => quiet(rests(was?, now)),
        (Verdict::Over, Some(AlertState::Calm)) => {
            let row = was?;
            // Remembered only for how often it fired, and who does not want to hear of it.
            let is_over = recent(row, now).is_empty() && still(row, now).is_none();
            is_over.then_some(Next {
                row: None,
                told: false,
            })
        }
        (Verdict::Over, Some(AlertState::Firing)) => {
            let row = was?;
            let Some(over) = row.over_us else {
                return quiet(Some(AlertRow {
                    over_us: Some(now),
                    ..row.clone()
                }));
            };
            if now - over < us(calm_after(rule, row, now)) {
                return None;
            }
            let lasted = about((over - row.since_us).max(0) as f64 / 1e6);
            let text = format!("✓ {}: {} is over after {lasted}", key.id, row.rule);
            let row = AlertRow {
                state: AlertState::Calm,
                text,
                ..row.clone()
            };
            Some(Next {
                row: Some(row),
                told: true,
            })
        }
    }
}

/// Fires if it has been so for long enough.
fn fire(mut row: AlertRow, rule: &AlertRule, now: i64) -> Next {
    let told = now - row.since_us >= us(rule.hold);
    if told {
        row.state = AlertState::Firing;
        row.fired_us = Some(now);
        row.fires.push(now);
        if !row.is_snoozed(now) {
            row.notify.clone_from(&rule.notify);
        }
    }
    Next {
        row: Some(row),
        told,
    }
}

/// An alert that does not fire, kept while it counts how often it did.
fn rests(row: &AlertRow, now: i64) -> Option<AlertRow> {
    let (fires, snooze) = (recent(row, now), still(row, now));
    (!fires.is_empty() || snooze.is_some()).then(|| AlertRow {
        state: AlertState::Calm,
        fires,
        snooze,
        ..row.clone()
    })
}

/// Its snooze, if that goes on.
fn still(row: &AlertRow, now: i64) -> Option<Snooze> {
    row.snooze.clone().filter(|_| row.is_snoozed(now))
}

/// Whether its snooze has ended, and it fires all the same.
fn has_woken(row: &AlertRow, verdict: &Verdict, now: i64) -> bool {
    let is_so = row.state == AlertState::Firing && *verdict != Verdict::Over;
    is_so && row.snooze.is_some() && !row.is_snoozed(now)
}

/// When it fired within the last hour.
fn recent(row: &AlertRow, now: i64) -> Vec<i64> {
    let fires = row.fires.iter().copied();
    fires.filter(|fired| now - fired < us(REMEMBERED)).collect()
}

/// How long it must be over: twice as long for each time that it fired of late, so that what comes and
/// goes makes a few messages an hour and not hundreds.
pub(super) fn calm_after(rule: &AlertRule, row: &AlertRow, now: i64) -> Duration {
    let fired = recent(row, now).len().saturating_sub(1);
    let doubled = u32::try_from(fired).unwrap_or(u32::MAX).min(16);
    let grown = rule.resolve_after.saturating_mul(1 << doubled);
    grown.min(CALM_MAX.max(rule.resolve_after))
}

fn us(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tidemark_core::config::{AlertSeverity, AlertWhen};

    use super::super::judge::Said;
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn rule(hold: u64) -> AlertRule {
        AlertRule {
            when: AlertWhen::LagSeconds,
            is: Vec::new(),
            above: 60,
            below: Duration::ZERO,
            hold: Duration::from_secs(hold),
            resolve_after: Duration::from_secs(30),
            severity: AlertSeverity::Critical,
            notify: Vec::new(),
        }
    }

    /// What is told, second by second, and how it stands at the end.
    fn told(
        rule: &AlertRule,
        verdicts: &[(Verdict, i64)],
    ) -> (Vec<(i64, AlertState)>, Option<AlertRow>) {
        let (key, mut row, mut now, mut told) = (Key::new("t", "shop"), None, 0, Vec::new());
        for (verdict, seconds) in verdicts {
            for _ in 0..*seconds {
                if let Some(next) = step(&key, rule, row.as_ref(), verdict, now * SECOND) {
                    row = next.row;
                    if next.told {
                        told.push((now, row.as_ref().unwrap().state));
                    }
                }
                now += 1;
            }
        }
        (told, row)
    }

    fn met() -> Verdict {
        Verdict::Met(Said::plain("shop is behind"))
    }

    #[test]
    fn it_fires_once_after_its_time_and_resolves_once() {
        use AlertState::{Calm, Firing};
        let (said, row) = told(&rule(120), &[(met(), 500), (Verdict::Over, 100)]);
        assert_eq!(said, [(120, Firing), (530, Calm)]);
        assert_eq!(row.unwrap().state, Calm);
        let (said, row) = told(&rule(120), &[(met(), 119), (Verdict::Over, 1)]);
        assert!(said.is_empty() && row.is_none(), "{said:?}");
        let (_, row) = told(&rule(0), &[(met(), 1), (Verdict::Over, 4000)]);
        assert!(row.is_none(), "remembered for ever: {row:?}");
    }

    /// Seconds at which people hear of it, and what; somebody snoozes it from the first second on.
    fn heard(verdicts: &[(Verdict, i64)], snooze_s: i64) -> Vec<(i64, AlertState)> {
        let rule = AlertRule {
            notify: vec!["ops".to_owned()],
            ..rule(0)
        };
        let (key, mut row, mut now) = (Key::new("t", "shop"), None::<AlertRow>, 0);
        let mut heard = Vec::new();
        for (verdict, seconds) in verdicts {
            for _ in 0..*seconds {
                if let Some(next) = step(&key, &rule, row.as_ref(), verdict, now * SECOND) {
                    row = next.row;
                    let told = row
                        .as_ref()
                        .filter(|row| next.told && !row.notify.is_empty());
                    heard.extend(told.map(|row| (now, row.state)));
                }
                if now == 1 {
                    row.as_mut().unwrap().snooze = Some(Snooze {
                        until_us: snooze_s * SECOND,
                        by: "ann".to_owned(),
                    });
                }
                now += 1;
            }
        }
        heard
    }

    #[test]
    fn who_snoozes_hears_its_end_or_that_it_goes_on_and_nothing_in_between() {
        use AlertState::{Calm, Firing};
        let over = || Verdict::Over;
        // It is so for longer than the snooze.
        let said = heard(&[(met(), 400), (over(), 100)], 300);
        assert_eq!(said, [(0, Firing), (300, Firing), (430, Calm)]);
        // Who was told that it fires is told that it is over, also meanwhile.
        let said = heard(&[(met(), 100), (over(), 100)], 3000);
        assert_eq!(said, [(0, Firing), (130, Calm)]);
        // What fires anew meanwhile, and is over again, is not told.
        let again = [(met(), 100), (over(), 100), (met(), 100), (over(), 200)];
        assert_eq!(heard(&again, 3000), [(0, Firing), (130, Calm)]);
        // That what is looked at is unknown ends no snooze's end.
        let said = heard(&[(met(), 10), (Verdict::Unknown, 400)], 300);
        assert_eq!(said, [(0, Firing), (300, Firing)]);
        // A snooze is forgotten with the alert.
        let long = [(met(), 10), (over(), 8000), (met(), 10)];
        assert_eq!(heard(&long, 300), [(0, Firing), (40, Calm), (8010, Firing)]);
    }

    #[test]
    fn what_is_unknown_begins_nothing_and_ends_nothing() {
        use AlertState::Firing;
        let (said, row) = told(&rule(0), &[(Verdict::Unknown, 1000)]);
        assert!(said.is_empty() && row.is_none());
        let (said, row) = told(&rule(0), &[(met(), 1), (Verdict::Unknown, 1000)]);
        assert_eq!(said, [(0, Firing)]);
        assert_eq!(row.unwrap().state, Firing);
    }

    #[test]
    fn what_comes_and_goes_is_told_a_few_times_an_hour() {
        let flaps: Vec<(Verdict, i64)> = (0..180)
            .flat_map(|_| [(met(), 20), (Verdict::Over, 40)])
            .collect();
        let (said, _) = told(&rule(0), &flaps);
        let hour = said.iter().filter(|(at, _)| *at < 3600).count();
        assert!((1..=16).contains(&hour), "{hour} in an hour: {said:?}");
        // An hour of it is not forgotten when it is over for good.
        let (said, row) = told(
            &rule(0),
            &[flaps.as_slice(), &[(Verdict::Over, 4000)]].concat(),
        );
        assert_eq!(said.last().unwrap().1, AlertState::Calm);
        assert!(row.is_none_or(|row| row.state == AlertState::Calm));
    }
}
