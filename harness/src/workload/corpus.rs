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
    pub(crate) fn classes(&self) -> impl Iterator<Item = &str> {
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
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    const PARTS: [Part; 4] = [Part::First, Part::Next, Part::Body, Part::Reply];

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    fn is_han(c: char) -> bool {
        matches!(c, '\u{3400}'..='\u{9fff}')
    }

    /// Han characters and Chinese punctuation.
    fn is_chinese(c: char) -> bool {
        is_han(c)
            || matches!(c, '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ffef}')
            || "…—‘’“”".contains(c)
    }

    /// All templates with the file and section they stand in.
    fn lines() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
        CLASS_FILES
            .into_iter()
            .chain([("shared", SHARED_FILE)])
            .flat_map(|(file, source)| {
                let sections = Sections::parse(file, source).unwrap();
                sections
                    .lines
                    .into_iter()
                    .map(move |(name, lines)| (file, name, lines))
            })
            .collect()
    }

    fn collect_slots(template: &Template, used: &mut BTreeSet<usize>) {
        for piece in &template.0 {
            match piece {
                Piece::Draw(list) | Piece::Recall(list) => {
                    used.insert(*list);
                }
                Piece::Choice(alternatives) => {
                    for inner in alternatives {
                        collect_slots(inner, used);
                    }
                }
                Piece::Text(_) | Piece::Number(_) => {}
            }
        }
    }

    #[test]
    fn sections_are_large_enough() {
        for (file, name, lines) in lines() {
            let least = match (file, name) {
                (_, "lead" | "tail") => 10,
                ("shared", "system" | "persona") | (_, "first" | "reply") => 60,
                ("shared", "snippet") | (_, "body") => 80,
                (_, "next") => 40,
                _ => 1,
            };
            assert!(
                lines.len() >= least,
                "{file} [{name}] has {} lines",
                lines.len()
            );
        }
    }

    #[test]
    fn slot_lists_are_used_and_of_good_size() {
        let corpus = Corpus::builtin();
        let mut used = BTreeSet::new();
        let classes = corpus.classes.values().flat_map(|class| {
            [
                &class.lead,
                &class.tail,
                &class.first,
                &class.next,
                &class.body,
                &class.reply,
            ]
        });
        for template in classes.chain([&corpus.persona, &corpus.snippet]).flatten() {
            collect_slots(template, &mut used);
        }
        assert!(corpus.lists.len() >= 25);
        for (index, list) in corpus.lists.iter().enumerate() {
            assert!(
                used.contains(&index),
                "the list of {} is never drawn",
                list[0]
            );
            assert!(
                (15..=65).contains(&list.len()),
                "{} has {} entries",
                list[0],
                list.len()
            );
            assert!(
                list.iter()
                    .all(|entry| !entry.is_empty() && !entry.contains('{'))
            );
            assert_eq!(
                list.iter().collect::<BTreeSet<_>>().len(),
                list.len(),
                "{}",
                list[0]
            );
        }
    }

    #[test]
    fn lines_are_distinct_and_chinese() {
        for (file, name, lines) in lines() {
            if name.starts_with("slots:") {
                continue;
            }
            let mut seen = BTreeSet::new();
            for line in lines {
                assert!(seen.insert(line), "{file} [{name}] repeats {line}");
                assert_eq!(line.trim_end(), line, "trailing blank");
                let literal = without_slots(line);
                assert!(
                    literal.chars().any(is_han),
                    "{file} [{name}] has no Chinese: {line}"
                );
                let letters = literal.chars().filter(char::is_ascii_alphabetic).count();
                let foreign = matches!(file, "coding" | "translation");
                let few = letters * 5 <= literal.chars().count();
                assert!(foreign || few, "{file} [{name}] is not Chinese: {line}");
            }
        }
    }

    fn without_slots(line: &str) -> String {
        let mut text = String::new();
        let mut in_name = false;
        for c in line.chars() {
            in_name = c == '{' || (in_name && (c.is_ascii_alphanumeric() || "_=".contains(c)));
            if !in_name && !"{|}".contains(c) {
                text.push(c);
            }
        }
        text
    }

    #[test]
    fn every_text_is_filled_and_closed() {
        let corpus = Corpus::builtin();
        let mut rng = rng(1);
        let slots = lines()
            .into_iter()
            .filter_map(|(_, name, _)| name.strip_prefix("slots:"))
            .chain(["n1", "n2", "n3", "year", "price"])
            .map(|name| format!("{{{name}}}"))
            .collect::<Vec<_>>();
        let check = |text: &str| {
            assert!(text.ends_with(|last| CLOSING.contains(last)), "{text}");
            assert!(slots.iter().all(|slot| !text.contains(slot)), "{text}");
        };
        for _ in 0..500 {
            for class in corpus.classes() {
                for part in PARTS {
                    check(&corpus.sentence(class, part, &mut rng));
                }
            }
            check(&corpus.persona_sentence(&mut rng));
            check(&corpus.snippet(&mut rng));
        }
    }

    #[test]
    fn the_system_prompt_is_plain_and_long_enough() {
        let corpus = Corpus::builtin();
        let system = corpus.system_sentences();
        let length: usize = system.iter().map(|sentence| sentence.chars().count()).sum();
        // 880 reference tokens at 1.85 characters a token, the most measured, and some to spare.
        assert!(length > 1_700, "{length} characters");
        assert!(
            system
                .iter()
                .all(|sentence| sentence.ends_with('。') && !sentence.contains('{'))
        );
    }

    #[test]
    fn one_seed_gives_one_text() {
        let corpus = Corpus::builtin();
        let draw = |seed| {
            let mut rng = rng(seed);
            let classes: Vec<_> = corpus.classes().collect();
            (0..200)
                .map(|i| corpus.sentence(classes[i % 8], PARTS[i % 4], &mut rng))
                .collect()
        };
        let (first, again, other): (Vec<_>, Vec<_>, Vec<_>) = (draw(7), draw(7), draw(8));
        assert_eq!(first, again);
        assert_ne!(first, other);
    }

    #[test]
    fn pinned_examples() {
        let corpus = Corpus::builtin();
        let mut rng = rng(2026);
        assert_eq!(
            corpus.sentence("casual_chat", Part::First, &mut rng),
            "唉无聊，如果你是人，你最想去西安还是广州？你懂吧\n"
        );
        assert_eq!(
            corpus.sentence("homework_qa", Part::First, &mut rng),
            "把一根593厘米长的铁丝围成一个长是宽7倍的长方形，它的面积是多少？"
        );
        assert_eq!(
            corpus.snippet(&mut rng),
            "【睡前22分钟做什么】考试资讯站：放下手机、调暗灯光、喝一小杯温水，初春可以泡脚，有助于放松。"
        );
    }

    #[test]
    fn an_unknown_class_is_casual_chat() {
        let corpus = Corpus::builtin();
        let draw = |class: &str| corpus.sentence(class, Part::First, &mut rng(3));
        assert_eq!(draw("no_such_class"), draw("casual_chat"));
    }

    #[test]
    fn opening_messages_are_diverse() {
        let corpus = Corpus::builtin();
        for class in corpus.classes() {
            let mut rng = rng(11);
            let mut messages = BTreeSet::new();
            let mut openings = BTreeSet::new();
            for _ in 0..10_000 {
                let message = corpus.sentence(class, Part::First, &mut rng);
                let body = corpus.sentence(class, Part::Body, &mut rng);
                openings.insert(
                    format!("{message}{body}")
                        .chars()
                        .take(40)
                        .collect::<String>(),
                );
                messages.insert(message);
            }
            println!(
                "{class}: {} distinct, {} openings",
                messages.len(),
                openings.len()
            );
            assert!(
                messages.len() >= 9_000,
                "{class}: {} distinct",
                messages.len()
            );
            assert!(
                openings.len() >= 9_500,
                "{class}: {} distinct openings",
                openings.len()
            );
        }
    }

    #[test]
    fn chinese_dominates() {
        let corpus = Corpus::builtin();
        for class in corpus.classes() {
            let least = match class {
                "coding" => 0.35,
                "translation" => 0.5,
                _ => 0.7,
            };
            for part in PARTS {
                let mut rng = rng(5);
                let text: String = (0..2_000)
                    .map(|_| corpus.sentence(class, part, &mut rng))
                    .collect();
                let all = text.chars().filter(|c| !c.is_whitespace()).count() as f64;
                let chinese = text.chars().filter(|&c| is_chinese(c)).count() as f64 / all;
                let han = text.chars().filter(|&c| is_han(c)).count() as f64 / all;
                println!("{class} {part:?}: {chinese:.2} Chinese, {han:.2} Han");
                assert!(chinese >= least, "{class} {part:?}: {chinese:.2}");
            }
        }
    }

    #[test]
    fn templates_read_slots_choices_and_ordinary_braces() {
        let names = BTreeMap::from([("a".to_owned(), 0)]);
        let lists = [vec!["甲".to_owned(), "乙".to_owned()]];
        let check = |line: &str, expect: &[&str]| {
            let template = Template::parse(line, &names).unwrap();
            for seed in 0..20 {
                let mut rng = rng(seed);
                let mut filling = Filling::new(&lists, &mut rng);
                filling.fill(&template);
                assert!(
                    expect.contains(&filling.text.as_str()),
                    "{line}: {}",
                    filling.text
                );
            }
        };
        check("{a}和{a}", &["甲和乙", "乙和甲"]);
        check("{a}和{=a}", &["甲和甲", "乙和乙"]);
        check("{好|{a}}。", &["好。", "甲。", "乙。"]);
        check("{|不}去", &["去", "不去"]);
        check("if x { y{0} } {", &["if x { y{0} } {"]);
        check("一\\n二", &["一\n二"]);
        assert!(Template::parse("去{b}", &names).is_err());
    }

    #[test]
    fn malformed_files_are_refused() {
        let check = |source: &str, expect: &str| {
            let files = [(FALLBACK, source)];
            let shared = "[system]\n好。\n[persona]\n好。\n[snippet]\n好。\n";
            let problem = Corpus::parse(&files, shared).unwrap_err().to_string();
            assert!(problem.contains(expect), "{problem}");
        };
        check("好。\n", "no section above");
        check("[first]\n好。\n[first]\n", "[first] appears twice");
        check("[lead]\n好。\n", "[tail] is missing or empty");
        check("[lead]\n去{city}。\n", "no [slots:city]");
        let full =
            "[lead]\n好\n[tail]\n好\n[first]\n好\n[next]\n好\n[body]\n好\n[reply]\n好\n[x]\n";
        check(full, "[x] is not a known section");
    }
}
