//! A file of the relay log: records of frames, each with a seal that tells whether it is what was
//! written, where it stands.
//!
//! ```text
//!   "TIDERLY1"  form  salt (16 bytes)
//!   length  meta     seal        record 0: whose log this is, and from where
//!   length  frames   seal        record 1, …
//! ```
//!
//! The form is plain or encrypted. A plain record's seal is a SHA-256 over salt, number and bytes, cut
//! to 16 bytes: it finds what a disk does. An encrypted record is AES-256-GCM with a key of the
//! file's own, derived (HKDF) from the user's key and the salt, so that the record's number serves as
//! nonce; its seal also finds what a person does. Numbers are part of what is sealed: a record that is
//! missing, doubled or moved does not fit.
//!
//! All I/O here blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tidemark_core::config::Secret;
use tidemark_core::position::Lsn;

use super::boundaries::Boundaries;

const MAGIC: &[u8; 8] = b"TIDERLY1";
const PLAIN: u8 = 0;
const ENCRYPTED: u8 = 1;
const SALT_LEN: usize = 16;
const SEAL_LEN: usize = 16;
const HEADER_LEN: u64 = (MAGIC.len() + 1 + SALT_LEN) as u64;

/// Whose log a segment holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) pipeline: String,
    pub(super) slot: String,
    /// The source's system identifier.
    pub(super) system: String,
    /// And its timeline.
    pub(super) timeline: u32,
    pub(super) database: String,
    /// It holds what commits at or after this.
    pub(super) start: u64,
}

/// Why a segment cannot be read to its end.
#[derive(Debug)]
pub(super) enum Damage {
    /// A record, or the beginning of the file, is not what was written.
    Seal { record: u64 },
    /// It is encrypted, and there is no key.
    NoKey,
    /// The disk says so.
    Io(io::Error),
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Damage {
        Damage::Io(error)
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Seal { record } => write!(f, "record {record} is not what was written"),
            Damage::NoKey => {
                f.write_str("it is encrypted, and source.postgres.relay_key is not given")
            }
            Damage::Io(error) => write!(f, "{error}"),
        }
    }
}

enum Seal {
    Plain([u8; SALT_LEN]),
    Encrypted(Box<LessSafeKey>),
}

impl Seal {
    fn new(form: u8, salt: [u8; SALT_LEN], key: Option<&Secret>) -> Result<Seal, Damage> {
        match (form, key) {
            (PLAIN, _) => Ok(Seal::Plain(salt)),
            (ENCRYPTED, None) => Err(Damage::NoKey),
            (ENCRYPTED, Some(key)) => {
                let derived = Salt::new(HKDF_SHA256, &salt).extract(key.expose().as_bytes());
                let info: [&[u8]; 1] = [b"tidemark relay log"];
                let expanded = derived.expand(&info, &AES_256_GCM);
                let key = expanded.map(UnboundKey::from).map(LessSafeKey::new);
                let key = key.map_err(|_| Damage::Seal { record: 0 })?;
                Ok(Seal::Encrypted(Box::new(key)))
            }
            _ => Err(Damage::Seal { record: 0 }),
        }
    }

    /// Makes a record's bytes what is written; gives their seal.
    fn close(&self, number: u64, bytes: &mut [u8]) -> io::Result<[u8; SEAL_LEN]> {
        match self {
            Seal::Plain(salt) => Ok(plain_seal(salt, number, bytes)),
            Seal::Encrypted(key) => {
                let sealed = key.seal_in_place_separate_tag(nonce(number), Aad::empty(), bytes);
                let tag = sealed.map_err(|_| io::Error::other("a record cannot be encrypted"))?;
                let mut seal = [0; SEAL_LEN];
                seal.copy_from_slice(tag.as_ref());
                Ok(seal)
            }
        }
    }

    /// Makes what was written a record's bytes again, seal taken off; whether it is whole.
    fn open(&self, number: u64, sealed: &mut Vec<u8>) -> bool {
        let Some(len) = sealed.len().checked_sub(SEAL_LEN) else {
            return false;
        };
        let is_whole = match self {
            Seal::Plain(salt) => {
                let (bytes, seal) = sealed.split_at(len);
                plain_seal(salt, number, bytes) == *seal
            }
            Seal::Encrypted(key) => key
                .open_in_place(nonce(number), Aad::empty(), sealed)
                .is_ok(),
        };
        sealed.truncate(len);
        is_whole
    }
}

