//! The server's file: how it starts, who is told of alerts, where messages may go, and where databases may
//! be.

use std::net::IpAddr;

use super::choice::{Choice, NotifierType};
use super::keys::SERVER_KEYS;
use super::mail::{self, Mail, MailSecurity};
use super::overrides;
use super::problem::{Document, Located, Place, Problem, Problems};
use super::reach::Reach;
use super::read;
use super::secret::{Nothing, Secret, Surroundings};
use super::serving::{self, Serving};
use super::settings::Settings;
use crate::catalogue::codes;

/// Characters of an address.
const URL_CHARS_MAX: usize = 2_000;

/// What the server's file says.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// How it starts.
    pub serving: Serving,
    /// Who can be told.
    pub notifiers: Vec<Notifier>,
    /// Networks that are not public, and may be spoken to all the same.
    pub allow: Vec<Network>,
    /// Where people reach the server's pages, without a `/` at its end.
    pub pages: Option<String>,
    /// How many pipelines a tenant may have that does not run the server.
    pub tenant_pipelines_max: usize,
    /// Where the databases of definitions may be that come through the API.
    pub databases: Reach,
}

/// What counts where there is no file.
impl Default for ServerConfig {
    fn default() -> ServerConfig {
        let nothing = Document::new("default", "version = 1");
        read_server(nothing, &Nothing).expect("every key but the version may be left out")
    }
}

/// Who is told of alerts, by the name that rules say.
#[derive(Clone, Debug)]
pub struct Notifier {
    /// By which rules know it.
    pub name: String,
    /// Whose rules may name it.
    pub tenant: String,
    /// How it is told.
    pub way: Way,
}

/// How somebody is told.
#[derive(Clone, Debug)]
pub enum Way {
    /// A program, by a signed request.
    Webhook {
        /// Where.
        url: HttpUrl,
        /// Signs what is sent.
        secret: Secret,
    },
    /// A channel of Slack, by an incoming webhook.
    Slack {
        /// Where; whoever knows it may write there.
        url: HttpUrl,
    },
    /// People, by mail.
    Email(Box<Mail>),
}

impl Way {
    /// Its word in the file.
    pub fn word(&self) -> &'static str {
        match self {
            Way::Webhook { .. } => NotifierType::Webhook.word(),
            Way::Slack { .. } => NotifierType::Slack.word(),
            Way::Email(_) => NotifierType::Email.word(),
        }
    }

    /// Where it goes, without anything that is secret.
    pub fn host(&self) -> &str {
        match self {
            Way::Webhook { url, .. } | Way::Slack { url } => &url.host,
            Way::Email(mail) => &mail.host,
        }
    }

    /// Whether what is sent goes over TLS.
    pub fn is_tls(&self) -> bool {
        match self {
            Way::Webhook { url, .. } | Way::Slack { url } => url.is_tls,
            Way::Email(mail) => mail.security != MailSecurity::None,
        }
    }
}

/// An address of HTTP. What follows the host may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// Whether it is `https`.
    pub is_tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// 80 or 443, where nothing is said.
    pub port: u16,
    /// Path and query, from `/` on.
    pub path: Secret,
}

impl HttpUrl {
    /// Reads one; the error says what is wrong, and nothing of the text.
    pub fn parse(text: &str) -> Result<HttpUrl, &'static str> {
        if text.len() > URL_CHARS_MAX {
            return Err("an address has at most 2000 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("an address has no spaces and no characters outside of ASCII");
        }
        let (scheme, rest) = text.split_once("://").ok_or(NO_HTTP)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(NO_HTTP),
        };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("an address has no user and password in it");
        }
        let (host, port) = host_and_port(authority)?;
        let port = match (port, is_tls) {
            ("", true) => 443,
            ("", false) => 80,
            (port, _) => port.parse().map_err(|_| "its port is no number to 65535")?,
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(HttpUrl {
            is_tls,
            host,
            port,
            path: Secret::new(path),
        })
    }

    /// What the `Host` header says.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

const NO_HTTP: &str = "an address begins with https:// (or http://)";

