//! A conversation while it goes on: what has been said, as messages and as token ids.
//!
//! The ids of a prompt are put together from pieces: what the chat template writes between answers
//! is encoded once, and each answer contributes the very ids that the engine gave. So turn `k+1`
//! begins with all tokens of turn `k` and its answer, as in a real chat server, and a prefix cache
//! sees what it would see there.
//!
//! Invariant: the ids are those of the rendered template, cut at the answers; injected material
//! is part of its own turn only.

use std::sync::Arc;

use backends::{Prompt, PromptForm};
use models::{ChatTokenizer, Message, Role, Special, TemplateError};

use super::session::TemplateOverhead;

/// Stands for an answer while the template is rendered: a private-use character, which no template
/// trims or rewrites.
const ANSWER: &str = "\u{E0A5}";

/// A conversation so far.
#[derive(Debug)]
pub struct Conversation {
    tokenizer: Arc<ChatTokenizer>,
    system: Option<String>,
    exchanges: Vec<Exchange>,
    /// Pieces of the last prompt with their ids; most of them come again in the next.
    pieces: Vec<(String, Vec<u32>)>,
}

/// A message and its answer.
#[derive(Debug, Clone)]
struct Exchange {
    user: String,
    reply: Reply,
}

/// An answer, as a backend gave it or a workload has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Token ids, from an engine in this process; those of a text are found when they are read.
    pub ids: Vec<u32>,
    /// Text, from a server or a workload.
    pub text: String,
}

impl Reply {
    /// An answer that was never given.
    pub fn scripted(text: String) -> Self {
        Self {
            ids: Vec::new(),
            text,
        }
    }
}

