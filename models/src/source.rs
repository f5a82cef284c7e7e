//! Names of models: a reference model, an entry of the catalogue, or a GGUF file.

use crate::store::{self, CatalogueEntry};
use std::path::PathBuf;

pub use crate::reference::ReferenceModel;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Random weights made in memory; nothing to download.
    Reference(ReferenceModel),
    /// A model of the catalogue, read from the cache.
    Catalogue(&'static CatalogueEntry),
    /// A GGUF file.
    File(PathBuf),
}

/// Why a name is no model.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a known name nor a path that ends in `.gguf`.
    #[error("unknown model `{name}`; accepted: {accepted} or the path of a .gguf file{hint}")]
    Unknown {
        /// What was given.
        name: String,
        /// Every known name.
        accepted: String,
        /// A `hint:` line after an empty line, or nothing.
        hint: String,
    },
}

impl ModelSource {
    /// Understands a name as users write it.
    pub fn parse(name: &str) -> Result<Self, SourceError> {
        if let Some(model) = ReferenceModel::ALL
            .into_iter()
            .find(|model| model.name() == name)
        {
            return Ok(Self::Reference(model));
        }
        if let Some(entry) = store::list().iter().find(|entry| entry.name == name) {
            return Ok(Self::Catalogue(entry));
        }
        let path = PathBuf::from(name);
        if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        {
            return Ok(Self::File(path));
        }
        let known: Vec<&str> = known_names().collect();
        let nearest = known.iter().min_by_key(|known| distance(name, known));
        let nearest = nearest.filter(|known| distance(name, known) * 2 < name.len());
        Err(SourceError::Unknown {
            name: name.to_owned(),
            accepted: known.join(", "),
            hint: nearest.map_or_else(String::new, |n| format!("\n\nhint: did you mean `{n}`?")),
        })
    }

    /// Its GGUF file, unless it is made in memory.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Reference(_) => None,
            Self::Catalogue(entry) => Some(crate::store::path(entry)),
            Self::File(path) => Some(path.clone()),
        }
    }
}

fn known_names() -> impl Iterator<Item = &'static str> {
    let references = ReferenceModel::ALL.into_iter().map(ReferenceModel::name);
    references.chain(store::list().iter().map(|entry| entry.name))
}

/// Edit distance; dropping the end of the known name is free, so that abbreviations are found.
fn distance(given: &str, known: &str) -> usize {
    let known: Vec<char> = known.chars().collect();
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (i, given) in given.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, known) in known.iter().enumerate() {
            let replace = diagonal + usize::from(!given.eq_ignore_ascii_case(known));
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.into_iter().min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_understood() {
        let parse = |name| ModelSource::parse(name).unwrap();
        assert_eq!(
            parse("ref-135m"),
            ModelSource::Reference(ReferenceModel::Ref135m)
        );
        assert_eq!(
            parse("ref-tiny"),
            ModelSource::Reference(ReferenceModel::RefTiny)
        );
        assert_eq!(parse("a/b.GGUF"), ModelSource::File("a/b.GGUF".into()));
        assert!(matches!(
            parse("smollm2-135m-instruct"),
            ModelSource::Catalogue(_)
        ));
    }

    #[test]
    fn unknown_names_list_what_is_accepted() {
        let check = |name: &str, hint: Option<&str>| {
            let error = ModelSource::parse(name).unwrap_err().to_string();
            assert!(
                error.contains("ref-135m, ref-tiny, smollm2-135m-instruct"),
                "{error}"
            );
            let expected = hint.map(|hint| format!("hint: did you mean `{hint}`?"));
            assert_eq!(error.split("\n\n").nth(1), expected.as_deref(), "{name}");
        };
        check("ref-153m", Some("ref-135m"));
        check("smollm2", Some("smollm2-135m-instruct"));
        check("reftiny", Some("ref-tiny"));
        check("gpt-4", None);
        check("", None);
    }
}
