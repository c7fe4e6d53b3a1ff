//! `context list|add|use`: servers by name, in `tidemark/contexts.toml` of the user's configuration.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::invocation::Invocation;
use crate::output::table::{Column, Table};
use crate::output::{Answer, Outcome};
use crate::problem::Failure;
use crate::remote::{Address, Contexts, Entry};

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    verb: ContextVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum ContextVerb {
    /// Servers that are known by name
    List,
    /// Remember a server by a name; with --token-file where its token is
    Add {
        /// The name
        #[arg(value_name = "NAME")]
        name: String,
        /// Where the server is: `http://HOST:PORT` or `https://HOST:PORT`
        #[arg(value_name = "URL", value_parser = Address::parse)]
        address: Address,
        /// The token is in this variable whenever the server is asked
        #[arg(long, value_name = "VARIABLE", conflicts_with = "token_file")]
        token_env: Option<String>,
    },
    /// Ask this server wherever neither a flag nor a variable says another
    Use {
        /// The name
        #[arg(
            value_name = "NAME",
            required_unless_present = "none",
            conflicts_with = "none"
        )]
        name: Option<String>,
        /// No server: verbs speak to the databases again
        #[arg(long)]
        none: bool,
    },
}

pub(crate) fn run(invocation: &Invocation, arguments: ContextArgs) -> Outcome {
    match arguments.verb {
        ContextVerb::List => list(invocation),
        ContextVerb::Add {
            name,
            address,
            token_env,
        } => add(invocation, &name, &address, token_env),
        ContextVerb::Use { name, none } => change(name.as_deref().filter(|_| !none)),
    }
}

fn list(invocation: &Invocation) -> Outcome {
    let known = Contexts::read()?;
    let mut table = Table::new([
        (Column::Left, ""),
        (Column::Left, "CONTEXT"),
        (Column::Left, "SERVER"),
        (Column::Left, "TOKEN"),
    ]);
    let mut data = Vec::new();
    for (name, entry) in &known.entries {
        let is_current = known.current.as_ref() == Some(name);
        let mark = if is_current { "*" } else { "" };
        let token = match (&entry.token_file, &entry.token_env) {
            (Some(file), _) => format!("in {}", file.display()),
            (None, Some(name)) => format!("in ${name}"),
            (None, None) => "none".to_owned(),
        };
        table.row([
            mark.into(),
            name.as_str().into(),
            entry.server.as_str().into(),
            token.into(),
        ]);
        data.push(json!({
            "name": name, "server": entry.server, "current": is_current,
            "token_file": entry.token_file, "token_env": entry.token_env,
        }));
    }
    let text = if data.is_empty() {
        format!("{} has no contexts", known.file.display())
    } else {
        let width = invocation.talk.out_width();
        table.lines(invocation.talk.out, width).join("\n")
    };
    Ok(Answer::new(
        text,
        answer(&known, known.current.as_deref(), &data),
    ))
}

fn add(
    invocation: &Invocation,
    name: &str,
    address: &Address,
    token_env: Option<String>,
) -> Outcome {
    // What is relative here is not beside the contexts file.
    let token_file = invocation.everywhere.token_file.as_ref().map(|file| {
        let absolute = std::path::absolute(file);
        absolute.map_err(|err| {
            Error::definite(codes::CLI_MACHINE, format!("{}: {err}", file.display()))
        })
    });
    let entry = Entry {
        server: address.shown().to_owned(),
        token_file: token_file.transpose()?,
        token_env,
    };
    if name.trim().is_empty() {
        return Err(Failure::usage("a context needs a name"));
    }
    let known = Contexts::read()?;
    known.add(name, &entry)?;
    let text = format!("✓ {name} is {}, in {}", entry.server, known.file.display());
    let data = json!({
        "name": name, "server": entry.server, "current": false,
        "token_file": entry.token_file, "token_env": entry.token_env,
    });
    let answer = Answer::new(text, answer(&known, known.current.as_deref(), &[data]));
    Ok(answer.notice(format!("ask it from now on: tidemark context use {name}")))
}

fn change(name: Option<&str>) -> Outcome {
    let known = Contexts::read()?;
    known.make_current(name)?;
    let text = match name {
        Some(name) => {
            format!("✓ {name} is asked wherever neither a flag nor a variable says another")
        }
        None => "✓ no server is asked unless a flag or a variable says so".to_owned(),
    };
    Ok(Answer::new(text, answer(&known, name, &[])))
}

fn answer(known: &Contexts, current: Option<&str>, contexts: &[Value]) -> Value {
    json!({ "file": known.file, "current": current, "contexts": contexts })
}
