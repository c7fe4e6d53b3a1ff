//! The reader against a server that is the other end of a socket pair.

use std::io::Read;
use std::time::Instant;

use proptest::prelude::*;
use tidemark_core::ErrorKind;

use super::super::frame;
use super::super::socket::Link;
use super::super::wal::WalMessage;
use super::*;

/// Our end of the pair, and the server's.
fn stream(options: ReplicationOptions) -> (ReplicationReader, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let reader = reader::spawn(Side::Source, Link::unix(ours), &[], options).unwrap();
    (reader, theirs)
}

fn data(at: u64, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    body.extend_from_slice(&at.to_be_bytes());
    body.extend_from_slice(&at.to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    body.extend_from_slice(payload);
    framed(&body)
}

fn keepalive(end: u64, reply_requested: bool) -> Vec<u8> {
    let mut body = vec![b'k'];
    body.extend_from_slice(&end.to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    body.push(u8::from(reply_requested));
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut message = vec![b'd'];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// The next status update: written, flushed, and whether an answer is wanted.
fn status(server: &mut UnixStream) -> (u64, u64, bool) {
    let mut update = [0; 39];
    server.read_exact(&mut update).unwrap();
    assert_eq!(update[..6], [b'd', 0, 0, 0, 38, b'r']);
    let number = |at: usize| u64::from_be_bytes(update[at..at + 8].try_into().unwrap());
    (number(6), number(14), update[38] == 1)
}

#[tokio::test]
async fn messages_are_handed_over_at_once_and_acknowledged_soon() {
    let (mut reader, mut server) = stream(ReplicationOptions {
        acknowledged: Lsn(10),
        ..ReplicationOptions::default()
    });
    assert_eq!(status(&mut server), (10, 10, false));
    server.write_all(&data(20, b"hello")).unwrap();
    let block = reader.next_block().await.unwrap().unwrap();
    let messages: Vec<_> = block.messages().collect();
    assert!(matches!(
        messages[..],
        [WalMessage::Data {
            payload: b"hello",
            ..
        }]
    ));
    assert_eq!(reader.received(), Lsn(20));

    let start = Instant::now();
    reader.acknowledge(Lsn(20));
    reader.acknowledge(Lsn(15));
    assert_eq!(status(&mut server), (20, 20, false));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "not before the next regular update"
    );

    server.write_all(&keepalive(30, true)).unwrap();
    assert_eq!(status(&mut server), (30, 20, false));
}

#[tokio::test]
async fn a_small_transaction_is_handed_over_as_one() {
    let (mut reader, mut server) = stream(ReplicationOptions {
        rest_wait: Duration::from_secs(5),
        ..ReplicationOptions::default()
    });
    for (at, message) in [(1, b"B"), (2, b"I"), (3, b"C")] {
        server.write_all(&data(at, message)).unwrap();
        while reader.received() < Lsn(at) {
            tokio::task::yield_now().await;
        }
    }
    let block = reader.next_block().await.unwrap().unwrap();
    assert_eq!(block.messages().count(), 3);
    // One that is over does not wait for the next one.
    let two = [data(4, b"B"), data(5, b"C"), data(6, b"B")].concat();
    server.write_all(&two).unwrap();
    let start = Instant::now();
    let block = reader.next_block().await.unwrap().unwrap();
    assert!(block.messages().count() >= 2);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_transaction_whose_end_does_not_come_is_handed_over_as_it_is() {
    let (mut reader, mut server) = stream(ReplicationOptions::default());
    let start = Instant::now();
    server.write_all(&data(1, b"B")).unwrap();
    let block = reader.next_block().await.unwrap().unwrap();
    assert_eq!(block.messages().count(), 1);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_silent_server_is_asked_and_then_given_up() {
    let (mut reader, mut server) = stream(ReplicationOptions {
        silence_timeout: Duration::from_millis(400),
        status_interval: Duration::from_secs(30),
        ..ReplicationOptions::default()
    });
    assert_eq!(status(&mut server), (0, 0, false));
    assert_eq!(status(&mut server), (0, 0, true));
    // A sign of life starts the clock anew.
    server.write_all(&keepalive(1, false)).unwrap();
    reader.next_block().await.unwrap().unwrap();
    assert_eq!(status(&mut server), (1, 0, true));
    let error = reader.next_block().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("nothing heard"), "{error}");
}

#[tokio::test]
async fn a_large_message_that_is_held_keeps_the_next_one_away() {
    let (mut reader, mut server) = stream(ReplicationOptions {
        held_bytes_max: 1 << 20,
        status_interval: Duration::from_millis(20),
        ..ReplicationOptions::default()
    });
    let payload =
        |n: u64| -> Vec<u8> { (0..3_u64 << 20).map(|i| (i * n).to_le_bytes()[1]).collect() };
    let mut sender = server.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        (1..=3).for_each(|n| sender.write_all(&data(n, &payload(n))).unwrap());
    });
    for n in 1..=3 {
        let block = reader.next_block().await.unwrap().unwrap();
        let messages: Vec<_> = block.messages().collect();
        let [WalMessage::Data { payload: found, .. }] = messages[..] else {
            panic!("{} messages in the block", messages.len());
        };
        assert!(found == payload(n), "message {n} as it was sent");
        // Its value alone is still held. What the server says meanwhile is not read.
        let held = block.bytes().slice_ref(&found[100..]);
        drop(block);
        for _ in 0..5 {
            status(&mut server);
        }
        assert!(reader.try_next_block().is_none(), "message {n} is held");
        assert_eq!(held.len(), payload(n).len() - 100);
    }
    sending.join().unwrap();
}

#[tokio::test]
async fn a_full_queue_stops_reading_but_not_status_updates() {
    let (mut reader, mut server) = stream(ReplicationOptions {
        queue_bytes_max: 100_000,
        status_interval: Duration::from_millis(20),
        silence_timeout: Duration::from_millis(500),
        ..ReplicationOptions::default()
    });
    let total = 3000_u64;
    let mut sender = server.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for n in 1..=total {
            sender.write_all(&data(n, &[7; 1000])).unwrap();
        }
    });
    // Longer than the silence timeout: while we do not listen, silence does not count.
    for _ in 0..40 {
        status(&mut server);
    }
    assert!(!sending.is_finished(), "3 MB went into a queue of 100 kB");
    assert!(reader.queued_bytes() < 100_000 + 256 * 1024);
    let mut seen = 0;
    while seen < total {
        seen += reader
            .next_block()
            .await
            .unwrap()
            .unwrap()
            .messages()
            .count() as u64;
    }
    sending.join().unwrap();
    assert_eq!(reader.received(), Lsn(total));
}

