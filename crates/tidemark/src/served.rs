//! What the server asks of whoever knows databases: definitions read as files are, and pipelines looked
//! at as the verbs look at them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tidemark_core::catalogue::codes;
use tidemark_core::config::secret::Nothing;
use tidemark_core::config::{self, Document, Input, PipelineConfig, Problems, Reach, Surroundings};
use tidemark_core::finding::{Finding, Side};
use tidemark_core::pipeline::options::Until;
use tidemark_core::schema::TableName;
use tidemark_core::source::Slot;
use tidemark_core::standing::Standing;
use tidemark_core::verify::progress::Progress;
use tidemark_core::{Context, Error, Result};
use tidemark_server::systems::{
    self as served, Connection, CutoverWishes, Database, Definition, Place, Reconciling, Systems,
};

use crate::pipeline_file::{CONNECTIONS, Opened, text};
use crate::problem::Failure;
use crate::surroundings::Around;
use crate::systems::{self, ReadAgain};
use crate::verbs::cutover::{self, Company, Comparing, Home, Hook, Stopped};
use crate::verbs::run::options;
use crate::verbs::{check, plan, reconcile, sequences, status, verify};

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    /// Where databases may be that a definition names which came through the API.
    reach: Reach,
}

impl Served {
    pub(crate) fn within(reach: Reach) -> Served {
        Served { reach }
    }

    /// The definition with what it may reach, and the file it is in or as good as in.
    fn read(&self, definition: &Definition) -> Result<(PathBuf, PipelineConfig)> {
        let (file, mut config) = read(definition)?;
        if !matches!(definition.place, Place::File(_)) {
            config.reach = self.reach.clone();
        }
        if definition.place == Place::Confined {
            systems::confine(&config).map_err(into_error)?;
        }
        Ok((file, config))
    }
}

/// By this name problems of a definition that is in no file are shown.
const DEFINITION: &str = "definition.toml";

#[async_trait]
impl Systems for Served {
    fn open(&self, definition: &Definition) -> Result<served::Opened> {
        let (file, config) = self.read(definition)?;
        let (served, again) = (self.clone(), definition.clone());
        let again: ReadAgain = Arc::new(move || Some(served.read(&again).ok()?.1));
        let opened = Opened::renewed(file, config, Some(&again)).map_err(into_error)?;
        let address = |side| systems::address(&opened.config, side).map_err(into_error);
        let ((source_address, _), (target_address, _)) =
            (address(Side::Source)?, address(Side::Target)?);
        Ok(served::Opened {
            options: options::of(&opened.config, Until::Stopped),
            config: opened.config,
            source: opened.source,
            target: opened.target,
            source_address,
            target_address,
            definition: definition.clone(),
        })
    }

    fn database(&self, connection: &Connection) -> Result<Arc<dyn Database>> {
        let (_, surroundings) = around(&connection.place);
        let read = config::read_connections(document(connection), surroundings.as_ref());
        let found = read.map_err(of_problems)?.into_iter();
        let mut found = found.filter(|(name, _)| *name == connection.name);
        let (_, endpoint) = found.next().ok_or_else(|| {
            let text = format!("there is no connection {}", connection.name);
            Error::definite(codes::CONFIG_CONNECTION, text)
        })?;
        let reach = match connection.place {
            Place::File(_) => Reach::default(),
            Place::Store(_) | Place::Confined => self.reach.clone(),
        };
        let database = systems::database(&endpoint, &reach).map_err(into_error)?;
        if connection.place == Place::Confined && database.is_of_this_machine() {
            let text = format!(
                "the connection {} has a socket or a file of the server's machine",
                connection.name
            );
            return Err(Error::definite(codes::CONFIG_CONFINED, text));
        }
        Ok(Arc::new(database))
    }

