//! The supervisor: every pipeline in tasks of its own, as it is wanted.
//!
//! It commands and watches; the engine stays as it is, and holds its position in the target. What one
//! pipeline does, a panic included, leaves the others alone: nothing is shared but the store, which is
//! beside the line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tidemark_core::catalogue::codes;
use tidemark_core::target::Owner;
use tidemark_core::{Error, Result, clock};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub(crate) use member::{Alive, Member, View};
pub(crate) use rounds::{Rounds, Turns, survived};

use crate::alerts::{self, Alerts};
use crate::endpoints::Endpoints;
use crate::logs::{self, Logs};
use crate::news::{News, Topic};
use crate::notify::{self, Notify};
use crate::schedules::{self, Schedules};
use crate::store::{
    Compared, Desired, DesiredState, Entry, Key, Level, NewPipeline, PipelineRow, Store,
};
use crate::systems::{Definition, Opened, Place, Systems};
use cutover::Cutovers;
use looks::Looks;
use scribe::Scribe;

pub(crate) mod actions;
mod cutover;
mod drive;
mod looks;
mod member;
pub(crate) mod mending;
mod policy;
mod rounds;
pub(crate) mod scribe;
pub(crate) mod verify;

/// The tenant of whoever runs the server.
pub(crate) const OWN_TENANT: &str = "default";

/// How often pipelines are looked at: for history and news, for alerts, for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last events may take to be written down when the server ends.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(3);

/// What all pipelines share.
pub(crate) struct Shared {
    pub(crate) systems: Arc<dyn Systems>,
    pub(crate) store: Store,
    pub(crate) news: Arc<News>,
    pub(crate) scribe: Scribe,
    pub(crate) alerts: Alerts,
    pub(crate) notify: Notify,
    pub(crate) logs: Arc<Logs>,
    pub(crate) owner: Owner,
    pub(crate) schedules: Schedules,
    pub(crate) endpoints: Endpoints,
    pub(crate) turns: Arc<Turns>,
    /// Held while it is written down and said what is wanted of a pipeline, so that the last one to say
    /// so is heard last.
    pub(crate) wanting: tokio::sync::Mutex<()>,
    /// Where definitions of the store are at home.
    directory: PathBuf,
    /// How many pipelines a tenant may have that is not this server's own.
    tenant_pipelines_max: usize,
}

/// See the module's text.
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<Shared>,
    members: Mutex<BTreeMap<Key, Arc<Member>>>,
    lives: Mutex<JoinSet<()>>,
    readers: Mutex<JoinSet<()>>,
    /// Operations that can be ended, and who hears by whom.
    cancels: Mutex<BTreeMap<String, oneshot::Sender<String>>>,
    /// Operations that wait for somebody to agree.
    asking: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
    cutovers: Cutovers,
}

impl Supervisor {
    /// Takes all pipelines of the store up as they are wanted.
    pub(crate) async fn start(
        systems: Arc<dyn Systems>,
        store: Store,
        owner: Owner,
        directory: PathBuf,
        tenant_pipelines_max: usize,
        notify: Notify,
        logs: Arc<Logs>,
    ) -> Result<Arc<Supervisor>> {
        let news = Arc::new(News::new());
        let (scribe, writing) = Scribe::new(store.clone(), Arc::clone(&news));
        let rows = store.pipelines().await?;
        let mut compared = store.compared().await?;
        store.end_operations_left_behind().await?;
        store.free_idempotency_keys().await?;
        let alerts = Alerts::load(&store).await?;
        let named = notify.notifiers.iter();
        let named = named.map(|it| (it.tenant.clone(), it.name.clone()));
        let code = codes::NOTIFIER_UNKNOWN.to_string();
        store.tidy_deliveries(named.collect(), code).await?;
        let schedules = Schedules::load(store.clone(), Arc::clone(&news), clock::now_us()).await?;
        let endpoints = Endpoints::load(&store).await?;
        let shared = Arc::new(Shared {
            systems,
            store,
            news,
            scribe,
            alerts,
            notify,
            logs,
            schedules,
            endpoints,
            turns: Arc::default(),
            wanting: tokio::sync::Mutex::default(),
            owner,
            directory,
            tenant_pipelines_max,
        });
        let supervisor = Arc::new(Supervisor {
            shared,
            members: Mutex::default(),
            lives: Mutex::default(),
            readers: Mutex::default(),
            cancels: Mutex::default(),
            asking: Mutex::default(),
            cutovers: Cutovers::default(),
        });
        // Before anybody looks: an alert or a schedule of a pipeline that is not there is forgotten.
        for row in rows {
            let known = compared.remove(&row.key).unwrap_or_default();
            supervisor.take_up(row, known);
        }
        {
            let mut readers = lock(&supervisor.readers);
            readers.spawn(writing);
            readers.spawn(sample(Rounds::of(&supervisor, "history")));
            readers.spawn(alerts::watch(Rounds::of(&supervisor, "alerts")));
            for index in 0..supervisor.shared.notify.notifiers.len() {
                readers.spawn(notify::deliver(Arc::clone(&supervisor.shared), index));
            }
            readers.spawn(schedules::watch(Rounds::of(&supervisor, "schedules")));
        }
        Ok(supervisor)
    }

