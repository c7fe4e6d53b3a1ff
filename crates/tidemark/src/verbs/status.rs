//! `status [NAME]`: state, health and what needs a person. Without a name every pipeline here.

use clap::Args;
use serde_json::{Value, json};
use tidemark_core::status::{Health, STATES, Status, TableStatusState};

use crate::invocation::Invocation;
use crate::output::numbers::{bytes, counted, grouped, seconds};
use crate::output::style::{Style, of_health, of_state, of_table};
use crate::output::{Answer, Outcome, Verdict, wrap};
use crate::pipeline_file::{self, Opened, Which};
use crate::problem::Failure;
use crate::remote::Remote;
use crate::seen::Seen;
use crate::standing::{self, Life, Standing};
use crate::watching::{self, Watch};

#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// Exit 3 unless the state is this one (draft, loading, `catching_up`, streaming, completed, …);
    /// with --watch wait until it is
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    require: Option<String>,
    /// Only pipelines with this tag, and those of which that is not known
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

fn parse_state(text: &str) -> Result<String, String> {
    if STATES.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("states are {}", STATES.join(", ")))
    }
}

pub(crate) async fn run(invocation: &Invocation, arguments: &StatusArgs) -> Outcome {
    let ends_at = arguments.require.as_ref().map(|_| Verdict::Positive);
    watching::repeat(invocation, arguments.watch, ends_at, async || {
        once(invocation, arguments).await
    })
    .await
}

async fn once(invocation: &Invocation, arguments: &StatusArgs) -> Outcome {
    let server = Remote::of(invocation)?;
    let is_named = match &server {
        Some(_) => arguments.which.word().is_some(),
        None => arguments.which.is_named(invocation),
    };
    if is_named {
        if arguments.tag.is_some() {
            return Err(Failure::usage(
                "--tag chooses among all pipelines: name none",
            ));
        }
        let standing = Seen::open(invocation, &arguments.which)?.look().await?;
        let is_met = arguments
            .require
            .as_ref()
            .is_none_or(|wanted| *wanted == standing.state());
        let answer = Answer::new(text(&standing, invocation), standing.data());
        return Ok(match &arguments.require {
            Some(wanted) if !is_met => answer
                .verdict(Verdict::Negative)
                .notice(format!("the state is {}, not {wanted}", standing.state())),
            _ => answer,
        });
    }
    let tag = arguments.tag.as_deref();
    let looked = match &server {
        Some(server) => looked_there(server, tag).await?,
        None => looked_here(tag).await,
    };
    Ok(all(
        invocation,
        server.as_ref(),
        looked,
        arguments.require.as_deref(),
    ))
}

pub(crate) async fn look(opened: &Opened) -> tidemark_core::Result<Standing> {
    let looked = standing::look(
        opened.name(),
        opened.config.mode,
        &opened.source,
        &opened.target,
    );
    let mut standing = looked.await?;
    if let Some(slot) = &mut standing.status.slot {
        slot.max_retained_bytes = opened.config.source.postgres.max_retained_bytes;
    }
    Ok(standing)
}

/// A pipeline's name, and how it stands or why that is not known.
type Looked = (String, Result<Standing, Failure>);