    fn connections_beside(&self, directory: &Path) -> Result<Vec<(Connection, PathBuf)>> {
        let file = directory.join(CONNECTIONS);
        if !file.is_file() {
            return Ok(Vec::new());
        }
        let text = text(&file).map_err(into_error)?;
        let found = Document::new(file.display().to_string(), text.as_str());
        let read = config::read_connections(found, &Around::of_file(&file));
        let connection = |(name, _)| {
            let place = Place::File(file.clone());
            let text = text.clone();
            (Connection { name, text, place }, file.clone())
        };
        let all = read.map_err(of_problems)?.into_iter().map(connection);
        Ok(all.collect())
    }

    async fn look(&self, opened: &served::Opened) -> Result<Standing> {
        status::look(&as_verbs_have_it(opened)).await
    }

    async fn check(&self, opened: &served::Opened) -> Result<Vec<Finding>> {
        let checked = check::look(&as_verbs_have_it(opened)).await;
        Ok(checked.map_err(into_error)?.findings)
    }

    async fn report(&self, opened: &served::Opened) -> Result<Value> {
        let report = check::report(&as_verbs_have_it(opened)).await;
        Ok(json!(report.map_err(into_error)?))
    }

    async fn plan(&self, opened: &served::Opened) -> Result<Value> {
        let plan = plan::of(&as_verbs_have_it(opened)).await;
        Ok(json!(plan.map_err(into_error)?))
    }

    async fn slots(&self, opened: &served::Opened) -> Result<Vec<Slot>> {
        systems::slots(&opened.config).await.map_err(into_error)
    }

    async fn drop_slot(&self, opened: &served::Opened, slot: &str) -> Result<()> {
        let dropped = systems::drop_slot(&opened.config, slot).await;
        dropped.map_err(into_error)
    }

    async fn execute(&self, opened: &served::Opened, side: Side, sql: &str) -> Result<()> {
        let ran = systems::execute(&opened.config, side, sql).await;
        ran.map_err(into_error)
    }

    async fn sequences(&self, opened: &served::Opened, asked: served::Asked) -> Result<Value> {
        let sets = match asked {
            served::Asked::Tell => sequences::Sets::No,
            served::Asked::Act => sequences::Sets::Yes,
        };
        let report = sequences::of(&as_verbs_have_it(opened), sets).await;
        Ok(json!(report.map_err(into_error)?))
    }

    async fn reconcile(
        &self,
        opened: &served::Opened,
        tables: &[TableName],
        asked: Reconciling<'_>,
    ) -> Result<Value> {
        let opened = as_verbs_have_it(opened);
        let said = async {
            let request = || reconcile::request(&opened, tables);
            Ok(match asked {
                Reconciling::Effect => json!(reconcile::effect(&opened, tables).await?),
                Reconciling::Report => {
                    json!(reconcile::compared(&opened, request().await?).await?)
                }
                Reconciling::Ask => json!(reconcile::elsewhere(&opened, &request().await?).await?),
                Reconciling::Done(status, took) => {
                    let request = request().await?;
                    json!(reconcile::of_status(&opened, &request, status, took))
                }
            })
        };
        said.await.map_err(into_error)
    }

    async fn cutover(
        &self,
        opened: &served::Opened,
        asked: &CutoverWishes,
        company: &dyn served::Company,
    ) -> Result<(Value, Option<Error>)> {
        let home = AtHome {
            served: self,
            definition: &opened.definition,
            company,
            kept: OnceLock::new(),
        };
        let home = asked.reverse.then_some(&home as &dyn Home);
        let opened = as_verbs_have_it(opened);
        let (wishes, asker) = (wishes(asked), Asker(company));
        let ended = Box::pin(cutover::switch(&opened, &wishes, home, &asker, false)).await;
        let (report, refusal) = told(ended.map_err(into_error)?);
        let is_verdict = |err: &Error| cutover::is_verdict(err.code());
        Ok(match refusal {
            Some(err) if !is_verdict(&err) => {
                let undone = report["undone"].as_array().into_iter().flatten();
                let undone: Vec<&str> = undone.filter_map(Value::as_str).collect();
                let given_up: Result<()> = Err(err);
                let undone = undone.join("; ");
                (
                    report,
                    given_up.context(|| format!("given up ({undone})")).err(),
                )
            }
            refusal => (report, refusal),
        })
    }

