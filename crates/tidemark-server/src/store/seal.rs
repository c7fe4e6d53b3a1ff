//! What is secret is sealed at rest: AES-256-GCM, with a key that is not in the store.
//!
//! A definition is sealed as a whole, bound to its tenant and pipeline, so that a row copied to
//! another place does not open. The key comes from the environment or from a file that nobody else may
//! read; without either one is made beside the store at its first start.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::geteuid;
use tidemark_core::catalogue::codes;
use tidemark_core::config::Secret;
use tidemark_core::{Error, Result};

use super::{Failed, Session, params};

/// Bytes of a key; it is written as hexadecimal digits.
const KEY_BYTES: usize = 32;
/// Its name where it was made beside the store.
const KEY_FILE: &str = "key";
/// By which a wrong key is told.
const PROBE: &[u8] = b"tidemark";

/// See the module's text.
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Seal {
    /// The key as text: 64 hexadecimal digits.
    pub fn of_text(text: &Secret) -> Result<Seal> {
        let bytes = from_hex(text.expose().trim()).filter(|bytes| bytes.len() == KEY_BYTES);
        let key = bytes.and_then(|bytes| UnboundKey::new(&AES_256_GCM, &bytes).ok());
        let key = key.ok_or_else(|| {
            Error::definite(codes::STORE_KEY, "the key is not 64 hexadecimal digits")
        })?;
        Ok(Seal {
            key: LessSafeKey::new(key),
            random: SystemRandom::new(),
        })
    }

    /// The key in a file, which nobody but its owner may read.
    pub fn of_file(file: &Path) -> Result<Seal> {
        let why = |what: String| {
            Error::definite(
                codes::STORE_KEY,
                format!("the key file {}: {what}", file.display()),
            )
        };
        let text = fs::read_to_string(file).map_err(|err| why(err.to_string()))?;
        let about = fs::metadata(file).map_err(|err| why(err.to_string()))?;
        let mode = about.permissions().mode();
        if !is_private(mode, about.uid(), geteuid().as_raw()) {
            return Err(
                why(format!("others may read it (mode {:03o})", mode & 0o777))
                    .first_action(format!("chmod 600 {}", file.display())),
            );
        }
        Seal::of_text(&Secret::new(text)).map_err(|err| why(err.message().to_owned()))
    }

    /// The key that is kept beside the store; a new store gets one.
    pub fn beside_store(directory: &Path) -> Result<Seal> {
        let file = &directory.join(KEY_FILE);
        if !file.exists() && directory.join(super::FILE).exists() {
            let text = format!("the store is there, and its key {} is not", file.display());
            return Err(Error::definite(codes::STORE_KEY, text));
        }
        super::make_directory(directory)?;
        if !file.exists() {
            let why = |err: std::io::Error| {
                let text = format!("the key file {}: {err}", file.display());
                Error::definite(codes::STORE_UNWRITABLE, text)
            };
            let mut key = [0; KEY_BYTES];
            fill(&SystemRandom::new(), &mut key)?;
            let mut made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .map_err(why)?;
            made.write_all(hex(&key).as_bytes()).map_err(why)?;
            made.sync_all().map_err(why)?;
        }
        Seal::of_file(file)
    }

    /// Seals a text; `bound_to` must be the same to open it.
    pub(super) fn seal(&self, text: &[u8], bound_to: &str) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        fill(&self.random, &mut nonce)?;
        let mut sealed = text.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound_to.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| {
                Error::definite(codes::INTERNAL, "a definition is too long to be sealed")
            })?;
        let mut all = nonce.to_vec();
        all.append(&mut sealed);
        Ok(all)
    }

    /// Opens what was sealed with this key.
    pub(super) fn open(&self, sealed: &[u8], bound_to: &str) -> Result<Vec<u8>> {
        let wrong = || {
            Error::definite(
                codes::STORE_KEY,
                "what is sealed does not open with this key",
            )
        };
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut text = sealed.to_vec();
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(bound_to.as_bytes()), &mut text);
        let length = opened.map_err(|_| wrong())?.len();
        text.truncate(length);
        Ok(text)
    }

    /// Whether the store was sealed with this key; a new store is, from now on.
    pub(super) fn check(&self, store: &mut Session<'_>) -> Result<(), Failed> {
        let sql = "SELECT value FROM meta WHERE name = 'key'";
        let probe: Option<Vec<u8>> = store.optional(sql, &[], |row| row.get(0))?;
        if let Some(probe) = probe {
            self.open(&probe, "key")?;
        } else {
            let probe = self.seal(PROBE, "key")?;
            store.execute("INSERT INTO meta VALUES ('key', $1)", params![probe])?;
        }
        Ok(())
    }
}

/// Fills with what nobody can guess.
pub(crate) fn fill(random: &SystemRandom, bytes: &mut [u8]) -> Result<()> {
    random
        .fill(bytes)
        .map_err(|_| Error::definite(codes::INTERNAL, "the system gives no random bytes"))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).expect("half a byte is a digit"));
        }
        text
    })
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let bytes = digits.chunks(2).map(|pair| {
        let [high, low] = pair else { return None };
        u8::try_from(high * 16 + low).ok()
    });
    bytes.collect()
}

/// Whether nobody else may read a key: its owner alone, or, where root has laid it out for us (a secret
/// of Kubernetes, a credential of systemd), a group as well.
fn is_private(mode: u32, owner: u32, us: u32) -> bool {
    let is_laid_out = owner == 0 && us != 0;
    let forbidden = if is_laid_out { 0o037 } else { 0o077 };
    mode & forbidden == 0
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn a_key_is_read_by_us_alone_or_by_the_group_that_root_gave_it_to() {
        for (mode, owner, us, expected) in [
            (0o100_600, 1000, 1000, true),
            (0o100_400, 0, 0, true),
            (0o100_640, 1000, 1000, false),
            (0o100_640, 0, 0, false),
            (0o100_440, 0, 65_532, true),
            (0o100_640, 0, 65_532, true),
            (0o100_660, 0, 65_532, false),
            (0o100_644, 0, 65_532, false),
            (0o100_440, 1001, 1000, false),
        ] {
            let found = is_private(mode, owner, us);
            assert_eq!(found, expected, "{mode:o} of {owner}, read by {us}");
        }
    }
}
