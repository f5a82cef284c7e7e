//! The written Chinese corpus: templates by class, and a seeded generator that fills them.
//!
//! Eight text files, one per class of the `doubao-chat` workload, hold what users open with
//! (`[first]`), say next (`[next]`), paste (`[body]`) and what an assistant answers (`[reply]`).
//! `shared.txt` holds the system prompt, role cards, search snippets and the slot lists.
//! All of it was written for this project: no line is taken from a trace, a product or a person.
//!
//! # File format
//!
//! One template a line. A line that is empty or starts with `# ` is skipped; `[name]` alone on a
//! line opens a section. Inside a template
//! - `{city}` draws from `[slots:city]`, avoiding an entry that the text already holds;
//! - `{=city}` repeats the entry drawn last from that list in the same text;
//! - `{n1}` `{n2}` `{n3}` `{year}` `{month}` `{day}` `{hour}` `{minute}` `{age}` `{elder}`
//!   `{price}` draw a number of that kind;
//! - `{甲|乙|}` draws one alternative, which may be empty and may hold slots;
//! - `\n` is a line break, and any other brace is an ordinary character.
//!
//! A slot list holds its entries separated by ` | `. `[lead]` and `[tail]` are optional short
//! phrases put before and after an opening message now and then.
//!
//! **Invariant:** the text is a function of the generator's state alone. Lists are drawn with
//! 32-bit ranges and kept in ordered maps, so one seed gives one text on every platform.
//!
//! What it does not do: count tokens, cut to a length, or keep a story. Sentences of one class are
//! plausible next to each other, not coherent; numbers in an exercise need not come out even.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// The class that an unknown class name falls back to.
const FALLBACK: &str = "casual_chat";

/// The committed class files.
const CLASS_FILES: [(&str, &str); 8] = [
    ("casual_chat", include_str!("corpus/casual_chat.txt")),
    ("search_qa", include_str!("corpus/search_qa.txt")),
    ("homework_qa", include_str!("corpus/homework_qa.txt")),
    ("writing", include_str!("corpus/writing.txt")),
    ("translation", include_str!("corpus/translation.txt")),
    ("coding", include_str!("corpus/coding.txt")),
    ("roleplay", include_str!("corpus/roleplay.txt")),
    ("doc_long", include_str!("corpus/doc_long.txt")),
];

/// The committed shared file.
const SHARED_FILE: &str = include_str!("corpus/shared.txt");

/// How many opening messages in a hundred get a lead, and, drawn apart, a tail.
const AFFIX_PERCENT: u32 = 55;

/// Characters after which another sentence may follow directly.
const CLOSING: &str = "。！？…～：；．”」』）》】\n";

/// Which kind of text of a class is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A message that opens a session.
    First,
    /// A follow-up message.
    Next,
    /// One sentence, or a few lines, of pasted material.
    Body,
    /// One sentence of an answer.
    Reply,
}

/// The parsed corpus, ready to draw from.
#[derive(Debug)]
pub(crate) struct Corpus {
    classes: BTreeMap<String, ClassText>,
    system: Vec<String>,
    persona: Vec<Template>,
    snippet: Vec<Template>,
    lists: Vec<Vec<String>>,
}

impl Corpus {
    /// Parses the committed files.
    pub(crate) fn builtin() -> Self {
        Self::parse(&CLASS_FILES, SHARED_FILE).expect("the committed corpus parses, see the tests")
    }

