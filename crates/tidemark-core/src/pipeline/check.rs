//! What stands in the way, looked for once a run, before anything is made.
//!
//! A first start is refused for whatever a person has to mend: they are there, and nothing has been done.
//! A pipeline that has begun is not stopped for what concerns a table alone: that table is set aside
//! where it comes to it, and the others go on.

use std::sync::Arc;

use crate::catalogue::{Code, codes};
use crate::error::{Error, Result};
use crate::finding::{Finding, Verdict};
use crate::mapping::TableMapping;
use crate::source::WillStream;
use crate::words::counted;

use super::Run;
use super::observe::{PipelineEvent, Step};

impl Run {
    /// Looks for what stands in the way, once a run.
    pub(super) async fn check(&mut self, mappings: &[Arc<TableMapping>]) -> Result<()> {
        if self.is_checked {
            return Ok(());
        }
        let tables: Vec<TableMapping> = mappings.iter().map(|m| m.as_ref().clone()).collect();
        let will_stream = if self.engine.options.mode.streams() {
            WillStream::Yes
        } else {
            WillStream::No
        };
        let (of_source, of_target) = tokio::join!(
            self.engine.source.check(&tables, will_stream),
            self.engine.target.check(&tables),
        );
        let mut findings = of_source?;
        findings.extend(of_target?);
        let count = |verdict| {
            findings
                .iter()
                .filter(|f: &&Finding| f.verdict == verdict)
                .count()
        };
        let (failed, warnings) = (count(Verdict::Failed), count(Verdict::Warning));
        let passed = findings.len() - failed - warnings;
        self.engine.step(
            Step::Check,
            format!(
                "{passed} passed, {}, {failed} failed; {}",
                counted(warnings, "warning"),
                counted(tables.len(), "table")
            ),
        );
        let has_begun = failed > 0 && self.has_begun().await;
        let refuses = |finding: &&Finding| {
            let is_tolerated =
                is_about_slot(finding.code) || (has_begun && is_about_tables(finding.code));
            finding.verdict == Verdict::Failed && !is_tolerated
        };
        let refusal = findings.iter().find(refuses).map(|finding| {
            let more = match failed {
                1 => String::new(),
                _ => format!(" (and {} more: tidemark check shows all)", failed - 1),
            };
            let err = Error::definite(
                finding.code,
                format!("{}: {}{more}", finding.side, finding.found),
            );
            match finding.fixes.first() {
                Some(fix) => err.first_action(fix.text.clone()),
                None => err,
            }
        });
        self.engine.observer.say(PipelineEvent::Checked(findings));
        if let Some(err) = refusal {
            return Err(err);
        }
        self.not_onto_itself(mappings).await?;
        self.not_in_a_circle(mappings).await?;
        self.is_checked = true;
        Ok(())
    }

    /// Whether there is a stream to go on with.
    async fn has_begun(&self) -> bool {
        let engine = &self.engine;
        engine.options.mode.streams() && matches!(engine.target.checkpoint().await, Ok(Some(_)))
    }
}

/// What a slot means for a start is decided by [`super::plan`], which may wait for it.
fn is_about_slot(code: Code) -> bool {
    [
        codes::SLOT_ACTIVE,
        codes::SLOT_FOREIGN,
        codes::SLOT_LOST,
        codes::SLOT_MISSING,
    ]
    .contains(&code)
}

/// What a table meets that is not fit to be copied: once a pipeline has begun it is set aside where it does.
fn is_about_tables(code: Code) -> bool {
    [
        codes::ROW_SECURITY,
        codes::SOURCE_GRANTS,
        codes::TABLE_NOT_CARRIED,
        codes::TARGET_NOT_A_TABLE,
        codes::TARGET_ROW_SECURITY,
        codes::TARGET_TABLE_EXISTS,
        codes::TARGET_TABLE_MISSING,
        codes::TARGET_TABLE_NOT_EMPTY,
        codes::TARGET_TABLE_UNFIT,
    ]
    .contains(&code)
}
