//! An authority of a server's own and certificates by it, made with the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::template::run;
use crate::installation;

/// The files; keys lie beside their certificates as `.key`.
#[derive(Clone, Debug)]
pub struct Certificates {
    directory: PathBuf,
}

/// `ca` signs `server` (for localhost and 127.0.0.1), `elsewhere` (for another host), `expired` and
/// `client` (for the role app); `stranger` is an authority that has signed nothing.
const SCRIPT: &str = r#"
set -e
curve='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
authority() { openssl req -x509 $curve -days 30 -keyout "$1.key" -out "$1.crt" -subj "/CN=$1"; }
leaf() {
  openssl req $curve -keyout "$1.key" -out "$1.csr" -subj "$2"
  printf '%s\n' "$3" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$4" \
    -extfile "$1.ext" -out "$1.crt"
}
authority ca
authority stranger
leaf server /CN=server 'subjectAltName=DNS:localhost,IP:127.0.0.1' 30
leaf elsewhere /CN=elsewhere 'subjectAltName=DNS:elsewhere.invalid' 30
leaf expired /CN=expired 'subjectAltName=DNS:localhost,IP:127.0.0.1' -1
leaf client /CN=app 'extendedKeyUsage=clientAuth' 30
chmod 600 ./*.key
"#;

impl Certificates {
    /// Makes them in `dir/tls`.
    pub(crate) fn make(dir: &Path) -> Result<Certificates> {
        let directory = dir.join("tls");
        run(installation::command("mkdir", dir).arg(&directory))?;
        run(installation::command("sh", &directory).args(["-c", SCRIPT]))?;
        let certificates = Certificates { directory };
        certificates.present("server")?;
        Ok(certificates)
    }

    /// The certificate of the authority that signed the server's.
    pub fn authority(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// A file by name, such as `stranger.crt` or `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Puts another certificate in the server's place: `expired`, `elsewhere`. Holds after a reload.
    pub fn present(&self, name: &str) -> Result<()> {
        for end in ["crt", "key"] {
            let from = self.file(&format!("{name}.{end}"));
            let to = self.file(&format!("presented.{end}"));
            run(Command::new("cp").arg("-p").arg(from).arg(to))?;
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> Vec<String> {
        let set = |name: &str, file: &str| format!("{name} = '{}'", self.file(file).display());
        vec![
            "ssl = on".to_owned(),
            set("ssl_ca_file", "ca.crt"),
            set("ssl_cert_file", "presented.crt"),
            set("ssl_key_file", "presented.key"),
        ]
    }
}
