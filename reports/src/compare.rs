//! Subjects side by side: may they be compared, by how much do they differ, and from which price
//! on does one beat the other?
//!
//! Invariant: what cannot be shown to be alike is either refused, or, when the user allows it, said
//! with every rendering of the comparison. What a source does not state is noted, not assumed.
//!
//! # Ratios and their intervals
//! The ratio of two figures gets an interval from theirs, on a logarithmic scale, as for
//! independent runs: with `d` the distance from a figure's logarithm to an end of its interval, the
//! ends of the ratio lie `√(d₁² + d₂²)` away, each side by itself (Zou and Donner's MOVER), which
//! keeps skewed bootstrap intervals skewed. Exchanging the two inverts the ratio and its interval
//! exactly. The intervals cover variation within runs; that from run to run needs repeated runs.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::schema::Slo;
use crate::subject::{Basis, Better, Source, Subject, SubjectFigure, figures};

/// Version of the JSON of a [`Comparison`].
pub const COMPARISON_SCHEMA_VERSION: u32 = 1;
/// Mean lengths of tools that do not state a schedule may differ by this share.
const LENGTH_TOLERANCE: f64 = 0.02;

/// What subjects must have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// Instants, lengths, seed.
    Workload,
    /// What tokens are counted in.
    Tokenizer,
    /// The model, but for its quantisation.
    Model,
    /// Measured, or simulated.
    Simulated,
    /// No run is INVALID.
    Invalid,
    /// What the names of figures mean.
    Definitions,
    /// The limits of goodput.
    Slo,
}

/// Not an aspect that can be tolerated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` cannot be allowed; accepted are {accepted}")]
pub struct AspectError {
    name: String,
    accepted: String,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Workload,
        Self::Tokenizer,
        Self::Model,
        Self::Simulated,
        Self::Invalid,
        Self::Definitions,
        Self::Slo,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Tokenizer => "tokenizer",
            Self::Model => "model",
            Self::Simulated => "simulated",
            Self::Invalid => "invalid",
            Self::Definitions => "definitions",
            Self::Slo => "slo",
        }
    }
}

impl FromStr for Aspect {
    type Err = AspectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| AspectError {
            name: text.to_owned(),
            accepted: Self::ALL
                .map(|known| format!("`{}`", known.name()))
                .join(", "),
        })
    }
}

/// Why two subjects are not alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incomparable {
    /// In which respect.
    pub aspect: Aspect,
    /// In words, with the labels of both.
    pub why: String,
}

impl fmt::Display for Incomparable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.aspect.name(), self.why)
    }
}

/// Why there is no comparison.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// Fewer than two.
    #[error("{0} to compare; two are needed")]
    TooFew(usize),
    /// No such subject.
    #[error("reference {given}: there are {count}, counted from 1")]
    Reference {
        /// As given.
        given: usize,
        /// Subjects there are.
        count: usize,
    },
    /// They are not alike, and nobody allowed that.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Incomparable(Vec<Incomparable>),
    /// No figure is in all of them.
    #[error("`{0}` and `{1}` have no figure in common")]
    NothingInCommon(String, String),
}

/// What a ratio says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Better than the reference: the interval does not hold 1.
    Better,
    /// Worse than the reference.
    Worse,
    /// The interval holds 1.
    NoDifferenceShown,
    /// There is no interval.
    NotTested,
}

/// A figure over the reference's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio.
    pub value: f64,
    /// 95 % interval, where both figures have one.
    pub ci95: Option<(f64, f64)>,
    /// What it says.
    pub finding: Finding,
}

/// A subject's entry in a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Entry {
    /// Its figure.
    pub figure: SubjectFigure,
    /// The figure minus the reference's; none for the reference.
    pub difference: Option<f64>,
    /// To the reference; none for the reference itself, and where one of the two is not positive.
    pub ratio: Option<Ratio>,
}

/// One figure of all subjects.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its key, as in [`Subject::figures`].
    pub figure: String,
    /// In the order of the subjects.
    pub entries: Vec<Option<Entry>>,
}

/// From which price on a subject loses to the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BreakEven {
    /// Which subject.
    pub subject: usize,
    /// The figure that is work done.
    pub figure: String,
    /// The subject costs less for the same work while its price is below this many times the
    /// reference's.
    pub price_ratio: Ratio,
    /// The same in US dollars per hour, where the reference's price is known.
    pub usd_per_hour: Option<f64>,
    /// What it does cost, where that is known.
    pub actual_usd_per_hour: Option<f64>,
}

/// Subjects side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// [`COMPARISON_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// What is compared; labels are all different.
    pub subjects: Vec<Subject>,
    /// Which of them the others are held against.
    pub reference: usize,
    /// In what respect they are not alike, and the user said that it does not matter.
    pub tolerated: Vec<Incomparable>,
    /// What could not be checked, and what else a reader should know.
    pub notes: Vec<String>,
    /// The figures that the reference and at least one other have.
    pub rows: Vec<Row>,
    /// One for each subject that does the same kind of work as the reference.
    pub break_even: Vec<BreakEven>,
}

