//! Every value of both sides: before anybody is stopped, to see that it is worth it, and then as the proof.

use std::sync::Arc;

use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::verify::compare::{self, Depth, Outcome};

use super::Cutover;
use crate::output::numbers::counted;
use crate::problem::Failure;
use crate::verbs::verify;

/// What a comparison is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Writers write on: what could not be read for that is compared later.
    Impression,
    /// Nobody writes, and nothing is left out.
    Proof,
}

impl Cutover<'_> {
    /// Every value of both sides.
    pub(super) async fn compared(&self, weight: Weight) -> Result<((), String), Failure> {
        self.undo().held = true;
        let request = compare::Request {
            hold: self.hold,
            progress: Arc::clone(&self.progress),
            ..verify::request(self.opened, &[], Depth::Deep).await?
        };
        let mut compared = None;
        let comparing = async { compared = Some(verify::sides(self.opened, &request).await) };
        let so_far = self.with_report(|report| report.clone());
        let comparing = Box::pin(comparing);
        self.company.waits(comparing, &self.progress, &so_far).await;
        let died = || Error::definite(codes::INTERNAL, "the comparison died");
        let report = compared.ok_or_else(died)??;
        self.undo().held = false;
        let text = judged(&report, weight)?;
        self.with_report(|said| said.rows = Some(report.rows()));
        Ok(((), text))
    }
}

/// What it comes to, or why the cutover ends with it.
fn judged(report: &compare::Report, weight: Weight) -> Result<String, Error> {
    let at = report.position;
    let rows = counted(report.rows(), "row");
    if report.is_identical() {
        return Ok(format!("{rows} identical at {at}"));
    }
    let mut reasons = Vec::new();
    let (mut differs, mut waits) = (false, weight == Weight::Impression);
    for table in &report.tables {
        let name = &table.source;
        match &table.outcome {
            Outcome::Identical => {}
            Outcome::Different => {
                (differs, waits) = (true, false);
                reasons.push(name.to_string());
            }
            Outcome::NotCompared(why) => {
                waits &= table.has_moved();
                reasons.push(format!("{name} (not compared: {why})"));
            }
        }
    }
    let reasons = reasons.join(", ");
    if waits {
        return Ok(format!(
            "{rows} identical at {at}; incomplete: {reasons}. All is compared once nobody writes"
        ));
    }
    let text = format!("{} at {at}: {reasons}", report.word());
    let err = Error::definite(codes::CUTOVER_DIFFERENT, text);
    Err(if differs {
        err
    } else {
        err.first_action("see that the tables named can be read on both sides, then begin again")
    })
}

#[cfg(test)]
mod tests {
    use tidemark_core::position::{Lsn, Position};
    use tidemark_core::schema::TableName;
    use tidemark_core::verify::compare::{Report, TableReport};

    use super::*;

    const MOVED: &str = "emptied or rewritten before it could be read; verify it again";

    fn of(outcomes: &[Outcome]) -> Report {
        let position = Position::PgLsn(Lsn(7));
        let tables = outcomes.iter().zip(["a", "b", "c"]);
        let table = |(outcome, name): (&Outcome, &str)| TableReport {
            source: TableName::new("public", name),
            target: TableName::new("public", name),
            position,
            outcome: outcome.clone(),
            source_rows: 10,
            target_rows: 10,
            different: 0,
            is_counted: true,
            differences: Vec::new(),
        };
        Report {
            position,
            tables: tables.map(table).collect(),
        }
    }

    #[test]
    fn a_table_that_is_emptied_all_the_time_is_said_not_to_be_compared_and_proven_later() {
        let report = of(&[Outcome::Identical, Outcome::NotCompared(MOVED.into())]);
        assert!(report.tables[1].has_moved(), "{report:?}");
        let said = judged(&report, Weight::Impression).unwrap();
        for words in ["10 rows identical", "incomplete: public.b (not compared"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let refused = judged(&report, Weight::Proof).unwrap_err();
        assert_eq!(refused.code(), codes::CUTOVER_DIFFERENT);
        let said = refused.to_string();
        assert!(said.contains("incomplete at 0/7: public.b (not"), "{said}");
    }

    #[test]
    fn what_differs_or_cannot_be_read_at_all_ends_it_before_anybody_is_stopped() {
        let moved = || Outcome::NotCompared(MOVED.into());
        for (outcomes, words) in [
            (vec![moved(), Outcome::Different], "different at 0/7"),
            (vec![Outcome::Different, moved()], "different at 0/7"),
            (
                vec![moved(), Outcome::NotCompared("paused".into())],
                "public.b (not compared: paused)",
            ),
        ] {
            for weight in [Weight::Impression, Weight::Proof] {
                let refused = judged(&of(&outcomes), weight).unwrap_err().to_string();
                assert!(refused.contains(words), "{words} in {refused}");
            }
        }
        let same = of(&[Outcome::Identical, Outcome::Identical]);
        for weight in [Weight::Impression, Weight::Proof] {
            assert_eq!(judged(&same, weight).unwrap(), "20 rows identical at 0/7");
        }
    }
}
