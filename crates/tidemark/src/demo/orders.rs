//! Orders to a running demo: one line over a Unix socket in its directory, answered line by line.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
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

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// What happens now.
    Said(String),
    /// The end: whether source and target are identical after it, and what a program wants to know.
    Done {
        is_identical: bool,
        data: serde_json::Value,
    },
    /// The end: it could not be done.
    Failed(String),
}

/// An order on its way to the demo, with where its answers go.
pub(crate) struct Order {
    pub(crate) what: Break,
    pub(crate) replies: mpsc::UnboundedSender<Reply>,
}

/// Where a demo takes orders, in its directory.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("demo.sock")
}

/// Takes orders until the receiver is dropped.
pub(crate) fn listen(socket: &Path) -> Result<mpsc::Receiver<Order>, Error> {
    let listener = UnixListener::bind(socket).map_err(|err| {
        Error::definite(
            codes::CLI_MACHINE,
            format!("listen on {}: {err}", socket.display()),
        )
    })?;
    let (sender, orders) = mpsc::channel(1);
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
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Err(err) = take_order(stream, &sender).await {
                    tracing::debug!(error = %err, "an order's sender went away");
                }
            });
        }
    });
    Ok(orders)
}

async fn take_order(stream: UnixStream, sender: &mpsc::Sender<Order>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await?;
    let what: Break = serde_json::from_str(&line).map_err(std::io::Error::other)?;
    let (replies, mut answers) = mpsc::unbounded_channel();
    if sender.send(Order { what, replies }).await.is_err() {
        return Ok(());
    }
    while let Some(reply) = answers.recv().await {
        let mut line = serde_json::to_vec(&reply).map_err(std::io::Error::other)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
    Ok(())
}

/// Gives an order to the demo that listens there; `said` is called for what it says on the way.
pub(crate) async fn give(
    socket: &Path,
    what: Break,
    mut said: impl FnMut(&str),
) -> Result<(bool, serde_json::Value), Error> {
    let gone = |err: &dyn std::fmt::Display| {
        Error::definite(
            codes::DEMO_NOT_RUNNING,
            format!("the demo does not answer: {err}"),
        )
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|err| gone(&err))?;
    let (reader, mut writer) = stream.into_split();
    let mut order = serde_json::to_vec(&what).expect("plain data");
    order.push(b'\n');
    writer.write_all(&order).await.map_err(|err| gone(&err))?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await.map_err(|err| gone(&err))? {
        match serde_json::from_str(&line).map_err(|err| gone(&err))? {
            Reply::Said(text) => said(&text),
            Reply::Done { is_identical, data } => return Ok((is_identical, data)),
            Reply::Failed(why) => return Err(Error::definite(codes::CLI_REFUSED, why)),
        }
    }
    Err(gone(&"it ended"))
}
