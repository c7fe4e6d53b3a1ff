//! A connection whose server says anything at all.

use std::io::Write;

use proptest::prelude::*;

use super::knock::{Use, connection, survives};

/// Messages of types that exist, with any body, which may be cut off or have a wrong length.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let tag = proptest::sample::select(b"12CDEGHIKNRSTWZcdnst".to_vec());
    let body = proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..40);
    let message = (tag, body, prop_oneof![9 => Just(0_i32), 1 => any::<i32>()]);
    proptest::collection::vec(message, 0..12).prop_map(|messages| {
        let mut bytes = Vec::new();
        for (tag, body, wrong) in messages {
            let length = i32::try_from(body.len() + 4).unwrap().wrapping_add(wrong);
            bytes.push(tag);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&body);
        }
        bytes
    })
}

fn uses() -> impl Strategy<Value = Use> {
    proptest::sample::select(Use::ALL.to_vec())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        what in uses(),
    ) {
        survives(&bytes, what);
    }

    #[test]
    fn any_messages_are_survived(bytes in messages(), what in uses()) {
        survives(&bytes, what);
    }

    #[test]
    fn any_copy_data_are_survived(
        format in 0_u8..2,
        bytes in messages(),
        what in uses(),
    ) {
        let mut opening = b"H\0\0\0\x07\0\0\0".to_vec();
        opening[5] = format;
        opening.extend_from_slice(&bytes);
        survives(&opening, what);
        opening[0] = b'G';
        survives(&opening, what);
    }
}

#[tokio::test]
async fn a_message_that_claims_a_gigabyte_takes_no_memory() {
    let (mut connection, mut server) = connection();
    server.write_all(b"D\x3f\xff\xff\xff").unwrap();
    server.write_all(&[0; 1000]).unwrap();
    drop(server);
    assert!(connection.next_reply().await.is_err());
    assert!(connection.inbound_capacity() < 1 << 20);
}

#[tokio::test]
async fn a_request_left_half_way_blocks_the_next() {
    let (mut connection, mut server) = connection();
    {
        let request = connection.simple("SELECT 1");
        let mut request = std::pin::pin!(request);
        let first = poll_once(request.as_mut()).await;
        assert!(first.is_none(), "nobody has answered yet");
    }
    server
        .write_all(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I")
        .unwrap();
    let error = connection.simple("SELECT 2").await.unwrap_err();
    assert!(
        error.to_string().contains("in the middle of a request"),
        "{error}"
    );
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
