//! Digests packed for the way: as text, numbers and a message for each row would be several times as
//! long as the digests themselves, and are most of what a comparison reads.
//!
//! Numbers are in network byte order (`int4send`, `int8send`), and bytes travel as base64 in lines, as
//! `encode(bytea, 'base64')` writes it (PostgreSQL 15, 9.5): a third more than the bytes, where the
//! text of `bytea` is twice as much.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use tidemark_core::verify::Digest;

/// 2^64, of which sums of hashes are the rest.
const MODULUS: &str = "18446744073709551616";
const HALF: &str = "9223372036854775808";

/// A bucket: its rows in four bytes, and its sum in eight.
const BUCKET_BYTES: usize = 12;

/// One value with all buckets in order, those without rows too. `grouped` selects `n`, the bucket's
/// number, `c`, its rows, and `s`, the sum of their hashes.
pub(super) fn buckets_sql(grouped: &str, count: u32) -> String {
    // The rest as a signed number of the same 64 bits.
    let signed = format!(
        "CASE WHEN m >= {HALF} THEN m - {MODULUS} WHEN m < -{HALF} THEN m + {MODULUS} ELSE m END"
    );
    format!(
        "SELECT encode(string_agg(int4send(c) || int8send(({signed})::int8), ''::bytea ORDER BY n), \
         'base64') FROM (SELECT n, least(coalesce(c, 0), {max})::int4 AS c, \
         mod(coalesce(s, 0), {MODULUS}) AS m FROM generate_series(0, {last}) AS every (n) \
         LEFT JOIN ({grouped}) AS found USING (n)) AS buckets",
        max = i32::MAX,
        last = count.max(1) - 1,
    )
}

/// The buckets of [`buckets_sql`]; `None` where it is not what that gives.
pub(super) fn buckets(text: &str, count: u32) -> Option<Vec<Digest>> {
    let bytes = decode(text)?;
    let (buckets, rest) = bytes.as_chunks::<BUCKET_BYTES>();
    let is_whole = rest.is_empty() && buckets.len() == count.max(1) as usize;
    let digest = |bucket: &[u8; BUCKET_BYTES]| {
        let (rows, sum) = bucket.split_first_chunk::<4>()?;
        Some(Digest {
            rows: u64::from(u32::from_be_bytes(*rows)),
            sum: u64::from_be_bytes(sum.try_into().ok()?),
        })
    };
    is_whole.then(|| buckets.iter().map(digest).collect())?
}

/// A row's hash, packed.
pub(super) fn hash_sql(hash: &str) -> String {
    format!("encode(int8send({hash}), 'base64')")
}

/// The hash of [`hash_sql`].
pub(super) fn hash(text: &str) -> Option<u64> {
    Some(u64::from_be_bytes(decode(text)?.try_into().ok()?))
}

/// Base64 (RFC 4648) with line breaks; `None` for anything else.
fn decode(text: &str) -> Option<Vec<u8>> {
    let signs: Vec<u8> = text.bytes().filter(|sign| *sign != b'\n').collect();
    STANDARD.decode(signs).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_and_nothing_else() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v\nYmFy", Some(b"foobar")),
            ("+/8A", Some(b"\xfb\xff\x00")),
            ("Zm9", None),
            ("Zm9v=", None),
            ("Zg==Zm9v", None),
            ("Z===", None),
            ("Zm 9", None),
            ("Zm=v", None),
        ] {
            assert_eq!(decode(text).as_deref(), bytes, "{text:?}");
        }
    }

    #[test]
    fn buckets_that_are_not_all_there_are_refused() {
        let two = "AAAAAf//////////AAAAAgAAAAAAAAAH";
        let digest = |rows, sum| Digest { rows, sum };
        let read = buckets(two, 2).unwrap();
        assert_eq!(read, [digest(1, u64::MAX), digest(2, 7)]);
        assert_eq!(buckets(two, 1), None);
        assert_eq!(buckets(two, 3), None);
        assert_eq!(buckets("AAAA", 1), None);
        assert_eq!(hash("AAAAAAAAAAI="), Some(2));
        assert_eq!(hash("AAAAAAAAAAEAAAAA"), None);
    }
}
