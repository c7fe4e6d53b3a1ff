//! How mail goes out: the server that it is given to, who it is from, and who it is for.

use std::net::IpAddr;

use super::choice::{Choice, NotifierTls};
use super::problem::{Located, Place, Problem, Problems};
use super::secret::Secret;
use super::server::{host_and_port, missing, needed};
use super::settings::Settings;
use crate::catalogue::codes;

/// How many are told by one message.
const RECIPIENTS_MAX: usize = 50;

/// A server of mail, and whom it is to tell.
#[derive(Clone, Debug)]
pub struct Mail {
    /// A name, or an address without brackets.
    pub host: String,
    /// 465 for `smtps`, 587 for `smtp`, where nothing is said.
    pub port: u16,
    /// How the way there is secured.
    pub security: MailSecurity,
    /// Who we are to the server.
    pub login: Option<MailLogin>,
    /// Who it is from.
    pub from: MailAddress,
    /// Who it is for; not empty.
    pub to: Vec<MailAddress>,
}

/// How the way to a server of mail is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS before anything is said.
    Tls,
    /// TLS after `STARTTLS`, or nothing is sent.
    StartTls,
    /// Nothing is hidden.
    None,
}

/// Who we are to a server of mail.
#[derive(Clone, Debug)]
pub struct MailLogin {
    /// The name.
    pub user: String,
    /// What proves it.
    pub password: Secret,
}

/// A mailbox: signs that need no quotes, so that nothing in it can be anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailAddress {
    /// Before the `@`.
    pub local: String,
    /// After it.
    pub domain: String,
}

impl std::fmt::Display for MailAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl MailAddress {
    /// Reads one (RFC 5321, 4.1.2: `Dot-string` at a `Domain`); the error says what is wrong.
    pub fn parse(text: &str) -> Result<MailAddress, &'static str> {
        let wrong = "write it as \"name@host.example\", in ASCII and without quotes";
        let (local, domain) = text.rsplit_once('@').ok_or(wrong)?;
        let is_atom =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        let is_local = local.len() <= 64
            && local
                .split('.')
                .all(|atom| !atom.is_empty() && atom.bytes().all(is_atom));
        if is_local && is_domain(domain) {
            let (local, domain) = (local.to_owned(), domain.to_owned());
            Ok(MailAddress { local, domain })
        } else {
            Err(wrong)
        }
    }
}

fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    domain.len() <= 253 && domain.split('.').all(is_label)
}

/// Reads what a notifier of this type says, and tells of what is wrong with it.
pub(super) fn read(
    settings: &Settings,
    section: &str,
    kind: Option<&Place>,
    problems: &mut Problems,
) -> Option<Mail> {
    let at = |name: &str| format!("{section}.{name}");
    let server = needed(settings, &at("smtp"), kind, Settings::text, problems);
    let server = server.and_then(|said| known(said, server_of, problems));
    let from = needed(settings, &at("from"), kind, Settings::text, problems);
    let from = from.and_then(|said| known(said, MailAddress::parse, problems));
    let to = recipients(settings, &at("to"), kind, problems);
    let login = login(settings, section, problems);
    let tls = settings.text(&at("tls"));
    let (is_tls, host, port) = server?;
    let is_off = tls.as_ref().map(|said| NotifierTls::from_word(&said.value));
    let is_off = is_off.flatten() == Some(NotifierTls::None);
    let security = match (is_tls, is_off) {
        (true, false) => MailSecurity::Tls,
        (false, false) => MailSecurity::StartTls,
        (_, true) => MailSecurity::None,
    };
    let place = tls.and_then(|said| said.place);
    if is_tls && is_off {
        let message = "`smtps` is TLS, and `tls` says none";
        let problem = Problem::new(codes::CONFIG_CONFLICT, message);
        problems.push(problem.at(place).label("write smtp://, or take it away"));
    } else if is_off && login.is_some() && !is_this_machine(&host) {
        let message = "a password goes to another machine over TLS only";
        let problem = Problem::new(codes::CONFIG_CONFLICT, message);
        problems.push(problem.at(place).label("take it away, or the password"));
    }
    Some(Mail {
        host,
        port,
        security,
        login,
        from: from?,
        to: to?,
    })
}

