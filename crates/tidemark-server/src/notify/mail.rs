//! How a letter looks to people, as a mail (RFC 5322).
//!
//! Names of tables hold what anybody wrote into them: whatever is in them, they end no line, neither one of
//! the head nor one that is read. Each attempt is the same mail, by the same `Message-ID`.

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{
    ContentTransferEncoding, ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0,
};
use lettre::message::{Mailbox, Message};
use lettre::{Address, address::Envelope};
use tidemark_core::catalogue::codes;
use tidemark_core::clock;
use tidemark_core::config::{Mail, MailAddress};
use tidemark_core::{Error, Result};

use super::letter::{Kind, Sending};

/// Signs of a subject.
const SUBJECT_MAX: usize = 200;

impl Sending<'_> {
    /// As people get it; `pages` is where they reach our own.
    pub(super) fn mail(&self, mail: &Mail, pages: Option<&str>) -> Result<Message> {
        let from = address(&mail.from)?;
        let to = mail.to.iter().map(address).collect::<Result<Vec<_>>>()?;
        let created = u64::try_from(self.created_us).unwrap_or(0);
        let id = format!("<{}@{}>", self.id, mail.from.domain);
        // No machine answers (RFC 3834, 5).
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut message = Message::builder()
            .from(Mailbox::new(None, from.clone()))
            .date(UNIX_EPOCH + Duration::from_micros(created))
            .message_id(Some(id))
            .subject(self.subject())
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN)
            .header(ContentTransferEncoding::QuotedPrintable)
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
        for address in &to {
            message = message.to(Mailbox::new(None, address.clone()));
        }
        let envelope = Envelope::new(Some(from), to).map_err(unwritten)?;
        let message = message.envelope(envelope).body(self.body(pages));
        message.map_err(unwritten)
    }

    fn subject(&self) -> String {
        let letter = self.letter;
        let word = match letter.kind {
            Kind::Alert => letter.severity.as_deref().unwrap_or("alert"),
            Kind::AlertResolved => "resolved",
            Kind::LoadFinished => "finished",
            Kind::Test => "test",
        };
        let pipeline = letter.pipeline.as_deref().unwrap_or(self.notifier);
        let rule = letter
            .rule
            .as_deref()
            .unwrap_or("Tidemark can write to you");
        let subject = one_line(&format!("[{word}] {pipeline}: {rule}"));
        subject.chars().take(SUBJECT_MAX).collect()
    }

    fn body(&self, pages: Option<&str>) -> String {
        let letter = self.letter;
        let since = letter.since_us.map(clock::rfc3339);
        let pipeline = letter.pipeline.as_deref();
        let page = pages.zip(pipeline);
        let page = page.map(|(pages, pipeline)| format!("{pages}/p/{pipeline}"));
        let known = [
            ("Pipeline", pipeline),
            ("Rule", letter.rule.as_deref()),
            ("Severity", letter.severity.as_deref()),
            ("Since", since.as_deref()),
            ("Page", page.as_deref()),
        ];
        let known = known
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let known = known.map(|(name, value)| format!("{name}: {}\n", one_line(value)));
        let known: String = known.collect();
        let text = one_line(&letter.text);
        let notifier = self.notifier;
        format!("{text}\n\n{known}\nTidemark wrote this for its notifier {notifier}.\n")
    }
}

/// What would end a line, or turn its direction around, written out.
fn one_line(text: &str) -> String {
    let turns = |sign| matches!(sign, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let mut line = String::with_capacity(text.len());
    for sign in text.trim_end_matches('\n').chars() {
        if sign.is_control() || turns(sign) {
            line.extend(sign.escape_default());
        } else {
            line.push(sign);
        }
    }
    line
}

fn address(address: &MailAddress) -> Result<Address> {
    let known = Address::new(&address.local, &address.domain);
    known.map_err(|err| {
        let text = format!("{address} cannot be written to: {err}");
        Error::definite(codes::NOTIFY_REFUSED, text)
    })
}

fn unwritten(err: lettre::error::Error) -> Error {
    Error::definite(codes::NOTIFY_REFUSED, "the mail cannot be written").caused_by(err)
}