    fn take_up(&self, row: PipelineRow, compared: Compared) -> Arc<Member> {
        let member = Arc::new(Member::new(row, compared));
        lock(&self.members).insert(member.key.clone(), Arc::clone(&member));
        let life = drive::drive(Arc::clone(&self.shared), Arc::clone(&member));
        let mut lives = lock(&self.lives);
        // Of a pipeline that was removed nothing stays.
        while lives.try_join_next().is_some() {}
        lives.spawn(life.instrument(logs::span_of(&member.key)));
        drop(lives);
        member
    }

    /// Does a piece of work beside all pipelines; it ends with the supervisor.
    pub(crate) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut readers = lock(&self.readers);
        while readers.try_join_next().is_some() {}
        readers.spawn(work);
    }

    /// From now on, until it has ended, this operation can be cancelled; it hears by whom.
    pub(crate) fn can_be_cancelled(&self, operation: &str) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.cancels).insert(operation.to_owned(), sender);
        receiver
    }

    /// This operation is over.
    pub(crate) fn is_over(&self, operation: &str) {
        lock(&self.cancels).remove(operation);
        lock(&self.asking).remove(operation);
    }

    /// Ends an operation, or says no to what one asks that is ending; `false` where there is neither.
    pub(crate) fn cancel(&self, operation: &str, by: &str) -> bool {
        let sender = lock(&self.cancels).remove(operation);
        match sender {
            // It leaves what it asks as it is.
            Some(sender) => sender.send(by.to_owned()).is_ok(),
            None => lock(&self.asking).remove(operation).is_some(),
        }
    }

    /// From now on somebody can agree to what this operation asks.
    fn asks(&self, operation: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.asking).insert(operation.to_owned(), sender);
        receiver
    }

    fn asks_no_more(&self, operation: &str) {
        lock(&self.asking).remove(operation);
    }

    /// Agrees to what an operation asks; `false` where it asks nothing.
    pub(crate) fn agree(&self, operation: &str) -> bool {
        let sender = lock(&self.asking).remove(operation);
        sender.is_some_and(|sender| sender.send(()).is_ok())
    }

    /// One pipeline.
    pub(crate) fn member(&self, key: &Key) -> Option<Arc<Member>> {
        lock(&self.members).get(key).cloned()
    }

    /// All pipelines of a tenant, by name.
    pub(crate) fn members_of(&self, tenant: &str) -> Vec<Arc<Member>> {
        let members = lock(&self.members);
        members
            .values()
            .filter(|m| m.key.tenant == tenant)
            .cloned()
            .collect()
    }

    /// All pipelines.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).values().cloned().collect()
    }

    /// The same, if its tenant may have one more.
    pub(crate) async fn add_within(&self, new: NewPipeline) -> Result<Arc<Member>> {
        if new.key.tenant == OWN_TENANT {
            return self.add(new).await;
        }
        let max = self.shared.tenant_pipelines_max;
        let _wanting = self.shared.wanting.lock().await;
        if self.members_of(&new.key.tenant).len() >= max {
            let text = format!("{} has {max} pipelines", new.key.tenant);
            return Err(Error::definite(codes::TENANT_FULL, text));
        }
        self.add(new).await
    }

    /// Keeps a new pipeline and takes it up; refused if there is one of this name.
    pub(crate) async fn add(&self, new: NewPipeline) -> Result<Arc<Member>> {
        let id = new.key.id.clone();
        if let Some(row) = self.shared.store.add_pipeline(new).await? {
            return Ok(self.take_up(row, Compared::default()));
        }
        let text = format!("there is a pipeline {id} already");
        Err(Error::definite(codes::API_CONFLICT, text)
            .first_action("choose another name, or change the one that is there"))
    }

    /// Gives a pipeline another definition; one that runs stops in order and goes on with it.
    pub(crate) async fn redefine(
        &self,
        member: &Member,
        version: i64,
        mode: String,
        definition: Option<String>,
    ) -> Result<PipelineRow> {
        let store = &self.shared.store;
        let Some(row) = store
            .redefine(&member.key, version, mode, definition)
            .await?
        else {
            return Err(Error::definite(
                codes::API_CHANGED,
                "somebody changed it meanwhile",
            ));
        };
        member.redefine(row.clone());
        self.note(
            member,
            Level::Info,
            "definition",
            "the definition was changed",
            None,
        );
        Ok(row)
    }

    /// What a definition names has changed, and the version with it: a pipeline that runs stops in order and
    /// goes on with it as it is now.
    pub(crate) fn begin_anew(&self, row: PipelineRow) -> Option<Arc<Member>> {
        let member = self.member(&row.key)?;
        member.redefine(row);
        Some(member)
    }

    /// Writes down what is wanted, and has it done.
    pub(crate) async fn desire(&self, member: &Member, desired: Desired) -> Result<()> {
        let _wanting = self.shared.wanting.lock().await;
        let is_to_work = matches!(desired.state, DesiredState::Running | DesiredState::Paused);
        if is_to_work && member.is_leaving() {
            return Err(actions::leaving(member));
        }
        self.shared
            .store
            .desire(&member.key, desired.clone())
            .await?;
        member.order(desired);
        Ok(())
    }

    /// Ends what a pipeline does here and forgets it.
    pub(crate) async fn forget(&self, member: &Member) -> Result<()> {
        self.shared.store.remove_pipeline(&member.key).await?;
        member.closing.send_replace(true);
        // Another of its name may be there already.
        let mut members = lock(&self.members);
        let is_it = |found: &Arc<Member>| std::ptr::eq(Arc::as_ptr(found), member);
        if members.get(&member.key).is_some_and(is_it) {
            members.remove(&member.key);
            self.shared.logs.forget(&member.key);
            self.shared.schedules.forget(&member.key);
        }
        Ok(())
    }

    pub(crate) fn note(
        &self,
        member: &Member,
        level: Level,
        kind: &'static str,
        text: impl Into<String>,
        by: Option<String>,
    ) {
        self.shared.scribe.note(Entry {
            by,
            ..Entry::plain(&member.key, level, kind, text)
        });
    }

    /// Stops all pipelines in order. What is wanted of them stays, so that the next server goes on.
    pub(crate) async fn close(&self) {
        self.cutovers.end().await;
        for member in self.members() {
            member.closing.send_replace(true);
        }
        let mut lives = std::mem::take(&mut *lock(&self.lives));
        while lives.join_next().await.is_some() {}
        self.shared.scribe.finish(LAST_WORDS_WITHIN).await;
        lock(&self.readers).abort_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two sides of a pipeline as it is defined now.
pub(crate) async fn open(shared: &Arc<Shared>, member: &Member) -> Result<Opened> {
    Ok(open_with_text(shared, member).await?.0)
}

/// The same, with the text that says so.
async fn open_with_text(shared: &Arc<Shared>, member: &Member) -> Result<(Opened, Arc<str>)> {
    let row = member.row();
    let definition = shared.definition(&row).await?;
    let text = Arc::from(definition.text.as_str());
    let opened = open_definition(shared, definition).await?;
    if opened.config.name != row.key.id {
        let text = format!(
            "it is named {} there, and {} here",
            opened.config.name, row.key.id
        );
        return Err(Error::definite(codes::PIPELINE_FILE, text));
    }
    Ok((opened, text))
}

/// The two sides of a definition. What panics on the way is an error of this pipeline alone.
pub(crate) async fn open_definition(
    shared: &Arc<Shared>,
    definition: Definition,
) -> Result<Opened> {
    let systems = Arc::clone(&shared.systems);
    let opened = tokio::task::spawn_blocking(move || systems.open(&definition)).await;
    opened.map_err(|died| {
        Error::definite(codes::INTERNAL, "reading the definition died").caused_by(died)
    })?
}

impl Shared {
    /// Where a definition that comes in through the API stands.
    pub(crate) fn place(&self, tenant: &str) -> Place {
        if tenant == OWN_TENANT {
            Place::Store(self.directory.clone())
        } else {
            Place::Confined
        }
    }

    /// A pipeline's definition, read from its file where it has one.
    pub(crate) async fn definition(&self, row: &PipelineRow) -> Result<Definition> {
        let text = match (&row.definition, &row.file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => tokio::fs::read_to_string(file).await.map_err(|err| {
                Error::definite(codes::PIPELINE_FILE, format!("read {file}: {err}"))
            })?,
            (None, None) => {
                let text = format!("{} has no definition", row.key.id);
                return Err(Error::definite(codes::STORE_DAMAGED, text));
            }
        };
        let place = match &row.file {
            Some(file) => Place::File(PathBuf::from(file)),
            None => self.place(&row.key.tenant),
        };
        Ok(self.with_connections(&row.key.tenant, text, place))
    }

    /// A definition that comes in through the API.
    pub(crate) fn define(&self, tenant: &str, text: String) -> Definition {
        self.with_connections(tenant, text, self.place(tenant))
    }

    fn with_connections(&self, tenant: &str, text: String, place: Place) -> Definition {
        Definition {
            connections: self.endpoints.named(tenant, &text, &place),
            ..Definition::of(text, place)
        }
    }
}

/// The dictionary's word for a value of it.
pub(crate) fn word_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

/// Tells whoever watches in which state a pipeline is.
pub(crate) fn tell_state(shared: &Shared, member: &Member) {
    let view = member.view();
    let data = json!({
        "pipeline_id": member.key.id, "state": view.state, "since": view.since,
        "reason": view.reason, "by": view.by, "health": view.status.health,
    });
    shared
        .news
        .say(&member.key.tenant, &member.key.id, Topic::State, &data);
}

/// Looks at every pipeline that runs once a second: history for later, news for now.
async fn sample(mut rounds: Rounds) {
    let mut looks = Looks::default();
    while let Some(supervisor) = rounds.next().await {
        rounds.turn(async { looks.take(&supervisor) }).await;
    }
}

/// What a pipeline that comes from a file, or through the API, begins with.
pub(crate) fn desired_first(state: DesiredState, by: &str) -> Desired {
    Desired::now(state, by, None)
}
