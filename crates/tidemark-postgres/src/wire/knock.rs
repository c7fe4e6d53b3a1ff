//! A connection whose server says anything at all: what tests and the fuzzer knock with.

#![expect(clippy::unwrap_used, reason = "only tests and the fuzzer knock")]

use std::io::Write;
use std::os::unix::net::UnixStream;

use tidemark_core::Error;

use super::{Connection, FRAME_MAX, Reply, Socket, Stream};
use crate::config::{ConnectConfig, Side};

/// A connection past start-up, and the server's end of it.
pub(crate) fn connection() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let socket = tokio::net::UnixStream::from_std(ours).unwrap();
    let config = ConnectConfig::parse("postgres://u@/d?host=/tmp", Side::Source).unwrap();
    let stream = Stream::Plain(Socket::Unix(socket));
    (Connection::new(stream, &config, FRAME_MAX), theirs)
}

/// What use is made of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    Simple,
    Query,
    Replies,
    CopyOut,
    CopyIn,
    Notification,
}

async fn make_use(connection: &mut Connection, what: Use) -> Result<(), Error> {
    match what {
        Use::Simple => connection.run("SELECT 1").await,
        Use::Query => connection.query("SELECT $1", &[Some("1")]).await.map(drop),
        Use::Replies => loop {
            if let Reply::Ready(_) = connection.next_reply().await? {
                return Ok(());
            }
        },
        Use::CopyOut => {
            let mut out = connection.copy_out("COPY t TO STDOUT").await?;
            while let Some(block) = out.next_block().await? {
                assert!(!block.frames.is_empty());
            }
            Ok(())
        }
        Use::CopyIn => {
            let mut into = connection.copy_in("COPY t FROM STDIN").await?;
            into.write_payload(b"1\n").await?;
            into.write_frames(b"d\0\0\0\x062\n").await?;
            into.finish().await.map(drop)
        }
        Use::Notification => connection.notification().await.map(drop),
    }
}

impl Use {
    pub(crate) const ALL: [Use; 6] = [
        Use::Simple,
        Use::Query,
        Use::Replies,
        Use::CopyOut,
        Use::CopyIn,
        Use::Notification,
    ];
}

/// Ends, without a panic and without memory for what has not arrived.
pub(crate) fn survives(bytes: &[u8], what: Use) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut connection, mut server) = connection();
        server.write_all(bytes).unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..3 {
            if make_use(&mut connection, what).await.is_err() {
                break;
            }
        }
        assert!(connection.inbound_capacity() < 1 << 21);
    });
}
