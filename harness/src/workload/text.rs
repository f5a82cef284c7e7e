//! Chinese text of an exact number of tokens.
//!
//! Sentences of the corpus are strung together until they are long enough, cut at a character, and
//! filled up with single-token characters. Invariant: the text has exactly the tokens asked for in
//! the model's own tokenizer whenever that has enough single-token characters (SmolLM2 and the
//! reference models do); the driver counts the prompt it sends, so a miss would show. Text depends
//! on `(seed, stream)` alone.

use std::sync::Arc;

use models::{ChatTokenizer, Special};
use rand_chacha::ChaCha8Rng;

use super::corpus::{Corpus, Part};

/// Characters that make natural filling, most common first; those that are one token are used.
const FILLERS: &str = "的一是不了人我在有他这中大来上个到说们为子和你地出也时年得就那要下以生会自着去之\
过家学对可里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长\
，。、";

/// Makes text for one tokenizer.
#[derive(Debug)]
pub struct TextMaker {
    corpus: Corpus,
    tokenizer: Arc<ChatTokenizer>,
    fillers: Vec<char>,
}

impl TextMaker {
    /// Text counted by `tokenizer`.
    pub fn new(tokenizer: Arc<ChatTokenizer>) -> Self {
        let single = |c: &char| tokenizer.encode(&c.to_string(), Special::Plain).len() == 1;
        let mut fillers: Vec<char> = FILLERS.chars().filter(single).collect();
        // A tokenizer that knows no Chinese: digits are better than a wrong count.
        fillers.extend(('0'..='9').filter(single));
        Self {
            corpus: Corpus::builtin(),
            tokenizer,
            fillers,
        }
    }

    /// The user's message: an opening or a follow-up, then pasted material if it is long.
    pub fn user(&self, class: &str, first: bool, tokens: u32, rng: &mut ChaCha8Rng) -> String {
        let mut opening = Some(if first { Part::First } else { Part::Next });
        self.exact(tokens, || {
            self.corpus
                .sentence(class, opening.take().unwrap_or(Part::Body), rng)
        })
    }

    /// An assistant's answer, for the history of a conversation that began before the run.
    pub fn reply(&self, class: &str, tokens: u32, rng: &mut ChaCha8Rng) -> String {
        self.exact(tokens, || self.corpus.sentence(class, Part::Reply, rng))
    }

    /// Search results. Ends in a line break, so that the message after it stands apart.
    pub fn injected(&self, tokens: u32, rng: &mut ChaCha8Rng) -> String {
        let mut text = self.exact(tokens.saturating_sub(1), || self.corpus.snippet(rng));
        text.push('\n');
        text
    }

    /// A role card.
    pub fn persona(&self, tokens: u32, rng: &mut ChaCha8Rng) -> String {
        self.exact(tokens, || self.corpus.persona_sentence(rng))
    }

    /// The system prompt: always the same text, cut to its length.
    pub fn system(&self, tokens: u32) -> String {
        let mut sentences = self.corpus.system_sentences().iter().cycle();
        self.exact(tokens, || sentences.next().cloned().unwrap_or_default())
    }

    /// Characters for a token, in a text long enough for its end not to matter.
    pub fn characters_per_token(&self) -> f64 {
        const TOKENS: u32 = 512;
        let text = self.system(TOKENS);
        let characters = text.chars().filter(|c| !c.is_whitespace());
        characters.count() as f64 / f64::from(TOKENS)
    }

    /// Tokens of a text.
    pub fn count(&self, text: &str) -> usize {
        self.tokenizer.encode(text, Special::Plain).len()
    }

    fn exact(&self, tokens: u32, mut next: impl FnMut() -> String) -> String {
        let tokens = tokens as usize;
        let (mut head, mut tail) = (String::new(), String::new());
        let mut count = 0;
        while count < tokens {
            head.push_str(&tail);
            tail = next();
            count += self.count(&tail).max(1);
        }
        // Cutting and filling happens in the last sentence; the text before it is counted once.
        let mut before = self.count(&head);
        if before > tokens || before + self.count(&tail) != self.count(&format!("{head}{tail}")) {
            tail.insert_str(0, &std::mem::take(&mut head));
            before = 0;
        }
        let mut end = self.longest_prefix(&tail, tokens - before);
        // Now and then a cut leaves a gap that no character fills; then one more goes.
        loop {
            if let Some(fill) = self.fill(&tail[..end], tokens - before) {
                return format!("{head}{}{fill}", &tail[..end]);
            }
            match tail[..end].char_indices().next_back() {
                Some((at, _)) => end = at,
                None => return format!("{head}{}", &tail[..end]),
            }
        }
    }

    /// Bytes of the longest beginning with at most `tokens` tokens, by bisection over characters.
    fn longest_prefix(&self, text: &str, tokens: usize) -> usize {
        let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        ends.push(text.len());
        ends[ends
            .partition_point(|&end| self.count(&text[..end]) <= tokens)
            .saturating_sub(1)]
    }

    /// What brings `text` to exactly `tokens` tokens: single-token characters, one after another.
    fn fill(&self, text: &str, tokens: usize) -> Option<String> {
        let mut filled = text.to_owned();
        let mut count = self.count(text);
        let mut next = text.len();
        while count < tokens {
            let offered = self
                .fillers
                .iter()
                .cycle()
                .skip(next % self.fillers.len().max(1));
            let found = offered.take(self.fillers.len()).find_map(|&c| {
                filled.push(c);
                let now = self.count(&filled);
                if now == count + 1 {
                    return Some(now);
                }
                filled.pop();
                None
            });
            count = found?;
            next += 7;
        }
        (count == tokens).then(|| filled.split_off(text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};
    use models::{ModelSource, load_tokenizer};

    fn maker(model: &str) -> Option<TextMaker> {
        let source = ModelSource::parse(model).expect(model);
        match load_tokenizer(&source) {
            Ok((_, tokenizer)) => Some(TextMaker::new(tokenizer)),
            Err(error) => {
                println!("skipped {model}: {error}");
                None
            }
        }
    }

    #[test]
    fn every_length_is_exact_and_chinese() {
        for model in ["ref-tiny", "ref-135m", "smollm2-135m-instruct"] {
            let Some(maker) = maker(model) else { continue };
            let mut rng = stream(1, Purpose::Text, 0);
            for tokens in (1..60).chain([100, 333, 1_000, 2_500]) {
                for class in ["casual_chat", "search_qa", "doc_long", "roleplay"] {
                    let text = maker.user(class, tokens % 2 == 0, tokens, &mut rng);
                    assert_eq!(
                        maker.count(&text),
                        tokens as usize,
                        "{model} {class}: {text}"
                    );
                }
                let text = maker.injected(tokens, &mut rng);
                assert_eq!(maker.count(&text), tokens as usize, "{model}: {text:?}");
                assert!(text.ends_with('\n'));
            }
            let system = maker.system(880);
            assert_eq!(maker.count(&system), 880);
            let letters = system.chars().filter(char::is_ascii_alphabetic).count();
            assert!(letters * 20 < system.chars().count(), "{model}: {system}");
        }
    }

    #[test]
    fn the_system_prompt_is_fixed_and_messages_differ() {
        let Some(maker) = maker("ref-tiny") else {
            unreachable!("it is made in memory")
        };
        assert_eq!(maker.system(220), maker.system(220));
        let text = |index| {
            maker.user(
                "casual_chat",
                true,
                30,
                &mut stream(1, Purpose::Text, index),
            )
        };
        assert_eq!(text(4), text(4));
        assert_ne!(text(4), text(5));
    }
}
