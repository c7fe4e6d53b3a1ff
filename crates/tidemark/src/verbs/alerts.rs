//! `alerts list|test|snooze`: what fires on a server, which rules there are, and who is told.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::invocation::Invocation;
use crate::output::numbers::parse_duration;
use crate::output::style::Tone;
use crate::output::table::{Cell, Column, Table};
use crate::output::{Answer, Outcome, Verdict};
use crate::problem::Failure;
use crate::remote::{Remote, encoded};

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AlertsArgs {
    #[command(subcommand)]
    verb: AlertsVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum AlertsVerb {
    /// What fires now, and every rule with its state; exit 3 if anything fires
    List {
        /// Only of this pipeline
        #[arg(value_name = "NAME")]
        pipeline: Option<String>,
    },
    /// Send a message to a notifier, and tell what became of it
    Test {
        /// A notifier of the server's file
        #[arg(value_name = "NOTIFIER")]
        notifier: String,
    },
    /// Send no message of an alert that fires for a while
    Snooze {
        /// The alert, as `alerts list` names it
        #[arg(value_name = "ID")]
        id: String,
        /// For how long
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = parse_duration,
              conflicts_with = "end")]
        lasts: Duration,
        /// End it: who is to be told is told again
        #[arg(long)]
        end: bool,
    },
}

impl AlertsArgs {
    /// Whether it changes something.
    pub(crate) fn acts(&self) -> bool {
        !matches!(self.verb, AlertsVerb::List { .. })
    }
}

/// An alert that fires.
#[derive(Debug, Serialize, Deserialize)]
struct Active {
    id: String,
    pipeline_id: String,
    rule: String,
    severity: String,
    since: String,
    over_since: Option<String>,
    snoozed_until: Option<String>,
    snoozed_by: Option<String>,
    text: String,
}

/// A rule of a pipeline.
#[derive(Debug, Serialize, Deserialize)]
struct Rule {
    pipeline_id: String,
    rule: String,
    severity: String,
    state: String,
    notify: Vec<String>,
    unknown_notifiers: Vec<String>,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &AlertsArgs) -> Outcome {
    let server = Remote::named(invocation)?;
    match &arguments.verb {
        AlertsVerb::List { pipeline } => list(invocation, &server, pipeline.as_deref()).await,
        AlertsVerb::Test { notifier } => test(&server, notifier).await,
        AlertsVerb::Snooze { id, lasts, end } => {
            snooze(&server, id, (!end).then_some(*lasts)).await
        }
    }
}

async fn list(invocation: &Invocation, server: &Remote, pipeline: Option<&str>) -> Outcome {
    #[derive(Deserialize)]
    struct Firing {
        alerts: Vec<Active>,
    }
    #[derive(Deserialize)]
    struct Rules {
        rules: Vec<Rule>,
        unknown: Vec<String>,
    }
    let firing: Firing = read(server, server.every_page("/alerts/active", "alerts").await?)?;
    let rules: Rules = read(server, server.every_page("/alerts/rules", "rules").await?)?;
    let is_meant = |id: &str| pipeline.is_none_or(|wanted| wanted == id);
    let (mut alerts, mut known) = (firing.alerts, rules.rules);
    alerts.retain(|alert| is_meant(&alert.pipeline_id));
    known.retain(|rule| is_meant(&rule.pipeline_id));
    let mut unknown = rules.unknown;
    unknown.retain(|id| is_meant(id));
    let style = invocation.talk.out;
    let mut lines = Vec::new();
    for alert in &alerts {
        let glyph = style.paint(Tone::Bad, "✗");
        lines.push(format!(
            "{glyph} {}  {} ({}) since {}",
            alert.pipeline_id, alert.rule, alert.severity, alert.since
        ));
        lines.push(format!("  {}", alert.text));
        if let (Some(until), Some(by)) = (&alert.snoozed_until, &alert.snoozed_by) {
            lines.push(format!("  snoozed until {until} by {by}"));
        }
        lines.push(format!("  {}", alert.id));
    }
    let mut table = Table::new([
        (Column::Name, "PIPELINE"),
        (Column::Text, "RULE"),
        (Column::Left, "STATE"),
        (Column::Text, "TELLS"),
    ]);
    for rule in &known {
        let tone = match rule.state.as_str() {
            "firing" => Tone::Bad,
            "calm" => Tone::Good,
            _ => Tone::Caution,
        };
        let tells = rule.notify.iter().map(|name| {
            if rule.unknown_notifiers.contains(name) {
                format!("{name} (unknown)")
            } else {
                name.clone()
            }
        });
        table.row([
            rule.pipeline_id.as_str().into(),
            rule.rule.as_str().into(),
            Cell::toned(rule.state.clone(), tone),
            tells.collect::<Vec<_>>().join(", ").into(),
        ]);
    }
    if known.is_empty() {
        lines.push("there are no rules".to_owned());
    } else {
        lines.extend(table.lines(style, invocation.talk.out_width()));
    }
    let data = json!({ "alerts": alerts, "rules": known, "unknown": unknown });
    let mut answer = Answer::new(lines.join("\n"), data);
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        answer = answer.notice(format!(
            "rules of {names} are not known: no definition was read"
        ));
    }
    Ok(if alerts.is_empty() {
        answer
    } else {
        answer.verdict(Verdict::Negative)
    })
}

async fn test(server: &Remote, notifier: &str) -> Outcome {
    let route = format!("/notifiers/{}/test", encoded(notifier));
    let sent = server.post(&route, &json!({})).await.map_err(|err| {
        if err.code() == codes::API_NOT_FOUND {
            let text = format!("the server has no notifier {notifier}");
            return Error::definite(codes::API_NOT_FOUND, text);
        }
        err
    })?;
    let result = sent["result"].as_str().unwrap_or_default();
    let is_taken = sent["state"] == "delivered";
    let text = if is_taken {
        format!("✓ {notifier} has taken the message: {result}")
    } else {
        format!("✗ {notifier} has not taken the message: {result}")
    };
    let answer = Answer::new(text, sent);
    Ok(if is_taken {
        answer
    } else {
        answer.verdict(Verdict::Negative)
    })
}

/// For so long, or not any more.
async fn snooze(server: &Remote, id: &str, lasts: Option<Duration>) -> Outcome {
    let route = format!("/alerts/{}/snooze", encoded(id));
    let said = match lasts {
        Some(lasts) => {
            let body = json!({ "for_seconds": lasts.as_secs() });
            server.post(&route, &body).await?
        }
        None => server.delete(&route).await?,
    };
    let alert: Active = read(server, said.clone())?;
    let text = match &alert.snoozed_until {
        Some(until) => format!("no message of {} is sent until {until}", alert.rule),
        None => format!("messages of {} are sent again", alert.rule),
    };
    Ok(Answer::new(text, said))
}

fn read<T: serde::de::DeserializeOwned>(server: &Remote, said: Value) -> Result<T, Failure> {
    Ok(serde_json::from_value(said).map_err(|err| server.strange(&err))?)
}