fn plain_seal(salt: &[u8; SALT_LEN], number: u64, bytes: &[u8]) -> [u8; SEAL_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(&number.to_be_bytes());
    context.update(bytes);
    let digest = context.finish();
    let mut seal = [0; SEAL_LEN];
    for (to, from) in seal.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    seal
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    let wide = u128::from(number).to_be_bytes();
    for (to, from) in bytes.iter_mut().rev().zip(wide.iter().rev()) {
        *to = *from;
    }
    Nonce::assume_unique_for_key(bytes)
}

/// A segment that is being written.
pub(super) struct SegmentWriter {
    file: File,
    seal: Seal,
    next: u64,
    bytes: u64,
}

impl SegmentWriter {
    /// Makes the file with its first record; an error if it exists.
    pub(super) fn create(
        path: &Path,
        key: Option<&Secret>,
        meta: &Meta,
    ) -> io::Result<SegmentWriter> {
        let mut salt = [0; SALT_LEN];
        let filled = SystemRandom::new().fill(&mut salt);
        filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let form = if key.is_some() { ENCRYPTED } else { PLAIN };
        let seal =
            Seal::new(form, salt, key).map_err(|damage| io::Error::other(damage.to_string()))?;
        let mut options = OpenOptions::new();
        // Rows of the source are in it.
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path)?;
        file.write_all(MAGIC)?;
        file.write_all(&[form])?;
        file.write_all(&salt)?;
        let mut writer = SegmentWriter {
            file,
            seal,
            next: 0,
            bytes: HEADER_LEN,
        };
        writer.append(&serde_json::to_vec(meta)?)?;
        Ok(writer)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len() + SEAL_LEN);
        let len = len.map_err(|_| io::Error::other("a record is too large"))?;
        self.file.write_all(&len.to_be_bytes())?;
        let seal = match &self.seal {
            Seal::Plain(salt) => {
                self.file.write_all(bytes)?;
                plain_seal(salt, self.next, bytes)
            }
            Seal::Encrypted(_) => {
                let mut bytes = bytes.to_vec();
                let seal = self.seal.close(self.next, &mut bytes)?;
                self.file.write_all(&bytes)?;
                seal
            }
        };
        self.file.write_all(&seal)?;
        self.next += 1;
        self.bytes += 4 + u64::from(len);
        Ok(())
    }

    /// Returns when a crash of this machine takes nothing of what was appended. Whoever made the file
    /// sees to its directory.
    pub(super) fn make_durable(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// How long the file is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A segment that is read from its front.
pub(super) struct SegmentReader {
    file: BufReader<File>,
    seal: Seal,
    next: u64,
    at: u64,
    meta: Meta,
}

impl SegmentReader {
    pub(super) fn open(path: &Path, key: Option<&Secret>) -> Result<SegmentReader, Damage> {
        let broken = || Damage::Seal { record: 0 };
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut file = BufReader::with_capacity(256 * 1024, file);
        let mut magic = [0; MAGIC.len()];
        let mut form = [0; 1];
        let mut salt = [0; SALT_LEN];
        if len < HEADER_LEN {
            return Err(broken());
        }
        file.read_exact(&mut magic)?;
        file.read_exact(&mut form)?;
        file.read_exact(&mut salt)?;
        if magic != *MAGIC {
            return Err(broken());
        }
        let [form] = form;
        let mut reader = SegmentReader {
            file,
            seal: Seal::new(form, salt, key)?,
            next: 0,
            at: HEADER_LEN,
            meta: Meta {
                pipeline: String::new(),
                slot: String::new(),
                system: String::new(),
                timeline: 0,
                database: String::new(),
                start: 0,
            },
        };
        let meta = reader.next(len)?.ok_or_else(broken)?;
        reader.meta = serde_json::from_slice(&meta).map_err(|_| broken())?;
        Ok(reader)
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where the next record begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next record that ends within the first `limit` bytes of the file; `None` at their end.
    pub(super) fn next(&mut self, limit: u64) -> Result<Option<Vec<u8>>, Damage> {
        let record = self.next;
        let left = limit.saturating_sub(self.at);
        if left == 0 {
            return Ok(None);
        }
        let broken = || Damage::Seal { record };
        if left < 4 {
            return Err(broken());
        }
        let mut len = [0; 4];
        self.file.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len);
        if u64::from(len) > left - 4 {
            return Err(broken());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| broken())?];
        self.file.read_exact(&mut bytes)?;
        if !self.seal.open(record, &mut bytes) {
            return Err(broken());
        }
        self.next += 1;
        self.at += 4 + u64::from(len);
        Ok(Some(bytes))
    }
}

