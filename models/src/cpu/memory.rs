//! Memory for weights and for the cache: one mapping each, in large pages where there are any.
//!
//! Weights of a small model are many matrices of less than a large page, so they share one
//! mapping. **Invariant.** A span lies inside the mapping it was taken from and starts on a
//! cache line.

use memmap2::MmapMut;
use std::fmt;
use std::io;

/// A cache line.
const LINE: usize = 64;

/// Bytes of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: usize,
    length: usize,
}

impl Span {
    /// How long it is.
    pub(crate) fn bytes(self) -> usize {
        self.length
    }
}

/// A mapping that is handed out from front to back; what nobody takes stays address space.
pub(crate) struct Memory {
    map: MmapMut,
    used: usize,
}

impl Memory {
    /// A mapping of zeros with room for spans of these lengths.
    pub(crate) fn for_spans(lengths: impl IntoIterator<Item = usize>) -> io::Result<Self> {
        let lengths = lengths.into_iter();
        let total: usize = lengths.map(|length| length.next_multiple_of(LINE)).sum();
        let map = MmapMut::map_anon(total.max(LINE))?;
        // A wish: where the system has no large pages the memory works all the same.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, used: 0 })
    }

    /// The next `length` bytes.
    ///
    /// # Panics
    /// If there is not so much left.
    pub(crate) fn take(&mut self, length: usize) -> Span {
        let start = self.used;
        self.used += length.next_multiple_of(LINE);
        assert!(self.used <= self.map.len(), "more was taken than planned");
        Span { start, length }
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        &self.map[span.start..span.start + span.length]
    }

    pub(crate) fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.map[span.start..span.start + span.length]
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Memory({} of {} bytes)",
            self.used,
            self.map.len()
        )
    }
}
