//! Ctrl-C, SIGTERM, and SIGHUP, which comes as a terminal is closed. The first asks to stop in order, the
//! second to stop now.
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
    HangUp,
}

impl SignalName {
    /// How an invocation ends that is cut off by it.
    pub(crate) fn exit(self) -> Exit {
        match self {
            SignalName::Interrupt => Exit::Interrupted,
            SignalName::Terminate => Exit::Terminated,
            SignalName::HangUp => Exit::HungUp,
        }
    }
}

/// What a verb makes of SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnHangUp {
    /// It asks to stop, like the others: nobody sees any more what is done, and what is taken back in the
    /// end (the fence of a cutover) must not stay.
    Stop,
    /// It is for whoever else listens, and ends nothing.
    Keep,
}

/// Listens for signals as long as the process lives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    asked: watch::Receiver<Asked>,
}

impl Signals {
    /// Starts to listen; from here on signals do not end the process by themselves. Called once,
    /// within the runtime.
    pub(crate) fn listen(on_hang_up: OnHangUp) -> std::io::Result<Signals> {
        let listener = Listener {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: match on_hang_up {
                OnHangUp::Stop if is_hang_up_ignored() => None,
                _ => Some(signal(SignalKind::hangup())?),
            },
            on_hang_up,
        };
        let (sender, asked) = watch::channel(Asked::Nothing);
        // Ends with the runtime, which ends with the process.
        tokio::spawn(listener.run(sender));
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

/// Whether whoever started us had SIGHUP ignored, as `nohup` does: a handler of ours would undo it. The mask
/// of what is ignored is in hexadecimal, its lowest bit signal 1 (`proc_pid_status(5)`).
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

struct Listener {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
    on_hang_up: OnHangUp,
}

impl Listener {
    async fn run(mut self, sender: watch::Sender<Asked>) {
        loop {
            let name = self.next().await;
            if name == SignalName::HangUp && self.on_hang_up == OnHangUp::Keep {
                continue;
            }
            sender.send_modify(|asked| {
                *asked = match *asked {
                    Asked::Nothing => Asked::Stop(name),
                    Asked::Stop(_) | Asked::StopNow(_) => Asked::StopNow(name),
                };
            });
        }
    }

    async fn next(&mut self) -> SignalName {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => SignalName::Interrupt,
            _ = self.terminate.recv() => SignalName::Terminate,
            _ = hang_up => SignalName::HangUp,
        }
    }
}