/// What a whole reading of a segment found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) meta: Meta,
    /// The last boundary in it: everything that commits before this, at or after its start, is in it.
    pub(super) end: Lsn,
    /// How much of the file is whole records.
    pub(super) bytes: u64,
    /// Why the rest is not.
    pub(super) damage: Option<Damage>,
}

/// Reads all of a segment, and makes what was read durable: it may have been written by a process that
/// was killed before it could.
pub(super) fn scan(path: &Path, key: Option<&Secret>) -> Result<Scanned, Damage> {
    let mut reader = SegmentReader::open(path, key)?;
    let len = reader.file.get_ref().metadata()?.len();
    let meta = reader.meta().clone();
    let mut seen = Boundaries::new(Lsn(meta.start));
    let damage = loop {
        match reader.next(len) {
            Ok(Some(frames)) => {
                if seen.read(&frames).is_err() {
                    break Some(Damage::Seal {
                        record: reader.next,
                    });
                }
            }
            Ok(None) => break None,
            Err(damage) => break Some(damage),
        }
    };
    reader.file.get_ref().sync_all()?;
    Ok(Scanned {
        meta,
        end: seen.boundary(),
        bytes: reader.at(),
        damage,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::frames::tests::{data, keepalive};
    use super::*;

    fn meta() -> Meta {
        Meta {
            pipeline: "shop".into(),
            slot: "tidemark_shop".into(),
            system: "7".into(),
            timeline: 1,
            database: "d".into(),
            start: 100,
        }
    }

    fn written(path: &Path, key: Option<&Secret>) -> u64 {
        let mut writer = SegmentWriter::create(path, key, &meta()).unwrap();
        for lsn in [200, 300] {
            writer.append(&keepalive(lsn)).unwrap();
        }
        writer.append(&data(b"Bno commit follows")).unwrap();
        writer.make_durable().unwrap();
        writer.bytes()
    }

    #[test]
    fn what_is_written_is_read_to_its_last_boundary() {
        let directory = tempfile::tempdir().unwrap();
        for key in [None, Some(Secret::new("k"))] {
            let path = directory.path().join(format!("{}", key.is_some()));
            let bytes = written(&path, key.as_ref());
            let scanned = scan(&path, key.as_ref()).unwrap();
            assert_eq!((scanned.meta, scanned.end), (meta(), Lsn(300)));
            assert_eq!(scanned.bytes, bytes);
            assert!(scanned.damage.is_none());
            let text = std::fs::read(&path).unwrap();
            let is_readable = text.windows(9).any(|bytes| bytes == b"no commit");
            assert_eq!(is_readable, key.is_none());
        }
    }

    #[test]
    fn another_key_or_none_opens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        written(&path, Some(&Secret::new("k")));
        assert!(matches!(scan(&path, None), Err(Damage::NoKey)));
        let other = Secret::new("l");
        assert!(matches!(
            scan(&path, Some(&other)),
            Err(Damage::Seal { record: 0 })
        ));
    }

    /// Whatever byte is changed, and wherever the file is cut: never more than what was before it.
    #[test]
    fn any_change_is_found() {
        let directory = tempfile::tempdir().unwrap();
        for key in [None, Some(Secret::new("k"))] {
            let path = directory.path().join(format!("{}", key.is_some()));
            written(&path, key.as_ref());
            let whole = std::fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                let is_found = match scan(&path, key.as_ref()) {
                    Ok(scanned) => scanned.damage.is_some() && scanned.bytes <= at as u64,
                    Err(_) => true,
                };
                assert!(is_found, "byte {at}");
                std::fs::write(&path, &whole[..at]).unwrap();
                if let Ok(scanned) = scan(&path, key.as_ref()) {
                    assert!(scanned.bytes <= at as u64 && scanned.end <= Lsn(300));
                }
            }
        }
    }

    #[test]
    fn a_record_in_anothers_place_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut writer = SegmentWriter::create(&path, None, &meta()).unwrap();
        let first = usize::try_from(writer.bytes()).unwrap();
        writer.append(&keepalive(200)).unwrap();
        let second = usize::try_from(writer.bytes()).unwrap();
        writer.append(&keepalive(300)).unwrap();
        drop(writer);
        let whole = std::fs::read(&path).unwrap();
        let swapped = [&whole[..first], &whole[second..], &whole[first..second]].concat();
        std::fs::write(&path, swapped).unwrap();
        let scanned = scan(&path, None).unwrap();
        assert!(scanned.damage.is_some());
        assert_eq!(scanned.end, Lsn(100));
    }
}
