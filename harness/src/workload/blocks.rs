//! Prompts of traces: token content that is a function of block ids.
//!
//! Traces say which blocks of two prompts are equal, not what is in them. Here every id gets
//! Chinese phrases of its own, so that equal ids are equal tokens, and prompts that begin with the
//! same blocks begin with the same tokens. Invariant: the content of an id depends on `(seed, id)`
//! alone.
//!
//! An engine in this process is given the blocks and nothing else: what a trace calls a prompt had
//! its template inside. A server puts its own template around the text, so that is shorter by as
//! many tokens at its end. Phrases end in punctuation, where tokenizers split words, so the text
//! has (almost always) the very tokens of the blocks; a server counts for itself, and the report
//! compares.

use std::collections::BTreeSet;
use std::sync::Arc;

use backends::Prompt;
use models::{ChatTokenizer, Message, Role, Special, TemplateError};
use rand::Rng;

use super::conversation::template_overhead;
use super::corpus::{Corpus, Part};
use crate::random::{Purpose, stream};

/// Sentences that phrases are taken from.
const SENTENCES: u64 = 1_500;
/// Tokens of a phrase at most.
const LONGEST: usize = 40;
/// What ends a phrase.
const ENDS: &str = "，。！？；：、";
/// What fills the last gap, best first; one that is a single token is needed.
const FILLERS: &str = "，。、的一了是不在有";
/// Makes prompts out of block ids.
#[derive(Debug)]
pub(super) struct BlockText {
    seed: u64,
    /// By number of tokens.
    phrases: Vec<(String, Vec<u32>)>,
    template_tokens: u32,
}

impl BlockText {
    /// For one tokenizer and seed.
    pub(super) fn new(seed: u64, tokenizer: &Arc<ChatTokenizer>) -> Result<Self, TemplateError> {
        Ok(Self {
            seed,
            phrases: phrases(tokenizer),
            template_tokens: template_overhead(tokenizer)?.without_system,
        })
    }

    /// Tokens that the chat template adds.
    pub(super) fn template_tokens(&self) -> u32 {
        self.template_tokens
    }

    /// A prompt of `tokens` tokens with blocks of `block_tokens` in it. The last block is as long
    /// as what is left.
    pub(super) fn prompt(&self, ids: &[u64], block_tokens: u32, tokens: u32) -> Prompt {
        let mut found = Vec::with_capacity(tokens as usize);
        let mut text = String::new();
        let mut left = tokens.saturating_sub(self.template_tokens).max(1) as usize;
        for (place, &id) in ids.iter().enumerate() {
            let missing = tokens as usize - found.len();
            let last = place + 1 == ids.len();
            // A prompt without blocks is one of its own length.
            let block = if block_tokens == u32::MAX {
                missing
            } else {
                block_tokens as usize
            };
            let whole = if last { missing.max(block) } else { block };
            let phrases = self.fill(id, whole);
            found.extend(phrases.iter().flat_map(|(_, ids)| ids).take(missing));
            let length = if last { left } else { left.min(whole) };
            let shown = if length == whole {
                phrases
            } else {
                self.fill(id, length)
            };
            text.extend(shown.iter().map(|(phrase, _)| phrase.as_str()));
            left -= length;
        }
        Prompt {
            tokens: found.into(),
            messages: Arc::from([Message {
                role: Role::User,
                content: text,
            }]),
        }
    }

    /// Phrases of so many tokens together, those of an id.
    fn fill(&self, id: u64, tokens: usize) -> Vec<&(String, Vec<u32>)> {
        let mut rng = stream(self.seed, Purpose::Block, id);
        let mut left = tokens;
        let mut found = Vec::new();
        while left > 0 {
            let fitting = self.phrases.partition_point(|(_, ids)| ids.len() <= left);
            let chosen = rng.random_range(0..fitting.max(1) as u32);
            let phrase = &self.phrases[chosen as usize];
            left -= phrase.1.len().min(left);
            found.push(phrase);
        }
        found
    }
}

