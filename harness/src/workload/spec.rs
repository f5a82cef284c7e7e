//! A workload as a file describes it: classes of conversations, their lengths and their rhythm.
//!
//! Invariant: a [`WorkloadSpec`] that [`load`] returns is checked: shares and laws make sense, and
//! names that refer to classes exist. It says nothing of targets or models.

use std::collections::BTreeMap;
use std::path::Path;

use reports::schema::Slo;
use serde::{Deserialize, Serialize};

use super::distribution::{Distribution, Turns};
use super::rate::RateShape;
use super::trace::TraceKind;
use crate::arrivals::Arrivals;

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// What reports call it.
    pub name: String,
    /// In a sentence.
    pub description: String,
    /// Requests per second when the user does not say.
    pub rate: f64,
    /// Measured window in seconds when the user does not say.
    pub duration_s: f64,
    /// Warm-up in seconds when the user does not say.
    pub warmup_s: f64,
    /// Process of session arrivals.
    pub arrivals: Arrivals,
    /// How the rate changes over time; constant without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_shape: Option<RateShape>,
    /// Multiplies think times.
    #[serde(default = "one")]
    pub think_scale: f64,
    /// Some pauses are long: the user comes back to an old conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Multiplies all lengths but the system prompt's.
    #[serde(default = "one")]
    pub length_scale: f64,
    /// Sessions that began before the run and are still going on are part of it.
    #[serde(default)]
    pub start_in_steady_state: bool,
    /// Users stop some answers in the middle.
    #[serde(default)]
    pub cancel: bool,
    /// Tokens of the system prompt that all requests share; 0 for none.
    #[serde(default)]
    pub system_prompt_tokens: u32,
    /// Prompt and output tokens of a request at most; older turns are cut to fit.
    pub context_limit: u32,
    /// Output tokens of a request at most.
    #[serde(default)]
    pub max_output: Option<u32>,
    /// Turns of a session at most.
    #[serde(default)]
    pub max_turns: Option<u32>,
    /// User tokens are those of the whole prompt, chat template included; single turns only.
    #[serde(default)]
    pub whole_prompt: bool,
    /// Whose conversations they are.
    #[serde(default)]
    pub audience: Audience,
    /// What a request must meet to count as goodput.
    #[serde(default)]
    pub slo: Option<Slo>,
    /// What the generator must give on average, for `workloads check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// The kinds of conversation.
    #[serde(rename = "class")]
    pub classes: Vec<Class>,
}

/// Who uses what the workload is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Nobody whose requests a month are known.
    #[default]
    Unknown,
    /// Users of the chatbot whose requests a month the price sheets give.
    Chatbot,
}

fn one() -> f64 {
    1.0
}

/// Aggregates of a workload, worked out apart from this generator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Mean turns of a session.
    pub turns_per_session: f64,
    /// Mean tokens of a prompt.
    pub prompt_tokens: f64,
    /// Mean tokens of an answer, up to where the user stopped it.
    pub output_tokens: f64,
    /// Share of answers that the user stops.
    pub cancelled: f64,
    /// Share of prompt tokens that an unbounded prefix cache holds.
    pub ideal_prefix_hit: f64,
}

/// Pauses after which a conversation is taken up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Chance that a pause is one of these and not a think time.
    pub probability: f64,
    /// Seconds of it; `think_scale` is for think times alone.
    pub pause: Distribution,
}

/// A kind of conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// What reports call it; also selects the corpus of its text.
    pub id: String,
    /// Where its numbers come from.
    #[serde(default)]
    pub src: String,
    /// Relative share of sessions.
    pub session_share: f64,
    /// Turns of a session.
    pub turns: Turns,
    /// A role card after the system prompt.
    #[serde(default)]
    pub persona: Option<Persona>,
    /// Tokens of the first message.
    pub user_first: Distribution,
    /// Tokens of later messages.
    pub user_next: Distribution,
    /// Material that the application puts before a message and does not keep in the history.
    #[serde(default)]
    pub injected: Option<Injected>,
    /// Tokens of the answer.
    pub output: Distribution,
    /// Seconds between an answer's end and the next message.
    pub think: Distribution,
    /// Chance that the user stops the answer.
    #[serde(default)]
    pub p_cancel: f64,
}