/// Every pipeline of this directory, or those with a tag.
async fn looked_here(tag: Option<&str>) -> Vec<Looked> {
    let mut found = Vec::new();
    for file in pipeline_file::all_here() {
        let opened = Opened::open_file(&file);
        let has_it = |opened: &Opened, tag| opened.config.tags.iter().any(|found| found == tag);
        if let (Ok(opened), Some(tag)) = (&opened, tag)
            && !has_it(opened, tag)
        {
            continue;
        }
        let name = match &opened {
            Ok(opened) => opened.name().to_owned(),
            Err(_) => file.display().to_string(),
        };
        let looked = match opened {
            Ok(opened) => look(&opened).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        found.push((name, looked));
    }
    found
}

/// Every pipeline of a server, or those with a tag.
async fn looked_there(server: &Remote, tag: Option<&str>) -> Result<Vec<Looked>, Failure> {
    let mut found = Vec::new();
    for name in server.names(tag).await? {
        let looked = server.pipeline(&name).look().await;
        found.push((name, looked.map_err(Failure::from)));
    }
    Ok(found)
}

/// All of them, worst first. One that cannot be looked at is among them.
fn all(
    invocation: &Invocation,
    server: Option<&Remote>,
    looked: Vec<Looked>,
    required: Option<&str>,
) -> Answer {
    let style = invocation.talk.out;
    let mut found: Vec<(u8, String, String, Value)> = Vec::new();
    for (name, looked) in looked {
        found.push(match looked {
            Ok(standing) => {
                let line = first_line(&name, &standing, style);
                (rank(standing.status.health), name, line, standing.data())
            }
            Err(failure) => {
                let code = failure.code().map(|code| code.to_string());
                let line = format!(
                    "{name}   ? unknown   {}",
                    code.as_deref()
                        .map_or_else(String::new, |code| format!("({code})"))
                );
                let data = json!({
                    "pipeline": name, "health": "unknown", "stale": true, "unknown_reason": code,
                });
                (rank(Health::Unknown), name, line, data)
            }
        });
    }
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let lines: Vec<&str> = found.iter().map(|(_, _, line, _)| line.as_str()).collect();
    let text = match server {
        None if lines.is_empty() => "no pipeline files here".to_owned(),
        Some(server) if lines.is_empty() => format!("no pipelines on {}", server.shown()),
        _ => lines.join("\n"),
    };
    let data: Vec<&Value> = found.iter().map(|(_, _, _, data)| data).collect();
    let is_empty = data.is_empty();
    let others: Vec<&str> = found
        .iter()
        .filter(|(_, _, _, data)| required.is_some_and(|wanted| data["state"] != wanted))
        .map(|(_, name, ..)| name.as_str())
        .collect();
    let answer = Answer::new(text, json!({ "pipelines": data }));
    match required {
        // Nothing is in the state that was asked for: the wrong directory must not pass.
        Some(_) if is_empty => answer.verdict(Verdict::Negative),
        None if is_empty => answer.notice("make one: tidemark init SOURCE-URL TARGET-URL"),
        Some(wanted) if !others.is_empty() => answer
            .verdict(Verdict::Negative)
            .notice(format!("not {wanted}: {}", others.join(", "))),
        _ => answer,
    }
}

/// Worst first.
fn rank(health: Health) -> u8 {
    match health {
        Health::Error => 0,
        Health::Unknown => 1,
        Health::Warning => 2,
        Health::Notice => 3,
        Health::Ok => 4,
    }
}

/// `shop   streaming   ✓ ok`.
pub(crate) fn first_line(name: &str, standing: &Standing, style: Style) -> String {
    let (glyph, word, tone) = of_health(standing.status.health);
    let (_, state_tone) = of_state(standing.status.state);
    format!(
        "{name}   {}   {}",
        style.paint(state_tone, &standing.state()),
        style.paint(tone, &format!("{glyph} {word}"))
    )
}

fn text(standing: &Standing, invocation: &Invocation) -> String {
    let (style, width) = (invocation.talk.out, invocation.talk.out_width());
    let status = &standing.status;
    let mut lines = vec![first_line(&status.pipeline, standing, style)];
    let mut line = |label: &str, body: String| {
        lines.push(wrap::labelled(label, &body, 2, 12, width));
    };
    match &standing.life {
        Life::Draft => line("runs", "never ran against this target".to_owned()),
        Life::Still => line("runs", "nowhere now".to_owned()),
        Life::Running(owner) => line("runs", format!("on {} as pid {}", owner.host, owner.pid)),
    }
    if let Some(reason) = &status.reason {
        line("reason", reason.clone());
    }
    line("mode", status.mode.clone());
    if let Some(position) = status.full_load_lsn {
        line("loaded at", format!("{position}   (full_load_lsn)"));
    }
    if standing.life != Life::Draft {
        line("position", position(status));
    }
    if let Some(verified) = &status.verified {
        line(
            "verified",
            format!("{}   {}", verified.lsn, verified.result),
        );
    }
    if let Some(why) = &status.unverified {
        line("unverified", format!("not compared after its load: {why}"));
    }
    if !status.tables.is_empty() {
        line("tables", tables(status, style));
    }
    let totals = status.totals;
    if totals.transactions > 0 {
        line(
            "applied",
            format!(
                "{} transactions: {} inserts, {} updates, {} deletes   (this run)",
                grouped(totals.transactions),
                grouped(totals.inserts),
                grouped(totals.updates),
                grouped(totals.deletes)
            ),
        );
    }
    if totals.conflicts > 0 {
        line(
            "conflicts",
            format!("{} changes met another row", grouped(totals.conflicts)),
        );
    }
    let kept: u64 = status.tables.iter().map(|table| table.quarantined).sum();
    if kept > 0 {
        let name = &status.pipeline;
        let rows = counted(kept, "row");
        line(
            "quarantine",
            format!("{rows}   why and what to do: tidemark quarantine show {name}"),
        );
    }
    if let Some(error) = &status.error {
        line("error", format!("{}  {}", error.code, error.message));
        line("do first", error.action.clone());
    }
    if let Some(age) = standing.report_age_seconds {
        line("reported", format!("{} ago", seconds(age)));
    }
    lines.join("\n")
}

fn position(status: &Status) -> String {
    let unknown = || "unknown".to_owned();
    let show = |position: Option<tidemark_core::position::Position>| {
        position.map_or_else(unknown, |position| position.to_string())
    };
    format!(
        "{} of {}   gap {}   latency {}",
        show(status.processed_lsn),
        show(status.source_lsn),
        status.gap_bytes.map_or_else(unknown, bytes),
        status.latency_seconds.map_or_else(unknown, seconds)
    )
}

/// `6: 5 streaming, 1 ✗ quarantined`.
fn tables(status: &Status, style: Style) -> String {
    let mut counts: Vec<(TableStatusState, usize)> = Vec::new();
    for table in &status.tables {
        match counts.iter_mut().find(|(state, _)| *state == table.state) {
            Some((_, count)) => *count += 1,
            None => counts.push((table.state, 1)),
        }
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(state, count)| {
            let (glyph, word, tone) = of_table(*state);
            style.paint(tone, &format!("{glyph} {count} {word}"))
        })
        .collect();
    parts.join(", ")
}
