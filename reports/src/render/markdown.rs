//! `report.md`: tables for a pull request or a wiki.
//!
//! Invariant: text from outside cannot end a table cell or start markup; the template pipes it
//! through `cell` or, for code, `code`. What it does not do: plots.

use minijinja::Environment;

use crate::schema::Report;

use super::view::View;

const TEMPLATE: &str = include_str!("../../templates/report.md.jinja");

pub(super) fn markdown(report: &Report) -> String {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("cell", cell);
    environment.add_filter("code", code);
    environment
        .render_named_str("report.md", TEMPLATE, View::new(report))
        .expect("the template uses only fields of the view, and a test renders it")
}

/// Text in a table cell or a paragraph.
pub(super) fn cell(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '|' | '[' | ']' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// One line in a fenced block; it can neither be a fence nor start another line.
pub(super) fn code(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.replace("```", "` ` `")
}