impl Conversation {
    /// A conversation in which nothing has been said.
    pub fn new(tokenizer: Arc<ChatTokenizer>, system: Option<String>) -> Self {
        Self {
            tokenizer,
            system,
            exchanges: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Adds an exchange that is over.
    pub fn push(&mut self, user: String, reply: Reply) {
        self.exchanges.push(Exchange { user, reply });
    }

    /// The prompt for `user`, with `injected` material before it and the history from exchange
    /// `first` on. Tokens only if they are read, for they take time.
    pub fn prompt(
        &mut self,
        first: usize,
        injected: &str,
        user: &str,
        form: PromptForm,
    ) -> Result<Prompt, TemplateError> {
        let last = format!("{injected}{user}");
        let tokens = match form {
            PromptForm::Tokens => self.tokens(first, &last)?,
            PromptForm::Messages => Vec::new(),
        };
        let history = self.exchanges.get(first..).unwrap_or_default();
        let system = self.system.as_deref();
        Ok(Prompt {
            tokens: tokens.into(),
            messages: messages(system, history, &last, |reply| &reply.text).into(),
        })
    }

    /// The ids of a prompt that ends in `last`.
    fn tokens(&mut self, first: usize, last: &str) -> Result<Vec<u32>, TemplateError> {
        let history = self.exchanges.get_mut(first..).unwrap_or_default();
        for reply in history.iter_mut().map(|exchange| &mut exchange.reply) {
            if reply.ids.is_empty() {
                reply.ids = self.tokenizer.encode(&reply.text, Special::Plain);
            }
        }
        let marked = messages(self.system.as_deref(), history, last, |_| ANSWER);
        let rendered = self.tokenizer.render(&marked, true)?;
        let mut tokens = Vec::new();
        let mut pieces = Vec::new();
        for (index, piece) in rendered.split(ANSWER).enumerate() {
            let known = self.pieces.get_mut(index).filter(|(text, _)| text == piece);
            let ids = known.map_or_else(
                || self.tokenizer.encode(piece, Special::Parse),
                |(_, ids)| std::mem::take(ids),
            );
            tokens.extend_from_slice(&ids);
            if let Some(exchange) = history.get(index) {
                tokens.extend_from_slice(&exchange.reply.ids);
            }
            pieces.push((piece.to_owned(), ids));
        }
        self.pieces = pieces;
        Ok(tokens)
    }
}

fn messages<'a>(
    system: Option<&str>,
    history: &'a [Exchange],
    last: &str,
    reply: impl Fn(&'a Reply) -> &'a str,
) -> Vec<Message> {
    let message = |role, content: &str| Message {
        role,
        content: content.into(),
    };
    let system = system.map(|text| message(Role::System, text));
    let past = history.iter().flat_map(|exchange| {
        let answer = reply(&exchange.reply);
        [
            message(Role::User, &exchange.user),
            message(Role::Assistant, answer),
        ]
    });
    system
        .into_iter()
        .chain(past)
        .chain([message(Role::User, last)])
        .collect()
}

/// Measures what a model's chat template adds.
pub fn template_overhead(tokenizer: &ChatTokenizer) -> Result<TemplateOverhead, TemplateError> {
    const WORD: &str = "好";
    let word = tokenizer.encode(WORD, Special::Plain).len();
    let count = |roles: &[Role]| -> Result<u32, TemplateError> {
        let messages: Vec<Message> = roles
            .iter()
            .map(|&role| Message {
                role,
                content: WORD.into(),
            })
            .collect();
        let total = tokenizer.encode_chat(&messages)?.len();
        Ok(total.saturating_sub(word * roles.len()) as u32)
    };
    let with_system = count(&[Role::System, Role::User])?;
    let long = count(&[Role::System, Role::User, Role::Assistant, Role::User])?;
    Ok(TemplateOverhead {
        without_system: count(&[Role::User])?,
        with_system,
        exchange: long.saturating_sub(with_system),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::{ModelSource, load_tokenizer};

    fn tokenizer() -> Arc<ChatTokenizer> {
        let source = ModelSource::parse("ref-tiny").expect("built in");
        load_tokenizer(&source).expect("made in memory").1
    }

    #[test]
    fn a_prompt_is_the_rendered_template() {
        let tokenizer = tokenizer();
        let mut chat = Conversation::new(Arc::clone(&tokenizer), Some("你是助手。".into()));
        chat.push("你好".into(), Reply::scripted("你好呀。".into()));
        let prompt = chat
            .prompt(0, "资料\n", "天气如何", PromptForm::Tokens)
            .expect("it renders");
        let expected = tokenizer.encode_chat(&prompt.messages).expect("it renders");
        assert_eq!(*prompt.tokens, *expected);
        let roles: Vec<Role> = prompt.messages.iter().map(|message| message.role).collect();
        assert_eq!(
            roles,
            [Role::System, Role::User, Role::Assistant, Role::User]
        );
    }

    #[test]
    fn tokens_are_made_only_where_they_are_read() {
        let mut chat = Conversation::new(tokenizer(), Some("你是助手。".into()));
        chat.push("你好".into(), Reply::scripted("你好呀。".into()));
        let [told, whole] = [PromptForm::Messages, PromptForm::Tokens]
            .map(|form| chat.prompt(0, "", "天气如何", form).expect("it renders"));
        assert_eq!(told.messages, whole.messages);
        assert!(told.tokens.is_empty() && !whole.tokens.is_empty());
    }

    #[test]
    fn a_turn_begins_with_all_of_the_turn_before_and_its_answer() {
        let mut chat = Conversation::new(tokenizer(), Some("你是助手。".into()));
        let first = chat
            .prompt(0, "", "讲个故事", PromptForm::Tokens)
            .expect("it renders");
        // Ids that no text would give: what a random model says.
        let reply = Reply {
            ids: vec![77, 3, 900, 5],
            text: String::new(),
        };
        chat.push("讲个故事".into(), reply);
        let second = chat
            .prompt(0, "", "再讲一个", PromptForm::Tokens)
            .expect("it renders");
        let expected = [&first.tokens[..], &[77, 3, 900, 5]].concat();
        assert!(second.tokens.starts_with(&expected));
        let cut = chat
            .prompt(1, "", "再讲一个", PromptForm::Tokens)
            .expect("it renders");
        assert!(
            cut.tokens.len() < first.tokens.len() + 8,
            "the history was cut"
        );
    }

    #[test]
    fn overhead_is_what_the_template_adds() {
        let tokenizer = tokenizer();
        let overhead = template_overhead(&tokenizer).expect("it renders");
        let mut chat = Conversation::new(Arc::clone(&tokenizer), Some("一二三".into()));
        chat.push("六".into(), Reply::scripted("四五".into()));
        let prompt = chat
            .prompt(0, "", "七八九十", PromptForm::Tokens)
            .expect("it renders");
        let content = 3 + 2 + 1 + 4;
        let expected = content + overhead.with_system + overhead.exchange;
        assert_eq!(prompt.tokens.len() as u32, expected);
    }
}
