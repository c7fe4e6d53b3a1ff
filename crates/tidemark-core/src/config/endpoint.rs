//! How to reach a database: a URL, or its parts, or the name of a connection.
//!
//! What the parts of a URL mean is for the crate of that kind of database; here parts become a URL,
//! and what contradicts itself is refused.

use super::Endpoint;
use std::fmt::Write as _;

use super::choice::{Choice, System};
use super::problem::{Located, Place, Problem, Problems, suggestion};
use super::secret::Secret;
use super::settings::Settings;
use crate::catalogue::codes;

const PARTS: [&str; 8] = [
    "host",
    "port",
    "database",
    "user",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// Connections that have a name.
pub(super) struct Connections {
    /// In which they are: `connections.toml`, where there is one, and others.
    pub(super) files: Vec<Settings>,
}

impl Connections {
    /// Every one that has a name: it, its file, and its number there.
    fn named(&self) -> impl Iterator<Item = (Located<String>, &Settings, usize)> {
        self.files.iter().flat_map(|file| {
            let of_number = move |index| {
                let name = file.text(&format!("connection[{index}].name"))?;
                Some((name, file, index))
            };
            (0..file.count("connection")).filter_map(of_number)
        })
    }

    /// All of them.
    pub(super) fn all(&self, problems: &mut Problems) -> Vec<(String, Endpoint)> {
        let mut found = Vec::new();
        for (name, file, index) in self.named() {
            let section = format!("connection[{index}]");
            if let Some(endpoint) = own(&section, file, name.place, problems) {
                let connection = Some(name.value.clone());
                let endpoint = Endpoint {
                    connection,
                    ..endpoint
                };
                found.push((name.value, endpoint));
            }
        }
        found
    }
}

/// Reads the endpoint of `[source]` or `[target]`; `None` where a problem was recorded.
pub(super) fn endpoint(
    section: &str,
    settings: &Settings,
    connections: &Connections,
    problems: &mut Problems,
) -> Option<Endpoint> {
    let here = settings.sections.get(section).cloned();
    let Some(name) = settings.text(&format!("{section}.connection")) else {
        return own(section, settings, here, problems);
    };
    let said = PARTS.iter().chain(&["url", "password", "type"]);
    for part in said {
        if let Some(setting) = settings.get(&format!("{section}.{part}")) {
            let problem = Problem::new(
                codes::CONFIG_CONFLICT,
                format!("`{part}` contradicts `connection`"),
            );
            problems.push(
                problem
                    .at(setting.key_place.clone())
                    .label("the connection says it already"),
            );
        }
    }
    if connections.files.is_empty() {
        let problem = Problem::new(
            codes::CONFIG_CONNECTION,
            format!(
                "there is no connection `{}`, nor a connections.toml beside the pipeline file",
                name.value
            ),
        );
        problems.push(
            problem
                .at(name.place)
                .label("this connection would be there"),
        );
        return None;
    }
    let mut named = connections.named();
    let Some((_, file, index)) = named.find(|(known, ..)| known.value == name.value) else {
        let known: Vec<String> = connections.named().map(|(name, ..)| name.value).collect();
        let label = match suggestion(&name.value, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("known: {}", known.join(", ")),
        };
        let message = format!("there is no connection `{}`", name.value);
        let problem = Problem::new(codes::CONFIG_CONNECTION, message);
        problems.push(problem.at(name.place).label(label));
        return None;
    };
    let endpoint = own(&format!("connection[{index}]"), file, name.place, problems)?;
    Some(Endpoint {
        connection: Some(name.value),
        ..endpoint
    })
}

/// An endpoint by the keys of its own section.
fn own(
    section: &str,
    settings: &Settings,
    here: Option<Place>,
    problems: &mut Problems,
) -> Option<Endpoint> {
    let at = |part: &str| format!("{section}.{part}");
    let url = settings.secret(&at("url"));
    let host = settings.text(&at("host"));
    let password = settings.secret(&at("password"));
    if url.is_some() {
        for part in PARTS {
            if let Some(setting) = settings.get(&at(part)) {
                let problem = Problem::new(
                    codes::CONFIG_CONFLICT,
                    format!("`{part}` contradicts `url`"),
                );
                problems.push(
                    problem
                        .at(setting.key_place.clone())
                        .label("give one or the other"),
                );
            }
        }
    }
    let url = match (url, host) {
        (Some(url), _) => url,
        (None, Some(host)) => Located {
            value: from_parts(section, settings, &host, problems)?,
            place: host.place,
        },
        (None, None) => {
            // A value that could not be read has its own problem.
            let is_misread = here.is_none() || problems_in(problems, settings, section);
            if !is_misread {
                let problem = Problem::new(
                    codes::CONFIG_MISSING,
                    format!("[{}] says not where it is", section_name(section)),
                );
                problems.push(
                    problem
                        .at(here)
                        .label("give `url`, or `host`, or `connection`"),
                );
            }
            return None;
        }
    };
    let system = system(section, settings, &url, problems)?;
    if let (Some(password), true) = (&password, has_password(url.value.expose())) {
        let problem = Problem::new(
            codes::CONFIG_CONFLICT,
            "`password` contradicts the password in `url`",
        );
        problems.push(problem.at(password.place.clone()).label("give it once"));
    }
    Some(Endpoint {
        system,
        connection: None,
        url,
        password: password.map(|password| password.value),
    })
}

fn section_name(section: &str) -> &str {
    section.split('[').next().unwrap_or(section)
}

/// Whether a problem of this section's `url` or `host` was recorded already.
fn problems_in(problems: &Problems, settings: &Settings, section: &str) -> bool {
    let name = section_name(section);
    let is_said = |part: &str| settings.has(&format!("{section}.{part}"));
    let about = |part: &str| {
        problems
            .iter()
            .any(|problem| problem.message.contains(&format!("`{name}.{part}`")))
    };
    ["url", "host", "connection"]
        .iter()
        .any(|part| !is_said(part) && about(part))
}

fn system(
    section: &str,
    settings: &Settings,
    url: &Located<Secret>,
    problems: &mut Problems,
) -> Option<System> {
    let said = settings.text(&format!("{section}.type"));
    let scheme = url
        .value
        .expose()
        .split_once("://")
        .map(|(scheme, _)| scheme);
    let by_url = match scheme {
        Some("postgres" | "postgresql") => Some("postgres"),
        Some(known @ ("mysql" | "mariadb" | "sqlserver" | "oracle" | "s3")) => Some(known),
        _ => None,
    };
    let by_type = said.as_ref().map(|said| said.value.as_str());
    let name = match (by_type, by_url) {
        (Some(by_type), Some(by_url)) if by_type != by_url => {
            let message =
                format!("this is the URL of a {by_url} database, and `type` is \"{by_type}\"");
            problems.push(
                Problem::new(codes::CONFIG_CONFLICT, message)
                    .at(url.place.clone())
                    .label(format!("a URL of {by_type} begins with {by_type}://")),
            );
            return None;
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => {
            let problem = Problem::new(codes::CONNECTION_URL, "this is not the URL of a database");
            problems.push(
                problem
                    .at(url.place.clone())
                    .label("it begins with postgres://"),
            );
            return None;
        }
    };
    let system = System::from_word(name);
    if system.is_none() {
        let problem = Problem::new(
            codes::CONFIG_LATER,
            format!("{name} is not in this version"),
        );
        problems.push(
            problem
                .at(url.place.clone())
                .label("this version copies from PostgreSQL to PostgreSQL"),
        );
    }
    system
}

/// Whether the user's part of a URL, or its parameters, holds a password.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let in_user = rest
        .rsplit_once('@')
        .is_some_and(|(user_info, _)| user_info.contains(':'));
    in_user || rest.contains("?password=") || rest.contains("&password=")
}

fn from_parts(
    section: &str,
    settings: &Settings,
    host: &Located<String>,
    problems: &mut Problems,
) -> Option<Secret> {
    if let Some(why) = host_problem(&host.value) {
        problems.push(
            Problem::new(codes::CONFIG_VALUE, "this is not a host name")
                .at(host.place.clone())
                .label(why),
        );
        return None;
    }
    let part = |name: &str| {
        settings
            .text(&format!("{section}.{name}"))
            .map(|text| text.value)
    };
    let user = part("user").map_or(String::new(), |user| format!("{}@", encoded(&user)));
    let database =
        part("database").map_or(String::new(), |database| format!("/{}", encoded(&database)));
    let port = settings
        .number(&format!("{section}.port"))
        .map_or(String::new(), |port| format!(":{port}"));
    let shown_host = match host.value.as_str() {
        directory if directory.starts_with('/') => encoded(directory),
        address if address.contains(':') => format!("[{address}]"),
        name => name.to_owned(),
    };
    let parameters: Vec<String> = ["sslmode", "sslrootcert", "sslcert", "sslkey"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", encoded(&part(name)?))))
        .collect();
    let mark = if parameters.is_empty() { "" } else { "?" };
    Some(Secret::new(format!(
        "postgres://{user}{shown_host}{port}{database}{mark}{}",
        parameters.join("&")
    )))
}

fn host_problem(host: &str) -> Option<&'static str> {
    if host.trim().is_empty() {
        Some("it is empty")
    } else if host.starts_with('/') {
        None
    } else if host.contains("://") {
        Some("a name or address only, without what stands before `://`; or give all of it as `url`")
    } else if host.contains(['/', '?', '#', '@']) {
        Some("a name or address only; port, database and user have keys of their own")
    } else if host.contains(char::is_whitespace) || host.contains(char::is_control) {
        Some("it has blanks in it")
    } else if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() {
        Some("the port has a key of its own")
    } else {
        None
    }
}

/// Percent-encoding (RFC 3986, 2.1) of all but unreserved characters.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String can be written to");
        }
    }
    encoded
}

