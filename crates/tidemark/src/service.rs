//! What a service manager is told while this process serves: ready, alive, stopping (`sd_notify(3)`).
//!
//! Datagrams to a Unix socket whose name stands in `NOTIFY_SOCKET`, that is all there is to it.
//! Without the variable nobody asked, and nothing is said.

use std::convert::Infallible;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::surroundings::env;

/// The way to whoever started this process and wants to hear of it.
pub(crate) struct Notices {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Killed and started again when nothing is heard for this long.
    patience: Option<Duration>,
}

impl Notices {
    /// As the environment says.
    pub(crate) fn of_environment() -> Notices {
        let socket = env("NOTIFY_SOCKET").and_then(|name| match open(&name) {
            Ok(socket) => Some(socket),
            Err(err) => {
                tracing::warn!(error = %err, "the service manager is told nothing: {name}");
                None
            }
        });
        let own = std::process::id().to_string();
        // A watchdog of another process is not ours to feed (sd_watchdog_enabled(3)).
        let is_ours = env("WATCHDOG_PID").is_none_or(|pid| pid == own);
        let patience = env("WATCHDOG_USEC")
            .filter(|_| is_ours)
            .and_then(|text| text.parse().ok())
            .filter(|micros| *micros > 0)
            .map(Duration::from_micros);
        Notices { socket, patience }
    }

    /// Requests are answered from now on.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun.
    pub(crate) fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Tells that this process is alive, as often as is asked for, from a task of the runtime: a
    /// runtime that stands still tells nothing. Ends with whoever waits for it.
    pub(crate) async fn stay_alive(&self) -> Infallible {
        let (Some(patience), Some(_)) = (self.patience, &self.socket) else {
            return std::future::pending().await;
        };
        let mut beat = tokio::time::interval(patience / 2);
        loop {
            beat.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    /// A manager that does not listen is no reason to end: it will act on what it does not hear.
    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(err) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(error = %err, "the service manager does not hear");
        }
    }
}

/// A path, or a name without a file that is written with `@` for the zero byte.
fn open(name: &str) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    #[cfg(target_os = "linux")]
    let address = match name.strip_prefix('@') {
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    #[cfg(not(target_os = "linux"))]
    let address = SocketAddr::from_pathname(name)?;
    let socket = UnixDatagram::unbound()?;
    // A full queue must not hold the runtime up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
