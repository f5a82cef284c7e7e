//! The paged KV cache as bookkeeping: which block holds what, and which may be reused.
//!
//! A block is *used* (one or more sequences refer to it) or *free*. A free block may still hold the
//! keys and values of a known prefix: it is found again by [`BlockPool::match_prefix`] until it is
//! taken for something else, least recently used first.
//!
//! The prefix index is an exact trie: a full block is known by its parent's [`PrefixId`] and its
//! own tokens, and ids are never reused, so no hash can collide and hand one user another's
//! context.
//!
//! Invariant: used + free = total, after every operation. It does not know sequences or devices.

use std::collections::BTreeSet;

use models::{BLOCK_TOKENS, ModelInfo};
use rustc_hash::FxHashMap;

/// Blocks that fit into `bytes` of KV memory, on any device.
pub fn blocks_for(bytes: u64, model: &ModelInfo) -> u32 {
    let per_block = model.kv_bytes_per_token * BLOCK_TOKENS as u64;
    u32::try_from(bytes / per_block.max(1)).unwrap_or(u32::MAX)
}

/// A physical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// A known prefix that ends with a full block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixId(u64);

impl PrefixId {
    /// The empty prefix.
    pub const ROOT: Self = Self(0);
}

type PrefixKey = (PrefixId, [u32; BLOCK_TOKENS]);

#[derive(Debug, Clone, Default)]
struct Block {
    references: u32,
    /// The prefix it holds, while the index knows it.
    key: Option<Box<PrefixKey>>,
    /// When it was last released; orders the free set.
    released: u64,
}

/// All blocks of a device.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    /// `(released, block)`: first is reused first.
    free: BTreeSet<(u64, BlockId)>,
    index: FxHashMap<PrefixKey, (PrefixId, BlockId)>,
    next_prefix: u64,
    releases: u64,
    caching: bool,
}

impl BlockPool {
    /// A pool of `total` free blocks, with or without a prefix cache.
    pub fn new(total: u32, prefix_cache: PrefixCache) -> Self {
        Self {
            blocks: vec![Block::default(); total as usize],
            free: (0..total).map(|id| (0, BlockId(id))).collect(),
            index: FxHashMap::default(),
            next_prefix: 1,
            releases: 0,
            caching: prefix_cache == PrefixCache::On,
        }
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be taken.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that sequences refer to.
    pub fn used(&self) -> usize {
        self.total() - self.free()
    }

    /// Takes a block; what it held is forgotten. `None` when all are used.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let (_, id) = self.free.pop_first()?;
        let block = &mut self.blocks[id.0 as usize];
        block.references = 1;
        if let Some(key) = block.key.take() {
            self.index.remove(&*key);
        }
        Some(id)
    }

    /// Gives one reference back.
    ///
    /// # Panics
    /// When nothing refers to the block.
    pub fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        block.references = block
            .references
            .checked_sub(1)
            .expect("a released block was in use");
        if block.references == 0 {
            // A block that holds nothing goes to the front of the queue.
            self.releases += 1;
            block.released = if block.key.is_some() {
                self.releases
            } else {
                0
            };
            self.free.insert((block.released, id));
        }
    }

    /// The longest known prefix of `tokens`, in whole blocks and short of the last token, which
    /// must always be computed. The blocks are taken, each with one reference.
    pub fn match_prefix(&mut self, tokens: &[u32]) -> (Vec<BlockId>, PrefixId) {
        let (mut parent, mut matched) = (PrefixId::ROOT, Vec::new());
        if !self.caching {
            return (matched, parent);
        }
        let limit = tokens.len().saturating_sub(1) / BLOCK_TOKENS * BLOCK_TOKENS;
        for chunk in tokens[..limit].chunks_exact(BLOCK_TOKENS) {
            let key = (parent, as_key(chunk));
            let Some(&(prefix, id)) = self.index.get(&key) else {
                break;
            };
            self.retain(id);
            matched.push(id);
            parent = prefix;
        }
        (matched, parent)
    }

    fn retain(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        if block.references == 0 {
            self.free.remove(&(block.released, id));
        }
        block.references += 1;
    }

    /// Makes a full, computed block findable, and returns the prefix that it ends.
    ///
    /// When the same prefix is known already (two sequences computed it at once), the known one
    /// stays, and its id is returned.
    ///
    /// # Panics
    /// When `tokens` is not one whole block.
    pub fn register(&mut self, parent: PrefixId, tokens: &[u32], id: BlockId) -> PrefixId {
        if !self.caching {
            return PrefixId::ROOT;
        }
        let key = (parent, as_key(tokens));
        if let Some(&(known, _)) = self.index.get(&key) {
            return known;
        }
        let prefix = PrefixId(self.next_prefix);
        self.next_prefix += 1;
        self.index.insert(key, (prefix, id));
        self.blocks[id.0 as usize].key = Some(Box::new(key));
        prefix
    }
}