/// Whether two URLs name the same database: same hosts and database, whoever asks.
pub(super) fn is_same_database(one: &Endpoint, other: &Endpoint) -> bool {
    let place = |endpoint: &Endpoint| {
        let url = endpoint.url.value.expose();
        let rest = url.split_once("://")?.1;
        let rest = rest.split('?').next()?;
        let (hosts, database) = rest.rsplit_once('/')?;
        let (user, hosts) = hosts.rsplit_once('@').unwrap_or(("", hosts));
        let hosts: Vec<String> = hosts
            .split(',')
            .map(|host| host.strip_suffix(":5432").unwrap_or(host).to_lowercase())
            .collect();
        let database = if database.is_empty() {
            user.split(':').next()?
        } else {
            database
        };
        Some((endpoint.system, hosts, database.to_owned()))
    };
    place(one).is_some() && place(one) == place(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Endpoint {
        Endpoint {
            system: System::Postgres,
            connection: None,
            url: Located::nowhere(Secret::new(url)),
            password: None,
        }
    }

    #[test]
    fn the_same_database_is_told_by_hosts_and_name() {
        for (one, other, expected) in [
            (
                "postgres://a@db/x",
                "postgres://b:p@DB:5432/x?sslmode=require",
                true,
            ),
            ("postgres://x@db/", "postgres://y@db/x", true),
            ("postgres://a@db/x", "postgres://a@db/y", false),
            ("postgres://a@db/x", "postgres://a@db:5433/x", false),
            ("postgres://a@db", "postgres://a@db", false),
        ] {
            assert_eq!(
                is_same_database(&at(one), &at(other)),
                expected,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn passwords_in_urls_are_seen() {
        for (url, expected) in [
            ("postgres://a:b@h/x", true),
            ("postgres://a@h:5432/x", false),
            ("postgres://h:5432/x", false),
            ("postgres://h/x?password=p", true),
        ] {
            assert_eq!(has_password(url), expected, "{url}");
        }
    }
}