    /// The class names, in alphabetical order.
    #[cfg(test)]
    fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.keys().map(String::as_str)
    }

    /// One sentence or message of the class with its slots filled. An unknown class is read as
    /// `casual_chat`. The text ends in Chinese punctuation or a line break, so texts concatenate.
    pub(crate) fn sentence(&self, class: &str, part: Part, rng: &mut ChaCha8Rng) -> String {
        let class = self
            .classes
            .get(class)
            .or_else(|| self.classes.get(FALLBACK))
            .expect("parse() refuses a corpus without the fallback class");
        let mut filling = Filling::new(&self.lists, rng);
        match part {
            Part::First => filling.opening(class),
            Part::Next => filling.one_of(&class.next),
            Part::Body => filling.one_of(&class.body),
            Part::Reply => filling.one_of(&class.reply),
        }
        filling.closed()
    }

    /// The system prompt, sentence by sentence, in its fixed order.
    pub(crate) fn system_sentences(&self) -> &[String] {
        &self.system
    }

    /// One sentence of a role card.
    pub(crate) fn persona_sentence(&self, rng: &mut ChaCha8Rng) -> String {
        let mut filling = Filling::new(&self.lists, rng);
        filling.one_of(&self.persona);
        filling.closed()
    }

    /// One web search result: a title in brackets and a sentence or two.
    pub(crate) fn snippet(&self, rng: &mut ChaCha8Rng) -> String {
        let mut filling = Filling::new(&self.lists, rng);
        filling.one_of(&self.snippet);
        filling.closed()
    }

    fn parse(class_files: &[(&str, &str)], shared: &str) -> Result<Self, Malformed> {
        let mut shared = Sections::parse("shared", shared)?;
        let mut names = BTreeMap::new();
        let mut lists = Vec::new();
        for (name, lines) in shared.take_slot_lists() {
            names.insert(name, lists.len());
            lists.push(entries(&lines));
        }
        let system = shared
            .take("system")?
            .iter()
            .map(|line| (*line).to_owned())
            .collect();
        let persona = shared.take_templates("persona", &names)?;
        let snippet = shared.take_templates("snippet", &names)?;
        shared.finish()?;
        let mut classes = BTreeMap::new();
        for (class, source) in class_files {
            let sections = Sections::parse(class, source)?;
            classes.insert((*class).to_owned(), ClassText::parse(sections, &names)?);
        }
        if !classes.contains_key(FALLBACK) {
            return Err(Malformed::new(FALLBACK, "the fallback class is missing"));
        }
        Ok(Self {
            classes,
            system,
            persona,
            snippet,
            lists,
        })
    }
}

/// The templates of one class.
#[derive(Debug)]
struct ClassText {
    lead: Vec<Template>,
    tail: Vec<Template>,
    first: Vec<Template>,
    next: Vec<Template>,
    body: Vec<Template>,
    reply: Vec<Template>,
}

impl ClassText {
    fn parse(
        mut sections: Sections<'_>,
        names: &BTreeMap<String, usize>,
    ) -> Result<Self, Malformed> {
        let text = Self {
            lead: sections.take_templates("lead", names)?,
            tail: sections.take_templates("tail", names)?,
            first: sections.take_templates("first", names)?,
            next: sections.take_templates("next", names)?,
            body: sections.take_templates("body", names)?,
            reply: sections.take_templates("reply", names)?,
        };
        sections.finish()?;
        Ok(text)
    }
}

/// A line of the corpus, taken apart.
#[derive(Debug)]
struct Template(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Text(String),
    /// Draw from the list with this index.
    Draw(usize),
    /// Repeat what was drawn last from the list with this index.
    Recall(usize),
    Number(Number),
    Choice(Vec<Template>),
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Within(u32, u32),
    /// An amount of money that looks like one: 5–99, tens up to 990, hundreds up to 9900.
    Price,
}

impl Number {
    fn named(name: &str) -> Option<Self> {
        let range: RangeInclusive<u32> = match name {
            "n1" => 1..=9,
            "n2" => 10..=99,
            "n3" => 100..=999,
            "year" => 2015..=2025,
            "month" => 1..=12,
            "day" => 1..=28,
            "hour" => 7..=22,
            "minute" => 10..=59,
            "age" => 18..=59,
            "elder" => 60..=89,
            "price" => return Some(Self::Price),
            _ => return None,
        };
        Some(Self::Within(*range.start(), *range.end()))
    }