pub(super) fn host_and_port(authority: &str) -> Result<(String, &str), &'static str> {
    if let Some(inside) = authority.strip_prefix('[') {
        let wrong = "an address of IPv6 is written in brackets";
        let (host, port) = inside.split_once(']').ok_or(wrong)?;
        let host: std::net::Ipv6Addr = host.parse().map_err(|_| wrong)?;
        let port = match port {
            "" => "",
            port => port.strip_prefix(':').ok_or(wrong)?,
        };
        return Ok((host.to_string(), port));
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() {
        return Err("it names no host");
    }
    if host.bytes().all(is_name) {
        Ok((host.to_owned(), port))
    } else {
        Err("a host's name has letters, digits, `.`, `-` and `_`")
    }
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// `10.1.0.0/16`, `fd00::/8`, or one address.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.trim().parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.trim().parse().ok())?;
        (bits <= most).then_some(Network { address, bits })
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let begins_alike = |a: u128, b: u128, width: u32| {
            let rest = width - u32::from(self.bits);
            a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                begins_alike(u32::from(a).into(), u32::from(b).into(), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => begins_alike(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

/// Reads the server's file, or says all that is wrong with it.
pub fn read_server(
    file: Document,
    surroundings: &dyn Surroundings,
) -> Result<ServerConfig, Problems> {
    let (mut settings, mut problems) = read::read(file, &SERVER_KEYS, surroundings);
    read::require(&settings, &SERVER_KEYS, &mut problems);
    overrides::add_defaults(&mut settings, &SERVER_KEYS);
    let only = settings.get("databases.only").is_some();
    let mut config = ServerConfig {
        serving: serving::read(&settings, &mut problems),
        notifiers: Vec::new(),
        allow: networks(&settings, "notify.allow", &mut problems),
        pages: None,
        tenant_pipelines_max: settings
            .number("tenants.pipelines")
            .map_or(0, |max| usize::try_from(max).unwrap_or(usize::MAX)),
        databases: Reach {
            only: only.then(|| networks(&settings, "databases.only", &mut problems)),
            deny: networks(&settings, "databases.deny", &mut problems),
        },
    };
    for index in 0..settings.count("notifier") {
        let Some(notifier) = notifier(&settings, index, &mut problems) else {
            continue;
        };
        let is_same =
            |other: &Notifier| (&other.tenant, &other.name) == (&notifier.tenant, &notifier.name);
        if config.notifiers.iter().any(is_same) {
            let message = format!("there are two notifiers `{}`", notifier.name);
            let place = settings.text(&format!("notifier[{index}].name"));
            let problem = Problem::new(codes::CONFIG_CONFLICT, message);
            let place = place.and_then(|name| name.place);
            problems.push(problem.at(place).label("each has a name of its own"));
        } else {
            config.notifiers.push(notifier);
        }
    }
    if let Some(pages) = settings.text("notify.pages") {
        match HttpUrl::parse(&pages.value) {
            Ok(_) => config.pages = Some(pages.value.trim_end_matches('/').to_owned()),
            Err(why) => {
                let problem = Problem::new(codes::CONFIG_VALUE, "this address cannot be used");
                problems.push(problem.at(pages.place).label(why));
            }
        }
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems.sorted())
    }
}

fn networks(settings: &Settings, path: &str, problems: &mut Problems) -> Vec<Network> {
    let mut found = Vec::new();
    for network in settings.list(path) {
        match Network::parse(&network.value) {
            Some(network) => found.push(network),
            None => problems.push(
                Problem::new(codes::CONFIG_VALUE, "this is no network")
                    .at(network.place)
                    .label("write it as \"10.1.0.0/16\", \"fd00::/8\" or one address"),
            ),
        }
    }
    found
}

fn notifier(settings: &Settings, index: usize, problems: &mut Problems) -> Option<Notifier> {
    let section = format!("notifier[{index}]");
    let at = |name: &str| format!("{section}.{name}");
    let name = settings.text(&at("name"))?;
    let kind = settings.text(&at("type"))?;
    let tenant = settings.text(&at("tenant"))?.value;
    let before = problems.len();
    let known = NotifierType::from_word(&kind.value)?;
    not_of_this_type(settings, &section, known, problems);
    let way = match known {
        NotifierType::Webhook => {
            let url = url(settings, &at("url"), kind.place.as_ref(), problems);
            let secret = at("secret");
            let secret = needed(
                settings,
                &secret,
                kind.place.as_ref(),
                Settings::secret,
                problems,
            );
            let is_empty = |secret: &Located<Secret>| secret.value.expose().is_empty();
            if let Some(secret) = secret.as_ref().filter(|secret| is_empty(secret)) {
                let problem = Problem::new(codes::CONFIG_VALUE, "the secret is empty");
                problems.push(problem.at(secret.place.clone()).label("it signs nothing"));
            }
            Way::Webhook {
                url: url?,
                secret: secret?.value,
            }
        }
        NotifierType::Slack => Way::Slack {
            url: url(settings, &at("url"), kind.place.as_ref(), problems)?,
        },
        NotifierType::Email => {
            let mail = mail::read(settings, &section, kind.place.as_ref(), problems);
            Way::Email(Box::new(mail?))
        }
    };
    (problems.len() == before).then_some(Notifier {
        name: name.value,
        tenant,
        way,
    })
}

/// Says so where a key is of another type.
fn not_of_this_type(
    settings: &Settings,
    section: &str,
    kind: NotifierType,
    problems: &mut Problems,
) {
    let (web, signed) = (["url"].as_slice(), ["secret"].as_slice());
    let mail = ["smtp", "tls", "user", "password", "from", "to"].as_slice();
    let others = match kind {
        NotifierType::Webhook => mail.to_vec(),
        NotifierType::Slack => [signed, mail].concat(),
        NotifierType::Email => [web, signed].concat(),
    };
    for key in others {
        if let Some(said) = settings.get(&format!("{section}.{key}")) {
            let word = kind.word();
            let message = format!("`{key}` says nothing to a notifier of type `{word}`");
            let problem = Problem::new(codes::CONFIG_CONFLICT, message);
            problems.push(problem.at(said.key_place.clone()).label("take it away"));
        }
    }
}

fn url(
    settings: &Settings,
    path: &str,
    kind: Option<&Place>,
    problems: &mut Problems,
) -> Option<HttpUrl> {
    let url = needed(settings, path, kind, Settings::secret, problems)?;
    match HttpUrl::parse(url.value.expose()) {
        Ok(parsed) => Some(parsed),
        Err(why) => {
            let problem = Problem::new(codes::CONFIG_VALUE, "this address cannot be used");
            problems.push(problem.at(url.place).label(why));
            None
        }
    }
}

/// What must be there with a notifier of its type, whose word stands at `kind`.
pub(super) fn needed<T>(
    settings: &Settings,
    path: &str,
    kind: Option<&Place>,
    read: impl Fn(&Settings, &str) -> Option<Located<T>>,
    problems: &mut Problems,
) -> Option<Located<T>> {
    let found = read(settings, path);
    if found.is_none() {
        missing(settings, path, kind, problems);
    }
    found
}

/// Says so where something is not there that must be; not where it is, and is wrong.
pub(super) fn missing(
    settings: &Settings,
    path: &str,
    at: Option<&Place>,
    problems: &mut Problems,
) {
    if settings.misread.contains(&path.to_owned()) {
        return;
    }
    let key = path.rsplit('.').next().unwrap_or(path);
    let such_as = match key {
        "smtp" => "\"smtps://mail.example\"",
        "from" => "\"tidemark@host.example\"",
        "to" => "[\"on-call@host.example\"]",
        _ => "\"${env:…}\"",
    };
    let message = format!("a notifier of this type needs `{key}`");
    let problem = Problem::new(codes::CONFIG_MISSING, message);
    let label = format!("such as `{key} = {such_as}`");
    problems.push(problem.at(at.cloned()).label(label));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_http_are_read_and_others_refused() {
        let read = |text: &str| {
            let url = HttpUrl::parse(text)?;
            let path = url.path.expose().to_owned();
            Ok((url.is_tls, url.authority(), url.port, path))
        };
        let of = |is_tls, host: &str, port, path: &str| {
            Ok::<_, &str>((is_tls, host.to_owned(), port, path.to_owned()))
        };
        assert_eq!(read("https://a.b/c?d#e"), of(true, "a.b", 443, "/c?d"));
        assert_eq!(read("HTTP://a:8080"), of(false, "a:8080", 8080, "/"));
        assert_eq!(read("http://[::1]:9/x"), of(false, "[::1]:9", 9, "/x"));
        assert_eq!(read("https://a?b"), of(true, "a", 443, "/?b"));
        for wrong in [
            "",
            "a",
            "ftp://a",
            "file:///etc/passwd",
            "gopher://a",
            "http://",
            "http:///x",
            "http://u:p@a/",
            "http://a:b/",
            "http://a:99999/",
            "http://[::1/",
            "http://[x]/",
            "http://a b/",
            "http://a\r\nx: y/",
            "http://é/",
            &format!("http://a/{}", "x".repeat(5_000)),
        ] {
            assert!(HttpUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        for (network, address, is_in) in [
            ("10.1.0.0/16", "10.1.255.1", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
        ] {
            let network = Network::parse(network).unwrap();
            let address = address.parse().unwrap();
            assert_eq!(network.contains(address), is_in, "{network:?} {address}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "localhost", "10.0.0/8"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
