//! Conversations to prompts, through the jinja template a model brings along.
//!
//! The template is data from a file: it can fail, but it reaches nothing beyond the messages it
//! is given. No default system prompt is added here; that is the template's business.

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the assistant's behaviour.
    System,
    /// The human.
    User,
    /// The model.
    Assistant,
}

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The model brings no chat template.
    #[error("the model has no chat template (metadata key `tokenizer.chat_template`)")]
    Missing,
    /// The template cannot be parsed.
    #[error("the chat template cannot be parsed: {0:#}")]
    Syntax(#[source] Error),
    /// The template refuses this conversation or fails on it.
    #[error("the chat template fails on this conversation: {0:#}")]
    Render(#[source] Error),
}

const NAME: &str = "chat";

/// A parsed chat template.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    /// Holds the template under [`NAME`], unless the model has none.
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    pub(crate) fn new(
        source: Option<&str>,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        if let Some(source) = source {
            environment
                .add_template_owned(NAME, source.to_owned())
                .map_err(TemplateError::Syntax)?;
        }
        let text = |token: Option<&str>| token.unwrap_or_default().to_owned();
        Ok(Self {
            environment,
            bos: text(bos),
            eos: text(eos),
        })
    }

    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|_not_found| TemplateError::Missing)?;
        let context = context! {
            messages => Value::from_serialize(messages),
            add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        template.render(context).map_err(TemplateError::Render)
    }
}

/// How templates refuse conversations they were not made for.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Vec<Message> {
        let message = |role, content: &str| Message {
            role,
            content: content.to_owned(),
        };
        vec![
            message(Role::System, "Be brief."),
            message(Role::User, " Hi \n"),
        ]
    }

    fn render(source: &str) -> Result<String, TemplateError> {
        ChatTemplate::new(Some(source), Some("<s>"), None)?.render(&conversation(), true)
    }

    #[test]
    fn renders_loops_conditions_and_python_methods() {
        let source = "{{ bos_token }}{% for message in messages %}\n\
            {% if message['role'] == 'user' and loop.last %}{{ message.content.strip() }}|\
            {% else %}{{ message.role.upper() }}|{% endif %}\n\
            {% endfor %}{% if add_generation_prompt %}A:{% endif %}{{ eos_token }}";
        assert_eq!(render(source).unwrap(), "<s>SYSTEM|Hi|A:");
    }

    #[test]
    fn says_why_there_is_no_prompt() {
        let missing = ChatTemplate::new(None, None, None)
            .unwrap()
            .render(&conversation(), false);
        assert!(matches!(missing, Err(TemplateError::Missing)));
        assert!(matches!(render("{% for %}"), Err(TemplateError::Syntax(_))));
        let refused = render("{{ raise_exception('no system role') }}").unwrap_err();
        assert!(refused.to_string().contains("no system role"), "{refused}");
    }

    #[test]
    fn roles_are_lowercase_in_json() {
        let json = serde_json::to_string(&conversation()[0]).unwrap();
        assert_eq!(json, r#"{"role":"system","content":"Be brief."}"#);
        assert!(serde_json::from_str::<Role>("\"tool\"").is_err());
    }
}