/// Compares subjects with the one at `reference`.
pub fn compare(
    mut subjects: Vec<Subject>,
    reference: usize,
    allow: &[Aspect],
) -> Result<Comparison, CompareError> {
    if subjects.len() < 2 {
        return Err(CompareError::TooFew(subjects.len()));
    }
    if reference >= subjects.len() {
        return Err(CompareError::Reference {
            given: reference + 1,
            count: subjects.len(),
        });
    }
    tell_apart(&mut subjects);
    let mut notes = Vec::new();
    let mut found = Vec::new();
    for (index, subject) in subjects.iter().enumerate() {
        found.extend(invalid(subject));
        if index != reference {
            found.extend(unlike(&subjects[reference], subject, &mut notes));
        }
    }
    let (tolerated, refused): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|one: &Incomparable| allow.contains(&one.aspect));
    if !refused.is_empty() {
        return Err(CompareError::Incomparable(refused));
    }
    notes.extend(general_notes(&subjects));
    let rows = rows(&subjects, reference);
    for (index, subject) in subjects.iter().enumerate() {
        if !rows.iter().any(|row| row.entries[index].is_some()) {
            let (one, other) = (&subjects[reference].label, &subject.label);
            return Err(CompareError::NothingInCommon(one.clone(), other.clone()));
        }
    }
    let others = (0..subjects.len()).filter(|&index| index != reference);
    Ok(Comparison {
        schema_version: COMPARISON_SCHEMA_VERSION,
        break_even: others
            .filter_map(|index| break_even(&subjects, reference, index))
            .collect(),
        subjects,
        reference,
        tolerated,
        notes,
        rows,
    })
}

/// Labels that are there twice get a number.
fn tell_apart(subjects: &mut [Subject]) {
    for index in 1..subjects.len() {
        let (before, rest) = subjects.split_at_mut(index);
        let taken = |label: &str| before.iter().any(|subject| subject.label == label);
        let label = &rest[0].label;
        let free = (2..).map(|number| format!("{label} ({number})"));
        let mut labels = std::iter::once(label.clone()).chain(free);
        if let Some(label) = labels.find(|label| !taken(label)) {
            rest[0].label = label;
        }
    }
}

fn invalid(subject: &Subject) -> Option<Incomparable> {
    let first = subject.invalid.first()?;
    Some(Incomparable {
        aspect: Aspect::Invalid,
        why: format!("`{}` is INVALID: {first}", subject.label),
    })
}

/// In what respects a subject is not like the reference; adds what cannot be known to the notes.
fn unlike(reference: &Subject, other: &Subject, notes: &mut Vec<String>) -> Vec<Incomparable> {
    let mut found = Vec::new();
    let mut differ = |aspect, a: &str, b: &str| {
        let why = format!("`{}` has {a}, `{}` {b}", reference.label, other.label);
        found.push(Incomparable { aspect, why });
    };
    if reference.basis != other.basis {
        let word = |basis| match basis {
            Basis::Measured => "measured figures",
            Basis::Simulated => "simulated figures",
        };
        differ(Aspect::Simulated, word(reference.basis), word(other.basis));
    }
    if !reference.source.defines_as(other.source) {
        let words = |source: Source| format!("figures as {source} defines them");
        let (a, b) = (words(reference.source), words(other.source));
        differ(Aspect::Definitions, &a, &b);
    }
    match (&reference.model.tokenizer, &other.model.tokenizer) {
        (Some(a), Some(b)) if a != b => {
            differ(
                Aspect::Tokenizer,
                &format!("tokenizer {a}"),
                &format!("tokenizer {b}"),
            );
        }
        (Some(_), Some(_)) => {}
        _ => notes.push(unchecked("tokenizer", reference, other)),
    }
    match models(reference, other) {
        Likeness::Same => {}
        Likeness::Noted(note) => notes.push(note),
        Likeness::Different(a, b) => differ(Aspect::Model, &a, &b),
    }
    let goodput = |subject: &Subject| subject.figures.contains_key("goodput_rate");
    if goodput(reference) && goodput(other) {
        match (reference.workload.slo, other.workload.slo) {
            (Some(a), Some(b)) if a != b => differ(Aspect::Slo, &slo_words(a), &slo_words(b)),
            (Some(_), Some(_)) => {}
            _ => notes.push(unchecked("SLO", reference, other)),
        }
    }
    let (differences, unknown) = loads(reference, other);
    if !differences.is_empty() {
        let side = |pick: fn(&(String, String)) -> &String| {
            let words: Vec<&str> = differences.iter().map(|one| pick(one).as_str()).collect();
            words.join(", ")
        };
        differ(Aspect::Workload, &side(|one| &one.0), &side(|one| &one.1));
    } else if unknown {
        notes.push(unchecked("workload", reference, other));
    }
    found
}

