//! A pipeline that is asked how it stands: through its two databases, or through a server.

use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::standing::Standing;

use crate::invocation::Invocation;
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::remote::{Remote, There};
use crate::verbs::status;

/// See the module's text.
pub(crate) enum Seen {
    /// Its file is here.
    Here(Box<Opened>),
    /// A server has it.
    There(There),
}

impl Seen {
    /// The pipeline that the arguments name. Connects to nothing yet.
    pub(crate) fn open(invocation: &Invocation, which: &Which) -> Result<Seen, Failure> {
        match Remote::of(invocation)? {
            // A file is here, whatever server is asked by default.
            Some(server) if server.is_asked_for() || !which.is_file(invocation) => {
                let there = there(&server, which)?;
                invocation.talk.about.get_or_init(|| there.name.clone());
                Ok(Seen::There(there))
            }
            _ => Ok(Seen::Here(Box::new(Opened::open(invocation, which)?))),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Seen::Here(opened) => opened.name(),
            Seen::There(there) => &there.name,
        }
    }

    /// How a person would name it on a command line.
    pub(crate) fn word(&self) -> String {
        match self {
            Seen::Here(opened) => opened.word(),
            Seen::There(there) => there.name.clone(),
        }
    }

    /// How it stands.
    pub(crate) async fn look(&self) -> tidemark_core::Result<Standing> {
        match self {
            Seen::Here(opened) => status::look(opened).await,
            Seen::There(there) => there.look().await,
        }
    }
}

/// The pipeline of a server that the arguments name.
fn there(server: &Remote, which: &Which) -> Result<There, Failure> {
    if which.sets() {
        let text = "--set changes what a file says, for this command alone: a server has its own";
        return Err(Error::definite(codes::SERVER_VERB, text).into());
    }
    if let Some(name) = which.word() {
        return Ok(server.pipeline(name));
    }
    let text = format!("no pipeline of {} is named", server.shown());
    let err = Error::definite(codes::CLI_NO_PIPELINE, text);
    Err(err.first_action("tidemark status").into())
}
