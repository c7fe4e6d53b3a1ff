//! What a reconcile found and moved: for a person, for a program, and as a server tells it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemark_core::position::Position;
use tidemark_core::status::{Reconciled, Status, TableStatusState};
use tidemark_core::verify::compare::{self, Outcome as Compared, Request};
use tidemark_core::verify::difference::DifferenceKind;

use crate::invocation::Invocation;
use crate::output::numbers::{bytes, counted, duration, grouped};
use crate::output::style::Tone;
use crate::output::table::{Cell, Column, Table};
use crate::output::{Answer, Verdict};

/// See the module's text.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(super) pipeline: String,
    pub(super) lsn: Option<Position>,
    pub(super) dry_run: bool,
    pub(super) tables: Vec<Line>,
    pub(super) seconds: f64,
}

/// One table of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) source: String,
    pub(super) target: String,
    /// Where it was brought to the source, and not only compared.
    pub(super) state: Option<TableStatusState>,
    pub(super) reason: Option<String>,
    pub(super) reconciled: Option<Reconciled>,
    /// The run was stopped before anything was found.
    #[serde(skip)]
    pub(super) is_cut_off: bool,
}

impl Line {
    /// Whether something is left to do.
    fn is_wanting(&self) -> bool {
        let is_aside = matches!(
            self.state,
            Some(
                TableStatusState::Quarantined
                    | TableStatusState::Resyncing
                    | TableStatusState::Paused
            )
        );
        is_aside || self.is_cut_off
    }
}

/// The tables that were asked for, as a status has them.
pub(super) fn lines(status: &Status, request: &Request) -> Vec<Line> {
    let line = |mapping: &std::sync::Arc<tidemark_core::mapping::TableMapping>| {
        let name = mapping.source().to_string();
        let known = status.tables.iter().find(|table| table.source == name);
        Line {
            source: name,
            target: mapping.target.to_string(),
            reconciled: known.and_then(|table| table.reconciled.clone()),
            state: known.map(|table| table.state),
            reason: known.and_then(|table| table.reason.clone()),
            is_cut_off: false,
        }
    };
    request.tables.iter().map(line).collect()
}

impl Report {
    /// Of a comparison that changed nothing.
    pub(super) fn of_comparison(
        pipeline: &str,
        compared: compare::Report,
        took: Duration,
    ) -> Report {
        Report {
            pipeline: pipeline.to_owned(),
            lsn: Some(compared.position),
            dry_run: true,
            tables: compared.tables.into_iter().map(compared_line).collect(),
            seconds: took.as_secs_f64(),
        }
    }

    pub(super) fn answer(&self, invocation: &Invocation, word: &str) -> Answer {
        if self.dry_run {
            self.what_differs(invocation, word)
        } else {
            self.what_was_moved(invocation)
        }
    }

    fn what_differs(&self, invocation: &Invocation, word: &str) -> Answer {
        let differs = self.tables.iter().any(|line| !line.is_equal());
        let (glyph, said, verdict) = if differs {
            ("✗", "both sides differ", Verdict::Negative)
        } else {
            ("✓", "nothing differs", Verdict::Positive)
        };
        let mut text = vec![format!(
            "{glyph} {said}{} ({}); nothing was changed",
            self.place(),
            self.time()
        )];
        text.extend(self.table_lines(invocation));
        let answer = Answer::new(text.join("\n"), self).verdict(verdict);
        if !differs {
            return answer;
        }
        answer.notice(format!(
            "bring the target to the source: tidemark reconcile {word}"
        ))
    }

