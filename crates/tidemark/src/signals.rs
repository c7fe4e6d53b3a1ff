//! Ctrl-C and SIGTERM. The first asks to stop in order, the second to stop now.
//!
//! Both are safe at any moment: what counts is committed in the target together with its data.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;

/// What was asked for so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// Nothing.
    Nothing,
    /// To stop in order.
    Stop(SignalName),
    /// To stop now.
    StopNow(SignalName),
}

/// Which signal it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SignalName {
    Interrupt,
    Terminate,
}

impl SignalName {
    /// How an invocation ends that is cut off by it.
    pub(crate) fn exit(self) -> Exit {
        match self {
            SignalName::Interrupt => Exit::Interrupted,
            SignalName::Terminate => Exit::Terminated,
        }
    }
}

/// Listens for signals as long as the process lives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    asked: watch::Receiver<Asked>,
}

impl Signals {
    /// Starts to listen; from here on signals do not end the process by themselves. Called once,
    /// within the runtime.
    pub(crate) fn listen() -> std::io::Result<Signals> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let (sender, asked) = watch::channel(Asked::Nothing);
        // Ends with the runtime, which ends with the process.
        tokio::spawn(listen(interrupt, terminate, sender));
        Ok(Signals { asked })
    }

    /// Returns at the first signal.
    pub(crate) async fn stop(&self) -> SignalName {
        self.until(|asked| match asked {
            Asked::Nothing => None,
            Asked::Stop(name) | Asked::StopNow(name) => Some(name),
        })
        .await
    }

    /// Returns at the second signal.
    pub(crate) async fn stop_now(&self) -> SignalName {
        self.until(|asked| match asked {
            Asked::Nothing | Asked::Stop(_) => None,
            Asked::StopNow(name) => Some(name),
        })
        .await
    }

    async fn until(&self, reached: impl Fn(Asked) -> Option<SignalName>) -> SignalName {
        let mut asked = self.asked.clone();
        loop {
            if let Some(name) = reached(*asked.borrow_and_update()) {
                return name;
            }
            if asked.changed().await.is_err() {
                // The listener lives as long as the runtime; without it there is nothing to wait for.
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn listen(mut interrupt: Signal, mut terminate: Signal, sender: watch::Sender<Asked>) {
    loop {
        let name = tokio::select! {
            _ = interrupt.recv() => SignalName::Interrupt,
            _ = terminate.recv() => SignalName::Terminate,
        };
        sender.send_modify(|asked| {
            *asked = match *asked {
                Asked::Nothing => Asked::Stop(name),
                Asked::Stop(_) | Asked::StopNow(_) => Asked::StopNow(name),
            };
        });
    }
}