/// Whether computed prefixes are kept for later requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixCache {
    /// Kept until their blocks are needed.
    On,
    /// Every request computes its whole prompt.
    Off,
}

fn as_key(tokens: &[u32]) -> [u32; BLOCK_TOKENS] {
    tokens.try_into().expect("a prefix block is a whole block")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: u32, blocks: u32) -> Vec<u32> {
        (0..blocks * BLOCK_TOKENS as u32)
            .map(|i| seed * 100_000 + i)
            .collect()
    }

    /// Computes `prompt` into fresh blocks, as a sequence would.
    fn fill(pool: &mut BlockPool, prompt: &[u32]) -> Vec<BlockId> {
        let (mut blocks, mut prefix) = pool.match_prefix(prompt);
        for chunk in prompt.chunks_exact(BLOCK_TOKENS).skip(blocks.len()) {
            let id = pool.allocate().expect("a free block");
            prefix = pool.register(prefix, chunk, id);
            blocks.push(id);
        }
        blocks
    }

    fn release_all(pool: &mut BlockPool, blocks: &[BlockId]) {
        blocks.iter().rev().for_each(|&id| pool.release(id));
    }

    #[test]
    fn a_released_prefix_is_found_again_and_never_its_last_token() {
        let mut pool = BlockPool::new(8, PrefixCache::On);
        let prompt = tokens(1, 3);
        let blocks = fill(&mut pool, &prompt);
        release_all(&mut pool, &blocks);
        assert_eq!(pool.free(), 8);
        let (again, _) = pool.match_prefix(&prompt);
        assert_eq!(again, blocks[..2], "the last token is always computed");
        let mut longer = prompt.clone();
        longer.push(7);
        let (whole, _) = pool.match_prefix(&longer);
        assert_eq!(whole, blocks);
        assert_eq!(pool.used(), 3);
    }

    #[test]
    fn equal_blocks_under_different_parents_are_different() {
        let mut pool = BlockPool::new(8, PrefixCache::On);
        let shared_tail = tokens(9, 1);
        let one = [tokens(1, 1), shared_tail.clone(), vec![0]].concat();
        let two = [tokens(2, 1), shared_tail, vec![0]].concat();
        let first = fill(&mut pool, &one);
        assert!(pool.match_prefix(&two).0.is_empty());
        let second = fill(&mut pool, &two);
        assert_ne!(first, second);
    }

    #[test]
    fn the_least_recently_released_prefix_is_evicted_first_tail_before_head() {
        let mut pool = BlockPool::new(4, PrefixCache::On);
        let (old, new) = (
            [tokens(1, 2), vec![0]].concat(),
            [tokens(2, 2), vec![0]].concat(),
        );
        for prompt in [&old, &new] {
            let blocks = fill(&mut pool, prompt);
            release_all(&mut pool, &blocks);
        }
        let taken = pool.allocate().expect("a free block");
        let (matched, _) = pool.match_prefix(&old);
        assert_eq!(matched.len(), 1, "the tail of the older prompt went");
        let (kept, _) = pool.match_prefix(&new);
        assert_eq!(kept.len(), 2);
        release_all(&mut pool, &[vec![taken], matched, kept].concat());
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn without_a_cache_nothing_is_found() {
        let mut pool = BlockPool::new(4, PrefixCache::Off);
        let prompt = tokens(1, 2);
        let blocks = fill(&mut pool, &prompt);
        release_all(&mut pool, &blocks);
        assert!(pool.match_prefix(&prompt).0.is_empty());
    }
}
