//! The directory of pipelines: each file in it is one, and the file wins.
//!
//! It is looked at every few seconds, and on SIGHUP at once. A new file is a new pipeline that runs, a
//! changed one is taken over, one that has another name is the same as before, one that is gone stops its
//! pipeline and leaves it in the list: what was made for it on the source is still there, and a person
//! decides.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::auth::hash_of;
use crate::store::{Desired, DesiredState, Key, Level, NewPipeline};
use crate::supervisor::{Member, OWN_TENANT, Supervisor, open_definition};
use crate::systems::{Definition, Place};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Who defines and starts pipelines of files.
const BY: &str = "file";

/// What a file was like when it was looked at: when it was written, how long it is, and when anything of it
/// was changed, its rights too. The text itself is not compared, as it may hold secrets.
type Mark = (Option<SystemTime>, u64, (i64, i64));

pub(crate) struct Files {
    directory: PathBuf,
    supervisor: Arc<Supervisor>,
    seen: BTreeMap<PathBuf, Seen>,
}

/// A file as it was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    mark: Mark,
    /// Of its text; none where it could not be read.
    hash: Option<Vec<u8>>,
}

impl Files {
    pub(crate) fn new(directory: PathBuf, supervisor: Arc<Supervisor>) -> Files {
        Files {
            directory,
            supervisor,
            seen: BTreeMap::new(),
        }
    }

