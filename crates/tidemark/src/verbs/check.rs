//! `check NAME`: is everything ready, and the SQL that mends what is not.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tidemark_core::finding::{Finding, Fix, FixKind, Side, Verdict};
use tidemark_core::mapping::TableMapping;
use tidemark_core::source::WillStream;

use crate::invocation::Invocation;
use crate::output::numbers::duration;
use crate::output::style::{Tone, of_verdict};
use crate::output::{self, Answer, Detail, Outcome, put, wrap};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::watching::EVERY;
use crate::{scheduled, systems};

#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    which: Which,
    /// Print only the SQL that mends what was found
    #[arg(long, conflicts_with_all = ["fix", "watch"])]
    fix_sql: bool,
    /// Run the statements that change no data and need no restart, after showing them
    #[arg(long)]
    fix: bool,
    /// Look again every two seconds until nothing fails
    #[arg(long)]
    watch: bool,
}

impl CheckArgs {
    /// Whether it may change something.
    pub(crate) fn fixes(&self) -> bool {
        self.fix
    }
}

/// What a check found, and where it looked.
pub(crate) struct Checked {
    pub(crate) findings: Vec<Finding>,
    pub(crate) took: Duration,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &CheckArgs) -> Outcome {
    let opened = Opened::open(invocation, &arguments.which)?;
    let mut checked = look(&opened).await?;
    if arguments.fix && mend(invocation, &opened, &checked).await? {
        checked = look(&opened).await?;
    }
    if arguments.fix_sql {
        return Ok(fix_sql(&checked));
    }
    while arguments.watch && count(&checked.findings, Verdict::Failed) > 0 {
        invocation
            .talk
            .watch(&answer(invocation, &opened, &checked)?);
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            name = invocation.signals.stop() => return Err(Failure::interrupted(name)),
        }
        checked = look(&opened).await?;
    }
    invocation.talk.screen.clear();
    let mut answer = answer(invocation, &opened, &checked)?;
    let has_sql = checked
        .findings
        .iter()
        .flat_map(|finding| &finding.fixes)
        .any(is_sql);
    if answer.verdict == output::Verdict::Negative && has_sql {
        let word = opened.word();
        answer = answer
            .notice(format!(
                "all statements together: tidemark check {word} --fix-sql"
            ))
            .notice(format!(
                "keep watching while they are applied: tidemark check {word} --watch"
            ));
    }
    Ok(answer)
}

/// Looks at both sides. A source that cannot be described is itself a finding of the source.
pub(crate) async fn look(opened: &Opened) -> Result<Checked, Failure> {
    let began = Instant::now();
    let rules = &opened.config.rules;
    let will_stream = if opened.config.mode.streams() {
        WillStream::Yes
    } else {
        WillStream::No
    };
    // Without the catalog the source's check says why; what is about tables waits until it answers.
    let described = opened.source.describe(rules.selection()).await;
    let (tables, mapped): (Vec<TableMapping>, bool) = match &described {
        Ok(schema) => (rules.map(schema)?, true),
        Err(_) => (Vec::new(), false),
    };
    let (of_source, of_target) = tokio::join!(
        opened.source.check(&tables, will_stream),
        opened.target.check(&tables),
    );
    let mut findings = found(Side::Source, of_source);
    let source_failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Failed);
    findings.extend(found(Side::Target, of_target));
    match described {
        Err(err) if !mapped && !source_failed => Err(err.into()),
        _ => Ok(Checked {
            findings,
            took: began.elapsed(),
        }),
    }
}

/// A side that cannot be asked is itself a finding: a person sees what is wrong with the other too.
fn found(side: Side, checked: tidemark_core::Result<Vec<Finding>>) -> Vec<Finding> {
    checked.unwrap_or_else(|err| vec![Finding::of_error(side, &err)])
}

fn answer(invocation: &Invocation, opened: &Opened, checked: &Checked) -> Result<Answer, Failure> {
    let talk = &invocation.talk;
    let mut lines = Vec::new();
    for side in [Side::Source, Side::Target] {
        lines.push(heading(invocation, opened, checked, side)?);
        let of_side = checked
            .findings
            .iter()
            .filter(|finding| finding.side == side);
        let mut findings: Vec<&Finding> = of_side.collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        let mut passed = 0;
        for finding in findings {
            if finding.verdict == Verdict::Passed && talk.detail < Detail::Verbose {
                passed += 1;
            } else {
                lines.push(finding_text(invocation, finding));
            }
        }
        if passed > 0 {
            let (glyph, tone) = of_verdict(Verdict::Passed);
            let glyph = talk.out.paint(tone, &glyph.to_string());
            lines.push(format!("  {glyph} {passed} passed   (-v shows them)"));
        }
    }
    lines.extend(scheduled::line(&opened.config, talk.out_width()));
    lines.push(String::new());
    lines.push(summary(&checked.findings, checked.took));
    let failed = count(&checked.findings, Verdict::Failed);
    let verdict = if failed == 0 {
        output::Verdict::Positive
    } else {
        output::Verdict::Negative
    };
    Ok(Answer::new(lines.join("\n"), data(opened, checked)).verdict(verdict))
}

