//! Who is told of alerts, and how it gets there.
//!
//! ```text
//!   alerts ─► outbox (store, in the transaction that moves the alert) ─► courier ─► receiver
//!                └──────────── waits, tried again ◄────────────────────────┘
//! ```
//!
//! What is to be said is in the outbox before anything goes out, and leaves it when the receiver has taken
//! it: a server that is killed loses nothing, and may send one message twice, under the same id. Each
//! notifier has a courier of its own, which sends one message after the other, so that they come in order
//! and one receiver that hangs holds up nobody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::config::{Notifier, ServerConfig, Way};
use tidemark_core::error::ErrorKind;
use tidemark_core::{Error, Result, clock};

use crate::api::auth::new_id;
use crate::store::{Attempted, DeliveryRow, Entry, Key, Level, NewDelivery};
use crate::supervisor::{Shared, survived};
use http::{Client, Refused};
use letter::Sending;
use reach::Reach;

pub(crate) use letter::{Kind, Letter};

mod http;
mod letter;
mod mail;
mod reach;
mod smtp;

/// The first pause after an attempt that failed; each one after it is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(10);
/// What could not be delivered for so long is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_hours(24);
/// How long somebody who asked for a test waits; the API answers within 30 s.
const TESTED_WITHIN: Duration = Duration::from_secs(25);
/// How long a store that does not answer is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// See the module's text.
pub(crate) struct Notify {
    pub(crate) notifiers: Vec<Notifier>,
    client: Client,
    /// Where people reach our pages.
    pages: Option<String>,
    /// Wakes couriers that have nothing to do.
    posted: tokio::sync::Notify,
    counts: Mutex<BTreeMap<Counted, u64>>,
}

/// What is counted: tenant, notifier, result.
pub(crate) type Counted = (String, String, &'static str);

impl Notify {
    pub(crate) fn new(config: ServerConfig) -> Notify {
        Notify {
            notifiers: config.notifiers,
            client: Client::new(Reach {
                allowed: config.allow,
            }),
            pages: config.pages,
            posted: tokio::sync::Notify::new(),
            counts: Mutex::default(),
        }
    }

    /// One that the rules of a tenant may name.
    pub(crate) fn find(&self, tenant: &str, name: &str) -> Option<&Notifier> {
        let is_it = |it: &&Notifier| it.tenant == tenant && it.name == name;
        self.notifiers.iter().find(is_it)
    }

    /// Says so where a rule names somebody who is not known.
    pub(crate) fn check<'a>(
        &self,
        tenant: &str,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<()> {
        let mut names = names.into_iter();
        match names.find(|name| self.find(tenant, name).is_none()) {
            Some(name) => Err(self.unknown(tenant, name)),
            None => Ok(()),
        }
    }

    fn unknown(&self, tenant: &str, name: &str) -> Error {
        let known = self.notifiers.iter().filter(|it| it.tenant == tenant);
        let known: Vec<&str> = known.map(|it| it.name.as_str()).collect();
        let text = match known.as_slice() {
            [] => format!("there is no notifier `{name}`; the server's file has none"),
            known => format!("there is no notifier `{name}`; known: {}", known.join(", ")),
        };
        Error::definite(codes::NOTIFIER_UNKNOWN, text)
    }

    /// What goes into the outbox for everybody who is named.
    pub(crate) fn address(
        &self,
        tenant: &str,
        names: &[String],
        letter: &Letter,
    ) -> Result<Vec<NewDelivery>> {
        let one = |name: &String| {
            let unknown = match self.find(tenant, name) {
                Some(_) => None,
                None => Some(self.unknown(tenant, name)),
            };
            let failed = unknown.map(|err| (err.code().to_string(), err.to_string()));
            if failed.is_some() {
                self.count(tenant, name, "failed");
            }
            Ok(NewDelivery {
                failed,
                ..new_delivery(tenant, name, letter)?
            })
        };
        names.iter().map(one).collect()
    }

    /// Something was put into the outbox.
    pub(crate) fn wake(&self) {
        self.posted.notify_waiters();
    }

    /// Messages that were delivered, tried again, or given up since the server was started.
    pub(crate) fn counts(&self) -> BTreeMap<Counted, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }

    fn count(&self, tenant: &str, notifier: &str, result: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let which = (tenant.to_owned(), notifier.to_owned(), result);
        *counts.entry(which).or_default() += 1;
    }

    /// Sends one message; `Ok` is what came of it, for people.
    async fn send(&self, notifier: &Notifier, row: &DeliveryRow) -> Result<String, Refused> {
        let letter: Letter = serde_json::from_str(&row.letter).map_err(|err| {
            Error::definite(codes::STORE_DAMAGED, "a message in the outbox").caused_by(err)
        })?;
        let sending = Sending {
            id: &row.id,
            tenant: &notifier.tenant,
            notifier: &notifier.name,
            created_us: row.created_us,
            letter: &letter,
        };
        let status = match &notifier.way {
            Way::Webhook { url, secret } => {
                let message = sending.signed_event(secret, clock::now_us());
                self.client.post(url, message).await?
            }
            Way::Slack { url } => self.client.post(url, sending.slack()).await?,
            Way::Email(mail) => {
                let message = sending.mail(mail, self.pages.as_deref())?;
                return Ok(smtp::send(&self.client, mail, &message).await?);
            }
        };
        Ok(format!("{} answered {status}", notifier.way.host()))
    }
}

