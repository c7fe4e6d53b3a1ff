//! A PostgreSQL server of this test binary's own, started once and gone with the process.
//!
//! A shell starts it and waits on a pipe; when the pipe closes, however the tests ended, it stops
//! the server and removes its directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::wire::{Connection, Role};

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub(crate) struct Server {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    _shell: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// The server; the first caller starts it.
pub(crate) fn server() -> &'static Server {
    SERVER.get_or_init(start)
}

impl Server {
    /// A URL for a role of the server; the password is the role's name.
    pub(crate) fn url(&self, user: &str, parameters: &str) -> String {
        format!(
            "postgres://{user}:{user}@127.0.0.1:{}/postgres?{parameters}",
            self.port
        )
    }

    pub(crate) fn config(&self, user: &str, parameters: &str) -> ConnectConfig {
        ConnectConfig::parse(&self.url(user, parameters), Side::Source).unwrap()
    }

    /// A superuser's connection, without TLS.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.config("trusted", "sslmode=disable"), Role::Ordinary)
            .await
            .unwrap()
    }

    /// A TLS server that shows one of the certificates.
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

    /// The path of a file made by [`make_certificates`].
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn start() -> Server {
    let dir = tempfile::Builder::new()
        .prefix("tidemark-wire")
        .tempdir()
        .unwrap()
        .keep();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    make_certificates(&dir);
    let script = format!(
        r#"
set -e
cd "{dir}"
AS=
if [ "$(id -u)" = 0 ]; then chown -R postgres "{dir}"; AS="runuser -u postgres --"; fi
$AS {BIN}/initdb -D "{dir}/data" -U trusted -A trust -N --locale=C.UTF-8 -E UTF8 > initdb.log 2>&1
cat > data/pg_hba.conf <<END
local all all trust
hostssl all onlytls 127.0.0.1/32 trust
hostnossl all onlyplain 127.0.0.1/32 trust
host all,replication trusted 127.0.0.1/32 trust
host all,replication scram 127.0.0.1/32 scram-sha-256
host all,replication md5 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
hostssl all certified 127.0.0.1/32 cert clientcert=verify-full
END
$AS {BIN}/postgres -D "{dir}/data" -p {port} -k "{dir}" -c fsync=off -c wal_level=logical \
  -c max_replication_slots=20 -c max_wal_senders=20 -c max_slot_wal_keep_size=2GB \
  -c ssl=on -c ssl_cert_file="{dir}/server.crt" -c ssl_key_file="{dir}/server.key" \
  -c ssl_ca_file="{dir}/ca.crt" -c password_encryption=scram-sha-256 -c shared_buffers=64MB \
  -c autovacuum=off > postgres.log 2>&1 &
read -r _ || true
kill -INT "$(head -1 data/postmaster.pid)"
wait
rm -rf "{dir}"
"#,
        dir = dir.display(),
    );
    let shell = Command::new("sh")
        .arg("-c")
        .arg(script)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let server = Server {
        dir,
        port,
        _shell: shell,
    };
    create_roles(&server);
    server
}

fn create_roles(server: &Server) {
    let sql = "CREATE ROLE scram LOGIN SUPERUSER PASSWORD 'scram';
         SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD 'md5';
         SET password_encryption = 'scram-sha-256'; CREATE ROLE clear LOGIN PASSWORD 'clear';
         CREATE ROLE onlytls LOGIN; CREATE ROLE onlyplain LOGIN; CREATE ROLE certified LOGIN;";
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let output = Command::new(format!("{BIN}/psql"))
            .args([
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                &server.dir.display().to_string(),
            ])
            .args([
                "-p",
                &server.port.to_string(),
                "-U",
                "trusted",
                "-d",
                "postgres",
                "-c",
                sql,
            ])
            .output()
            .unwrap();
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(Instant::now() < deadline, "server does not start: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An authority, a server certificate for `localhost`, an expired one, and a client certificate.
fn make_certificates(dir: &Path) {
    let script = r#"
set -e
ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
  -keyout "$1.key" -out "$1.crt" -subj "/CN=$1" 2>/dev/null; }
leaf() { # name subject alternative-names days
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" \
    -out "$1.csr" -subj "$2" 2>/dev/null
  printf '%s\n' "$3" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$4" \
    -extfile "$1.ext" -out "$1.crt" 2>/dev/null; }
ca ca
ca stranger
leaf server /CN=server "subjectAltName=DNS:localhost" 30
leaf client /CN=certified "extendedKeyUsage=clientAuth" 30
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout expired.key \
  -out expired.csr -subj /CN=expired 2>/dev/null
mkdir demo; : > demo/index.txt; echo 01 > demo/serial
printf '%s\n' '[ca]' 'default_ca=d' '[d]' 'dir=demo' 'new_certs_dir=demo' 'database=demo/index.txt' \
  'serial=demo/serial' 'default_md=sha256' 'policy=p' 'x509_extensions=x' '[p]' \
  'commonName=supplied' '[x]' 'subjectAltName=DNS:localhost' > demo/ca.cnf
openssl ca -batch -config demo/ca.cnf -cert ca.crt -keyfile ca.key -in expired.csr \
  -out expired.crt -notext -startdate 20200101000000Z -enddate 20210101000000Z 2>/dev/null
chmod 600 *.key
"#;
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success(), "openssl");
}