/// Role cards, shared by popularity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persona {
    /// Tokens of a card.
    pub tokens: Distribution,
    /// Cards there are.
    pub pool: u32,
    /// Exponent of their popularity.
    pub zipf_s: f64,
}

/// Search results and the like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injected {
    /// Chance that a message has any.
    pub probability: f64,
    /// Tokens of it.
    pub tokens: Distribution,
}

/// A workload that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not a name and not a file.
    #[error(
        "workload `{name}` is not known; accepted are {accepted}, `random:IN/OUT`, a trace \
         ({traces}) and a path ending in .toml or .json\n\nhint: `weighbridge workloads list` \
         describes them"
    )]
    Unknown {
        /// As given.
        name: String,
        /// Built-in names.
        accepted: String,
        /// Kinds of trace.
        traces: String,
    },
    /// Cannot be read.
    #[error("workload file `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not the right form.
    #[error("workload file `{path}`: {message}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        message: String,
    },
    /// A value that makes no sense.
    #[error("workload `{name}`: {message}")]
    Invalid {
        /// Which workload.
        name: String,
        /// Key, value, and what is accepted.
        message: String,
    },
}

const BASE: &str = include_str!("../../workloads/doubao-chat.toml");
const PRESETS: &str = include_str!("../../workloads/presets.toml");

/// What a preset changes in the base workload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    description: Option<String>,
    rate: Option<f64>,
    duration_s: Option<f64>,
    warmup_s: Option<f64>,
    arrivals: Option<Arrivals>,
    rate_shape: Option<RateShape>,
    resume: Option<Resume>,
    think_scale: Option<f64>,
    length_scale: Option<f64>,
    cancel: Option<bool>,
    system_prompt_tokens: Option<u32>,
    context_limit: Option<u32>,
    max_output: Option<u32>,
    max_turns: Option<u32>,
    slo: Option<Slo>,
    /// The one class that is left.
    only_class: Option<String>,
    audience: Option<Audience>,
    /// First messages of every class.
    user_first: Option<Distribution>,
    /// Upper bounds by `class.law`.
    #[serde(default, rename = "override")]
    caps: BTreeMap<String, f64>,
}

fn presets() -> BTreeMap<String, Preset> {
    toml::from_str(PRESETS).expect("the built-in presets are tested")
}

/// Names of the built-in workloads.
pub fn builtin_names() -> Vec<String> {
    presets().into_keys().collect()
}

/// Finds a workload by name or file.
pub fn load(name: &str) -> Result<WorkloadSpec, SpecError> {
    let spec = if let Some(shape) = name.strip_prefix("random:") {
        random(name, shape)?
    } else if is_workload_file(name) {
        read_file(name)?
    } else {
        builtin(name).ok_or_else(|| unknown(name))?
    };
    check(&spec)?;
    Ok(spec)
}

fn is_workload_file(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "toml" || extension == "json")
}

fn unknown(name: &str) -> SpecError {
    let accepted: Vec<_> = builtin_names()
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    SpecError::Unknown {
        name: name.into(),
        accepted: accepted.join(", "),
        traces: TraceKind::NAMES
            .map(|name| format!("`{name}:FILE`"))
            .join(", "),
    }
}

