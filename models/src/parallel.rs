//! Splits a slice over the threads of candle's pool.
//!
//! The matrix kernels keep that pool's workers spinning between two calls; a second pool would
//! compete with them for the same cores. **Invariant.** What a chunk is computed to does not
//! depend on how many threads there are.

use candle_core::utils::barrier_pool;
use std::sync::Mutex;

/// Below this much work (in floating-point operations) waking the other threads costs more than
/// it saves.
const MIN_WORK: usize = 200_000;

/// Calls `body(index, chunk)` for every chunk of `chunk_len` elements of `data`.
pub(crate) fn for_each_chunk(
    data: &mut [f32],
    chunk_len: usize,
    work_per_chunk: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    let chunks = data.len() / chunk_len;
    if chunks < 2 || chunks.saturating_mul(work_per_chunk) < MIN_WORK {
        for (index, chunk) in data.chunks_exact_mut(chunk_len).enumerate() {
            body(index, chunk);
        }
        return;
    }
    // Each chunk is locked once, by the thread that computes it.
    let slots: Vec<Mutex<&mut [f32]>> = data.chunks_exact_mut(chunk_len).map(Mutex::new).collect();
    barrier_pool().execute_chunked(chunks, |range| {
        for index in range {
            let mut chunk = slots[index]
                .lock()
                .expect("a chunk is locked by one thread only");
            body(index, &mut chunk);
        }
    });
}
