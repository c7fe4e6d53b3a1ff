//! The few fields of an X.509 certificate that rustls does not give: signature algorithm and dates.
//!
//! A walk over DER (RFC 5280, 4.1) that gives `None` on anything unexpected. Only lengths are
//! trusted, and those are checked against the bytes that are there.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const CONTEXT_0: u8 = 0xa0;

/// 1.2.840.113549.1.1 (PKCS #1), without the last arc.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3 (ECDSA with SHA-2), without the last arc.
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
/// 1.2.840.10045.4.1, ECDSA with SHA-1.
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
/// 2.16.840.1.101.3.4.2 (NIST hashes), without the last arc.
const NIST_HASH: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// The `tls-server-end-point` binding (RFC 5929, 4.1): the certificate's hash, made with the hash
/// of its own signature, SHA-256 in place of MD5 and SHA-1. `None` where none is defined (Ed25519).
pub(crate) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (content, _) = element(certificate, SEQUENCE)?;
    let (_to_be_signed, rest) = element(content, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    let (id, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    if let Some(arc) = id.strip_prefix(PKCS1) {
        return match arc {
            // md5WithRSA, sha1WithRSA, sha256WithRSA
            [4 | 5 | 11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [10] => pss_hash(parameters),
            _ => None,
        };
    }
    if id == ECDSA_SHA1 {
        return Some(Hash::Sha256);
    }
    match id.strip_prefix(ECDSA_SHA2)? {
        [2] => Some(Hash::Sha256),
        [3] => Some(Hash::Sha384),
        [4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in the parameters; absent means SHA-1 (RFC 4055, 3.1).
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (content, _) = element(parameters, SEQUENCE)?;
    let Some((tagged, _)) = element(content, CONTEXT_0) else {
        return Some(Hash::Sha256);
    };
    let (algorithm, _) = element(tagged, SEQUENCE)?;
    let (id, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    match id.strip_prefix(NIST_HASH)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        _ => None,
    }
}

/// `notBefore` and `notAfter` in seconds since 1970.
pub(super) fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let (content, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(content, SEQUENCE)?;
    if let Some((_version, rest)) = element(fields, CONTEXT_0) {
        fields = rest;
    }
    // serialNumber, signature, issuer
    for _ in 0..3 {
        (_, _, fields) = any_element(fields)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

fn time(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, content, rest) = any_element(bytes)?;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let (year, fields) = match tag {
        UTC_TIME => {
            let (year, fields) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            // RFC 5280, 4.1.2.5.1
            (if year >= 50 { 1900 + year } else { 2000 + year }, fields)
        }
        GENERALIZED_TIME => {
            let (year, fields) = text.split_at_checked(4)?;
            (year.parse().ok()?, fields)
        }
        _ => return None,
    };
    if fields.len() != 10 || !fields.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let two = |at: usize| fields.get(at..at + 2)?.parse::<i64>().ok();
    let days = days_from_civil(year, two(0)?, two(2)?);
    let seconds = days * 86_400 + two(4)? * 3600 + two(6)? * 60 + two(8)?;
    Some((u64::try_from(seconds).unwrap_or(0), rest))
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level
/// date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn element(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = any_element(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// Tag, content, and what follows.
fn any_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = if first < 0x80 {
        (usize::from(first), bytes)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (digits, bytes) = bytes.split_at_checked(count)?;
        (
            digits
                .iter()
                .fold(0_usize, |length, digit| length << 8 | usize::from(*digit)),
            bytes,
        )
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_counted_from_1970() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 3, 1), 11_017);
        assert_eq!(days_from_civil(2026, 11, 21), 20_778);
    }

    #[test]
    fn times_of_both_forms_are_read() {
        let utc = b"\x17\x0d700101000000Z";
        assert_eq!(time(utc).map(|(seconds, _)| seconds), Some(0));
        let generalized = b"\x18\x0f20261121000001Z";
        assert_eq!(
            time(generalized).map(|(seconds, _)| seconds),
            Some(20_778 * 86_400 + 1)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = server_end_point(&bytes);
            let _ = validity(&bytes);
        }
    }
}