fn new_delivery(tenant: &str, notifier: &str, letter: &Letter) -> Result<NewDelivery> {
    let text = serde_json::to_string(letter)
        .map_err(|err| Error::definite(codes::INTERNAL, "write a message").caused_by(err))?;
    Ok(NewDelivery {
        id: new_id()?,
        tenant: tenant.to_owned(),
        notifier: notifier.to_owned(),
        pipeline: letter.pipeline.clone(),
        kind: letter.kind.word(),
        letter: text,
        failed: None,
    })
}

/// Delivers what is in the outbox for one notifier, as long as the server lives.
pub(crate) async fn deliver(shared: Arc<Shared>, index: usize) {
    let Some(notifier) = shared.notify.notifiers.get(index) else {
        return;
    };
    loop {
        // What is posted from here on wakes.
        let posted = shared.notify.posted.notified();
        let (tenant, name) = (notifier.tenant.clone(), notifier.name.clone());
        match shared.store.first_waiting(tenant, name).await {
            Ok(None) => posted.await,
            Ok(Some(row)) => {
                let left = row.next_us.saturating_sub(clock::now_us());
                let left = Duration::from_micros(u64::try_from(left).unwrap_or(0));
                // A clock that was set back must not have it wait for longer than any pause.
                tokio::time::sleep(left.min(PAUSE_MAX * 6)).await;
                let attempted = attempt(&shared, notifier, row);
                if survived("a delivery", attempted).await.is_none() {
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
            Err(err) => {
                tracing::warn!(code = %err.code(), error = %err, "the outbox cannot be read");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
}

/// Tries one, and writes down what came of it.
async fn attempt(shared: &Shared, notifier: &Notifier, row: DeliveryRow) {
    let (name, id) = (notifier.name.as_str(), row.id.clone());
    let (attempted, result) = match shared.notify.send(notifier, &row).await {
        Ok(text) => (Attempted::Delivered(text), "delivered"),
        Err(refused) => {
            let now = clock::now_us();
            let waited = now.saturating_sub(row.created_us);
            let is_over = u128::try_from(waited).unwrap_or(0) >= GIVEN_UP_AFTER.as_micros();
            if refused.error.kind() == ErrorKind::Transient && !is_over {
                let pause = pause(row.attempts, refused.retry_after);
                let pause = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
                let next_us = now.saturating_add(pause);
                (Attempted::Later(refused.error.into(), next_us), "retried")
            } else {
                (Attempted::GivenUp(refused.error.into()), "failed")
            }
        }
    };
    shared.notify.count(&notifier.tenant, name, result);
    if let Attempted::Later(err, _) | Attempted::GivenUp(err) = &attempted {
        let goes_on = result == "retried";
        tracing::warn!(notifier = name, delivery = id, code = %err.code(), goes_on, "{err}");
    }
    if let (Attempted::GivenUp(err), Some(pipeline)) = (&attempted, &row.pipeline_id) {
        let key = Key::new(notifier.tenant.as_str(), pipeline.as_str());
        let text = format!("{name} was not told of an alert: {err}");
        shared.scribe.note(Entry {
            code: Some(err.code().to_string()),
            ..Entry::plain(&key, Level::Warn, "notification_failed", text)
        });
    }
    write_down(shared, id, attempted).await;
}

/// What came of an attempt is written down before anything else goes out, however long the store is away: the
/// outbox has the message still, and whoever reads it there would send it once more.
async fn write_down(shared: &Shared, id: String, attempted: Attempted) {
    for attempt in 1_u32.. {
        let written = shared.store.attempted(id.clone(), attempted.clone());
        let Err(err) = written.await else { return };
        if attempt.is_power_of_two() {
            tracing::warn!(code = %err.code(), error = %err, "a delivery is not written down");
        }
        tokio::time::sleep(STORE_PAUSE).await;
        // What cannot be written whenever it is tried is for the outbox again.
        if [codes::STORE_DAMAGED, codes::INTERNAL].contains(&err.code()) {
            return;
        }
    }
}

/// How long to wait after so many attempts, a fifth more or less so that not all come at once. A receiver may
/// want more, and never less: one that asks to be tried at once, and refuses, would be tried without end.
fn pause(attempts: i64, wanted: Option<Duration>) -> Duration {
    let doubled = u32::try_from(attempts).unwrap_or(u32::MAX).min(16);
    let pause = PAUSE_FIRST.saturating_mul(1 << doubled).min(PAUSE_MAX);
    let spread = u64::try_from(clock::now_us()).unwrap_or(0) % 400;
    let pause = pause.mul_f64(0.8 + spread as f64 / 1_000.0);
    pause.max(wanted.unwrap_or_default())
}

/// Sends a message at once that says what it is, once.
pub(crate) async fn test(shared: &Shared, notifier: &Notifier, by: &str) -> Result<DeliveryRow> {
    let letter = Letter {
        kind: Kind::Test,
        pipeline: None,
        rule: None,
        when: None,
        severity: None,
        since_us: None,
        text: format!(
            "✓ Tidemark can reach {}. {by} asked for this test.",
            notifier.name
        ),
    };
    let new = new_delivery(&notifier.tenant, &notifier.name, &letter)?;
    let now = clock::now_us();
    let row = DeliveryRow {
        number: 0,
        id: new.id.clone(),
        notifier: new.notifier.clone(),
        pipeline_id: None,
        kind: new.kind.to_owned(),
        state: "testing".to_owned(),
        attempts: 0,
        created_at: clock::rfc3339(now),
        next_at: None,
        ended_at: None,
        code: None,
        result: None,
        created_us: now,
        next_us: now,
        letter: new.letter.clone(),
    };
    shared.store.add_delivery(new).await?;
    let sent = tokio::time::timeout(TESTED_WITHIN, shared.notify.send(notifier, &row)).await;
    let sent = sent.unwrap_or_else(|_| {
        let (host, seconds) = (notifier.way.host(), TESTED_WITHIN.as_secs());
        let text = format!("{host}: the test was not taken within {seconds} s");
        Err(reach::unreachable(text).into())
    });
    let attempted = match sent {
        Ok(text) => Attempted::Delivered(text),
        Err(refused) => Attempted::GivenUp(refused.error.into()),
    };
    let result = match &attempted {
        Attempted::Delivered(_) => "delivered",
        _ => "failed",
    };
    shared
        .notify
        .count(&notifier.tenant, &notifier.name, result);
    shared.store.attempted(row.id, attempted).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r24_pauses_double_up_to_a_bound() {
        for attempts in 0..40 {
            let whole = 1_u64 << attempts.min(20);
            let whole = Duration::from_secs(whole).min(PAUSE_MAX);
            let bounds = whole.mul_f64(0.8)..=whole.mul_f64(1.2);
            // Whoever refuses, and wants to be asked again at once, waits as well.
            for wanted in [None, Some(Duration::ZERO)] {
                let pause = pause(attempts, wanted);
                assert!(bounds.contains(&pause), "{attempts}: {pause:?}");
            }
            let longer = Duration::from_hours(1);
            assert_eq!(pause(attempts, Some(longer)), longer);
        }
    }
}
