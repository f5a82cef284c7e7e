//! What the mock server tells about itself, by the names of the stack it plays.
//!
//! Invariant: the figures are the true ones: requests that are being answered, tokens that were
//! sent. What it does not do: give what it has not, such as a cache.

use backends::http::Stack;

/// The truth at an instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Requests that are being answered.
    pub(super) running: usize,
    /// Tokens of all prompts so far, as they are counted in answers.
    pub(super) prompt_tokens: u64,
    /// Tokens sent so far.
    pub(super) output_tokens: u64,
}

/// The page, in the text format of Prometheus; none for stacks that have none.
pub(super) fn page(stack: Stack, now: Now) -> Option<String> {
    let [running, waiting, prompt, output] = match stack {
        Stack::OpenAi | Stack::Vllm => [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
        ],
        Stack::Sglang => [
            "sglang:num_running_reqs",
            "sglang:num_queue_reqs",
            "sglang:prompt_tokens_total",
            "sglang:generation_tokens_total",
        ],
        Stack::MindIe => [
            "num_requests_running",
            "num_requests_waiting",
            "prompt_tokens_total",
            "generation_tokens_total",
        ],
        Stack::LmDeploy => [
            "lmdeploy:num_requests_running",
            "lmdeploy:num_requests_waiting",
            "lmdeploy:prompt_tokens_total",
            "lmdeploy:generation_tokens_total",
        ],
        Stack::Xllm | Stack::Tgi => return None,
    };
    let line = |name, kind, value| {
        format!("# TYPE {name} {kind}\n{name}{{model_name=\"mock\"}} {value}\n")
    };
    Some(
        line(running, "gauge", now.running as u64)
            + &line(waiting, "gauge", 0)
            + &line(prompt, "counter", now.prompt_tokens)
            + &line(output, "counter", now.output_tokens),
    )
}