    fn what_was_moved(&self, invocation: &Invocation) -> Answer {
        let wanting = self.tables.iter().filter(|line| line.is_wanting()).count() as u64;
        let style = invocation.talk.out;
        let found = || {
            self.tables
                .iter()
                .filter_map(|line| line.reconciled.as_ref())
        };
        let rows: u64 = found().map(|found| found.rows_moved).sum();
        let moved: u64 = found().map(|found| found.bytes_moved).sum();
        let compared: u64 = found().map(|found| found.source_rows).sum();
        let (at, name, time) = (self.place(), &self.pipeline, self.time());
        let head = if wanting == 0 {
            format!(
                "{} {name} reconciled{at} in {time}: {} compared, {} copied ({})",
                style.paint(Tone::Good, "✓"),
                counted(compared, "row"),
                counted(rows, "row"),
                bytes(moved),
            )
        } else {
            format!(
                "{} {} of {name} not reconciled yet{at}, after {time}",
                style.paint(Tone::Bad, "✗"),
                counted(wanting, "table"),
            )
        };
        let mut text = vec![head];
        text.extend(self.table_lines(invocation));
        let answer = Answer::new(text.join("\n"), self);
        if wanting == 0 {
            answer
        } else {
            answer.verdict(Verdict::Negative)
        }
    }

    fn place(&self) -> String {
        self.lsn
            .map_or_else(String::new, |position| format!(" at {position}"))
    }

    fn time(&self) -> String {
        duration(Duration::from_secs_f64(self.seconds.max(0.0)))
    }

    fn table_lines(&self, invocation: &Invocation) -> Vec<String> {
        let mut shown = Table::new([
            (Column::Name, "TABLE"),
            (Column::Name, "→ TARGET"),
            (Column::Right, "MISSING"),
            (Column::Right, "CHANGED"),
            (Column::Right, "EXTRA"),
            (Column::Right, "COPIED"),
            (Column::Left, "RESULT"),
        ])
        .indented(2);
        for line in &self.tables {
            let count = |rows: Option<u64>| rows.map_or_else(|| "unknown".to_owned(), grouped);
            let found = line.reconciled.as_ref();
            let of = |pick: fn(&Reconciled) -> Option<u64>| count(found.and_then(pick));
            let (result, tone) = line.result();
            shown.row([
                line.source.clone().into(),
                format!("→ {}", line.target).into(),
                of(|found| found.missing).into(),
                of(|found| found.changed).into(),
                of(|found| found.extra).into(),
                of(|found| Some(found.rows_moved)).into(),
                Cell::toned(result, tone),
            ]);
        }
        shown.lines(invocation.talk.out, invocation.talk.out_width())
    }
}

impl Line {
    /// Of a table that was only compared: whether it is the same on both sides.
    fn is_equal(&self) -> bool {
        let found = self.reconciled.as_ref();
        found.is_some_and(|it| [it.missing, it.changed, it.extra] == [Some(0); 3])
    }

    fn result(&self) -> (String, Tone) {
        let why = self.reason.as_deref().unwrap_or_default();
        match (&self.reconciled, self.state) {
            (_, Some(state)) if self.is_wanting() => {
                let word = crate::output::style::of_table(state).1;
                (format!("✗ {word}: {why}"), Tone::Bad)
            }
            (Some(found), _) => match &found.whole {
                Some(why) => (format!("copied whole: {why}"), Tone::Caution),
                None if self.state.is_none() => (String::new(), Tone::Good),
                None => ("✓ as the source".to_owned(), Tone::Good),
            },
            (None, None) => (format!("? not compared: {why}"), Tone::Caution),
            (None, Some(_)) => ("copied whole".to_owned(), Tone::Good),
        }
    }
}

fn compared_line(table: compare::TableReport) -> Line {
    let count = |kind| {
        let of_kind = table.differences.iter().filter(|d| d.kind == kind);
        table.is_counted.then(|| of_kind.count() as u64)
    };
    let (reconciled, reason) = match table.outcome {
        Compared::NotCompared(why) => (None, Some(why)),
        Compared::Identical | Compared::Different => (
            Some(Reconciled {
                lsn: table.position,
                source_rows: table.source_rows,
                target_rows: table.target_rows,
                missing: count(DifferenceKind::Missing),
                changed: count(DifferenceKind::Changed),
                extra: count(DifferenceKind::Extra),
                rows_moved: 0,
                bytes_moved: 0,
                whole: None,
            }),
            None,
        ),
    };
    Line {
        source: table.source.to_string(),
        target: table.target.to_string(),
        reconciled,
        state: None,
        reason,
        is_cut_off: false,
    }
}
