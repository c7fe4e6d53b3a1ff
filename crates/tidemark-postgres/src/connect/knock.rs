//! Start-up against a server that says anything at all: what tests and the fuzzer knock with.

#![expect(clippy::unwrap_used, reason = "only tests and the fuzzer knock")]

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;

/// Start-up with what the server says; it hangs up afterwards.
pub(crate) fn start_up(said: &[u8]) -> Result<Connection> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixStream::from_std(ours).unwrap();
        let config = ConnectConfig::parse("postgres://u:p@/d?host=/tmp", Side::Source).unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let stream = Stream::Plain(Socket::Unix(socket));
        startup::start(&config, &config.hosts[0], stream, Role::Ordinary).await
    })
}
