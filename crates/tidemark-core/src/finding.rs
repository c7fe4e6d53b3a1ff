//! Findings: what a prerequisites check says, each with why it matters and how to mend it. A check of one
//! side gathers them in a [`Report`].

use serde::{Deserialize, Serialize};

use crate::catalogue::Code;
use crate::error::Error;

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Catalogue entry.
    pub code: Code,
    /// How it went.
    pub verdict: Verdict,
    /// Where.
    pub side: Side,
    /// What was found, in a short sentence: `wal_level is "replica", must be "logical"`.
    pub found: String,
    /// Why it matters; empty for what passed.
    pub why: String,
    /// Statements or commands that mend it; alternatives one after the other.
    pub fixes: Vec<Fix>,
}

impl Finding {
    /// That a side could not be asked, as a finding.
    pub fn of_error(side: Side, error: &Error) -> Finding {
        Finding {
            code: error.code(),
            verdict: Verdict::Failed,
            side,
            found: error.to_string(),
            why: error.code().entry().effect.clone(),
            fixes: vec![Fix::text(error.action())],
        }
    }
}

/// Findings of one side as they come.
#[derive(Debug)]
pub struct Report {
    side: Side,
    findings: Vec<Finding>,
}

impl Report {
    /// Nothing found yet.
    #[must_use]
    pub fn of(side: Side) -> Report {
        Report {
            side,
            findings: Vec::new(),
        }
    }

    /// It is fine.
    pub fn pass(&mut self, code: Code, found: impl Into<String>) {
        self.add(code, Verdict::Passed, found, "", []);
    }

    /// Worth knowing, and why.
    pub fn note(&mut self, code: Code, found: impl Into<String>, why: &str) {
        self.add(code, Verdict::Note, found, why, []);
    }

    /// It works, but a person should look: why, and what mends it.
    pub fn warn(
        &mut self,
        code: Code,
        found: impl Into<String>,
        why: &str,
        fixes: impl IntoIterator<Item = Fix>,
    ) {
        self.add(code, Verdict::Warning, found, why, fixes);
    }

    /// It will not work until mended: why, and what mends it.
    pub fn fail(
        &mut self,
        code: Code,
        found: impl Into<String>,
        why: &str,
        fixes: impl IntoIterator<Item = Fix>,
    ) {
        self.add(code, Verdict::Failed, found, why, fixes);
    }

    /// How many have failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        let failed = |finding: &&Finding| finding.verdict == Verdict::Failed;
        self.findings.iter().filter(failed).count()
    }

    /// What was found.
    #[must_use]
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// What went in a way that the caller has judged.
    pub fn add(
        &mut self,
        code: Code,
        verdict: Verdict,
        found: impl Into<String>,
        why: &str,
        fixes: impl IntoIterator<Item = Fix>,
    ) {
        self.findings.push(Finding {
            code,
            verdict,
            side: self.side,
            found: found.into(),
            why: why.to_owned(),
            fixes: fixes.into_iter().collect(),
        });
    }
}

/// The statement that may be run for a finding once a person has seen it, if there is one: the first that
/// changes no data and needs no restart.
pub fn safe_fix(verdict: Verdict, fixes: &[Fix]) -> Option<&str> {
    let is_wanting = verdict >= Verdict::Warning;
    let mut safe = fixes.iter().filter(|fix| fix.kind == FixKind::SafeSql);
    safe.next()
        .filter(|_| is_wanting)
        .map(|fix| fix.text.as_str())
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Fine.
    Passed,
    /// Worth knowing; nothing to do.
    Note,
    /// Works, but a person should look.
    Warning,
    /// Will not work until mended.
    Failed,
}

/// Which of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The one that is copied.
    Source,
    /// The one that receives.
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// One way to mend a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// The statement (without `;`), or a sentence if `kind` is text.
    pub text: String,
    /// Who may run it, and whether by itself.
    pub kind: FixKind,
}

impl Fix {
    /// A statement for a person to run.
    pub fn sql(text: impl Into<String>) -> Fix {
        Fix::new(text.into(), FixKind::Sql)
    }

    /// A statement that changes no data, needs no restart, and that our role may run.
    pub fn safe(text: impl Into<String>) -> Fix {
        Fix::new(text.into(), FixKind::SafeSql)
    }

    /// A sentence.
    pub fn text(text: impl Into<String>) -> Fix {
        Fix::new(text.into(), FixKind::Text)
    }

    fn new(text: String, kind: FixKind) -> Fix {
        Fix { text, kind }
    }
}

/// Kinds of [`Fix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FixKind {
    /// SQL that `check --fix` may run: it changes no data and needs no restart.
    SafeSql,
    /// SQL for a person to run: needs a superuser, a restart, or a choice.
    Sql,
    /// A sentence.
    Text,
}