fn unchecked(what: &str, reference: &Subject, other: &Subject) -> String {
    format!(
        "whether `{}` and `{}` have the same {what} is not stated by both, and not checked",
        reference.label, other.label
    )
}

fn slo_words(slo: Slo) -> String {
    let limits = [
        ("ttft", slo.ttft_s),
        ("tpot", slo.tpot_s),
        ("e2e", slo.e2e_s),
    ];
    let limits = limits
        .into_iter()
        .filter_map(|(name, limit)| Some(format!("{name}={}s", limit?)));
    format!("SLO {}", limits.collect::<Vec<_>>().join(","))
}

enum Likeness {
    Same,
    /// Alike in what matters; this is to be said.
    Noted(String),
    Different(String, String),
}

fn models(reference: &Subject, other: &Subject) -> Likeness {
    let (a, b) = (&reference.model, &other.model);
    let both = |x: &Option<String>, y: &Option<String>| Some((x.clone()?, y.clone()?));
    let Some((name_a, name_b)) = both(&a.name, &b.name) else {
        return Likeness::Noted(unchecked("model", reference, other));
    };
    if let Some((weights_a, weights_b)) = both(&a.weights, &b.weights)
        && weights_a != weights_b
    {
        let shape = a.architecture.is_some() && a.parameters.is_some();
        let alike = a.architecture == b.architecture && a.parameters == b.parameters;
        if name_a == name_b || (shape && alike) {
            return Likeness::Noted(format!(
                "quantisations are compared: `{}` has {weights_a}, `{}` {weights_b}",
                reference.label, other.label
            ));
        }
    }
    let identity = both(&a.identity, &b.identity).filter(|(x, y)| x != y);
    match identity {
        _ if name_a != name_b => {
            Likeness::Different(format!("model {name_a}"), format!("model {name_b}"))
        }
        Some((x, y)) => {
            Likeness::Different(format!("weights ({x})"), format!("other weights ({y})"))
        }
        None => Likeness::Same,
    }
}

/// How two loads differ, side by side; and whether too little is known to say that they do not.
fn loads(reference: &Subject, other: &Subject) -> (Vec<(String, String)>, bool) {
    let (a, b) = (&reference.workload, &other.workload);
    let hashes = a.schedule_hash.as_ref().zip(b.schedule_hash.as_ref());
    if hashes.is_some_and(|(a, b)| a == b) {
        return (Vec::new(), false);
    }
    let mut found = Vec::new();
    let mut stated = 0;
    let mut hold = |what: &str, pair: Option<(String, String)>, same: bool| {
        stated += usize::from(pair.is_some());
        if let (Some((x, y)), false) = (pair, same) {
            found.push((format!("{what} {x}"), format!("{what} {y}")));
        }
    };
    let names = a.name.clone().zip(b.name.clone());
    let alike = reference.source != other.source || a.name == b.name;
    hold("workload", names, alike);
    let numbers = [
        ("rate", a.target_rate, b.target_rate, 0.0),
        (
            "concurrency",
            count(a.concurrency),
            count(b.concurrency),
            0.0,
        ),
        (
            "mean input",
            a.input_tokens_mean,
            b.input_tokens_mean,
            LENGTH_TOLERANCE,
        ),
        (
            "mean output",
            a.output_tokens_mean,
            b.output_tokens_mean,
            LENGTH_TOLERANCE,
        ),
    ];
    for (what, x, y, tolerance) in numbers {
        let pair = x.zip(y);
        let same = pair.is_none_or(|(x, y)| (x - y).abs() <= tolerance * x.abs().max(y.abs()));
        let round = |value: f64| ((value * 100.0).round() / 100.0).to_string();
        hold(what, pair.map(|(x, y)| (round(x), round(y))), same);
    }
    if let Some((x, y)) = hashes {
        let seeds = a
            .seed
            .zip(b.seed)
            .map(|(x, y)| (x.to_string(), y.to_string()));
        hold("seed", seeds, a.seed == b.seed);
        found.push((format!("schedule {x}"), format!("schedule {y}")));
        return (found, false);
    }
    (found, stated < 2)
}