    fn draw(self, rng: &mut ChaCha8Rng) -> u32 {
        match self {
            Self::Within(low, high) => rng.random_range(low..=high),
            Self::Price => match rng.random_range(0..3_u32) {
                0 => rng.random_range(5..=99),
                1 => 10 * rng.random_range(10..=99_u32),
                _ => 100 * rng.random_range(10..=99_u32),
            },
        }
    }
}

impl Template {
    /// Takes one line apart. A brace group that is neither a slot nor a choice stays as it is.
    fn parse(line: &str, names: &BTreeMap<String, usize>) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = line;
        while let Some(open) = rest.find('{') {
            text.push_str(&rest[..open]);
            let Some(inner) = group(&rest[open..]) else {
                text.push('{');
                rest = &rest[open + 1..];
                continue;
            };
            let Some(piece) = Piece::parse(inner, names)? else {
                text.push('{');
                rest = &rest[open + 1..];
                continue;
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(unescape(&text)));
                text.clear();
            }
            pieces.push(piece);
            rest = &rest[open + inner.len() + 2..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(unescape(&text)));
        }
        Ok(Self(pieces))
    }
}

impl Piece {
    /// Reads the inside of a brace group; `None` means that the braces are ordinary text.
    fn parse(inner: &str, names: &BTreeMap<String, usize>) -> Result<Option<Self>, String> {
        let alternatives = alternatives(inner);
        if alternatives.len() > 1 {
            let parsed: Result<Vec<_>, _> = alternatives
                .iter()
                .map(|text| Template::parse(text, names))
                .collect();
            return Ok(Some(Self::Choice(parsed?)));
        }
        let (recall, name) = match inner.strip_prefix('=') {
            Some(name) => (true, name),
            None => (false, inner),
        };
        if !is_slot_name(name) {
            return Ok(None);
        }
        if let Some(number) = Number::named(name) {
            return Ok(Some(Self::Number(number)));
        }
        match names.get(name) {
            Some(&list) if recall => Ok(Some(Self::Recall(list))),
            Some(&list) => Ok(Some(Self::Draw(list))),
            None => Err(format!("no [slots:{name}] for the slot {{{name}}}")),
        }
    }
}

/// One text being written.
struct Filling<'a> {
    lists: &'a [Vec<String>],
    rng: &'a mut ChaCha8Rng,
    text: String,
    /// The entry drawn last from each list that was drawn from.
    drawn: BTreeMap<usize, usize>,
}

impl<'a> Filling<'a> {
    fn new(lists: &'a [Vec<String>], rng: &'a mut ChaCha8Rng) -> Self {
        Self {
            lists,
            rng,
            text: String::new(),
            drawn: BTreeMap::new(),
        }
    }

    fn opening(&mut self, class: &ClassText) {
        if self.rng.random_range(0..100_u32) < AFFIX_PERCENT {
            self.one_of(&class.lead);
        }
        self.one_of(&class.first);
        if self.rng.random_range(0..100_u32) < AFFIX_PERCENT {
            if !self.text.ends_with(|last| CLOSING.contains(last)) {
                self.text.push('，');
            }
            self.one_of(&class.tail);
        }
    }

    fn one_of(&mut self, templates: &[Template]) {
        let picked = self.below(templates.len());
        self.fill(&templates[picked]);
    }

    fn fill(&mut self, template: &Template) {
        for piece in &template.0 {
            match piece {
                Piece::Text(text) => self.text.push_str(text),
                Piece::Number(number) => {
                    let value = number.draw(self.rng);
                    self.text.push_str(&value.to_string());
                }
                Piece::Draw(list) => self.draw(*list),
                Piece::Recall(list) => match self.drawn.get(list) {
                    Some(&entry) => self.text.push_str(&self.lists[*list][entry]),
                    None => self.draw(*list),
                },
                Piece::Choice(alternatives) => self.one_of(alternatives),
            }
        }
    }

