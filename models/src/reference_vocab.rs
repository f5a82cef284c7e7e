//! The vocabulary of the reference models, made in memory.
//!
//! Three special tokens, the 256 bytes, the 3755 most common Chinese characters and Chinese
//! punctuation as one token each. The rest are two-character words that are only ever decoded,
//! so that random output looks like Chinese text. **Invariant.** The same size gives the same
//! vocabulary, and a smaller one is a prefix of a larger one.

use crate::tokenizer::{Vocabulary, byte_symbols};
use std::collections::BTreeMap;

/// GB2312 level 1 and Chinese punctuation, without the line breaks.
const CHARACTERS: &str = include_str!("characters.txt");
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const CONTROL: usize = 3;
const NORMAL: usize = 1;

/// ChatML without a default system prompt.
const CHAT_TEMPLATE: &str = "{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A vocabulary of exactly `size` tokens.
pub(crate) fn vocabulary(size: usize) -> Vocabulary {
    let symbols = byte_symbols();
    let spell = |bytes: &[u8]| -> String {
        bytes
            .iter()
            .map(|byte| symbols[usize::from(*byte)])
            .collect()
    };
    let mut tokens: Vec<String> = SPECIALS.map(str::to_owned).to_vec();
    tokens.extend(symbols.iter().map(char::to_string));
    let mut merges = Vec::new();
    let characters: Vec<String> = CHARACTERS
        .chars()
        .filter(|character| *character != '\n')
        .map(String::from)
        .collect();
    let mut pairs = BTreeMap::new();
    for character in &characters {
        let bytes = character.as_bytes();
        pairs
            .entry(spell(&bytes[..2]))
            .or_insert((spell(&bytes[..1]), spell(&bytes[1..2])));
    }
    for (pair, parts) in pairs {
        tokens.push(pair);
        merges.push(parts);
    }
    for character in &characters {
        let bytes = character.as_bytes();
        tokens.push(spell(bytes));
        merges.push((spell(&bytes[..2]), spell(&bytes[2..])));
    }
    assert!(
        tokens.len() <= size,
        "{size} tokens cannot hold the characters"
    );
    // One word per (first, second) with a step coprime to the count: spread, and never twice.
    let count = characters.len();
    for index in 0..size - tokens.len() {
        let first = index * 1_009 % count;
        let second = (index / count * 577 + index * 31 + 7) % count;
        let word = format!("{}{}", characters[first], characters[second]);
        tokens.push(spell(word.as_bytes()));
    }
    let mut types = vec![NORMAL; size];
    types[..SPECIALS.len()].fill(CONTROL);
    Vocabulary {
        tokens,
        types,
        merges,
        pre: "default".to_owned(),
        bos: Some(1),
        eos: vec![2],
        chat_template: Some(CHAT_TEMPLATE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Message, Role};
    use crate::tokenizer::{ChatTokenizer, Special};
    use std::collections::BTreeSet;

    #[test]
    fn every_listed_character_is_one_token() {
        let tokenizer = ChatTokenizer::new(vocabulary(8192)).unwrap();
        let mut seen = BTreeSet::new();
        for character in CHARACTERS.chars().filter(|character| *character != '\n') {
            let ids = tokenizer.encode(&character.to_string(), Special::Plain);
            assert_eq!(ids.len(), 1, "{character}");
            assert_eq!(tokenizer.decode(&ids), character.to_string());
            seen.insert(ids[0]);
        }
        assert_eq!(seen.len(), 3755 + 18);
        assert_eq!(
            tokenizer
                .encode("今天天气很好，我们走吧。", Special::Plain)
                .len(),
            12
        );
    }

    #[test]
    fn tokens_are_distinct_and_sizes_are_exact() {
        let large = vocabulary(49_152);
        assert_eq!(large.tokens.len(), 49_152);
        assert_eq!(large.tokens.iter().collect::<BTreeSet<_>>().len(), 49_152);
        assert_eq!(large.tokens[..8192], vocabulary(8192).tokens);
        let tokenizer = ChatTokenizer::new(large).unwrap();
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.eos_ids()),
            (49_152, &[2_u32][..])
        );
        assert_eq!(tokenizer.decode(&[40_000]).chars().count(), 2);
    }

    #[test]
    fn the_template_is_chatml_without_a_system_prompt() {
        let tokenizer = ChatTokenizer::new(vocabulary(8192)).unwrap();
        let messages = [Message {
            role: Role::User,
            content: "你好".to_owned(),
        }];
        let prompt = tokenizer.render(&messages, true).unwrap();
        assert_eq!(
            prompt,
            "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
        );
        let ids = tokenizer.encode_chat(&messages).unwrap();
        assert_eq!((ids[0], ids.len()), (1, 1 + 4 + 1 + 2 + 1 + 1 + 1 + 9 + 1));
        assert_eq!(tokenizer.decode(&ids), "user\n你好\nassistant\n");
    }
}