fn builtin(name: &str) -> Option<WorkloadSpec> {
    let preset = presets().remove(name)?;
    let mut spec: WorkloadSpec = toml::from_str(BASE).expect("the built-in workload is tested");
    spec.name = name.into();
    let set = |value: &mut f64, change: Option<f64>| *value = change.unwrap_or(*value);
    set(&mut spec.rate, preset.rate);
    set(&mut spec.duration_s, preset.duration_s);
    set(&mut spec.warmup_s, preset.warmup_s);
    set(&mut spec.think_scale, preset.think_scale);
    set(&mut spec.length_scale, preset.length_scale);
    spec.description = preset.description.unwrap_or(spec.description);
    spec.arrivals = preset.arrivals.unwrap_or(spec.arrivals);
    spec.audience = preset.audience.unwrap_or(spec.audience);
    spec.cancel = preset.cancel.unwrap_or(spec.cancel);
    spec.system_prompt_tokens = preset
        .system_prompt_tokens
        .unwrap_or(spec.system_prompt_tokens);
    spec.context_limit = preset.context_limit.unwrap_or(spec.context_limit);
    spec.max_output = preset.max_output.or(spec.max_output);
    spec.max_turns = preset.max_turns.or(spec.max_turns);
    spec.slo = preset.slo.or(spec.slo);
    spec.rate_shape = preset.rate_shape.or(spec.rate_shape);
    spec.resume = preset.resume.or(spec.resume);
    if let Some(only) = &preset.only_class {
        spec.classes.retain(|class| class.id == *only);
    }
    let changes_lengths = preset.length_scale.is_some()
        || preset.context_limit.is_some()
        || preset.only_class.is_some()
        || preset.max_turns.is_some()
        || !preset.caps.is_empty();
    spec.expected = spec.expected.filter(|_| !changes_lengths);
    if let Some(law) = &preset.user_first {
        let set = |class: &mut Class| class.user_first = law.clone();
        spec.classes.iter_mut().for_each(set);
    }
    for (path, cap) in &preset.caps {
        let (class, law) = path
            .split_once('.')
            .expect("the built-in presets are tested");
        let class = spec.classes.iter_mut().find(|known| known.id == class);
        let class = class.expect("the built-in presets are tested");
        match (law, &mut class.injected) {
            ("user_first", _) => class.user_first.cap(*cap),
            ("injected", Some(injected)) => injected.tokens.cap(*cap),
            _ => unreachable!("the built-in presets are tested"),
        }
    }
    Some(spec)
}

/// Prompts and answers of fixed lengths, without conversation.
fn random(name: &str, shape: &str) -> Result<WorkloadSpec, SpecError> {
    let lengths = shape.split_once('/').and_then(|(input, output)| {
        let (input, output) = (input.parse::<u32>().ok()?, output.parse::<u32>().ok()?);
        (input > 0 && output > 0).then_some((input, output))
    });
    let Some((input, output)) = lengths else {
        let message = format!(
            "`{shape}` is not a shape; accepted is `random:IN/OUT` with two numbers of tokens \
             above 0, for example `random:512/128`"
        );
        return Err(SpecError::Invalid {
            name: name.into(),
            message,
        });
    };
    let fixed = |value: u32| Distribution::Fixed {
        value: f64::from(value),
    };
    let class = Class {
        id: "random".into(),
        src: "as asked for".into(),
        session_share: 1.0,
        turns: Turns {
            q: 0.5,
            beta: 1.0,
            max: 1,
        },
        persona: None,
        user_first: fixed(input),
        user_next: fixed(input),
        injected: None,
        output: fixed(output),
        think: fixed(0),
        p_cancel: 0.0,
    };
    Ok(WorkloadSpec {
        name: name.into(),
        description: format!("{input} prompt and {output} output tokens, nothing shared"),
        rate: 1.0,
        duration_s: 60.0,
        warmup_s: 5.0,
        arrivals: Arrivals::Poisson,
        rate_shape: None,
        resume: None,
        think_scale: 1.0,
        length_scale: 1.0,
        start_in_steady_state: false,
        cancel: false,
        system_prompt_tokens: 0,
        context_limit: input.saturating_add(output),
        max_output: None,
        max_turns: Some(1),
        whole_prompt: true,
        audience: Audience::Unknown,
        slo: None,
        expected: None,
        classes: vec![class],
    })
}

