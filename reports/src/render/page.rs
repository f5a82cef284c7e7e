//! A page for a browser: one model and one template for a run, a comparison, a fit.
//!
//! A page is a verdict, cards with the headline figures, parts (plots, tables, bars), panels of
//! two columns, and the definitions of what it names. Who fills it says what is shown; how it looks
//! is the template's.
//!
//! Invariant: the page fetches nothing, and text from outside enters it only through the template
//! engine's escaping. The SVG of plots is made of numbers and of text that `svg` has escaped.

use minijinja::Environment;
use serde::Serialize;

use super::bars::Bars;
use super::definitions::{Definition, definition};
use super::drawn::Drawn;
use super::plot::Plot;
use super::view::{Figure, Row, Section};

const TEMPLATE: &str = include_str!("../../templates/page.html.jinja");
const STYLE: &str = include_str!("../../templates/page.css");
const SCRIPT: &str = include_str!("../../templates/page.js");

/// How a verdict, a bar or a cell is coloured. Colour never says anything that words do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tone {
    Good,
    Bad,
    Plain,
    Faint,
}

/// The verdict over a page.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Banner {
    pub(super) tone: Tone,
    pub(super) word: String,
    /// One sentence; empty where reasons say more.
    pub(super) text: String,
    pub(super) reasons: Vec<String>,
}

/// What is named, with a small note and the key of its definition.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Label {
    pub(super) text: String,
    pub(super) note: String,
    pub(super) term: &'static str,
}

impl Label {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A label whose definition is one click away.
    pub(super) fn defined(text: impl Into<String>, term: &'static str) -> Self {
        Self {
            text: text.into(),
            term,
            ..Self::default()
        }
    }

    pub(super) fn with_note(self, note: impl Into<String>) -> Self {
        Self {
            note: note.into(),
            ..self
        }
    }
}

/// A headline figure.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Card {
    pub(super) label: Label,
    pub(super) figure: Figure,
    /// `(name, value)` below it.
    pub(super) lines: Vec<(String, String)>,
}

/// A cell of a table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    #[serde(flatten)]
    pub(super) figure: Figure,
    pub(super) tone: Tone,
}

impl From<Figure> for Cell {
    fn from(figure: Figure) -> Self {
        Self {
            figure,
            tone: Tone::Plain,
        }
    }
}

/// How wide the first column of a table is, and whether lines break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Look {
    /// A name and a value.
    Rows,
    /// Many columns; the first one stays when the rest is scrolled.
    Wide,
    /// Columns of text that breaks.
    Text,
}

/// A table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Table {
    /// For those who do not see it.
    pub(super) name: String,
    pub(super) look: Look,
    /// Of all columns, the first one's included; empty for none.
    pub(super) heads: Vec<Label>,
    pub(super) rows: Vec<(Label, Vec<Cell>)>,
}

/// A piece of a part.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", content = "body", rename_all = "lowercase")]
pub(super) enum Block {
    Plots(Vec<Drawn>),
    Table(Table),
    Bars(Bars),
    Note(String),
    List(Vec<String>),
    /// Lines as they are; folded away under a summary unless that is empty.
    Code(String, String),
}

/// A titled part of a page.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Part {
    /// Its place in the page's address.
    pub(super) id: &'static str,
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

impl Part {
    pub(super) fn new(id: &'static str, title: impl Into<String>, blocks: Vec<Block>) -> Self {
        Self {
            id,
            title: title.into(),
            blocks,
        }
    }
}

/// A page.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Page {
    /// Parts of the heading; the first is the most important one.
    pub(super) heading: Vec<String>,
    pub(super) subtitle: String,
    pub(super) banner: Banner,
    /// What a reader should know before any figure.
    pub(super) warnings: Vec<String>,
    pub(super) cards: Vec<Card>,
    pub(super) parts: Vec<Part>,
    /// Parts that stand in two columns where there is room.
    pub(super) panels: Vec<Part>,
    /// Parts after those.
    pub(super) tail: Vec<Part>,
    /// What the page was made from.
    pub(super) source: &'static str,
}

/// A page with what every page has.
#[derive(Serialize)]
struct Filled<'a> {
    page: &'a Page,
    definitions: Vec<&'static Definition>,
    style: &'static str,
    script: &'static str,
}

impl Page {
    /// The page as one self-contained file.
    pub(super) fn html(&self) -> String {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        let filled = Filled {
            page: self,
            definitions: self.definitions(),
            style: STYLE,
            script: SCRIPT,
        };
        environment
            .render_named_str("page.html", TEMPLATE, filled)
            .expect("the template uses only fields of the page, and tests render each kind of it")
    }

    /// Of every term that the page names, each once.
    fn definitions(&self) -> Vec<&'static Definition> {
        let parts = [&self.parts, &self.panels, &self.tail];
        let blocks = parts.into_iter().flatten().flat_map(|part| &part.blocks);
        let mut terms: Vec<&'static str> = self.cards.iter().map(|card| card.label.term).collect();
        for block in blocks {
            match block {
                Block::Table(table) => {
                    terms.extend(table.heads.iter().map(|label| label.term));
                    terms.extend(table.rows.iter().map(|(label, _)| label.term));
                }
                Block::Bars(bars) => terms.extend(bars.rows.iter().map(|row| row.label.term)),
                Block::Plots(_) | Block::Note(_) | Block::List(_) | Block::Code(..) => {}
            }
        }
        terms.retain(|term| !term.is_empty());
        terms.sort_unstable();
        terms.dedup();
        let mut found: Vec<_> = terms.into_iter().filter_map(definition).collect();
        found.sort_by_key(|definition| definition.place());
        found
    }
}

/// Plots that have something to show; none when there is none.
pub(super) fn plots(plots: Vec<Plot>) -> Option<Block> {
    let drawn: Vec<Drawn> = plots
        .into_iter()
        .filter(|plot| !plot.series.is_empty())
        .map(Drawn::new)
        .collect();
    (!drawn.is_empty()).then_some(Block::Plots(drawn))
}

/// A section of rows as a table of a name and a value.
pub(super) fn rows(section: &Section) -> Block {
    let row = |row: &Row| {
        let label = Label::defined(row.label.clone(), super::definitions::term(&row.label));
        (label, vec![Cell::from(row.figure.clone())])
    };
    Block::Table(Table {
        name: section.title.to_owned(),
        look: Look::Rows,
        heads: Vec::new(),
        rows: section.rows.iter().map(row).collect(),
    })
}
