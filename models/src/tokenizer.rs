//! Text to token ids and back, with everything taken from GGUF metadata.
//!
//! The byte-pair merging is the `tokenizers` crate's. Which text counts as a special token is
//! decided here, because the same tokenizer must serve trusted templates and untrusted text.
//! **Invariant.** Every id maps to fixed bytes; decoding a list of ids is concatenating them.

use crate::chat::{ChatTemplate, Message, TemplateError};
use crate::config::{show, whole_number};
use crate::detokenizer::Detokenizer;
use candle_core::quantized::gguf_file::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{NormalizerWrapper, Tokenizer};

/// What becomes of the text of a special token, such as `<|im_start|>`, in text to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It becomes the special token: for templates.
    Parse,
    /// It is text like any other: for what users write.
    Plain,
}

/// Why the tokenizer of a model cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A metadata key is absent.
    #[error("metadata key `{key}` is missing")]
    Missing {
        /// The absent key.
        key: &'static str,
    },
    /// A metadata value has the wrong type or content.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// Its value, as far as it can be shown.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// The vocabulary and merges do not make a tokenizer.
    #[error("vocabulary and merges do not fit together: {0}")]
    Inconsistent(String),
    /// The chat template cannot be parsed.
    #[error("`tokenizer.chat_template` cannot be used")]
    Template(#[from] TemplateError),
}

/// The tokenizer of a model together with its chat template.
#[derive(Debug)]
pub struct ChatTokenizer {
    pipeline: Tokenizer,
    table: Arc<TokenTable>,
    /// Special tokens by text; the flag says whether they count in plain text as well.
    specials: BTreeMap<String, (u32, bool)>,
    eos: Vec<u32>,
    template: ChatTemplate,
}

/// The bytes of every token; special tokens are empty.
#[derive(Debug)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenTable {
    /// Bytes of a token; none for special and unknown ones.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }
}

/// What a tokenizer is made from.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub(crate) tokens: Vec<String>,
    /// llama.cpp's token types, parallel to `tokens`.
    pub(crate) types: Vec<usize>,
    pub(crate) merges: Vec<(String, String)>,
    /// Name of the rule that cuts text into words.
    pub(crate) pre: String,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
    pub(crate) chat_template: Option<String>,
}

const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;
const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const PRE_ACCEPTED: &str = "one of: default, gpt-2, smollm, llama-bpe, llama3, qwen2";

impl Vocabulary {
    pub(crate) fn from_metadata<'a>(
        lookup: impl Fn(&str) -> Option<&'a Value>,
    ) -> Result<Self, TokenizerError> {
        let text = |key: &'static str| match lookup(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(invalid(key, other, "a string")),
        };
        let model = text(MODEL)?.ok_or(TokenizerError::Missing { key: MODEL })?;
        if model != "gpt2" {
            return Err(TokenizerError::Invalid {
                key: MODEL,
                found: format!("\"{model}\""),
                expected: "\"gpt2\" (byte-level BPE)",
            });
        }
        let tokens = strings(TOKENS, lookup(TOKENS))?;
        let types = match lookup(TYPES) {
            None => vec![1; tokens.len()],
            Some(Value::Array(types)) if types.len() == tokens.len() => types
                .iter()
                .map(|kind| whole_number(kind).unwrap_or(1))
                .collect(),
            Some(other) => return Err(invalid(TYPES, other, "one number per token")),
        };
        let merges = strings(MERGES, lookup(MERGES))?
            .into_iter()
            .map(|merge| match merge.split_once(' ') {
                Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
                None => Err(TokenizerError::Invalid {
                    key: MERGES,
                    found: format!("\"{merge}\""),
                    expected: "two parts with a space between them",
                }),
            })
            .collect::<Result<_, _>>()?;
        let id = |key: &'static str| match lookup(key) {
            None => Ok(None),
            Some(value) => match whole_number(value) {
                Some(id) if id < tokens.len() => Ok(Some(id as u32)),
                _ => Err(invalid(key, value, "the id of a token")),
            },
        };
        let mut eos: Vec<u32> = id("tokenizer.ggml.eos_token_id")?.into_iter().collect();
        eos.extend(id("tokenizer.ggml.eot_token_id")?.filter(|id| !eos.contains(id)));
        Ok(Self {
            types,
            merges,
            pre: text(PRE)?.unwrap_or_else(|| "default".to_owned()),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos,
            chat_template: text("tokenizer.chat_template")?,
            tokens,
        })
    }
}

fn invalid(key: &'static str, found: &Value, expected: &'static str) -> TokenizerError {
    TokenizerError::Invalid {
        key,
        found: show(found),
        expected,
    }
}

