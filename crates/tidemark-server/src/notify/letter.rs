//! What is said, and how it looks to each kind of receiver.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemark_core::clock;
use tidemark_core::config::Secret;

use super::http::Outgoing;

/// What somebody is told; as it is in the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub(crate) kind: Kind,
    pub(crate) pipeline: Option<String>,
    /// The rule, in words.
    pub(crate) rule: Option<String>,
    /// What the rule looks at.
    pub(crate) when: Option<String>,
    pub(crate) severity: Option<String>,
    pub(crate) since_us: Option<i64>,
    pub(crate) text: String,
}

/// What a letter is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Alert,
    AlertResolved,
    LoadFinished,
    Test,
}

impl Kind {
    /// Its word in the log of deliveries.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Alert => "alert",
            Kind::AlertResolved => "alert_resolved",
            Kind::LoadFinished => "load_finished",
            Kind::Test => "test",
        }
    }

    fn event_type(self) -> &'static str {
        match self {
            Kind::Alert => "io.tidemark.alert.fired.v1",
            Kind::AlertResolved => "io.tidemark.alert.resolved.v1",
            Kind::LoadFinished => "io.tidemark.load.finished.v1",
            Kind::Test => "io.tidemark.notifier.test.v1",
        }
    }
}

/// A letter on its way.
pub(super) struct Sending<'a> {
    /// The same at each attempt, so that a receiver can drop what comes twice.
    pub(super) id: &'a str,
    pub(super) tenant: &'a str,
    pub(super) notifier: &'a str,
    pub(super) created_us: i64,
    pub(super) letter: &'a Letter,
}

impl Sending<'_> {
    /// As a program gets it: an event as `CloudEvents` 1.0 has it, signed as Standard Webhooks has it.
    pub(super) fn signed_event(&self, secret: &Secret, now_us: i64) -> Outgoing {
        let letter = self.letter;
        let source = match &letter.pipeline {
            Some(pipeline) => format!("/tenants/{}/pipelines/{pipeline}", self.tenant),
            None => format!("/tenants/{}/notifiers/{}", self.tenant, self.notifier),
        };
        let body = json!({
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": letter.kind.event_type(),
            "time": clock::rfc3339(self.created_us),
            "datacontenttype": "application/json",
            "data": {
                "pipeline_id": letter.pipeline,
                "rule": letter.rule,
                "when": letter.when,
                "severity": letter.severity,
                "since": letter.since_us.map(clock::rfc3339),
                "text": letter.text,
            },
        });
        let body = body.to_string();
        let seconds = now_us / 1_000_000;
        let signature = signature(secret, self.id, seconds, &body);
        Outgoing {
            content_type: "application/cloudevents+json",
            headers: vec![
                ("webhook-id", self.id.to_owned()),
                ("webhook-timestamp", seconds.to_string()),
                ("webhook-signature", signature),
            ],
            body,
        }
    }

    /// As a channel of Slack gets it.
    pub(super) fn slack(&self) -> Outgoing {
        Outgoing {
            content_type: "application/json",
            headers: Vec::new(),
            body: json!({ "text": plain_for_slack(&self.letter.text) }).to_string(),
        }
    }
}

/// HMAC-SHA256 over id, time of the attempt and body.
fn signature(secret: &Secret, id: &str, seconds: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    let signed = hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(signed.as_ref()))
}

/// Names of tables mention nobody, and are no links, whatever is in them.
fn plain_for_slack(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s17_a_signature_covers_id_time_and_body() {
        let secret = Secret::new("key");
        // printf '1.2.{}' | openssl dgst -sha256 -hmac key -binary | base64
        let expected = "v1,9iXOMau8MQvofxZwGPd/aC/ZrwvhfkmpWBMiycRwdZ0=";
        assert_eq!(signature(&secret, "1", 2, "{}"), expected);
        for (id, seconds, body) in [("2", 2, "{}"), ("1", 3, "{}"), ("1", 2, "{ }")] {
            assert_ne!(signature(&secret, id, seconds, body), expected);
        }
    }

    #[test]
    fn s18_what_stands_in_a_name_calls_nobody_in_a_channel() {
        let letter = Letter {
            kind: Kind::Alert,
            pipeline: Some("shop".to_owned()),
            rule: None,
            when: None,
            severity: None,
            since_us: None,
            text: "! <!channel> \"<http://a|b>\" & so on\n".to_owned(),
        };
        let sending = Sending {
            id: "1",
            tenant: "default",
            notifier: "slack",
            created_us: 0,
            letter: &letter,
        };
        let body: serde_json::Value = serde_json::from_str(&sending.slack().body).unwrap();
        let text = body["text"].as_str().unwrap();
        assert_eq!(
            text,
            "! &lt;!channel&gt; \"&lt;http://a|b&gt;\" &amp; so on\n"
        );
    }
}
