//! Gives a copied cluster a system identifier of its own.
//!
//! The identifier is the first 8 bytes of `global/pg_control`, which end with a CRC-32C over all
//! before it (`ControlFileData`, PostgreSQL 14 to 18, `src/include/catalog/pg_control.h`), and it
//! stands in the header of the first page of every WAL segment at byte 24 (`XLogLongPageHeaderData`,
//! `src/include/access/xlog_internal.h`), which no CRC covers. A cluster fresh from `initdb` has one
//! segment. `pg_resetwal` would rewrite the segment, but fetched majors do not bring it.
//!
//! The place of the CRC differs by version; it is found as the one place where the checksum fits.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

const WAL_IDENTIFIER_AT: usize = 24;

/// Replaces the identifier of the cluster in `data`, which must not run.
pub(super) fn renew(data: &Path) -> Result<()> {
    let identifier = new_identifier().to_ne_bytes();
    let control = data.join("global/pg_control");
    let mut bytes = fs::read(&control).context("read pg_control")?;
    let crc_at = crc_place(&bytes).context("pg_control has no checksum that fits")?;
    let old = bytes.get(..8).context("pg_control is too short")?.to_vec();
    put(&mut bytes, 0, &identifier);
    let crc = crc32c(bytes.get(..crc_at).unwrap_or_default());
    put(&mut bytes, crc_at, &crc.to_ne_bytes());
    for entry in fs::read_dir(data.join("pg_wal"))? {
        let segment = entry?.path();
        if segment.is_file() {
            put_in_segment(&segment, &old, identifier)?;
        }
    }
    // Written in place, so that the file keeps its owner.
    fs::write(&control, bytes).context("write pg_control")
}

fn put_in_segment(segment: &Path, old: &[u8], identifier: [u8; 8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().read(true).write(true).open(segment)?;
    let mut found = [0; 8];
    file.read_exact_at(&mut found, WAL_IDENTIFIER_AT as u64)?;
    anyhow::ensure!(found == old, "{} is of another cluster", segment.display());
    file.write_all_at(&identifier, WAL_IDENTIFIER_AT as u64)?;
    Ok(())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn crc_place(bytes: &[u8]) -> Option<usize> {
    (200..400).step_by(4).find(|at| {
        let stored = bytes.get(*at..*at + 4).and_then(|b| b.try_into().ok());
        stored.map(u32::from_ne_bytes) == bytes.get(..*at).map(crc32c)
    })
}

/// As the server makes them: seconds and microseconds of now, and the process id
/// (`BootStrapXLOG`, `src/backend/access/transam/xlog.c`). Two copies in one microsecond by one
/// process are told apart by a count.
fn new_identifier() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = u64::from(std::process::id()).wrapping_add(count << 7) & 0xfff;
    (now.as_secs() << 32) | (u64::from(now.subsec_micros()) << 12) | process
}

/// CRC-32C (Castagnoli), bit by bit: it runs over 300 bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::{crc_place, crc32c, new_identifier};

    #[test]
    fn crc_is_castagnolis() {
        // The check value of CRC-32/ISCSI.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_place_of_the_checksum_is_found() {
        let mut bytes = vec![7; 296];
        let crc = crc32c(&bytes[..288]).to_ne_bytes();
        bytes[288..292].copy_from_slice(&crc);
        assert_eq!(crc_place(&bytes), Some(288));
        assert_eq!(crc_place(&vec![7; 500]), None);
    }

    #[test]
    fn identifiers_differ() {
        let many: std::collections::HashSet<u64> = (0..1000).map(|_| new_identifier()).collect();
        assert!(many.len() > 990);
    }
}
