//! Token by token decoding.
//!
//! **Invariant.** What [`Detokenizer::push`] returned, followed by [`Detokenizer::finish`], equals
//! the decoding of all tokens at once; no returned piece ends inside a character.

use crate::tokenizer::TokenTable;
use std::fmt;
use std::sync::Arc;

/// Decodes one token at a time and holds back incomplete characters.
pub struct Detokenizer {
    table: Arc<TokenTable>,
    pending: Vec<u8>,
}

impl fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detokenizer")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

impl Detokenizer {
    pub(crate) fn new(table: Arc<TokenTable>) -> Self {
        Self {
            table,
            pending: Vec::new(),
        }
    }

    /// The text that `id` completes, if any. Special tokens have no text.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.pending.extend_from_slice(self.table.bytes(id));
        let complete = complete_prefix(&self.pending);
        if complete == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        Some(text)
    }

    /// What is left, incomplete characters replaced.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Bytes up to a character that more bytes could still complete.
fn complete_prefix(bytes: &[u8]) -> usize {
    let mut complete = 0;
    loop {
        match std::str::from_utf8(&bytes[complete..]) {
            Ok(_) => return bytes.len(),
            Err(error) => match error.error_len() {
                None => return complete + error.valid_up_to(),
                Some(length) => complete += error.valid_up_to() + length,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::reference::ReferenceModel;
    use crate::reference_vocab;
    use crate::tokenizer::{ChatTokenizer, Special};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static TOKENIZER: LazyLock<ChatTokenizer> = LazyLock::new(|| {
        let size = ReferenceModel::RefTiny.config().vocab;
        ChatTokenizer::new(reference_vocab::vocabulary(size)).unwrap()
    });

    #[test]
    fn characters_split_over_tokens_come_out_whole() {
        let ids = TOKENIZER.encode("a🙂é", Special::Plain);
        assert_eq!(ids.len(), 1 + 4 + 2);
        let mut detokenizer = TOKENIZER.detokenizer();
        let pieces: Vec<Option<String>> = ids.iter().map(|id| detokenizer.push(*id)).collect();
        let expected = [Some("a"), None, None, None, Some("🙂"), None, Some("é")];
        assert_eq!(pieces, expected.map(|piece| piece.map(str::to_owned)));
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn an_incomplete_end_is_replaced() {
        let ids = TOKENIZER.encode("🙂", Special::Plain);
        let mut detokenizer = TOKENIZER.detokenizer();
        assert_eq!(detokenizer.push(ids[0]), None);
        assert_eq!(detokenizer.push(ids[0]).as_deref(), Some("\u{fffd}"));
        assert_eq!(detokenizer.push(1), None);
        assert_eq!(detokenizer.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_add_up_to_the_whole(ids in prop::collection::vec(0..400_u32, 0..60)) {
            let mut detokenizer = TOKENIZER.detokenizer();
            let mut text: String = ids.iter().filter_map(|id| detokenizer.push(*id)).collect();
            text += &detokenizer.finish();
            prop_assert_eq!(text, TOKENIZER.decode(&ids));
        }
    }
}