/// Whether it is TLS from the start, the host, and the port.
fn server_of(text: &str) -> Result<(bool, String, u16), &'static str> {
    let wrong = "it begins with smtps:// or smtp://";
    let (scheme, authority) = text.split_once("://").ok_or(wrong)?;
    let (is_tls, port_known) = match scheme.to_ascii_lowercase().as_str() {
        "smtps" => (true, 465),
        "smtp" => (false, 587),
        _ => return Err(wrong),
    };
    if authority.contains('@') {
        return Err("user and password have keys of their own");
    }
    let (host, port) = host_and_port(authority)?;
    let port = match port {
        "" => port_known,
        port => port.parse().map_err(|_| "its port is no number to 65535")?,
    };
    Ok((is_tls, host, port))
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn known<T>(
    said: Located<String>,
    read: impl Fn(&str) -> Result<T, &'static str>,
    problems: &mut Problems,
) -> Option<T> {
    match read(&said.value) {
        Ok(known) => Some(known),
        Err(why) => {
            let problem = Problem::new(codes::CONFIG_VALUE, "this address cannot be used");
            problems.push(problem.at(said.place).label(why));
            None
        }
    }
}

fn recipients(
    settings: &Settings,
    path: &str,
    kind: Option<&Place>,
    problems: &mut Problems,
) -> Option<Vec<MailAddress>> {
    let said = settings.list(path);
    if said.is_empty() {
        missing(settings, path, kind, problems);
        return None;
    }
    if let Some(more) = said.get(RECIPIENTS_MAX) {
        let message = format!("one notifier tells at most {RECIPIENTS_MAX} addresses");
        let problem = Problem::new(codes::CONFIG_VALUE, message);
        problems.push(problem.at(more.place.clone()).label("one too many"));
    }
    let each = said.into_iter();
    let each = each.map(|said| known(said, MailAddress::parse, problems));
    // All of them, so that each that is wrong is told of.
    let each: Vec<Option<MailAddress>> = each.collect();
    each.into_iter().collect()
}

fn login(settings: &Settings, section: &str, problems: &mut Problems) -> Option<MailLogin> {
    let (user, password) = (format!("{section}.user"), format!("{section}.password"));
    match (settings.get(&user), settings.get(&password)) {
        (None, None) => None,
        (Some(_), Some(_)) => Some(MailLogin {
            user: settings.text(&user)?.value,
            password: settings.secret(&password)?.value,
        }),
        (Some(said), None) => {
            missing(settings, &password, said.key_place.as_ref(), problems);
            None
        }
        (None, Some(said)) => {
            missing(settings, &user, said.key_place.as_ref(), problems);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b53_addresses_of_mail_are_read_and_others_refused() {
        for right in ["a@b", "on.call+db@mail-1.example", "o'neil@x.example"] {
            assert_eq!(MailAddress::parse(right).unwrap().to_string(), right);
        }
        let long = format!("{}@x", "a".repeat(65));
        for wrong in [
            "",
            "a",
            "@x",
            "a@",
            "a..b@x",
            ".a@x",
            "a@x..y",
            "a@-x",
            "a b@x",
            "a@x y",
            "a@x\r\nRCPT TO:<b@x>",
            "a\r\nbcc: b@x",
            "a>,<b@x",
            "\"a\"@x",
            "A <a@x>",
            "a@x,b@x",
            "é@x",
            "a@[127.0.0.1]",
            &long,
        ] {
            assert!(MailAddress::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn servers_of_mail_are_read_and_others_refused() {
        let of = |is_tls, host: &str, port| Ok::<_, &str>((is_tls, host.to_owned(), port));
        assert_eq!(server_of("smtps://mail"), of(true, "mail", 465));
        assert_eq!(server_of("SMTP://mail:25"), of(false, "mail", 25));
        assert_eq!(server_of("smtp://[::1]"), of(false, "::1", 587));
        for wrong in [
            "mail",
            "http://mail",
            "smtp://",
            "smtp://u:p@mail",
            "smtp://mail:x",
            "smtp://mail:587/",
            "smtp://mail\r\n",
        ] {
            assert!(server_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