fn strings(key: &'static str, value: Option<&Value>) -> Result<Vec<String>, TokenizerError> {
    let value = value.ok_or(TokenizerError::Missing { key })?;
    let Value::Array(items) = value else {
        return Err(invalid(key, value, "an array of strings"));
    };
    let text = |item: &Value| match item {
        Value::String(text) => Ok(text.clone()),
        other => Err(invalid(key, other, "a string in every place")),
    };
    items.iter().map(text).collect()
}

impl ChatTokenizer {
    pub(crate) fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let (pre_tokenizer, normalizer) = pipeline_parts(&vocabulary.pre)?;
        let token = |id: Option<&u32>| id.map(|id| vocabulary.tokens[*id as usize].as_str());
        let template = ChatTemplate::new(
            vocabulary.chat_template.as_deref(),
            token(vocabulary.bos.as_ref()),
            token(vocabulary.eos.first()),
        )?;
        let is_special = |kind: usize| kind == CONTROL || kind == USER_DEFINED;
        let mut specials = BTreeMap::new();
        let mut table = TokenTable {
            bytes: Vec::new(),
            ends: Vec::new(),
        };
        let bytes_of_symbols = byte_symbols().map(|symbol| symbol as u32);
        for (id, (token, kind)) in vocabulary.tokens.iter().zip(&vocabulary.types).enumerate() {
            if is_special(*kind) && !token.is_empty() {
                specials.insert(token.clone(), (id as u32, *kind == USER_DEFINED));
            }
            if *kind == USER_DEFINED {
                table.bytes.extend_from_slice(token.as_bytes());
            } else if *kind != CONTROL {
                append_bytes(&mut table.bytes, token, &bytes_of_symbols);
            }
            table.ends.push(table.bytes.len());
        }
        let ids = vocabulary.tokens.into_iter().zip(0_u32..);
        let bpe = BPE::builder()
            .vocab_and_merges(
                ids.collect::<tokenizers::models::bpe::Vocab>(),
                vocabulary.merges,
            )
            .ignore_merges(matches!(vocabulary.pre.as_str(), "llama-bpe" | "llama3"))
            .build()
            .map_err(|error| TokenizerError::Inconsistent(error.to_string()))?;
        let mut pipeline = Tokenizer::new(bpe);
        pipeline.with_pre_tokenizer(Some(pre_tokenizer));
        pipeline
            .with_normalizer(normalizer)
            .map_err(|error| TokenizerError::Inconsistent(error.to_string()))?;
        let table = Arc::new(table);
        Ok(Self {
            pipeline,
            table,
            specials,
            eos: vocabulary.eos,
            template,
        })
    }

    /// Encodes text. Nothing is put before or after it.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut ahead = self.specials_in(text, special);
        let mut from = 0;
        while let Some((at, length, id)) = next_special(&mut ahead, text, from) {
            self.encode_words(&text[from..at], &mut ids);
            ids.push(id);
            from = at + length;
        }
        self.encode_words(&text[from..], &mut ids);
        ids
    }

    /// Decodes a whole list; special tokens are left out, bytes that are no text are replaced.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for id in ids {
            bytes.extend_from_slice(self.table.bytes(*id));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A decoder that takes one token at a time.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.table))
    }

    /// The prompt text for a conversation.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.template.render(messages, add_generation_prompt)
    }

    /// The prompt tokens for a conversation whose next message is the assistant's.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        Ok(self.encode(&self.render(messages, true)?, Special::Parse))
    }

    /// The tokens that end an answer.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.table.ends.len()
    }

    /// The bytes a token stands for; none for special tokens.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.table.bytes(id).to_vec()
    }

    /// Each special token that counts and occurs in `text`, at its first place.
    fn specials_in(&self, text: &str, special: Special) -> Vec<SpecialAhead<'_>> {
        let counts = |in_plain_text: bool| special == Special::Parse || in_plain_text;
        self.specials
            .iter()
            .filter(|(_, (_, in_plain))| counts(*in_plain))
            .filter_map(|(token, &(id, _))| {
                text.find(token).map(|at| SpecialAhead { token, id, at })
            })
            .collect()
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let encoding = self.pipeline.encode_fast(text, false);
        // The vocabulary holds every byte, the regular expressions match every string.
        ids.extend_from_slice(
            encoding
                .expect("byte-level BPE encodes every text")
                .get_ids(),
        );
    }
}

/// The next place of one special token in a text.
struct SpecialAhead<'a> {
    token: &'a str,
    id: u32,
    at: usize,
}

/// Place, length and id of the first special token from `from` on, the longest one if several start
/// there. Each token looks through the text once, however often it occurs.
fn next_special(
    ahead: &mut Vec<SpecialAhead<'_>>,
    text: &str,
    from: usize,
) -> Option<(usize, usize, u32)> {
    ahead.retain_mut(|next| {
        if next.at >= from {
            return true;
        }
        let found = text[from..].find(next.token);
        next.at = found.map_or(next.at, |offset| from + offset);
        found.is_some()
    });
    let first = ahead
        .iter()
        .min_by_key(|next| (next.at, usize::MAX - next.token.len()));
    first.map(|next| (next.at, next.token.len(), next.id))
}

