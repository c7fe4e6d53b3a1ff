//! `pipeline.memory`: how much a pipeline may hold, and how that is shared out.
//!
//! One number bounds everything that grows with what comes: batches, what waits before them, what is
//! held of large values, and the workers of a load. It is no limit that ends a run. A row is sent
//! by the source as a whole, so whatever the bound is, one row more fits in.

/// Bytes that a pipeline may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

/// What a worker of a load has in flight: two blocks on their way and the buffer of the next.
const LOAD_WORKER_BYTES: u64 = 1 << 20;

impl Memory {
    fn share(self, of: u64) -> usize {
        usize::try_from(self.0 / of).unwrap_or(usize::MAX)
    }

    /// A batch has at most so much. One is assembled, up to twice as large, while one is applied.
    pub fn batch_bytes(self) -> usize {
        self.share(16)
    }

    /// What has come and waits to be decoded.
    pub fn queue_bytes(self) -> usize {
        self.share(64)
    }

    /// Pieces of transactions in progress, before they go to disk.
    pub fn spool_bytes(self) -> usize {
        self.share(64)
    }

    /// Large messages that are held until they are applied. More than two batches hold of them, and
    /// so nothing waits for what is not read.
    pub fn held_bytes(self) -> usize {
        self.share(4)
    }

    /// How many workers load at once.
    pub fn load_workers(self) -> usize {
        self.share(4 * LOAD_WORKER_BYTES).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_fit_and_what_is_held_is_more_than_batches_hold() {
        for bytes in [64_000_000, 512_000_000, 1 << 40] {
            let memory = Memory(bytes);
            // One batch is applied, one assembled up to twice its size; half of a block may be a value.
            let batches = 3 * memory.batch_bytes();
            let load = memory.load_workers() * (1 << 20);
            let all =
                batches + memory.queue_bytes() + memory.spool_bytes() + memory.held_bytes() + load;
            assert!(all as u64 <= bytes, "{bytes}");
            assert!(2 * memory.batch_bytes() < memory.held_bytes());
        }
        assert_eq!(Memory(512_000_000).load_workers(), 122);
    }
}