fn count(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

/// What holds for every comparison of these.
fn general_notes(subjects: &[Subject]) -> Vec<String> {
    let mut notes = Vec::new();
    let has = |pick: fn(&SubjectFigure) -> bool| {
        move |subject: &Subject| subject.figures.values().any(pick)
    };
    if subjects.iter().any(has(|figure| figure.ci95.is_some())) {
        notes.push(
            "intervals cover variation within each run, not from run to run; one figure in twenty \
             differs by chance alone"
                .to_owned(),
        );
    }
    let hash = &subjects[0].workload.schedule_hash;
    if hash.is_some()
        && subjects
            .iter()
            .all(|one| one.workload.schedule_hash == *hash)
    {
        notes.push(
            "all had the same schedule, so what its lulls and bursts do to one they do to all: the \
             intervals of ratios are wider than they need be"
                .to_owned(),
        );
    }
    let without = subjects
        .iter()
        .filter(|one| !has(|figure| figure.ci95.is_some())(one));
    notes.extend(without.map(|subject| {
        format!(
            "`{}` states no intervals: its ratios are not tested",
            subject.label
        )
    }));
    if subjects
        .iter()
        .any(|subject| subject.workload.target_rate.is_some())
    {
        notes.push(
            "the rate was given: throughput is what was asked for, not the capacity, as long as \
             the target keeps up"
                .to_owned(),
        );
    }
    notes.extend(told(subjects));
    notes
}

/// What the subjects say themselves; what several say is said once.
fn told(subjects: &[Subject]) -> Vec<String> {
    let mut told: Vec<(&str, Vec<&str>)> = Vec::new();
    for subject in subjects {
        for note in &subject.notes {
            match told.iter_mut().find(|(known, _)| known == note) {
                Some((_, labels)) => labels.push(&subject.label),
                None => told.push((note, vec![&subject.label])),
            }
        }
    }
    let line = |(note, labels): (&str, Vec<&str>)| format!("`{}`: {note}", labels.join("`, `"));
    told.into_iter().map(line).collect()
}

fn rows(subjects: &[Subject], reference: usize) -> Vec<Row> {
    let row = |kind: crate::subject::FigureKind| {
        let held = subjects[reference].figures.get(&kind.key)?;
        let entry = |(index, subject): (usize, &Subject)| {
            let figure = *subject.figures.get(&kind.key)?;
            let other = index != reference;
            Some(Entry {
                figure,
                difference: other.then_some(figure.value - held.value),
                ratio: other.then(|| ratio(&figure, held, kind.better)).flatten(),
            })
        };
        let entries: Vec<_> = subjects.iter().enumerate().map(entry).collect();
        let common = entries.iter().flatten().count() > 1;
        common.then_some(Row {
            figure: kind.key,
            entries,
        })
    };
    figures().into_iter().filter_map(row).collect()
}

/// `figure` over `reference`; none unless both are positive.
pub fn ratio(figure: &SubjectFigure, reference: &SubjectFigure, better: Better) -> Option<Ratio> {
    let positive = |value: f64| value > 0.0 && value.is_finite();
    if !positive(figure.value) || !positive(reference.value) {
        return None;
    }
    let value = figure.value / reference.value;
    let ends = |figure: &SubjectFigure| {
        let (low, high) = figure.ci95?;
        let known = positive(low) && low <= figure.value && figure.value <= high;
        (known && high.is_finite()).then(|| ((figure.value / low).ln(), (high / figure.value).ln()))
    };
    let ci95 = ends(figure).zip(ends(reference)).map(|(ours, theirs)| {
        let down = ours.0.hypot(theirs.1);
        let up = ours.1.hypot(theirs.0);
        (value * (-down).exp(), value * up.exp())
    });
    let finding = match (ci95, better) {
        (None, _) => Finding::NotTested,
        (Some((low, high)), _) if low <= 1.0 && high >= 1.0 => Finding::NoDifferenceShown,
        (Some((low, _)), Better::Higher) if low > 1.0 => Finding::Better,
        (Some((_, high)), Better::Lower) if high < 1.0 => Finding::Better,
        (Some(_), _) => Finding::Worse,
    };
    Some(Ratio {
        value,
        ci95,
        finding,
    })
}

/// Figures that are work done, the one that says most first.
const WORK: [&str; 5] = [
    "goodput_rate",
    "output_tokens_per_s",
    "output_tokens_per_s_per_device",
    "total_tokens_per_s_per_device",
    "decode_tokens_per_s",
];

fn break_even(subjects: &[Subject], reference: usize, index: usize) -> Option<BreakEven> {
    let (held, other) = (&subjects[reference], &subjects[index]);
    let both = |key: &&str| other.figures.contains_key(*key) && held.figures.contains_key(*key);
    let figure = WORK.into_iter().find(both)?;
    // None where one of them does no work: no price makes up for that.
    let price_ratio = ratio(
        &other.figures[figure],
        &held.figures[figure],
        Better::Higher,
    )?;
    Some(BreakEven {
        subject: index,
        figure: figure.to_owned(),
        price_ratio,
        usd_per_hour: held.usd_per_hour.map(|usd| usd * price_ratio.value),
        actual_usd_per_hour: other.usd_per_hour,
    })
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
