//! The lab's server with TLS and a role for every way of login.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidemark_lab::PostgresServer;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::wire::{Connection, Role};
use tokio::sync::OnceCell;

/// The roles; each one's password is its name.
const ROLES: &str = "CREATE ROLE trusted LOGIN SUPERUSER; \
     SET password_encryption = 'scram-sha-256'; \
     CREATE ROLE scram LOGIN SUPERUSER PASSWORD 'scram'; \
     CREATE ROLE clear LOGIN PASSWORD 'clear'; \
     SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD 'md5'; \
     CREATE ROLE onlytls LOGIN; CREATE ROLE onlyplain LOGIN; CREATE ROLE app LOGIN;";

const ACCESS_RULES: [&str; 8] = [
    "host all,replication trusted samehost trust",
    "host all,replication scram samehost scram-sha-256",
    "host all md5 samehost md5",
    "host all clear samehost password",
    "hostssl all onlytls samehost trust",
    "hostnossl all onlyplain samehost trust",
    "hostssl all app samehost cert clientcert=verify-full",
    "host all onlytls,onlyplain,app,nobody samehost reject",
];

pub(crate) struct Server {
    lab: PostgresServer,
    pub(crate) port: u16,
}

/// The server; the first caller starts it, and it ends with the process.
pub(crate) async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(start).await
}

async fn start() -> Server {
    let builder = ACCESS_RULES
        .iter()
        .fold(PostgresServer::builder().tls(), |builder, rule| {
            builder.access_rule(rule)
        });
    let lab = builder.start().await.unwrap();
    lab.execute(ROLES).await.unwrap();
    let port = lab.port();
    Server { lab, port }
}

impl Server {
    pub(crate) fn config(&self, user: &str, parameters: &str) -> ConnectConfig {
        let url = format!(
            "postgres://{user}:{user}@127.0.0.1:{}/postgres?{parameters}",
            self.port
        );
        ConnectConfig::parse(&url, Side::Source).unwrap()
    }

    /// A superuser's connection, without TLS.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.config("trusted", "sslmode=disable"), Role::Ordinary)
            .await
            .unwrap()
    }

    /// A TLS server that shows one of the lab's certificates.
    pub(crate) fn tls_config(&self, certificate: &str) -> Arc<rustls::ServerConfig> {
        let chain = CertificateDer::pem_file_iter(self.file(&format!("{certificate}.crt")))
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{certificate}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// The path of one of the lab's certificates or keys.
    pub(crate) fn file(&self, name: &str) -> String {
        let certificates = self.lab.certificates().expect("the server has TLS");
        certificates.file(name).display().to_string()
    }
}
