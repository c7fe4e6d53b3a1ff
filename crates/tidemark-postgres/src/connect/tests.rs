//! Start-up against a server that says anything at all.

use proptest::prelude::*;

use super::knock::start_up;
use super::*;

fn messages() -> impl Strategy<Value = Vec<u8>> {
    let tag = proptest::sample::select(b"RRRRREKSZNv".to_vec());
    // Authentication codes are small numbers in four bytes.
    let code = (0_u8..13).prop_map(|code| vec![0, 0, 0, code]);
    let tail = proptest::collection::vec(any::<u8>(), 0..40);
    proptest::collection::vec((tag, code, tail), 0..6).prop_map(|messages| {
        let mut bytes = Vec::new();
        for (tag, code, tail) in messages {
            let body = [code, tail].concat();
            bytes.push(tag);
            bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            bytes.extend_from_slice(&body);
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(start_up(&bytes).is_err());
    }

    #[test]
    fn any_messages_are_an_error(bytes in messages()) {
        prop_assert!(start_up(&bytes).is_err());
    }
}

#[test]
fn a_server_that_asks_for_an_unknown_way_of_login_is_named() {
    let error = start_up(b"R\0\0\0\x08\0\0\0\x07").unwrap_err();
    assert_eq!(error.code(), codes::SOURCE_AUTHENTICATION);
    assert!(error.to_string().contains("GSSAPI"), "{error}");
}
