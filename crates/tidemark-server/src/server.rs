//! The server from its settings to its end.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_core::catalogue::codes;
use tidemark_core::config::{Secret, ServerConfig};
use tidemark_core::target::Owner;
use tidemark_core::{Error, Result, clock};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::auth::{hash_of, new_id, new_token};
use crate::api::{
    Answering, App, Auth, AuthMode, LimitsBody, RetentionBody, SettingsBody, StoreBody,
    metrics_router, router,
};
use crate::connections;
use crate::demo::{self, Demo};
use crate::files::Files;
use crate::logs::Logs;
use crate::metrics::Requests;
use crate::notify::Notify;
use crate::standby;
use crate::store::{NewToken, Seal, Store, make_directory};
use crate::supervisor::{OWN_TENANT, Supervisor};
use crate::systems::Systems;

/// Where the first start leaves the token of an administrator.
const TOKEN_FILE: &str = "admin.token";

/// Those who look at rows at once: each has sessions on both sides.
const LOOKS_MAX: usize = 4;

/// How a server is to run.
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Names under which it is spoken to, besides where it listens.
    pub hosts: Vec<String>,
    /// Whether tokens are asked for.
    pub auth: AuthMode,
    /// How metrics are asked for.
    pub metrics: Scraping,
    /// Where its store is, and files of its own.
    pub state: PathBuf,
    /// The URL of the PostgreSQL database that has the store, where it is not a file.
    pub store: Option<Secret>,
    /// Opens what is secret in the store.
    pub seal: Seal,
    /// The directory of pipeline files.
    pub pipelines: Option<PathBuf>,
    /// Who runs pipelines here, for the message to whoever comes second.
    pub owner: Owner,
    /// What its file says.
    pub config: ServerConfig,
    /// What is around it, where a demo started it.
    pub demo: Option<Arc<dyn Demo>>,
    /// What is logged, and how loud.
    pub logs: Arc<Logs>,
}

/// How metrics are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scraping {
    /// An address of their own.
    pub listen: Option<SocketAddr>,
    /// Whether a token is asked for, there or, without one, where the server listens; as anywhere else, if
    /// that is not said.
    pub auth: Option<AuthMode>,
}

impl Scraping {
    /// The address of its own, bound; refused where others reach it and nobody said that they may.
    async fn bind(self, auth: AuthMode) -> Result<Option<(TcpListener, AuthMode)>> {
        let Some(address) = self.listen else {
            return Ok(None);
        };
        if self.auth.is_none() {
            is_protected(address, auth)?;
        }
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|err| unheard(address, &err))?;
        Ok(Some((listener, self.auth.unwrap_or(auth))))
    }

    /// How they are where the server listens.
    fn at_home(self, auth: AuthMode) -> AuthMode {
        match self.listen {
            Some(_) => auth,
            None => self.auth.unwrap_or(auth),
        }
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    metrics_auth: AuthMode,
    /// Where metrics have an address of their own.
    scraped: Option<(TcpListener, AuthMode)>,
    app: Arc<App>,
    files: Option<Files>,
    /// Where the first start left a token.
    token_file: Option<PathBuf>,
}

impl Server {
    /// Opens the store, takes all pipelines up, listens.
    ///
    /// Where another server has the store, this one stands by (which `stands_by` hears) until it can take
    /// over.
    pub async fn start(
        settings: Settings,
        systems: Arc<dyn Systems>,
        stands_by: impl FnOnce(SocketAddr),
    ) -> Result<Server> {
        let Settings {
            listen,
            mut hosts,
            auth,
            metrics,
            state,
            store,
            seal,
            pipelines,
            mut owner,
            config,
            demo,
            logs,
        } = settings;
        is_protected(listen, auth)?;
        let (scraped, metrics_auth) = (metrics.bind(auth).await?, metrics.at_home(auth));
        let bind = async {
            match &demo {
                Some(_) => demo::listen(listen),
                None => TcpListener::bind(listen).await,
            }
        };
        let (listener, store) = match store {
            None => {
                let store = Store::open(&state, seal)?;
                (bind.await.map_err(|err| unheard(listen, &err))?, store)
            }
            Some(url) => {
                make_directory(&state)?;
                let listener = bind.await.map_err(|err| unheard(listen, &err))?;
                let address = told_address(&listener, hosts.first(), &owner)?;
                let waits = watch::Sender::new(None);
                let opening = Store::open_shared(&url, seal, &owner, &address, None, &waits);
                let store = standby::wait(&listener, &waits, opening, stands_by).await?;
                owner.lease = store.lease().cloned();
                (listener, store)
            }
        };
        let auth = Auth::new(auth, store.clone()).await?;
        let token_file = first_token(&auth, &store, &state).await?;
        hosts.extend(own_names(listen.ip()));
        hosts.extend(metrics.listen.into_iter().flat_map(|at| own_names(at.ip())));
        let tenant_pipelines_max = config.tenant_pipelines_max;
        let metrics = scraped.as_ref().map(|(listener, _)| listener);
        let mut settings = runs_with(
            &listener, metrics, &hosts, auth.mode, &store, &state, &config,
        )?;
        let supervisor = Supervisor::start(
            systems,
            store.clone(),
            owner,
            state,
            tenant_pipelines_max,
            Notify::new(config),
            logs,
        )
        .await?;
        let files = match pipelines {
            Some(directory) => {
                let directory = directory.canonicalize().map_err(|err| {
                    let text = format!("read {}: {err}", directory.display());
                    Error::definite(codes::PIPELINE_FILE, text)
                })?;
                settings.pipelines_directory = Some(directory.display().to_string());
                let mut files = Files::new(directory, Arc::clone(&supervisor));
                files.look().await?;
                Some(files)
            }
            None => None,
        };
        let app = App {
            supervisor,
            store,
            auth: Arc::new(auth),
            hosts,
            requests: Requests::default(),
            answering: Answering::default(),
            demo,
            settings,
            looks: Semaphore::new(LOOKS_MAX),
        };
        Ok(Server {
            listener,
            metrics_auth,
            scraped,
            app: Arc::new(app),
            files,
            token_file,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .map_err(|err| Error::definite(codes::LISTEN_FAILED, err.to_string()))
    }

    /// Where metrics are asked for, if they have an address of their own.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.scraped.as_ref()?.0.local_addr().ok()
    }

    /// Where this first start left the token of an administrator.
    pub fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// Answers until told to stop; then every pipeline stops at a checkpoint.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let (closing, closed) = watch::channel(false);
        let files = self
            .files
            .map(|files| tokio::spawn(files.follow(closed.clone())));
        let router = router(Arc::clone(&self.app), self.metrics_auth);
        let mut answering = JoinSet::new();
        answering.spawn(connections::accept(self.listener, router));
        if let Some((listener, auth)) = self.scraped {
            let router = metrics_router(Arc::clone(&self.app), auth);
            answering.spawn(connections::accept(listener, router));
        }
        let ended = tokio::select! {
            () = stop => Ok(()),
            taken = self.app.store.taken_over() => Err(taken),
        };
        closing.send_replace(true);
        if let Some(Err(died)) = async { Some(files?.await) }.await {
            tracing::warn!(error = %died, "the pipelines' directory was not followed to the end");
        }
        self.app.supervisor.close().await;
        self.app.store.close().await;
        // Readers of news would stay for ever.
        answering.abort_all();
        ended
    }
}

