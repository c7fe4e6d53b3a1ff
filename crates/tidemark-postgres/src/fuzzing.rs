//! The doors by which bytes of the outside come in, each as a function that must return whatever the
//! bytes are: without a panic, without a wait, without memory for what has not arrived.
//!
//! `fuzz/` knocks on them with inputs that reach new code; the test below knocks with the inputs that
//! were kept, and with each of them cut and changed, in every run of the tests.

use crate::config::{ConnectConfig, Side};
use crate::connect::knock::start_up;
use crate::wire::ServerError;
use crate::wire::knock::{Use, survives};

pub use crate::source::knock::log;

/// A session past its start-up; the first byte says what it is used for.
pub fn session(bytes: &[u8]) {
    let Some((first, said)) = bytes.split_first() else {
        return;
    };
    let count = Use::ALL.len();
    if let Some(what) = Use::ALL.get(usize::from(*first) % count) {
        // More does not fit into a socket that nobody reads.
        survives(said.get(..64 << 10).unwrap_or(said), *what);
    }
}

/// Start-up and login.
pub fn login(bytes: &[u8]) {
    let said = bytes.get(..64 << 10).unwrap_or(bytes);
    drop(start_up(said));
}

/// Text: what a server says went wrong, and the URL of a database.
pub fn text(bytes: &[u8]) {
    let error = ServerError::parse(bytes);
    drop((error.safe_message(), error.place()));
    if let Ok(text) = std::str::from_utf8(bytes) {
        for side in [Side::Source, Side::Target] {
            drop(ConnectConfig::parse(text, side));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Door = fn(&[u8]);

    /// Each input as it is, cut at every place, and with one byte changed in each of some places.
    fn knock(door: Door, input: &[u8]) {
        door(input);
        let step = (input.len() / 64).max(1);
        for at in (0..input.len()).step_by(step) {
            door(&input[..at]);
            for byte in [0x00, 0x01, 0x7F, 0xFF] {
                let mut changed = input.to_vec();
                changed[at] = byte;
                door(&changed);
            }
        }
    }

    #[test]
    fn s21_what_a_fuzzer_has_found_is_survived_cut_and_changed() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let doors: [(&str, Door); 4] = [
            ("log", super::log),
            ("session", super::session),
            ("login", super::login),
            ("text", super::text),
        ];
        for (name, door) in doors {
            let entries = std::fs::read_dir(corpus.join(name)).expect(name);
            let mut count = 0;
            for entry in entries {
                knock(door, &std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 3, "{name} has {count} inputs");
        }
    }
}