    /// Writes an entry of the list that the text does not hold yet, if there is one.
    fn draw(&mut self, list: usize) {
        let entries = &self.lists[list];
        let picked = self.below(entries.len());
        let entry = (picked..picked + entries.len())
            .map(|entry| entry % entries.len())
            .find(|&entry| !self.text.contains(entries[entry].as_str()))
            .unwrap_or(picked);
        self.drawn.insert(list, entry);
        self.text.push_str(&entries[entry]);
    }

    /// A uniform index; 32 bits wide so that every platform draws the same value.
    fn below(&mut self, length: usize) -> usize {
        self.rng.random_range(0..length as u32) as usize
    }

    fn closed(mut self) -> String {
        if !self.text.ends_with(|last| CLOSING.contains(last)) {
            self.text.push('\n');
        }
        self.text
    }
}

/// The sections of one file, each a list of lines.
#[derive(Debug)]
struct Sections<'a> {
    file: &'a str,
    lines: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Sections<'a> {
    fn parse(file: &'a str, source: &'a str) -> Result<Self, Malformed> {
        let mut lines = BTreeMap::new();
        let mut open: Option<&str> = None;
        for line in source.lines() {
            if line.trim().is_empty() || line.starts_with("# ") {
                continue;
            }
            if let Some(name) = section_name(line) {
                if lines.insert(name, Vec::new()).is_some() {
                    return Err(Malformed::new(file, format!("[{name}] appears twice")));
                }
                open = Some(name);
                continue;
            }
            let section = open.and_then(|name| lines.get_mut(name));
            let Some(section) = section else {
                return Err(Malformed::new(file, format!("no section above: {line}")));
            };
            section.push(line);
        }
        Ok(Self { file, lines })
    }

    /// Removes and returns a section, which must be there and hold something.
    fn take(&mut self, name: &str) -> Result<Vec<&'a str>, Malformed> {
        match self.lines.remove(name) {
            Some(lines) if !lines.is_empty() => Ok(lines),
            _ => Err(Malformed::new(
                self.file,
                format!("[{name}] is missing or empty"),
            )),
        }
    }

    fn take_templates(
        &mut self,
        name: &str,
        names: &BTreeMap<String, usize>,
    ) -> Result<Vec<Template>, Malformed> {
        let file = self.file;
        self.take(name)?
            .iter()
            .map(|line| Template::parse(line, names).map_err(|why| Malformed::new(file, why)))
            .collect()
    }

    /// Removes and returns the `[slots:…]` sections by list name, in alphabetical order.
    fn take_slot_lists(&mut self) -> Vec<(String, Vec<&'a str>)> {
        let prefix = "slots:";
        let (lists, others) = std::mem::take(&mut self.lines)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(name, lines)| {
                name.starts_with(prefix) && !lines.is_empty()
            });
        self.lines = others;
        lists
            .into_iter()
            .map(|(name, lines)| (name[prefix.len()..].to_owned(), lines))
            .collect()
    }

    /// Refuses a section that nobody took.
    fn finish(self) -> Result<(), Malformed> {
        match self.lines.keys().next() {
            Some(name) => Err(Malformed::new(
                self.file,
                format!("[{name}] is not a known section"),
            )),
            None => Ok(()),
        }
    }
}

/// A corpus file that does not follow the format.
#[derive(Debug)]
struct Malformed {
    file: String,
    problem: String,
}

impl Malformed {
    fn new(file: &str, problem: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corpus/{}.txt: {}", self.file, self.problem)
    }
}

/// The name in a line like `[slots:city]`.
fn section_name(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == ':';
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// A name such as `city` or `n2`; `{0}` and `{}` in pasted code are not slots.
fn is_slot_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The entries of a slot list.
fn entries(lines: &[&str]) -> Vec<String> {
    lines
        .iter()
        .flat_map(|line| line.split(" | "))
        .map(|entry| entry.trim().to_owned())
        .collect()
}

/// The inside of the brace group that `text` starts with, if it is closed.
fn group(text: &str) -> Option<&str> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(&text[1..at]),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Splits the inside of a brace group at the bars outside inner groups.
fn alternatives(inner: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    parts
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n")
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
