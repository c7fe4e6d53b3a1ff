//! `pause`, `resume` and `stop` for a pipeline that runs elsewhere, through the control row in the
//! target: no server, no port. `start` is for one that a server has.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::config;
use tidemark_core::control::{self, Command};
use tidemark_core::schema::TableName;
use tidemark_core::selection::Pattern;
use tidemark_core::status::{PipelineState, Status, TableStatus, TableStatusState};
use tidemark_core::target::Target;

use crate::invocation::Invocation;
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::remote::{Remote, There};
use crate::seen::Seen;
use crate::standing;
use crate::verbs::verify::load_again;

/// How long an answer is waited for when `--timeout` says nothing.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// How often it is looked for, and how often at first: most answers come at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY_AT_FIRST: Duration = Duration::from_millis(20);
const AT_FIRST: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only this table of the source, as schema.table (may be repeated)
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    pub(crate) tables: Vec<TableName>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// A pipeline of the server
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    which: Which,
}

/// A table's name on the command line, as a pattern file writes it; without a schema it is
/// `public`'s.
pub(crate) fn parse_table(text: &str) -> Result<TableName, String> {
    let pattern = Pattern::parse(text)
        .or_else(|wrong| Pattern::parse(&format!("public.{text}")).map_err(|_| wrong))?;
    pattern
        .exact()
        .ok_or_else(|| "name one table, without * and ?".to_owned())
}

/// A table that the pipeline does not have, with the nearest that it has.
pub(crate) fn no_table<'a>(
    opened: &Opened,
    name: &TableName,
    known: impl Iterator<Item = &'a TableName>,
) -> Error {
    let known: Vec<String> = known.map(ToString::to_string).collect();
    let known = known.iter().map(String::as_str);
    no_table_of(opened.name(), &opened.word(), &name.to_string(), known)
}

/// The same by texts.
pub(crate) fn no_table_of<'a>(
    pipeline: &str,
    word: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    let near = config::problem::suggestion(name, known);
    let text = format!("{name} is not a table of {pipeline}");
    Error::definite(codes::MAPPING_NO_TABLE, text).first_action(match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("see which there are: tidemark plan {word}"),
    })
}

/// Has a pipeline of a server act; what it says is the answer.
pub(crate) async fn act_there(there: &There, action: &str, tables: &[TableName]) -> Outcome {
    act_there_with(there, action, &json!({ "tables": names(tables) })).await
}

/// The same with more to say.
pub(crate) async fn act_there_with(there: &There, action: &str, body: &Value) -> Outcome {
    let text = there.act(action, body).await?.text;
    let data = json!({ "pipeline": there.name, "answer": text });
    Ok(Answer::new(text, data))
}

/// Tables as an API names them.
pub(crate) fn names(tables: &[TableName]) -> Vec<String> {
    tables.iter().map(ToString::to_string).collect()
}

/// Where there is no server whoever runs it starts it: `tidemark run`.
pub(crate) async fn start(invocation: &Invocation, arguments: &StartArgs) -> Outcome {
    let there = Remote::named(invocation)?.pipeline(&arguments.name);
    act_there(&there, "start", &[]).await
}

pub(crate) async fn pause(invocation: &Invocation, arguments: PauseArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return act_there(&there, "pause", &arguments.tables).await,
    };
    let tables = arguments.tables;
    let answer = ask(
        &opened,
        &Command::Pause {
            tables: tables.clone(),
        },
    )
    .await?;
    if answer.ok {
        let is_paused = |table: &TableStatus| table.state == TableStatusState::Paused;
        wait_until_reported(&opened, |status| match tables.as_slice() {
            [] => status.state == PipelineState::Paused,
            tables => among(status, tables).all(is_paused),
        })
        .await?;
    }
    answered(&opened, &answer)
}

pub(crate) async fn resume(invocation: &Invocation, arguments: PauseArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return act_there(&there, "resume", &arguments.tables).await,
    };
    let tables = arguments.tables;
    let answer = ask(
        &opened,
        &Command::Resume {
            tables: tables.clone(),
        },
    )
    .await?;
    if answer.ok {
        let goes_on = |table: &TableStatus| table.state != TableStatusState::Paused;
        wait_until_reported(&opened, |status| match tables.as_slice() {
            [] => status.state != PipelineState::Paused,
            tables => among(status, tables).all(goes_on),
        })
        .await?;
    }
    answered(&opened, &answer)
}

