//! Memory that a foreign function writes into.
//!
//! Invariant: the room is larger than what is asked for, eight-aligned, and what lies behind it is
//! known, so a library that writes more than it should is found out and harms nothing else. Reading
//! beyond the room is a fault of ours, and panics.

use std::ffi::c_void;

/// Behind each block.
const GUARD_BYTES: usize = 4096;
const GUARD_WORD: u64 = 0xA5A5_5A5A_C3C3_3C3C;

/// Zeroed room for one value or structure, with a guard behind it.
pub(super) struct Block {
    words: Vec<u64>,
    size: usize,
}

impl Block {
    /// Room for `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        let room = size.div_ceil(8);
        let mut words = vec![0; room];
        words.resize(room + GUARD_BYTES / 8, GUARD_WORD);
        let mut block = Self { words, size };
        // The guard begins at the very next byte.
        let tail = size % 8;
        if tail > 0 {
            let mut word = GUARD_WORD.to_le_bytes();
            word[..tail].fill(0);
            block.words[room - 1] = u64::from_le_bytes(word);
        }
        block
    }

    /// Where to write.
    pub(super) fn pointer(&mut self) -> *mut c_void {
        self.words.as_mut_ptr().cast()
    }

    /// Did the writer keep to its room?
    pub(super) fn is_intact(&self) -> bool {
        let room = self.size.div_ceil(8);
        let tail = self.size % 8;
        let last = tail == 0
            || self.words[room - 1].to_le_bytes()[tail..] == GUARD_WORD.to_le_bytes()[tail..];
        last && self.words[room..].iter().all(|&word| word == GUARD_WORD)
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at + N <= self.size, "{at} + {N} is beyond {}", self.size);
        let mut bytes = [0; N];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            let at = at + offset;
            *byte = self.words[at / 8].to_ne_bytes()[at % 8];
        }
        bytes
    }

    /// Writes before the call, for structures that say their version.
    pub(super) fn put_i32(&mut self, at: usize, value: i32) {
        assert!(at + 4 <= self.size, "{at} is beyond {}", self.size);
        let mut word = self.words[at / 8].to_ne_bytes();
        word[at % 8..at % 8 + 4].copy_from_slice(&value.to_ne_bytes());
        self.words[at / 8] = u64::from_ne_bytes(word);
    }

    pub(super) fn i32(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.bytes(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    pub(super) fn i64(&self, at: usize) -> i64 {
        i64::from_ne_bytes(self.bytes(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    /// Text up to the first zero, or to the end of its field.
    pub(super) fn text(&self, at: usize, length: usize) -> String {
        let bytes: Vec<u8> = (at..at + length)
            .map(|at| self.bytes::<1>(at)[0])
            .take_while(|&byte| byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_too_many_is_found() {
        for size in [1, 4, 8, 28, 32, 84, 100, 132, 4096] {
            let mut block = Block::new(size);
            assert!(block.is_intact());
            let zero = |at: usize| block.bytes::<1>(at)[0] == 0;
            assert!((0..size).all(zero), "{size}");
            let word = size / 8;
            let mut bytes = block.words[word].to_ne_bytes();
            bytes[size % 8] = 0;
            block.words[word] = u64::from_ne_bytes(bytes);
            assert!(!block.is_intact(), "{size}");
        }
    }

    #[test]
    fn fields_are_read_where_they_are() {
        let mut block = Block::new(24);
        block.put_i32(4, -7);
        block.put_i32(12, i32::from_ne_bytes(*b"910B"));
        block.put_i32(16, i32::from_ne_bytes(*b"3\0xx"));
        assert_eq!((block.i32(4), block.u32(0)), (-7, 0));
        assert_eq!(block.text(12, 8), "910B3");
        assert_eq!(block.i64(0), i64::from(-7) << 32);
        assert!(block.is_intact());
    }
}