    /// Until the server ends.
    pub(crate) async fn follow(mut self, mut closing: watch::Receiver<bool>) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(err) => {
                tracing::warn!(error = %err, "SIGHUP is not listened for");
                return;
            }
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = hangup.recv() => self.seen.clear(),
                _ = closing.wait_for(|closing| *closing) => return,
            }
            if let Err(err) = self.look().await {
                tracing::warn!(code = %err.code(), error = %err, "the pipelines' directory is not read");
            }
        }
    }

    /// Takes over what is new, changed or gone.
    pub(crate) async fn look(&mut self) -> Result<()> {
        let found = list(&self.directory)?;
        let mut seen = BTreeMap::new();
        for (file, mark) in &found {
            let before = self.seen.get(file);
            if let Some(before) = before.filter(|before| before.mark == *mark) {
                seen.insert(file.clone(), before.clone());
                continue;
            }
            let text = tokio::fs::read_to_string(file).await;
            let hash = text.as_ref().ok().map(|text| hash_of(text));
            let now = Seen {
                mark: *mark,
                hash: hash.clone(),
            };
            seen.insert(file.clone(), now);
            // Who touches a file wants it taken over; who copies it elsewhere, or gives it other rights, does not.
            let is_as_it_was = |before: &Seen| {
                before.hash.is_some() && before.hash == hash && before.mark.0 == mark.0
            };
            if before.is_some_and(is_as_it_was) {
                continue;
            }
            let text = text.map_err(|err| {
                let text = format!("read {}: {err}", file.display());
                Error::definite(codes::PIPELINE_FILE, text)
            });
            let Err(err) = self.take(file, text, &found).await else {
                continue;
            };
            tracing::error!(
                code = %err.code(), error = %err, file = %file.display(),
                "a pipeline file is not taken over"
            );
            if err.kind() == ErrorKind::Transient {
                // The store is away: the file is as new the next time.
                match before {
                    Some(before) => seen.insert(file.clone(), before.clone()),
                    None => seen.remove(file),
                };
            }
        }
        let members = self.supervisor.members_of(OWN_TENANT);
        for member in members {
            let row = member.row();
            let is_here = |file: &String| {
                let file = Path::new(file);
                file.parent() == Some(&self.directory) && !found.contains_key(file)
            };
            let is_settled = matches!(
                row.desired.state,
                DesiredState::Stopped | DesiredState::Draft
            );
            if row.file.as_ref().is_some_and(is_here) && !is_settled {
                let why = Some("its file is gone".to_owned());
                let desired = Desired::now(DesiredState::Stopped, BY, why);
                self.supervisor.desire(&member, desired).await?;
            }
        }
        self.seen = seen;
        Ok(())
    }

    async fn take(
        &self,
        file: &Path,
        text: Result<String>,
        found: &BTreeMap<PathBuf, Mark>,
    ) -> Result<()> {
        let shown = file.display().to_string();
        let stem = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let place = Place::File(file.to_path_buf());
        let shared = &self.supervisor.shared;
        let opened = match text {
            Ok(text) => open_definition(shared, Definition::of(text, place)).await,
            Err(err) => Err(err),
        };
        let (id, mode) = match &opened {
            Ok(opened) => (
                opened.config.name.clone(),
                opened.config.mode.name().to_owned(),
            ),
            // It is in the list all the same, with what is wrong with it.
            Err(_) => (stem.to_owned(), "unknown".to_owned()),
        };
        let members = self.supervisor.members_of(OWN_TENANT);
        let of_file = members
            .iter()
            .find(|m| m.row().file.as_deref() == Some(shown.as_str()));
        let named = members.iter().find(|member| member.key.id == id);
        match (of_file.or(named), opened) {
            (Some(member), Ok(_)) if self.has_moved(member, found) => {
                self.moved(member, &shown).await?;
                self.takes_over(member, mode).await
            }
            (Some(member), _) if member.row().file.as_deref() != Some(shown.as_str()) => {
                let other = member.row().file.unwrap_or_else(|| "the store".to_owned());
                let text = format!("{shown}: {id} is defined by {other} already");
                Err(Error::definite(codes::PIPELINE_FILE, text))
            }
            (Some(member), Ok(opened)) if opened.config.name != member.key.id => {
                self.rename(member, &shown, mode, &opened.config.name).await
            }
            (Some(member), Ok(_)) => self.change(member, mode).await,
            (Some(member), Err(err)) => {
                // What runs goes on as it was defined; it will not start like this again.
                let text = format!("{shown}: {err}");
                self.supervisor.note(
                    member,
                    Level::Error,
                    "definition",
                    text,
                    Some(BY.to_owned()),
                );
                self.retry(member).await?;
                Err(err)
            }
            (None, Ok(_)) => self.add(&id, mode, shown).await,
            (None, Err(err)) => {
                self.add(stem, mode, shown).await?;
                Err(err)
            }
        }
    }

    async fn add(&self, id: &str, mode: String, file: String) -> Result<()> {
        let new = NewPipeline {
            key: Key::new(OWN_TENANT, id),
            mode,
            definition: None,
            file: Some(file),
            desired: Desired::now(DesiredState::Running, BY, None),
            by: BY.to_owned(),
        };
        self.supervisor.add(new).await.map(drop)
    }

    /// A file that was mended gives the pipeline its name; nothing was made under the old one.
    async fn rename(&self, member: &Member, file: &str, mode: String, name: &str) -> Result<()> {
        if member.row().mode != "unknown" {
            let text = format!(
                "{file}: it is named {name} now, and {} before",
                member.key.id
            );
            return Err(Error::definite(codes::PIPELINE_FILE, text)
                .first_action("give a pipeline of another name a file of its own"));
        }
        self.supervisor.forget(member).await?;
        self.add(name, mode, file.to_owned()).await
    }

    /// Whether the file of a pipeline was in this directory and is there no more: another one that has its
    /// name is the same under another name.
    fn has_moved(&self, member: &Member, found: &BTreeMap<PathBuf, Mark>) -> bool {
        member.row().file.is_some_and(|file| {
            let file = Path::new(&file);
            file.parent() == Some(&self.directory) && !found.contains_key(file)
        })
    }

    async fn moved(&self, member: &Member, file: &str) -> Result<()> {
        let before = member.row().file.unwrap_or_default();
        let store = &self.supervisor.shared.store;
        let Some(row) = store.set_file(&member.key, file.to_owned()).await? else {
            let text = format!("{file}: {} is gone", member.key.id);
            return Err(Error::definite(codes::PIPELINE_FILE, text));
        };
        member.redefine(row);
        let text = format!("it is defined by {file} now, and was by {before}");
        let by = Some(BY.to_owned());
        self.supervisor
            .note(member, Level::Info, "definition", text, by);
        Ok(())
    }

    async fn change(&self, member: &Member, mode: String) -> Result<()> {
        let row = member.row();
        // A server that starts meets what it knew before.
        if self.seen.is_empty() && row.mode == mode {
            return self.back(member).await;
        }
        self.takes_over(member, mode).await
    }

    async fn takes_over(&self, member: &Member, mode: String) -> Result<()> {
        let version = member.row().version;
        self.supervisor
            .redefine(member, version, mode, None)
            .await?;
        self.back(member).await
    }

    /// A file that is there again, after it was gone.
    async fn back(&self, member: &Member) -> Result<()> {
        let row = member.row();
        let was_gone = row.desired.state == DesiredState::Stopped && row.desired.by == BY;
        if was_gone {
            let desired = Desired::now(DesiredState::Running, BY, None);
            self.supervisor.desire(member, desired).await?;
        }
        Ok(())
    }

    /// Has one that does not run look at its file again, which says what is wrong.
    async fn retry(&self, member: &Member) -> Result<()> {
        if member.alive().is_none() && member.row().desired.state == DesiredState::Running {
            let desired = member.row().desired;
            self.supervisor.desire(member, desired).await?;
        }
        Ok(())
    }
}

/// The pipeline files of a directory: all that end in `.toml` but the shared connections.
fn list(directory: &Path) -> Result<BTreeMap<PathBuf, Mark>> {
    let unreadable = |err: std::io::Error| {
        let text = format!("read {}: {err}", directory.display());
        Error::definite(codes::PIPELINE_FILE, text)
    };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_toml = path.extension().is_some_and(|ending| ending == "toml");
        let is_shared = path
            .file_name()
            .is_some_and(|name| name == "connections.toml");
        if !is_toml || is_shared {
            continue;
        }
        // One that is gone meanwhile is gone.
        let about = std::fs::metadata(&path)
            .ok()
            .filter(std::fs::Metadata::is_file);
        if let Some(about) = about {
            let changed = (about.ctime(), about.ctime_nsec());
            found.insert(path, (about.modified().ok(), about.len(), changed));
        }
    }
    Ok(found)
}