fn read_file(path: &str) -> Result<WorkloadSpec, SpecError> {
    let text = std::fs::read_to_string(path).map_err(|source| SpecError::Read {
        path: path.into(),
        source,
    })?;
    let is_json = Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "json");
    let parsed = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())
    };
    parsed.map_err(|message| SpecError::Parse {
        path: path.into(),
        message,
    })
}

/// What makes no sense in a workload, if anything.
pub fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let invalid = |message: String| SpecError::Invalid {
        name: spec.name.clone(),
        message,
    };
    let positive = [
        ("rate", spec.rate),
        ("duration_s", spec.duration_s),
        ("length_scale", spec.length_scale),
    ];
    for (key, value) in positive {
        if !(value.is_finite() && value > 0.0) {
            return Err(invalid(format!(
                "`{key}` is {value}; accepted is a number above 0"
            )));
        }
    }
    for (key, value) in [
        ("warmup_s", spec.warmup_s),
        ("think_scale", spec.think_scale),
    ] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(invalid(format!(
                "`{key}` is {value}; accepted is a number from 0"
            )));
        }
    }
    check_time(spec).map_err(invalid)?;
    if spec.classes.is_empty() {
        return Err(invalid(
            "there is no `[[class]]`; at least one is needed".into(),
        ));
    }
    let shares: f64 = spec.classes.iter().map(|class| class.session_share).sum();
    if shares <= 0.0 {
        return Err(invalid(
            "every `session_share` is 0; at least one must be above".into(),
        ));
    }
    let output = spec
        .classes
        .iter()
        .map(|class| class.output.largest() * spec.length_scale);
    let output = output
        .fold(0.0, f64::max)
        .min(spec.max_output.map_or(f64::MAX, f64::from));
    // Role cards are cut to a quarter of the context; the rest must hold what cannot be cut.
    let needed = f64::from(spec.system_prompt_tokens) + output + 64.0;
    if !spec.whole_prompt && needed > 0.75 * f64::from(spec.context_limit) {
        return Err(invalid(format!(
            "`context_limit` is {}; the system prompt and the longest answer with their frame need \
             three quarters of it to be at least {needed:.0}",
            spec.context_limit
        )));
    }
    if spec.whole_prompt && spec.max_turns != Some(1) {
        return Err(invalid("`whole_prompt` needs `max_turns = 1`".into()));
    }
    if spec.max_turns == Some(0) || spec.max_output == Some(0) {
        return Err(invalid(
            "`max_turns` and `max_output` must be at least 1".into(),
        ));
    }
    spec.classes.iter().try_for_each(|class| {
        let named = |key: &str, message: String| {
            invalid(format!("class `{}`: `{key}`: {message}", class.id))
        };
        check_class(class).map_err(|(key, message)| named(key, message))
    })
}

/// What is wrong with the rate over time and with pauses, if anything.
fn check_time(spec: &WorkloadSpec) -> Result<(), String> {
    if let Some(shape) = &spec.rate_shape {
        let named = |(key, message)| format!("`{key}`: {message}");
        shape.check().map_err(named)?;
    }
    if let Some(resume) = &spec.resume {
        let named = |message| format!("`resume.pause`: {message}");
        resume.pause.check().map_err(named)?;
        let value = resume.probability;
        if !(0.0..=1.0).contains(&value) {
            return Err(format!(
                "`resume.probability` is {value}; accepted is 0 to 1"
            ));
        }
    }
    Ok(())
}

