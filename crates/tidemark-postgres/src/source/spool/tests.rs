use super::*;
use crate::source::frames::tests::data;

fn keep(xid: u32, frames: std::ops::Range<usize>) -> Aside {
    Aside::Keep { xid, frames }
}

/// All that a transaction left, and the sizes of the chunks it came in.
fn read_back(mut frames: Frames, goal_bytes: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    while let Some(chunk) = frames.next_chunk(goal_bytes).unwrap() {
        sizes.push(chunk.len());
        all.extend_from_slice(&chunk);
    }
    assert!(
        frames.file.is_none(),
        "the file is gone after the last chunk"
    );
    (all, sizes)
}

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn small_transactions_stay_in_memory() {
    let nowhere = PathBuf::from("/nonexistent");
    let mut spool = Spool::new(nowhere, 8 << 20);
    let block = data(b"Ixyz");
    let steps = [
        keep(7, 0..block.len()),
        keep(8, 0..block.len()),
        keep(7, 0..block.len()),
    ];
    assert_eq!(spool.carry_out_in_memory(&block, &steps).unwrap(), 3);
    assert_eq!(spool.memory_bytes, 3 * block.len());
    assert_eq!(
        read_back(spool.take(7), 1 << 20).0,
        [block.clone(), block.clone()].concat()
    );
    assert_eq!(
        spool
            .carry_out_in_memory(&block, &[Aside::Forget { xid: 8 }])
            .unwrap(),
        1
    );
    assert_eq!(spool.memory_bytes, 0);
    assert!(spool.transactions.is_empty());
}

#[test]
fn large_transactions_come_back_whole_in_bounded_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(directory.path().to_owned(), 8 << 20);
    let mut expected = Vec::new();
    for n in 0..200_u16 {
        let block = data(&vec![n.to_be_bytes()[1]; 1 + usize::from(n) * 13]);
        let steps = [keep(7, 0..block.len())];
        let done = spool.carry_out_in_memory(&block, &steps).unwrap();
        spool.carry_out(&block, &steps[done..]).unwrap();
        expected.extend(block);
    }
    assert!(spool.transactions[&7].file.is_some());
    assert!(spool.memory_bytes <= BUFFER_BYTES_MAX);
    assert_eq!(files_in(directory.path()), 0, "the file has no name");
    let (all, sizes) = read_back(spool.take(7), 4096);
    assert_eq!(all, expected);
    assert!(sizes.len() > 30, "{sizes:?}");
    assert!(
        sizes.iter().all(|size| *size <= BUFFER_BYTES_MAX),
        "{sizes:?}"
    );
    assert_eq!(spool.memory_bytes, 0);
}

#[test]
fn frame_larger_than_a_chunk_comes_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(directory.path().to_owned(), 8 << 20);
    let (small, large) = (data(b"Iab"), data(&vec![7; 300_000]));
    let block = [small.clone(), large.clone(), small.clone()].concat();
    spool.carry_out(&block, &[keep(7, 0..block.len())]).unwrap();
    let (all, sizes) = read_back(spool.take(7), 64);
    assert_eq!(all, block);
    assert_eq!(sizes, [small.len(), large.len(), small.len()]);
}

#[test]
fn memory_is_bounded_over_many_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(directory.path().to_owned(), 8 << 20);
    let block = data(&vec![1; BUFFER_BYTES_MAX - 100]);
    for xid in 0..200 {
        let steps = [keep(xid, 0..block.len())];
        let done = spool.carry_out_in_memory(&block, &steps).unwrap();
        spool.carry_out(&block, &steps[done..]).unwrap();
        assert!(spool.memory_bytes <= spool.memory_bytes_max);
    }
    for xid in 0..200 {
        assert_eq!(read_back(spool.take(xid), 1 << 20).0, block);
    }
    assert_eq!(spool.memory_bytes, 0);
}

#[test]
fn directory_that_cannot_be_written_is_named() {
    let mut spool = Spool::new(PathBuf::from("/nonexistent/spool"), 8 << 20);
    let block = data(b"I");
    let error = spool
        .carry_out(&block, &[keep(7, 0..block.len())])
        .unwrap_err();
    assert_eq!(error.code(), codes::SPOOL_FAILED);
    assert!(error.to_string().contains("/nonexistent/spool"), "{error}");
    assert!(error.action().contains("spool_dir"), "{}", error.action());
}

#[test]
fn full_disk_is_tried_again_and_named() {
    let error = failed(
        Path::new("/var/spool"),
        "written",
        io::ErrorKind::StorageFull.into(),
    );
    assert_eq!(error.kind(), tidemark_core::ErrorKind::Transient);
    assert!(error.to_string().contains("/var/spool"), "{error}");
}
