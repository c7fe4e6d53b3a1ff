//! `check NAME`: is everything ready, and the SQL that mends what is not.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::finding::{Finding, Fix, FixKind, Side, Verdict, safe_fix};
use tidemark_core::pipeline::another_target;
use tidemark_core::pipeline::going_on::{self, GoingOn};
use tidemark_core::source::WillStream;

use crate::invocation::Invocation;
use crate::output::numbers::duration;
use crate::output::style::{Tone, of_verdict};
use crate::output::{self, Answer, Detail, Outcome, put, wrap};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::seen::Seen;
use crate::watching::EVERY;
use crate::{machine, scheduled, systems};

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
    /// Whether no start could go on from the checkpoint.
    pub(crate) is_refused: bool,
    pub(crate) took: Duration,
}

/// All that is said of a check, here or by a server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pipeline: String,
    source: Looked,
    target: Looked,
    passed: usize,
    notes: usize,
    warnings: usize,
    failed: usize,
    findings: Vec<Found>,
    schedule: Value,
    seconds: f64,
}

/// Where it was looked, and as whom.
#[derive(Debug, Serialize, Deserialize)]
struct Looked {
    address: String,
    user: String,
}

/// A finding as it is said.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    code: String,
    verdict: Verdict,
    side: Side,
    found: String,
    why: String,
    fix: Vec<Fix>,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &CheckArgs) -> Outcome {
    let seen = Seen::open(invocation, &arguments.which)?;
    let mut report = ask(&seen).await?;
    if arguments.fix && mend(invocation, &seen, &report).await? {
        report = ask(&seen).await?;
    }
    if arguments.fix_sql {
        return Ok(fix_sql(&report));
    }
    while arguments.watch && report.failed > 0 {
        invocation.talk.watch(&answer(invocation, &report));
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            name = invocation.signals.stop() => return Err(Failure::interrupted(name)),
        }
        report = ask(&seen).await?;
    }
    invocation.talk.screen.clear();
    let mut answer = answer(invocation, &report);
    let failed = report.findings.iter();
    let failed = failed.filter(|found| found.verdict == Verdict::Failed);
    let has_sql = failed.flat_map(|found| &found.fix).any(is_sql);
    if answer.verdict == output::Verdict::Negative && has_sql {
        let word = seen.word();
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

async fn ask(seen: &Seen) -> Result<Report, Failure> {
    match seen {
        Seen::Here(opened) => report(opened).await,
        Seen::There(there) => {
            let said = serde_json::from_value(there.get("/check").await?);
            Ok(said.map_err(|err| there.server.strange(&err))?)
        }
    }
}

/// Looks, and has all that is said of it.
pub(crate) async fn report(opened: &Opened) -> Result<Report, Failure> {
    let Checked { findings, took, .. } = look(opened).await?;
    let looked = |side| -> Result<Looked, Failure> {
        let (address, user) = systems::address(&opened.config, side)?;
        Ok(Looked { address, user })
    };
    Ok(Report {
        pipeline: opened.name().to_owned(),
        source: looked(Side::Source)?,
        target: looked(Side::Target)?,
        passed: count(&findings, Verdict::Passed),
        notes: count(&findings, Verdict::Note),
        warnings: count(&findings, Verdict::Warning),
        failed: count(&findings, Verdict::Failed),
        findings: findings.into_iter().map(Found::of).collect(),
        schedule: scheduled::data(&opened.config),
        seconds: took.as_secs_f64(),
    })
}

impl Found {
    fn of(finding: Finding) -> Found {
        Found {
            code: finding.code.to_string(),
            verdict: finding.verdict,
            side: finding.side,
            found: finding.found,
            why: finding.why,
            fix: finding.fixes,
        }
    }
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
    // Why a side does not answer is told by its check.
    let recorded = opened.target.checkpoint().await.ok();
    let log = opened.source.log_state().await.ok();
    let begun = recorded.clone().flatten();
    let begun = begun.filter(|_| opened.config.mode.streams());
    let (going_on, mapped) = match &described {
        Ok(schema) => (GoingOn::of(rules, schema, begun.as_ref())?, true),
        Err(_) => (GoingOn::default(), false),
    };
    let GoingOn {
        mappings: tables,
        aside,
    } = going_on;
    let (of_source, of_target) = tokio::join!(
        opened.source.check(&tables, will_stream),
        opened.target.check(&tables),
    );
    let (mode, start) = (opened.config.mode, opened.config.start);
    let elsewhere = match (&recorded, &log) {
        (Some(recorded), Some(log)) => {
            let (source, target) = (&*opened.source, &*opened.target);
            let of = (mode, start);
            another_target::finding(source, target, of, recorded.as_ref(), log).await
        }
        _ => None,
    };
    let mut findings = found(Side::Source, of_source);
    let both = begun.as_ref().zip(log.as_ref());
    let refusal = both.and_then(|(begun, log)| going_on::refusal(mode, begun, log));
    if let Some(err) = &refusal {
        // What the slot alone says is judged by what the target has.
        findings.retain(|finding| finding.code != err.code());
        findings.push(Finding::of_error(Side::Source, err));
    }
    findings.extend(machine::of_memory(opened.config.memory));
    let source_failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Failed);
    let told = |(_, error)| Finding::of_error(Side::Source, &error);
    findings.extend(aside.into_iter().map(told));
    findings.extend(found(Side::Target, of_target));
    findings.extend(elsewhere);
    match described {
        Err(err) if !mapped && !source_failed => Err(err.into()),
        _ => Ok(Checked {
            findings,
            is_refused: refusal.is_some(),
            took: began.elapsed(),
        }),
    }
}

