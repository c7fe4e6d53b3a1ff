//! Stopping a statement that runs on another connection (PostgreSQL 15, 55.2.8).

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tidemark_core::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connection::Connection;
use crate::config::ConnectConfig;
use crate::connect;
use crate::error;

/// What it takes to cancel whatever a session is doing.
#[derive(Clone, Debug)]
pub struct CancelToken {
    config: ConnectConfig,
    host_index: usize,
    encrypted: bool,
    pid: u32,
    key: u32,
}

impl Connection {
    /// A token that outlives borrows of the connection.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            config: self.config.clone(),
            host_index: self.session.host_index,
            encrypted: self.is_encrypted(),
            pid: self.session.pid,
            key: self.session.cancel_key,
        }
    }
}

impl CancelToken {
    /// Asks the server to cancel. It answers nothing: whether a statement was running, and ended by
    /// this, is seen on its own connection (SQLSTATE 57014). Encrypted if the session is.
    pub async fn cancel(&self) -> Result<()> {
        let side = self.config.side;
        let mut stream =
            connect::open_stream(&self.config, self.host_index, self.encrypted).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(self.pid.cast_signed(), self.key.cast_signed(), &mut request);
        let sent = async {
            stream.write_all(&request).await?;
            stream.flush().await?;
            // The server closes once it has passed the request on.
            let mut nothing = [0; 1];
            stream.read(&mut nothing).await
        };
        let sent = tokio::time::timeout(self.config.connect_timeout, sent).await;
        match sent {
            Ok(Ok(_)) => Ok(()),
            // Closing a TLS connection without its goodbye is how PostgreSQL answers.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Ok(Err(error)) => Err(error::lost(side, error)),
            Err(_) => Err(error::silent(side, self.config.connect_timeout.as_secs())),
        }
    }
}