/// The rule that cuts text into words, and the normalisation before it.
fn pipeline_parts(
    pre: &str,
) -> Result<(PreTokenizerWrapper, Option<NormalizerWrapper>), TokenizerError> {
    const LLAMA3: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    const QWEN2: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let gpt2 = ByteLevel::new(false, false, true);
    let bytes_only = ByteLevel::new(false, false, false);
    let split = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        split.expect("the patterns above are valid")
    };
    Ok(match pre {
        "default" | "gpt2" | "gpt-2" => (gpt2.into(), None),
        "smollm" => (
            Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into(),
            None,
        ),
        "llama-bpe" | "llama3" | "llama-v3" => (
            Sequence::new(vec![split(LLAMA3).into(), bytes_only.into()]).into(),
            None,
        ),
        "qwen2" => {
            let words = Sequence::new(vec![split(QWEN2).into(), bytes_only.into()]);
            (words.into(), Some(NFC.into()))
        }
        other => {
            return Err(TokenizerError::Invalid {
                key: PRE,
                found: format!("\"{other}\""),
                expected: PRE_ACCEPTED,
            });
        }
    })
}

/// GPT-2's printable stand-in for every byte.
pub(crate) fn byte_symbols() -> [char; 256] {
    let mut symbols = ['\0'; 256];
    let mut stand_in = 256;
    for byte in 0..=255_u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        symbols[usize::from(byte)] = if printable {
            char::from(byte)
        } else {
            stand_in += 1;
            char::from_u32(stand_in - 1).expect("below the surrogates")
        };
    }
    symbols
}

/// Translates a token back to bytes; characters that stand for no byte keep their own encoding.
fn append_bytes(bytes: &mut Vec<u8>, token: &str, symbols: &[u32; 256]) {
    for character in token.chars() {
        // stand-ins are below U+0144; the table is small enough to search only for those
        let byte = match character as u32 {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as usize),
            code if code < 0x144 => symbols.iter().position(|symbol| *symbol == code),
            _ => None,
        };
        match byte {
            Some(byte) => bytes.push(byte as u8),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(pre: &str) -> Vocabulary {
        let mut tokens = vec!["<|a|>".to_owned(), "<|a|>b".to_owned(), "<user>".to_owned()];
        tokens.extend(byte_symbols().iter().map(char::to_string));
        tokens.push("ab".to_owned());
        let mut types = vec![1; tokens.len()];
        types[..3].copy_from_slice(&[CONTROL, CONTROL, USER_DEFINED]);
        Vocabulary {
            tokens,
            types,
            merges: vec![("a".to_owned(), "b".to_owned())],
            pre: pre.to_owned(),
            bos: None,
            eos: vec![0],
            chat_template: None,
        }
    }

    #[test]
    fn special_tokens_are_parsed_only_on_request() {
        let tokenizer = ChatTokenizer::new(vocabulary("default")).unwrap();
        assert_eq!(tokenizer.encode("ab<|a|>ab", Special::Parse), [259, 0, 259]);
        assert_eq!(tokenizer.encode("<|a|>b", Special::Parse), [1]);
        let text = "<|a|><user>ab<|a|>b<|a|>".repeat(2);
        let twice = [0, 2, 259, 1, 0, 0, 2, 259, 1, 0];
        assert_eq!(tokenizer.encode(&text, Special::Parse), twice);
        assert_eq!(tokenizer.encode("<|a|>", Special::Plain).len(), 5);
        assert_eq!(tokenizer.encode("<user>", Special::Plain), [2]);
        assert_eq!(tokenizer.encode("", Special::Parse), [0_u32; 0]);
        assert_eq!(tokenizer.decode(&[0, 259, 2, 9999]), "ab<user>");
    }

    #[test]
    fn every_text_survives_the_round_trip() {
        for pre in ["default", "smollm", "llama-bpe", "qwen2"] {
            let tokenizer = ChatTokenizer::new(vocabulary(pre)).unwrap();
            for text in [
                "",
                " ",
                "ab  12 345\r\n\tx's",
                "汉字 ，🙂",
                "\u{0}\u{7f}\u{ad}é",
            ] {
                let ids = tokenizer.encode(text, Special::Plain);
                assert_eq!(tokenizer.decode(&ids), text, "{pre}");
            }
        }
    }

    #[test]
    fn unknown_rules_are_refused_by_name() {
        let error = ChatTokenizer::new(vocabulary("tekken"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tekken") && error.contains("smollm"),
            "{error}"
        );
        let lookup = Value::String("llama".to_owned());
        let error = Vocabulary::from_metadata(|_| Some(&lookup))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`tokenizer.ggml.model` is \"llama\""),
            "{error}"
        );
    }
}