/// A side that cannot be asked is itself a finding: a person sees what is wrong with the other too.
fn found(side: Side, checked: tidemark_core::Result<Vec<Finding>>) -> Vec<Finding> {
    checked.unwrap_or_else(|err| vec![Finding::of_error(side, &err)])
}

fn answer(invocation: &Invocation, report: &Report) -> Answer {
    let talk = &invocation.talk;
    let mut lines = Vec::new();
    for side in [Side::Source, Side::Target] {
        lines.push(heading(invocation, report, side));
        let of_side = report.findings.iter().filter(|found| found.side == side);
        let mut findings: Vec<&Found> = of_side.collect();
        findings.sort_by_key(|found| std::cmp::Reverse(found.verdict));
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
    lines.extend(scheduled::line_of(&report.schedule, talk.out_width()));
    lines.push(String::new());
    lines.push(summary(report));
    let verdict = if report.failed == 0 {
        output::Verdict::Positive
    } else {
        output::Verdict::Negative
    };
    Answer::new(lines.join("\n"), report).verdict(verdict)
}

/// `source  orders-db:5432/orders   PostgreSQL 15.8   as tidemark`.
fn heading(invocation: &Invocation, report: &Report, side: Side) -> String {
    let looked = match side {
        Side::Source => &report.source,
        Side::Target => &report.target,
    };
    let code = systems::version_check(side).to_string();
    let mut findings = report.findings.iter();
    let version = findings.find(|found| found.code == code && found.verdict == Verdict::Passed);
    // Without what the packager put behind it: `PostgreSQL 15.8 (Debian 15.8-0+deb12u1)`.
    let version = version.map_or_else(String::new, |found| {
        let version = found.found.split(" (").next().unwrap_or_default();
        format!("   {version}")
    });
    let side = invocation.talk.out.paint(Tone::Strong, &side.to_string());
    format!("{side}  {}{version}   as {}", looked.address, looked.user)
}

/// `2 failed · 1 warning · 22 passed in 0.4 s`.
fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    for (count, one, many) in [
        (report.failed, "failed", "failed"),
        (report.warnings, "warning", "warnings"),
        (report.notes, "note", "notes"),
        (report.passed, "passed", "passed"),
    ] {
        match count {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            number => parts.push(format!("{number} {many}")),
        }
    }
    let took = Duration::from_secs_f64(report.seconds.max(0.0));
    format!("{} in {}", parts.join(" · "), duration(took))
}

/// A finding with why it matters and how to mend it.
fn finding_text(invocation: &Invocation, finding: &Found) -> String {
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
    if !finding.fix.is_empty() {
        let label = if finding.fix.len() == 1 {
            "Fix:"
        } else {
            "Fix, one of these:"
        };
        lines.push(format!("            {label}"));
        lines.extend(finding.fix.iter().map(|fix| {
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
fn fix_sql(report: &Report) -> Answer {
    let mut lines = Vec::new();
    let mut statements = Vec::new();
    for side in [Side::Source, Side::Target] {
        let mut has_heading = false;
        for finding in report.findings.iter().filter(|found| found.side == side) {
            let mut sql = finding.fix.iter().filter(|fix| is_sql(fix));
            let Some(first) = sql.next() else { continue };
            if !has_heading {
                lines.push(format!("-- on the {side}"));
                has_heading = true;
            }
            lines.push(format!("-- {}: {}", finding.code, finding.found));
            lines.push(format!("{};", first.text));
            lines.extend(sql.map(|fix| format!("-- or: {};", fix.text)));
            statements.push(json!({ "on": side, "code": finding.code, "sql": first.text }));
        }
    }
    Answer::new(lines.join("\n"), json!({ "statements": statements }))
}

/// Runs what is safe to run, after showing it. `false` where there is nothing.
async fn mend(invocation: &Invocation, seen: &Seen, report: &Report) -> Result<bool, Failure> {
    let found = report.findings.iter();
    let safe: Vec<(Side, &str)> = found
        .filter_map(|finding| Some((finding.side, safe_fix(finding.verdict, &finding.fix)?)))
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
        .confirm(&effect, "Type yes to run them:", "yes")
        .await?;
    match seen {
        Seen::Here(opened) => {
            for (side, sql) in safe {
                systems::execute(&opened.config, side, sql).await?;
                invocation.talk.say(&format!("✓ {side}: {sql}"));
            }
        }
        Seen::There(there) => {
            let statement = |(side, sql): &(Side, &str)| json!({ "on": side, "sql": sql });
            let statements: Vec<Value> = safe.iter().map(statement).collect();
            there
                .act("fix", &json!({ "statements": statements }))
                .await?;
            for (side, sql) in safe {
                invocation.talk.say(&format!("✓ {side}: {sql}"));
            }
        }
    }
    Ok(true)
}