/// Where a server that stands by sends whoever asks it.
fn told_address(listener: &TcpListener, host: Option<&String>, owner: &Owner) -> Result<String> {
    let listens = listener
        .local_addr()
        .map_err(|err| Error::definite(codes::LISTEN_FAILED, err.to_string()))?;
    Ok(match host {
        Some(host) if host.contains(':') => host.clone(),
        Some(host) => format!("{host}:{}", listens.port()),
        None if listens.ip().is_unspecified() => format!("{}:{}", owner.host, listens.port()),
        None => listens.to_string(),
    })
}

/// What others reach asks for tokens.
fn is_protected(listen: SocketAddr, auth: AuthMode) -> Result<()> {
    if auth == AuthMode::Open && !listen.ip().is_loopback() {
        let text = format!("{listen} is reached from other machines");
        return Err(Error::definite(codes::LISTEN_UNPROTECTED, text));
    }
    Ok(())
}

/// What is told of what it runs with.
fn runs_with(
    listener: &TcpListener,
    metrics: Option<&TcpListener>,
    hosts: &[String],
    auth: AuthMode,
    store: &Store,
    state: &Path,
    config: &ServerConfig,
) -> Result<SettingsBody> {
    let (kind, place) = store.place();
    let notifiers = config.notifiers.iter().map(|one| one.name.clone());
    Ok(SettingsBody {
        version: env!("CARGO_PKG_VERSION"),
        started_at: clock::now(),
        listen: address_of(listener)?,
        metrics_listen: metrics.map(address_of).transpose()?,
        hosts: hosts.to_vec(),
        auth: match auth {
            AuthMode::Open => "open",
            AuthMode::Token => "token",
        },
        store: StoreBody {
            kind,
            place: place.to_owned(),
        },
        state_directory: state.display().to_string(),
        pipelines_directory: None,
        pages: config.pages.clone(),
        notifiers: notifiers.collect(),
        limits: LimitsBody::of(config.tenant_pipelines_max, LOOKS_MAX),
        retention: RetentionBody::of_this_program(),
    })
}

fn address_of(listener: &TcpListener) -> Result<String> {
    let address = listener.local_addr();
    let address = address.map_err(|err| Error::definite(codes::LISTEN_FAILED, err.to_string()))?;
    Ok(address.to_string())
}

fn unheard(listen: SocketAddr, err: &std::io::Error) -> Error {
    Error::definite(codes::LISTEN_FAILED, format!("{listen}: {err}"))
}

/// Names of the machine itself where only it is listened to.
fn own_names(listen: IpAddr) -> Vec<String> {
    let own = match listen {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let mut names = vec![own];
    if listen.is_loopback() || listen.is_unspecified() {
        names.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
    }
    names
}

/// Whoever starts a server that asks for tokens must be able to come in.
async fn first_token(auth: &Auth, store: &Store, state: &Path) -> Result<Option<PathBuf>> {
    if auth.mode != AuthMode::Token || auth.has_admin() {
        return Ok(None);
    }
    let token = new_token()?;
    let file = state.join(TOKEN_FILE);
    let unwritable = |err: std::io::Error| {
        Error::definite(
            codes::STORE_UNWRITABLE,
            format!("{}: {err}", file.display()),
        )
    };
    if file.exists() {
        std::fs::remove_file(&file).map_err(unwritable)?;
    }
    let mut made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .map_err(unwritable)?;
    std::io::Write::write_all(&mut made, format!("{token}\n").as_bytes()).map_err(unwritable)?;
    let new = NewToken {
        id: new_id()?,
        tenant: OWN_TENANT.to_owned(),
        name: "admin".to_owned(),
        role: "admin".to_owned(),
        hash: hash_of(&token),
        by: "first start".to_owned(),
        expires_at: None,
    };
    store.add_token(new).await?;
    auth.refresh().await?;
    Ok(Some(file))
}
