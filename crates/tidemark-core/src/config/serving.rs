//! How a server starts, as its file says: where it listens, who may ask it, where its store and its
//! pipelines are, what it logs. What is given on the command line or in the environment goes before it.

use std::net::SocketAddr;

use super::choice::{Choice, LogFormat, LogLevel, ServerAuth};
use super::problem::{Problem, Problems};
use super::secret::Secret;
use super::settings::Settings;
use crate::catalogue::codes;

/// See the module's text. `None`: the file says nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// Names under which it is spoken to, besides where it listens.
    pub hosts: Vec<String>,
    /// The directory of pipeline files, as it is written.
    pub pipelines: Option<String>,
    /// Where its store is, and files of its own, as it is written.
    pub state: Option<String>,
    /// Whether every request needs a token.
    pub auth: Option<ServerAuth>,
    /// The database that has the store.
    pub store: Option<Secret>,
    /// What opens the store.
    pub store_key: Option<Secret>,
    /// From which level on lines are logged.
    pub log_level: Option<LogLevel>,
    /// How they are written.
    pub log_format: Option<LogFormat>,
    /// Where metrics are asked for, and nothing else is answered.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether metrics need a token.
    pub metrics_auth: Option<ServerAuth>,
}

pub(super) fn read(settings: &Settings, problems: &mut Problems) -> Serving {
    let serving = Serving {
        listen: listen(settings, "listen", problems),
        pipelines: directory(settings, "pipelines", problems),
        state: directory(settings, "state", problems),
        hosts: settings
            .list("hosts")
            .into_iter()
            .map(|host| host.value)
            .collect(),
        auth: word(settings, "auth.mode"),
        store: settings.secret("store.url").map(|url| url.value),
        store_key: settings.secret("store.key").map(|key| key.value),
        log_level: word(settings, "log.level"),
        log_format: word(settings, "log.format"),
        metrics_listen: listen(settings, "metrics.listen", problems),
        metrics_auth: word(settings, "metrics.auth"),
    };
    let is_same = |address: SocketAddr| address.port() != 0 && serving.listen == Some(address);
    if serving.metrics_listen.is_some_and(is_same) {
        let place = settings.text("metrics.listen").and_then(|said| said.place);
        let message = "metrics have the address of the server itself";
        let problem = Problem::new(codes::CONFIG_CONFLICT, message).at(place);
        problems.push(problem.label("take it away: the server answers `/metrics` anyway"));
    }
    serving
}

fn directory(settings: &Settings, path: &str, problems: &mut Problems) -> Option<String> {
    let said = settings.text(path)?;
    if said.value.trim().is_empty() {
        let problem = Problem::new(codes::CONFIG_VALUE, "this is no directory").at(said.place);
        problems.push(problem.label("such as \"/var/lib/tidemark\""));
        return None;
    }
    Some(said.value)
}

fn listen(settings: &Settings, path: &str, problems: &mut Problems) -> Option<SocketAddr> {
    let listen = settings.text(path)?;
    let address = listen.value.parse().ok();
    if address.is_none() {
        let problem = Problem::new(codes::CONFIG_VALUE, "this is no address to listen on");
        let problem = problem.at(listen.place);
        problems.push(problem.label("write it as \"127.0.0.1:7070\" or \"[::1]:7070\""));
    }
    address
}

/// A word that was looked at when it was read.
fn word<T: Choice>(settings: &Settings, path: &str) -> Option<T> {
    T::from_word(&settings.text(path)?.value)
}