    async fn rehearse(&self, opened: &served::Opened, asked: &CutoverWishes) -> Result<Value> {
        let home = AtHome {
            served: self,
            definition: &opened.definition,
            company: &Nobody,
            kept: OnceLock::new(),
        };
        let home = asked.reverse.then_some(&home as &dyn Home);
        let opened = as_verbs_have_it(opened);
        let wishes = wishes(asked);
        let ended = Box::pin(cutover::rehearse(&opened, &wishes, home, &Asker(&Nobody))).await;
        Ok(told(ended.map_err(into_error)?).0)
    }

    async fn is_fenced(&self, opened: &served::Opened) -> Result<bool> {
        let fenced = systems::is_fenced(&opened.config, Side::Source).await;
        fenced.map_err(into_error)
    }

    async fn lower_fence(&self, opened: &served::Opened) -> Result<()> {
        let lowered = systems::lower_fence(&opened.config, Side::Source).await;
        lowered.map_err(into_error)
    }
}

/// How often it is told how far a comparison is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What was done of a cutover so far.
fn under_way(report: &cutover::Report) -> Value {
    let mut so_far = report.data(None);
    so_far["result"] = json!("under_way");
    so_far
}

/// The server, as the verb has the person at the command line.
struct Asker<'a>(&'a dyn served::Company);

#[async_trait]
impl Company for Asker<'_> {
    async fn hears(&self, _: &str, report: &cutover::Report) {
        self.0.hears(under_way(report)).await;
    }

    async fn agrees(&self, effect: String) -> Result<(), Failure> {
        Ok(self.0.agrees(effect).await?)
    }

    async fn runs(&self, hook: Hook, command: &str) -> Result<(), Failure> {
        Ok(self.0.runs(hook, command).await?)
    }

    async fn waits<'a>(
        &self,
        mut comparing: Comparing<'a>,
        progress: &Progress,
        so_far: &cutover::Report,
    ) {
        let mut told = String::new();
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                () = &mut comparing => return,
                _ = tick.tick() => {}
            }
            let how_far = verify::how_far(progress);
            if how_far != told {
                let mut so_far = under_way(so_far);
                so_far["comparing"] = json!(how_far);
                // The comparison goes on meanwhile.
                tokio::select! {
                    () = &mut comparing => return,
                    () = self.0.hears(so_far) => {}
                }
                told = how_far;
            }
        }
    }

    async fn stops(&self) -> Result<Stopped, Failure> {
        self.0.stops().await?;
        Ok(Stopped::Already)
    }

    async fn gives_up(&self) -> Failure {
        self.0.gives_up().await.into()
    }
}

/// Nobody, for what changes nothing.
struct Nobody;

#[async_trait]
impl served::Company for Nobody {
    async fn hears(&self, _: Value) {}

    async fn agrees(&self, _: String) -> Result<()> {
        Ok(())
    }

    async fn runs(&self, _: Hook, _: &str) -> Result<()> {
        Ok(())
    }

    async fn keeps(&self, _: &PipelineConfig, _: String) -> Result<()> {
        Ok(())
    }

    async fn forgets(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn stops(&self) -> Result<()> {
        Ok(())
    }

    async fn gives_up(&self) -> Error {
        std::future::pending().await
    }
}

/// The server that has a pipeline, as the home of its way back.
struct AtHome<'a> {
    served: &'a Served,
    definition: &'a Definition,
    company: &'a dyn served::Company,
    /// The name of the way back, once it may be kept.
    kept: OnceLock<String>,
}

