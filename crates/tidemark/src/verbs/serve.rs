//! `serve`: many pipelines in one process, kept in a store, commanded and watched through an API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::config::{Document, Secret, ServerAuth, ServerConfig, Serving, read_server};
use tidemark_server::api::AuthMode;
use tidemark_server::demo::Demo;
use tidemark_server::{Scraping, Seal, Server, Settings};

use crate::demo::around::Around as DemoAround;
use crate::invocation::Invocation;
use crate::output::{Answer, Outcome};
use crate::pipeline_file::text;
use crate::problem::Failure;
use crate::served::Served;
use crate::service::Notices;
use crate::surroundings::{Around, env};

/// Where pipelines are, if that is there and nothing else is said.
const PIPELINES: &str = "pipelines.d";
/// The server's file, if that is there and nothing else is said.
const SERVER_FILE: &str = "server.toml";
/// Where it listens, if nothing is said.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// The key of the store as text, where it is not in a file.
const KEY: &str = "TIDEMARK_STORE_KEY";

#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Where to listen; without it as the server's file says, else 127.0.0.1:7070
    #[arg(long, value_name = "ADDRESS", env = "TIDEMARK_LISTEN", hide_env = true)]
    listen: Option<SocketAddr>,
    /// A name under which it is spoken to, besides where it listens (may be repeated)
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Whether every request needs a token; without it as the server's file says, else open: whoever
    /// reaches it may do everything
    #[arg(long, value_enum)]
    auth: Option<Auth>,
    /// A directory of pipeline files, each of which runs; without it as the server's file says, else
    /// pipelines.d, if it is there
    #[arg(long, value_name = "DIR")]
    pipelines: Option<PathBuf>,
    /// The server's file: how it starts, and who is told of alerts; without it server.toml, if it is
    /// there
    #[arg(long, value_name = "FILE")]
    server_file: Option<PathBuf>,
    /// Where it keeps its store; without it as the server's file says, else the system's place for that
    #[arg(long, value_name = "DIR", env = "TIDEMARK_STATE", hide_env = true)]
    state: Option<PathBuf>,
    /// The PostgreSQL database that has the store, instead of a file: postgres://…
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEMARK_STORE",
        hide_env = true,
        hide_env_values = true
    )]
    store: Option<String>,
    /// The key that opens the store: 64 hexadecimal digits (also `TIDEMARK_STORE_KEY`); without one
    /// it is made beside the store
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// End when this happens, besides when told to: eof (standard input closes)
    #[arg(long, value_enum)]
    until: Option<Until>,
    /// Where the demo around it takes orders
    #[arg(long, value_name = "SOCKET", hide = true)]
    demo: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    Eof,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    Open,
    Token,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &ServeArgs) -> Outcome {
    let notices = Notices::of_environment();
    let config = config(arguments)?;
    let said = &config.serving;
    let state = arguments.state.clone();
    let state = match state.or_else(|| beside_file(arguments, said.state.as_deref())) {
        Some(state) => state,
        None => state_directory()?,
    };
    invocation.log.obey(said, invocation.everywhere.log_format);
    let store = arguments.store.clone().map(Secret::new);
    let store = store.or_else(|| said.store.clone());
    let settings = Settings {
        listen: arguments.listen.or(said.listen).unwrap_or(LISTEN),
        hosts: [said.hosts.as_slice(), &arguments.hosts].concat(),
        auth: auth(arguments, said),
        metrics: Scraping {
            listen: said.metrics_listen,
            auth: said.metrics_auth.map(mode),
        },
        seal: seal(arguments, said, store.is_some(), &state)?,
        store,
        state,
        pipelines: pipelines(arguments, said),
        owner: super::run::owner(),
        config,
        demo: arguments.demo.clone().map(around),
        logs: Arc::clone(&invocation.log.kept),
    };
    let systems = Arc::new(Served::within(settings.config.databases.clone()));
    let stands_by = |address: SocketAddr| {
        tracing::info!(address = %address, "stands by at http://{address}");
        notices.ready(&format!("stands by at http://{address}"));
    };
    let server = tokio::select! {
        started = Server::start(settings, systems, stands_by) => started?,
        never = notices.stay_alive() => match never {},
        _ = invocation.signals.stop() => {
            notices.stopping("it has not begun");
            return Ok(Answer::new("✓ stopped before it began", json!({ "address": null })));
        }
    };
    let address = server.address()?;
    if let Some(address) = server.metrics_address() {
        tracing::info!(address = %address, "is scraped at http://{address}/metrics");
    }
    tracing::info!(address = %address, "serves http://{address}/api/v1");
    if let Some(file) = server.token_file() {
        let text = format!("a token of an administrator is in {}", file.display());
        invocation.talk.say(&text);
    }
    let (signals, talk) = (invocation.signals.clone(), invocation.talk.clone());
    let notices = Arc::new(notices);
    notices.ready(&format!("serves http://{address}"));
    let told = Arc::clone(&notices);
    let until = arguments.until;
    let stop = async move {
        let closed = async {
            match until {
                Some(Until::Eof) => super::run::input_closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signals.stop() => {}
            () = closed => {}
        }
        told.stopping("stopping every pipeline at a checkpoint");
        talk.say("stopping every pipeline at a checkpoint; Ctrl-C again stops at once");
    };
    tokio::select! {
        ended = server.run(stop) => ended?,
        never = notices.stay_alive() => match never {},
        name = invocation.signals.stop_now() => return Err(Failure::Signalled(
            name.exit(),
            "stopped at once, which is safe: tidemark serve goes on from the checkpoints".to_owned(),
        )),
    }
    let text = "✓ stopped; tidemark serve goes on from the checkpoints";
    Ok(Answer::new(text, json!({ "address": address.to_string() })))
}

fn around(socket: PathBuf) -> Arc<dyn Demo> {
    Arc::new(DemoAround { socket })
}

/// The server's file, if there is one.
fn server_file(arguments: &ServeArgs) -> Option<&Path> {
    let given = arguments.server_file.as_deref();
    given.or_else(|| Some(Path::new(SERVER_FILE)).filter(|file| file.is_file()))
}

/// A path of the server's file is relative to it.
fn beside_file(arguments: &ServeArgs, path: Option<&str>) -> Option<PathBuf> {
    let directory = server_file(arguments)?.parent()?;
    Some(directory.join(path?))
}

fn pipelines(arguments: &ServeArgs, said: &Serving) -> Option<PathBuf> {
    let given = arguments.pipelines.clone();
    given
        .or_else(|| beside_file(arguments, said.pipelines.as_deref()))
        .or_else(|| Some(PathBuf::from(PIPELINES)).filter(|directory| directory.is_dir()))
}

fn config(arguments: &ServeArgs) -> Result<ServerConfig, Failure> {
    let Some(file) = server_file(arguments) else {
        return Ok(ServerConfig::default());
    };
    let document = Document::new(file.display().to_string(), text(file)?);
    read_server(document, &Around::of_file(file)).map_err(Failure::Config)
}

fn auth(arguments: &ServeArgs, said: &Serving) -> AuthMode {
    match arguments.auth {
        Some(Auth::Token) => AuthMode::Token,
        Some(Auth::Open) => AuthMode::Open,
        None => said.auth.map_or(AuthMode::Open, mode),
    }
}

fn mode(said: ServerAuth) -> AuthMode {
    match said {
        ServerAuth::Token => AuthMode::Token,
        ServerAuth::Open => AuthMode::Open,
    }
}

fn seal(
    arguments: &ServeArgs,
    said: &Serving,
    is_shared: bool,
    state: &Path,
) -> Result<Seal, Failure> {
    let key = env(KEY).map(Secret::new);
    let key = key.or_else(|| said.store_key.clone());
    let seal = match (&arguments.key_file, key) {
        (Some(file), _) => Seal::of_file(file)?,
        (None, Some(key)) => Seal::of_text(&key)?,
        (None, None) if is_shared => {
            let text = "a store that servers share has no key beside it";
            let action = format!(
                "(umask 077; openssl rand -hex 32 > {0}/key), then give every server the same: --key-file {0}/key",
                state.display()
            );
            return Err(Error::definite(codes::STORE_KEY, text)
                .first_action(action)
                .into());
        }
        (None, None) => Seal::beside_store(state)?,
    };
    Ok(seal)
}

/// As systemd says (systemd.exec(5), `StateDirectory`), else as the XDG Base Directory Specification.
fn state_directory() -> Result<PathBuf, Failure> {
    if let Some(given) = env("STATE_DIRECTORY") {
        return Ok(PathBuf::from(given));
    }
    let of_user = env("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env("HOME")?).join(".local/state")));
    of_user.map(|place| place.join("tidemark")).ok_or_else(|| {
        let text = "there is no place for the store: neither STATE_DIRECTORY nor HOME is set";
        Error::definite(codes::CLI_MACHINE, text)
            .first_action("give one: --state DIR")
            .into()
    })
}
