//! Orders to a running demo: one line over a Unix socket in its directory, answered line by line.
//!
//! What is said of an order is kept here too, for whoever asks later: a page whose server was killed by
//! its own order, for one. So there is one order at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, clock};
use tidemark_server::demo::{Came, Choice, Proof, Told};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Break {
    /// kill -9 the worker: nothing is lost or doubled
    Kill,
    /// Cut the target off for 10 s
    Network,
    /// Stop every process of the target for 10 s
    Freeze,
    /// ALTER TABLE under load
    Ddl,
    /// A row that the target refuses: one table goes aside, the others stream on
    Poison,
}

impl Break {
    /// As a command and a page call it.
    fn word(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it is done to the target's server, which must be ours then.
    fn is_of_the_server(self) -> bool {
        matches!(self, Break::Network | Break::Freeze)
    }
}

/// What can be broken; a server that is somebody's is neither cut off nor frozen.
pub(crate) fn choices(is_target_ours: bool) -> Vec<Choice> {
    let can = |what: &&Break| is_target_ours || !what.is_of_the_server();
    let choice = |what: &Break| Choice {
        what: what.word(),
        text: what
            .to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default(),
    };
    Break::value_variants()
        .iter()
        .filter(can)
        .map(choice)
        .collect()
}

/// The line that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Asked {
    /// Break something.
    Break(Break),
    /// Say how it stands.
    Told,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// It is taken up.
    Begun,
    /// What happens now.
    Said(String),
    /// The end: whether source and target are identical after it, and what a program wants to know.
    Done {
        is_identical: bool,
        data: serde_json::Value,
    },
    /// The end: it could not be done.
    Failed(String),
    /// How it stands.
    Told(Told),
}

/// An order on its way to the demo, with where its answers go.
pub(crate) struct Order {
    pub(crate) what: Break,
    pub(crate) replies: mpsc::UnboundedSender<Reply>,
}

/// What was said of orders.
#[derive(Clone, Debug)]
struct Ledger(Arc<Mutex<Told>>);

impl Ledger {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order up, or tells why not.
    fn begin(&self, what: Break) -> Result<(), String> {
        let mut told = self.told();
        if let Some(running) = &told.running {
            return Err(format!("{running} is not over yet: one at a time"));
        }
        told.running = Some(what.word());
        told.said.clear();
        Ok(())
    }

    fn take(&self, what: Break, reply: &Reply) {
        match reply {
            Reply::Said(text) => self.told().said.push(text.clone()),
            Reply::Failed(why) => self.end(what, Err(why.clone())),
            Reply::Done { is_identical, data } => {
                let mut data = data.clone();
                data["is_identical"] = (*is_identical).into();
                let proof = serde_json::from_value(data);
                self.end(what, proof.map_err(|err| err.to_string()));
            }
            Reply::Begun | Reply::Told(_) => {}
        }
    }

    fn end(&self, what: Break, came: Result<Proof, String>) {
        let mut told = self.told();
        told.running = None;
        let (proof, problem) = match came {
            Ok(proof) => (Some(proof), None),
            Err(why) => (None, Some(why)),
        };
        told.last = Some(Came {
            what: what.word(),
            at: clock::now(),
            problem,
            proof,
        });
    }
}

/// Where a demo takes orders, in its directory.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("demo.sock")
}

/// Takes orders until the receiver is dropped.
pub(crate) fn listen(socket: &Path, breaks: Vec<Choice>) -> Result<mpsc::Receiver<Order>, Error> {
    let listener = UnixListener::bind(socket).map_err(|err| {
        Error::definite(
            codes::CLI_MACHINE,
            format!("listen on {}: {err}", socket.display()),
        )
    })?;
    let (sender, orders) = mpsc::channel(1);
    let ledger = Ledger(Arc::new(Mutex::new(Told {
        breaks,
        ..Told::default()
    })));
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(err) => {
                        tracing::debug!(error = %err, "the demo takes no more orders");
                        return;
                    }
                },
                () = sender.closed() => return,
            };
            let (sender, ledger) = (sender.clone(), ledger.clone());
            tokio::spawn(async move {
                if let Err(err) = take_order(stream, &sender, &ledger).await {
                    tracing::debug!(error = %err, "an order's sender went away");
                }
            });
        }
    });
    Ok(orders)
}

