//! Serving stacks: what differs between servers that all speak the OpenAI API.
//!
//! Answers need no such table, since `answer` reads every stream alike; what does is what a request
//! may carry, and where a server tells about itself. Invariant: a field that a stack does not know
//! is not sent to it. It does no input or output.

use std::fmt;

/// A serving stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stack {
    /// Nothing is known of it but the API; fields of vLLM are sent where they are needed.
    OpenAi,
    /// vLLM, with vLLM-Ascend and vLLM-MLU.
    Vllm,
    /// SGLang.
    Sglang,
    /// Huawei's MindIE.
    MindIe,
    /// xLLM.
    Xllm,
    /// LMDeploy, with dlinfer on Ascend and Cambricon.
    LmDeploy,
    /// Hugging Face's Text Generation Inference.
    Tgi,
}

/// How a stack is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackChoice {
    /// By the user.
    Named(Stack),
    /// By what the server says of itself; this one where it says nothing.
    Recognised(Stack),
}

impl Stack {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OpenAi,
        Self::Vllm,
        Self::Sglang,
        Self::MindIe,
        Self::Xllm,
        Self::LmDeploy,
        Self::Tgi,
    ];

    /// As `--server` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::MindIe => "mindie",
            Self::Xllm => "xllm",
            Self::LmDeploy => "lmdeploy",
            Self::Tgi => "tgi",
        }
    }

    /// The stack of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stack| stack.name() == name)
    }

    /// The stack that lists its models as owned by `owner`.
    pub fn recognise(owner: &str) -> Option<Self> {
        let owner = owner.to_ascii_lowercase();
        let mut known = Self::ALL.into_iter();
        known.find(|stack| *stack != Self::OpenAi && owner.contains(stack.name()))
    }

    /// As it writes the owner of its models, where it does.
    pub fn owner(self) -> &'static str {
        match self {
            Self::MindIe => "MindIE Server",
            other => other.name(),
        }
    }

    /// Its own name for the fewest tokens of an answer, which is sent beside `ignore_eos`. To servers
    /// that call it `min_tokens` it is not sent: `ignore_eos` is enough.
    pub fn min_tokens_field(self) -> Option<&'static str> {
        match self {
            Self::LmDeploy => Some("min_new_tokens"),
            Self::OpenAi | Self::Vllm | Self::Sglang | Self::MindIe | Self::Xllm | Self::Tgi => {
                None
            }
        }
    }

    /// Can it be told to go on where the model would end?
    pub fn knows_ignore_eos(self) -> bool {
        self != Self::Tgi
    }

    /// Does it give its counts unasked? All are asked for them, since asking does no harm.
    pub fn counts_unasked(self) -> bool {
        self == Self::MindIe
    }

    /// The port of its metrics, where that is another than that of its API.
    pub fn metrics_port(self) -> Option<u16> {
        (self == Self::MindIe).then_some(1027)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_named_and_recognised() {
        for stack in Stack::ALL {
            assert_eq!(Stack::parse(stack.name()), Some(stack));
            let recognised = Stack::recognise(stack.owner());
            assert_eq!(recognised.unwrap_or(Stack::OpenAi), stack);
        }
        for (owner, stack) in [
            ("MindIE Server", Some(Stack::MindIe)),
            ("vllm", Some(Stack::Vllm)),
            ("xllm", Some(Stack::Xllm)),
            ("organization-owner", None),
            ("", None),
        ] {
            assert_eq!(Stack::recognise(owner), stack, "{owner}");
        }
        assert_eq!(Stack::parse("triton"), None);
    }
}