#[async_trait]
impl Home for AtHome<'_> {
    fn definition(&self) -> Result<String, Failure> {
        if let Place::File(file) = &self.definition.place {
            let shown = file.display();
            let text = format!(
                "the server has it from {shown}, and a file for the way back belongs beside that one"
            );
            return Err(Error::definite(codes::CUTOVER_NO_WAY_BACK, text)
                .first_action("cut over where the file is: tidemark cutover FILE --reverse BACK.toml, without a server")
                .into());
        }
        Ok(self.definition.text.clone())
    }

    fn open(&self, text: String) -> Result<Opened, Failure> {
        let (file, config) = self.served.read(&Definition {
            text,
            ..self.definition.clone()
        })?;
        Opened::of(file, config)
    }

    async fn keep(&self, text: String) -> Result<String, Failure> {
        let config = self.open(text.clone())?.config;
        let name = self.kept.get_or_init(|| config.name.clone()).clone();
        self.company.keeps(&config, text).await?;
        Ok(name)
    }

    async fn remove(&self) -> Result<(), Failure> {
        if let Some(name) = self.kept.get() {
            self.company.forgets(name).await?;
        }
        Ok(())
    }
}

fn wishes(asked: &CutoverWishes) -> cutover::Wishes {
    cutover::Wishes {
        stop_writers: asked.stop_writers.clone(),
        start_writers: asked.start_writers.clone(),
        fence: asked.fence,
        silence: asked.silence,
        patience: asked.patience,
        max_downtime: asked.max_downtime,
        sequence_margin: asked.sequence_margin,
    }
}

/// What it came to, and why it was given up, if it was.
fn told(ended: cutover::Ended) -> (Value, Option<Error>) {
    let refusal = ended.failure.map(into_error);
    (ended.report.data(refusal.as_ref()), refusal)
}

fn as_verbs_have_it(opened: &served::Opened) -> Opened {
    Opened {
        // As a person names it who asks a server.
        file: PathBuf::from(&opened.config.name),
        config: opened.config.clone(),
        source: Arc::clone(&opened.source),
        target: Arc::clone(&opened.target),
    }
}

/// The definition, and the file it is in or as good as in.
fn read(definition: &Definition) -> Result<(PathBuf, PipelineConfig)> {
    let (file, surroundings) = around(&definition.place);
    let shown = match &definition.place {
        Place::File(file) => file.display().to_string(),
        Place::Store(_) | Place::Confined => DEFINITION.to_owned(),
    };
    let mut connections = match &definition.place {
        Place::Confined => Vec::new(),
        Place::File(_) | Place::Store(_) => connections(&file)?.into_iter().collect(),
    };
    connections.extend(definition.connections.iter().map(document));
    let reading = config::read(Input {
        file: Document::new(shown, definition.text.as_str()),
        connections,
        overrides: &[],
        surroundings: surroundings.as_ref(),
    });
    Ok((file, reading.map_err(of_problems)?.config))
}

/// The file that something is in, or as good as in, and what it may refer to.
fn around(place: &Place) -> (PathBuf, Box<dyn Surroundings>) {
    match place {
        Place::File(file) => (file.clone(), Box::new(Around::of_file(file))),
        Place::Store(directory) => {
            let file = directory.join(DEFINITION);
            let around = Around::of_file(&file);
            (file, Box::new(around))
        }
        // Nothing of this machine can be referred to.
        Place::Confined => (PathBuf::from(DEFINITION), Box::new(Nothing)),
    }
}

fn document(connection: &Connection) -> Document {
    let shown = match &connection.place {
        Place::File(file) => file.display().to_string(),
        Place::Store(_) | Place::Confined => format!("connection {}", connection.name),
    };
    Document::new(shown, connection.text.as_str())
}

fn connections(file: &Path) -> Result<Option<Document>> {
    let path = file.parent().unwrap_or(Path::new("")).join(CONNECTIONS);
    if !path.is_file() {
        return Ok(None);
    }
    let text = text(&path).map_err(into_error)?;
    Ok(Some(Document::new(path.display().to_string(), text)))
}

fn into_error(failure: Failure) -> Error {
    match failure {
        Failure::Error(err) => err,
        Failure::Config(problems) => of_problems(problems),
        Failure::Signalled(_, text) => Error::definite(codes::CLI_REFUSED, text),
    }
}