async fn take_order(
    stream: UnixStream,
    sender: &mpsc::Sender<Order>,
    ledger: &Ledger,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await?;
    let what = match serde_json::from_str(&line).map_err(std::io::Error::other)? {
        Asked::Break(what) => what,
        Asked::Told => {
            let told = ledger.told().clone();
            return write(&mut writer, &Reply::Told(told)).await;
        }
    };
    if let Err(why) = ledger.begin(what) {
        return write(&mut writer, &Reply::Failed(why)).await;
    }
    // Before it can kill who waits for this.
    let mut heard = write(&mut writer, &Reply::Begun).await;
    let (replies, mut answers) = mpsc::unbounded_channel();
    let is_over = |reply: &Reply| matches!(reply, Reply::Done { .. } | Reply::Failed(_));
    let mut ended = false;
    drop(sender.send(Order { what, replies }).await);
    while let Some(reply) = answers.recv().await {
        ledger.take(what, &reply);
        ended |= is_over(&reply);
        // Who gave it may have gone, and it goes on all the same.
        if heard.is_ok() {
            heard = write(&mut writer, &reply).await;
        }
    }
    if !ended {
        ledger.end(what, Err("the demo is over".to_owned()));
    }
    heard
}

async fn write(writer: &mut OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply).map_err(std::io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// A line that was sent to the demo that listens there, and what it answers.
struct Answers {
    lines: Lines<BufReader<UnixStream>>,
}

impl Answers {
    async fn to(socket: &Path, asked: Asked) -> Result<Answers, Error> {
        let mut stream = UnixStream::connect(socket)
            .await
            .map_err(|err| gone(&err))?;
        let mut line = serde_json::to_vec(&asked).expect("plain data");
        line.push(b'\n');
        stream.write_all(&line).await.map_err(|err| gone(&err))?;
        let lines = BufReader::new(stream).lines();
        Ok(Answers { lines })
    }

    /// The next line; what could not be done is an error.
    async fn next(&mut self) -> Result<Reply, Error> {
        let line = self.lines.next_line().await.map_err(|err| gone(&err))?;
        let line = line.ok_or_else(|| gone(&"it ended"))?;
        match serde_json::from_str(&line).map_err(|err| gone(&err))? {
            Reply::Failed(why) => Err(Error::definite(codes::CLI_REFUSED, why)),
            reply => Ok(reply),
        }
    }
}

fn gone(err: &dyn std::fmt::Display) -> Error {
    let text = format!("the demo does not answer: {err}");
    Error::definite(codes::DEMO_NOT_RUNNING, text)
}

/// Gives an order to the demo that listens there; `said` is called for what it says on the way.
pub(crate) async fn give(
    socket: &Path,
    what: Break,
    mut said: impl FnMut(&str),
) -> Result<(bool, serde_json::Value), Error> {
    let mut answers = Answers::to(socket, Asked::Break(what)).await?;
    loop {
        match answers.next().await? {
            Reply::Said(text) => said(&text),
            Reply::Done { is_identical, data } => return Ok((is_identical, data)),
            Reply::Begun | Reply::Told(_) | Reply::Failed(_) => {}
        }
    }
}

/// Gives an order to the demo that listens there; returns when it is taken up.
pub(crate) async fn begin(socket: &Path, what: Break) -> Result<(), Error> {
    let mut answers = Answers::to(socket, Asked::Break(what)).await?;
    answers.next().await.map(drop)
}

/// How the demo that listens there stands.
pub(crate) async fn told(socket: &Path) -> Result<Told, Error> {
    match Answers::to(socket, Asked::Told).await?.next().await? {
        Reply::Told(told) => Ok(told),
        _ => Err(gone(&"it says something else")),
    }
}