pub(crate) async fn stop(invocation: &Invocation, arguments: &StopArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return act_there(&there, "stop", &[]).await,
    };
    let mut control = opened.target.control().await?;
    if standing::owner(control.as_mut()).await?.is_none() {
        let text = format!("{} runs nowhere: nothing to stop", opened.name());
        return Ok(Answer::new(
            text.clone(),
            json!({ "pipeline": opened.name(), "answer": text }),
        ));
    }
    drop(control);
    let answer = ask(&opened, &Command::Stop).await?;
    wait_until_nobody_owns(&opened).await?;
    answered(&opened, &answer)
}

/// Sends a command to the pipeline and waits for its answer.
pub(crate) async fn ask(opened: &Opened, command: &Command) -> Result<control::Answer, Failure> {
    ask_within(opened, command, ANSWER_WITHIN).await
}

/// The same with another patience.
pub(crate) async fn ask_within(
    opened: &Opened,
    command: &Command,
    patience: Duration,
) -> Result<control::Answer, Failure> {
    let mut control = opened.target.control().await?;
    if control.owner().await?.is_none() {
        return Err(not_running(opened).into());
    }
    let asked = async {
        let id = control.send(command).await?;
        let began = Instant::now();
        loop {
            if let Some(answer) = control.answer_to(id).await? {
                return Ok(answer);
            }
            let pause = if began.elapsed() < AT_FIRST {
                LOOK_EVERY_AT_FIRST
            } else {
                LOOK_EVERY
            };
            tokio::time::sleep(pause).await;
            if control.owner().await?.is_none() && control.answer_to(id).await?.is_none() {
                return Err(not_running(opened).into());
            }
        }
    };
    // The target may fall silent as well, and then knows no limit.
    tokio::time::timeout(patience, asked)
        .await
        .unwrap_or_else(|_| {
            let (name, seconds) = (opened.name(), patience.as_secs());
            let text = format!("{name} did not answer within {seconds} s");
            Err(Error::transient(codes::CLI_NO_ANSWER, text).into())
        })
}

/// What the pipeline answered; a refusal is a failure with the pipeline's own code.
pub(crate) fn answered(opened: &Opened, answer: &control::Answer) -> Outcome {
    if answer.ok {
        let data = json!({ "pipeline": opened.name(), "answer": answer.text });
        return Ok(Answer::new(answer.text.clone(), data));
    }
    let code = answer
        .code
        .as_deref()
        .and_then(Code::parse)
        .unwrap_or(codes::CLI_REFUSED);
    Err(Error::definite(code, answer.text.clone()).into())
}

/// A full load alone has nothing to do when it has ended, but to be done again.
pub(crate) fn not_running(opened: &Opened) -> Error {
    let (name, word) = (opened.name(), opened.word());
    let (what, action) = if opened.config.mode.streams() {
        (
            format!("nobody runs {name}"),
            format!("tidemark run {word}"),
        )
    } else {
        let what = format!("{name} is a full load alone, and nobody runs it now");
        (what, load_again(&word))
    };
    Error::definite(codes::CLI_NOT_RUNNING, what).first_action(action)
}

/// The status of these tables of the source.
fn among<'a>(status: &'a Status, tables: &'a [TableName]) -> impl Iterator<Item = &'a TableStatus> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let is_one = move |table: &&TableStatus| names.contains(&table.source);
    status.tables.iter().filter(is_one)
}

/// Whoever asks for the status next is to see what was just done. The pipeline reports once a second;
/// one that does not has still done it.
async fn wait_until_reported(
    opened: &Opened,
    is_as_asked: impl Fn(&Status) -> bool,
) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut control = opened.target.control().await?;
    let reported = async {
        loop {
            if let Some((status, _)) = control.last_status().await?
                && is_as_asked(&status)
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, reported)
        .await
        .unwrap_or(Ok(()))
}

pub(crate) async fn wait_until_nobody_owns(opened: &Opened) -> Result<(), Failure> {
    let target: &dyn Target = opened.target.as_ref();
    let mut control = target.control().await?;
    let free = async {
        while control.owner().await?.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    tokio::time::timeout(ANSWER_WITHIN, free)
        .await
        .unwrap_or_else(|_| {
            let text = format!("{} agreed to stop and still holds its lock", opened.name());
            Err(Error::transient(codes::CLI_NO_ANSWER, text).into())
        })
}