fn check_class(class: &Class) -> Result<(), (&'static str, String)> {
    let share = |key, value: f64, max: f64| {
        let holds = value.is_finite() && (0.0..=max).contains(&value);
        if holds {
            Ok(())
        } else {
            Err((key, format!("{value} is not from 0 to {max}")))
        }
    };
    share("session_share", class.session_share, f64::MAX)?;
    share("p_cancel", class.p_cancel, 1.0)?;
    class.turns.check().map_err(|message| ("turns", message))?;
    let laws = [
        ("user_first", &class.user_first),
        ("user_next", &class.user_next),
        ("output", &class.output),
        ("think", &class.think),
    ];
    for (key, law) in laws {
        law.check().map_err(|message| (key, message))?;
    }
    if let Some(injected) = &class.injected {
        share("injected.probability", injected.probability, 1.0)?;
        injected
            .tokens
            .check()
            .map_err(|message| ("injected.tokens", message))?;
    }
    if let Some(persona) = &class.persona {
        persona
            .tokens
            .check()
            .map_err(|message| ("persona.tokens", message))?;
        if persona.pool == 0 {
            return Err(("persona.pool", "0 is too few; at least 1 is needed".into()));
        }
        share("persona.zipf_s", persona.zipf_s, 10.0)?;
    }
    Ok(())
}

impl WorkloadSpec {
    /// Turns of a session on average, as the shares mix them.
    pub fn mean_turns(&self) -> f64 {
        self.mix(Turns::mean)
    }

    /// The mean square of the turns of a session.
    pub fn mean_square_turns(&self) -> f64 {
        self.mix(Turns::mean_square)
    }

    /// The turns of a class, with the workload's own limit.
    pub fn turns_of(&self, class: &Class) -> Turns {
        let max = self.max_turns.unwrap_or(u32::MAX).min(class.turns.max);
        Turns { max, ..class.turns }
    }

    /// A mean over classes by their share of sessions.
    fn mix(&self, of: impl Fn(Turns) -> f64) -> f64 {
        let shares: f64 = self.classes.iter().map(|class| class.session_share).sum();
        let weighted = |class: &Class| class.session_share * of(self.turns_of(class));
        self.classes.iter().map(weighted).sum::<f64>() / shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_workloads_load() {
        let names = builtin_names();
        assert_eq!(
            names,
            [
                "burst",
                "doubao-chat",
                "doubao-chat-8k",
                "doubao-chat-lite",
                "doubao-day",
                "doubao-peak-hour",
                "long-context",
                "smoke"
            ]
        );
        for name in names {
            let spec = load(&name).expect(&name);
            assert_eq!(spec.name, name);
            if name == "long-context" {
                assert_eq!(spec.classes.len(), 1);
                assert!(spec.classes[0].user_first.largest() > 125_999.0);
                continue;
            }
            assert_eq!(spec.classes.len(), 8);
            let shares: f64 = spec.classes.iter().map(|class| class.session_share).sum();
            assert!((shares - 1.0).abs() < 1e-9, "{name}: {shares}");
        }
        // Expected aggregate of the specification, tolerance 3 %.
        let turns = load("doubao-chat").expect("built in").mean_turns();
        assert!((turns / 2.77 - 1.0).abs() < 0.03, "{turns}");
    }

    #[test]
    fn mistakes_are_named() {
        for (name, part) in [
            ("doubao", "`doubao-chat-lite`"),
            ("burts", "`mooncake:FILE`"),
            ("random:12", "random:512/128"),
            ("random:0/4", "above 0"),
            ("no/such.toml", "no/such.toml"),
        ] {
            let error = load(name).expect_err(name).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn wrong_values_name_class_and_key() {
        let mut spec = load("smoke").expect("built in");
        spec.classes[1].output = Distribution::Uniform { min: 5.0, max: 1.0 };
        let error = check(&spec).expect_err("min > max").to_string();
        assert!(error.contains("class `search_qa`: `output`"), "{error}");
        spec.rate = -1.0;
        let error = check(&spec).expect_err("negative").to_string();
        assert!(error.contains("`rate` is -1"), "{error}");
    }

    #[test]
    fn a_spec_survives_its_own_file_form() {
        for name in builtin_names() {
            let spec = load(&name).expect("built in");
            let text = toml::to_string(&spec).expect("plain data");
            assert_eq!(toml::from_str::<WorkloadSpec>(&text).expect(&text), spec);
        }
    }
}