/// Phrases of the corpus by their length in tokens, the shortest of which is one token.
fn phrases(tokenizer: &ChatTokenizer) -> Vec<(String, Vec<u32>)> {
    const CLASSES: [&str; 4] = ["doc_long", "search_qa", "writing", "homework_qa"];
    let corpus = Corpus::builtin();
    let encode = |text: &str| tokenizer.encode(text, Special::Plain);
    let mut texts = BTreeSet::new();
    for number in 0..SENTENCES {
        // The pool is the same for every seed; which phrases a block has is not.
        let mut rng = stream(0, Purpose::Block, number);
        let class = CLASSES[number as usize % CLASSES.len()];
        let sentence = corpus.sentence(class, Part::Body, &mut rng);
        let pieces = sentence.split_inclusive(|c| ENDS.contains(c));
        let whole = pieces.filter(|piece| piece.ends_with(|c| ENDS.contains(c)));
        texts.extend(
            whole
                .filter(|piece| !piece.contains('\n'))
                .map(str::to_owned),
        );
    }
    let mut found: Vec<(String, Vec<u32>)> = texts
        .into_iter()
        .map(|text| (encode(&text), text))
        .filter(|(ids, _)| (2..=LONGEST).contains(&ids.len()))
        .map(|(ids, text)| (text, ids))
        .collect();
    let single = FILLERS
        .chars()
        .map(|c| (c.to_string(), encode(&c.to_string())));
    let single = single.into_iter().find(|(_, ids)| ids.len() == 1);
    // A tokenizer without any of them: its first digit, which every vocabulary has.
    found.push(single.unwrap_or_else(|| ("0".to_owned(), encode("0"))));
    found.sort_by(|a, b| (a.1.len(), &a.0).cmp(&(b.1.len(), &b.0)));
    found
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use models::{ModelSource, load_tokenizer};
    use proptest::prelude::*;

    fn text_of(model: &str, seed: u64) -> Option<(BlockText, Arc<ChatTokenizer>)> {
        let source = ModelSource::parse(model).expect(model);
        match load_tokenizer(&source) {
            Ok((_, tokenizer)) => Some((
                BlockText::new(seed, &tokenizer).expect("it renders"),
                tokenizer,
            )),
            Err(error) => {
                println!("skipped {model}: {error}");
                None
            }
        }
    }

    #[test]
    fn text_has_the_tokens_that_an_engine_is_given() {
        for model in ["ref-tiny", "ref-135m", "smollm2-135m-instruct"] {
            let Some((blocks, tokenizer)) = text_of(model, 1) else {
                continue;
            };
            assert!(blocks.phrases.len() > 500, "{}", blocks.phrases.len());
            let (mut asked, mut encoded) = (0, 0);
            for request in 0..40_u64 {
                let ids: Vec<u64> = (0..=request % 9)
                    .map(|block| request * 100 + block)
                    .collect();
                let tokens = 512 * (ids.len() as u32 - 1) + 37 + request as u32;
                let prompt = blocks.prompt(&ids, 512, tokens);
                assert_eq!(prompt.tokens.len() as u32, tokens, "{model}");
                asked += tokens as usize;
                let chat = tokenizer.encode_chat(&prompt.messages);
                encoded += chat.expect("it renders").len();
            }
            let miss = (asked as f64 / encoded as f64 - 1.0).abs();
            assert!(
                miss < 1e-3,
                "{model}: {encoded} tokens in the text of {asked}"
            );
        }
    }

    proptest! {
        #[test]
        fn equal_blocks_are_equal_tokens_and_other_ones_are_not(
            shared in prop::collection::vec(0..1000_u64, 1..6),
            extra in 1..64_u32,
        ) {
            static TINY: OnceLock<BlockText> = OnceLock::new();
            let tiny = || text_of("ref-tiny", 3).expect("made in memory").0;
            let blocks = TINY.get_or_init(tiny);
            let with = |last: u64, extra: u32| {
                let ids: Vec<u64> = shared.iter().copied().chain([last]).collect();
                blocks.prompt(&ids, 64, 64 * shared.len() as u32 + extra).tokens
            };
            let (one, other) = (with(5_000, extra), with(6_000, extra));
            let equal = one.iter().zip(other.iter()).take_while(|(a, b)| a == b).count();
            prop_assert!(equal >= 64 * shared.len());
            prop_assert!(equal <= 64 * shared.len() + LONGEST);
            prop_assert_eq!(&one, &with(5_000, extra));
            // A block that is cut begins as the whole one does.
            let (cut, whole) = (with(5_000, extra.min(63)), with(5_000, 64));
            prop_assert!(whole.starts_with(&cut));
        }
    }
}