#[tokio::test]
async fn a_large_message_comes_whole_between_small_ones() {
    let (mut reader, mut server) = stream(ReplicationOptions::default());
    let sending = std::thread::spawn(move || {
        server.write_all(&data(1, b"before")).unwrap();
        server.write_all(&data(2, &vec![1; 30_000_000])).unwrap();
        server.write_all(&data(3, b"behind")).unwrap();
        server
    });
    let mut lengths = Vec::new();
    while lengths.len() < 3 {
        let block = reader.next_block().await.unwrap().unwrap();
        lengths.extend(block.messages().map(|message| match message {
            WalMessage::Data { payload, .. } => payload.len(),
            WalMessage::Keepalive { .. } => 0,
        }));
    }
    assert_eq!(lengths, [6, 30_000_000, 6]);
    sending.join().unwrap();
}

#[tokio::test]
async fn a_stop_says_the_last_acknowledgement_and_goodbye() {
    let (reader, mut server) = stream(ReplicationOptions::default());
    status(&mut server);
    reader.acknowledge(Lsn(99));
    let stopping = tokio::spawn(reader.stop());
    let server = tokio::task::spawn_blocking(move || {
        while status(&mut server) != (99, 99, false) {}
        let mut done = [0; 5];
        server.read_exact(&mut done).unwrap();
        assert_eq!(done, [b'c', 0, 0, 0, 4]);
        server.write_all(&data(100, b"late")).unwrap();
        server
            .write_all(&[b'c', 0, 0, 0, 4, b'Z', 0, 0, 0, 5, b'I'])
            .unwrap();
        server.read_exact(&mut done).unwrap();
        assert_eq!(done, [b'X', 0, 0, 0, 4]);
    });
    server.await.unwrap();
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_reader_closes_the_connection() {
    let (reader, mut server) = stream(ReplicationOptions::default());
    status(&mut server);
    drop(reader);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [0; 0]);
}

#[tokio::test]
async fn an_error_of_the_server_comes_behind_its_messages() {
    let (mut reader, mut server) = stream(ReplicationOptions::default());
    let mut bytes = data(1, b"last");
    bytes.extend_from_slice(b"E\0\0\0\x16VFATAL\0C57P01\0M\0\0\0");
    server.write_all(&bytes).unwrap();
    assert_eq!(
        reader
            .next_block()
            .await
            .unwrap()
            .unwrap()
            .messages()
            .count(),
        1
    );
    let error = reader.next_block().await.unwrap_err();
    assert_eq!(error.code(), codes::SOURCE_SHUTDOWN);
    // Asked again, it does not hang.
    assert!(reader.next_block().await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_end_in_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        framing in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut reader, mut server) = stream(ReplicationOptions::default());
            let bytes = if framing { framed(&bytes) } else { bytes };
            server.write_all(&bytes).unwrap();
            drop(server);
            loop {
                match reader.next_block().await {
                    Ok(Some(block)) => assert!(block.bytes().len() >= frame::HEADER_LEN),
                    Ok(None) => panic!("nobody asked for a stop"),
                    Err(_) => break,
                }
            }
        });
    }
}