/// `source  orders-db:5432/orders   PostgreSQL 15.8   as tidemark`.
fn heading(
    invocation: &Invocation,
    opened: &Opened,
    checked: &Checked,
    side: Side,
) -> Result<String, Failure> {
    let (address, user) = systems::address(&opened.config, side)?;
    let version = checked.findings.iter().find(|finding| {
        finding.code == systems::version_check(side) && finding.verdict == Verdict::Passed
    });
    // Without what the packager put behind it: `PostgreSQL 15.8 (Debian 15.8-0+deb12u1)`.
    let version = version.map_or_else(String::new, |finding| {
        let version = finding.found.split(" (").next().unwrap_or_default();
        format!("   {version}")
    });
    let side = invocation.talk.out.paint(Tone::Strong, &side.to_string());
    Ok(format!("{side}  {address}{version}   as {user}"))
}

/// `2 failed · 1 warning · 22 passed in 0.4 s`.
fn summary(findings: &[Finding], took: Duration) -> String {
    let mut parts = Vec::new();
    for (verdict, one, many) in [
        (Verdict::Failed, "failed", "failed"),
        (Verdict::Warning, "warning", "warnings"),
        (Verdict::Note, "note", "notes"),
        (Verdict::Passed, "passed", "passed"),
    ] {
        match count(findings, verdict) {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            number => parts.push(format!("{number} {many}")),
        }
    }
    format!("{} in {}", parts.join(" · "), duration(took))
}

/// A finding with why it matters and how to mend it.
fn finding_text(invocation: &Invocation, finding: &Finding) -> String {
    let talk = &invocation.talk;
    let (glyph, tone) = of_verdict(finding.verdict);
    let head = wrap::labelled(
        &format!("{glyph} {}", finding.code),
        &finding.found,
        2,
        10,
        talk.out_width(),
    );
    let mut lines = vec![match head.split_once(glyph) {
        Some((before, after)) => {
            format!(
                "{before}{}{after}",
                talk.out.paint(tone, &glyph.to_string())
            )
        }
        None => head,
    }];
    if !finding.why.is_empty() {
        lines.push(wrap::labelled("", &finding.why, 2, 10, talk.out_width()));
    }
    if !finding.fixes.is_empty() {
        let label = if finding.fixes.len() == 1 {
            "Fix:"
        } else {
            "Fix, one of these:"
        };
        lines.push(format!("            {label}"));
        lines.extend(finding.fixes.iter().map(|fix| {
            let semicolon = if is_sql(fix) { ";" } else { "" };
            let text = fix.text.replace('\n', "\n                ");
            format!("                {text}{semicolon}")
        }));
    }
    lines.join("\n")
}

fn is_sql(fix: &Fix) -> bool {
    matches!(fix.kind, FixKind::SafeSql | FixKind::Sql)
}

pub(crate) fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings
        .iter()
        .filter(|finding| finding.verdict == verdict)
        .count()
}

/// Only SQL: the first remedy of each finding, its alternatives as comments.
fn fix_sql(checked: &Checked) -> Answer {
    let mut lines = Vec::new();
    let mut statements = Vec::new();
    for side in [Side::Source, Side::Target] {
        let mut has_heading = false;
        for finding in checked
            .findings
            .iter()
            .filter(|finding| finding.side == side)
        {
            let mut sql = finding.fixes.iter().filter(|fix| is_sql(fix));
            let Some(first) = sql.next() else { continue };
            if !has_heading {
                lines.push(format!("-- on the {side}"));
                has_heading = true;
            }
            lines.push(format!("-- {}: {}", finding.code, finding.found));
            lines.push(format!("{};", first.text));
            lines.extend(sql.map(|fix| format!("-- or: {};", fix.text)));
            statements
                .push(json!({ "on": side, "code": finding.code.to_string(), "sql": first.text }));
        }
    }
    Answer::new(lines.join("\n"), json!({ "statements": statements }))
}

/// Runs what is safe to run, after showing it. `false` where there is nothing.
async fn mend(
    invocation: &Invocation,
    opened: &Opened,
    checked: &Checked,
) -> Result<bool, Failure> {
    let safe: Vec<(Side, &str)> = checked
        .findings
        .iter()
        .filter(|finding| finding.verdict >= Verdict::Warning)
        .filter_map(|finding| {
            let fix = finding
                .fixes
                .iter()
                .find(|fix| fix.kind == FixKind::SafeSql)?;
            Some((finding.side, fix.text.as_str()))
        })
        .collect();
    if safe.is_empty() {
        invocation
            .talk
            .say("nothing to mend that is safe to run without a person");
        return Ok(false);
    }
    let mut effect = "These statements change no data and need no restart:".to_owned();
    for (side, sql) in &safe {
        put!(effect, "\n    on the {side}: {sql};");
    }
    invocation
        .talk
        .confirm(&effect, "Type yes to run them:", "yes")?;
    for (side, sql) in safe {
        systems::execute(&opened.config, side, sql).await?;
        invocation.talk.say(&format!("✓ {side}: {sql}"));
    }
    Ok(true)
}

fn data(opened: &Opened, checked: &Checked) -> Value {
    let findings: Vec<Value> = checked
        .findings
        .iter()
        .map(|finding| {
            json!({
                "code": finding.code.to_string(),
                "verdict": finding.verdict,
                "side": finding.side,
                "found": finding.found,
                "why": finding.why,
                "fix": finding.fixes,
            })
        })
        .collect();
    json!({
        "pipeline": opened.name(),
        "passed": count(&checked.findings, Verdict::Passed),
        "notes": count(&checked.findings, Verdict::Note),
        "warnings": count(&checked.findings, Verdict::Warning),
        "failed": count(&checked.findings, Verdict::Failed),
        "findings": findings,
        "schedule": scheduled::data(&opened.config),
    })
}