/// All problems in one error; whoever shows it finds them in its source.
fn of_problems(problems: Problems) -> Error {
    let first = problems.iter().next();
    let code = first.map_or(codes::CONFIG_SYNTAX, |problem| problem.code);
    let said = first.map_or_else(String::new, |problem| {
        let place = problem.position().map(|position| format!("{position}: "));
        format!("{}{}", place.unwrap_or_default(), problem.detail())
    });
    let text = match problems.len() {
        0 | 1 => said,
        more => format!("{said} (and {} more problems)", more - 1),
    };
    Error::definite(code, text).caused_by(problems)
}

#[cfg(test)]
mod tests {
    use tidemark_core::config::ServerConfig;

    use super::*;

    fn definition(place: Place) -> Definition {
        let text = "version = 1\n[pipeline]\nname = \"shop\"\nmode = \"full_load_only\"\n\
                    [source]\ntype = \"postgres\"\nurl = \"postgres://a@b/c\"\n\
                    password = \"${env:PATH}\"\n[target]\ntype = \"postgres\"\n\
                    url = \"postgres://a@b/d\"\n[tables]\ninclude = [\"public.*\"]\n";
        Definition::of(text.to_owned(), place)
    }

    #[test]
    fn s11_a_confined_definition_cannot_refer_to_this_machine() {
        let own = Served::default().open(&definition(Place::Store(PathBuf::from("/nowhere"))));
        assert_eq!(own.map(|opened| opened.config.name).unwrap(), "shop");
        let confined = Served::default().open(&definition(Place::Confined));
        let err = confined.map(|_| ()).unwrap_err();
        assert_eq!(err.code(), codes::CONFIG_SECRET, "{err}");
    }

    #[test]
    fn s11_a_confined_definition_names_no_socket_file_or_directory() {
        let with = |url: &str, more: &str| {
            let mut made = definition(Place::Confined);
            made.text = made.text.replace("password = \"${env:PATH}\"\n", "");
            made.text = made.text.replace("postgres://a@b/d", url);
            made.text += more;
            Served::default().open(&made)
        };
        assert!(with("postgres://a@b/d?sslrootcert=system", "").is_ok());
        let relay = "[source.postgres]\nmax_retained = \"1 GB\"\nrelay_dir = \"/tmp/x\"\n";
        for (url, more) in [
            ("postgres://a@/d?host=/var/run/postgresql", ""),
            ("postgres://a@%2Fvar%2Frun%2Fpostgresql/d", ""),
            ("postgres://a@b,c/d?host=b,/run/x", ""),
            (
                "postgres://a@b/d?sslmode=verify-full&sslrootcert=/etc/x",
                "",
            ),
            ("postgres://a@b/d?sslcert=/etc/x&sslkey=/etc/y", ""),
            ("postgres://a@b/d", "[stream]\nspool_dir = \"/etc\"\n"),
            ("postgres://a@b/d", relay),
        ] {
            let refused = with(url, more).map(|_| ()).unwrap_err();
            assert_eq!(
                refused.code(),
                codes::CONFIG_CONFINED,
                "{url} {more}: {refused}"
            );
        }
    }

    #[test]
    fn s16_the_servers_file_counts_for_what_came_through_the_api() {
        let served = Served::within(ServerConfig::default().databases);
        let link = "169.254.169.254".parse().unwrap();
        for (place, allowed) in [
            (Place::Store(PathBuf::from("/nowhere")), false),
            (Place::File(PathBuf::from("/nowhere/shop.toml")), true),
        ] {
            let opened = served.open(&definition(place)).map(|opened| opened.config);
            assert_eq!(opened.unwrap().reach.allows(link), allowed);
        }
    }

    #[test]
    fn all_problems_of_a_definition_are_in_the_error() {
        let mut wrong = definition(Place::Confined);
        wrong.text = wrong
            .text
            .replace("full_load_only", "all")
            .replace("version = 1", "versoin = 1");
        let err = Served::default().open(&wrong).map(|_| ()).unwrap_err();
        let source = std::error::Error::source(&err).unwrap();
        let problems = source.downcast_ref::<Problems>().unwrap();
        assert!(problems.len() > 2, "{problems}");
    }
}
