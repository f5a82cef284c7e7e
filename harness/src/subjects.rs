//! Results on disk as subjects of a comparison: a folder, a `report.json`, another tool's file.
//!
//! Invariant: an error names the file. What it does not do: judge; `reports::compare` does.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use reports::import;
use reports::subject::Subject;

/// Reads what is at a path; `FILE#N` takes only the N-th benchmark or row of a file, from 1.
pub fn read(given: &str) -> Result<Vec<Subject>> {
    let (path, place) = split(given);
    let path = Path::new(path);
    let file = if path.is_dir() {
        path.join("report.json")
    } else {
        path.to_owned()
    };
    let name = || format!("`{}`", file.display());
    let bytes = std::fs::read(&file).with_context(name)?;
    let mut subjects = import::subjects_of(&bytes).with_context(name)?;
    let count = subjects.len();
    match place {
        None => Ok(subjects),
        Some(place) => {
            ensure!(
                (1..=count).contains(&place),
                "`{given}`: the file has {count} results, counted from 1"
            );
            Ok(vec![subjects.swap_remove(place - 1)])
        }
    }
}

/// The path and the number after `#`; a file of that very name is meant as it is.
fn split(given: &str) -> (&str, Option<usize>) {
    let parts = given.rsplit_once('#');
    let numbered = parts.and_then(|(path, place)| Some((path, place.parse().ok()?)));
    match numbered {
        Some((path, place)) if !Path::new(given).exists() => (path, Some(place)),
        _ => (given, None),
    }
}

/// All subjects of several paths, with labels of the user's where there are any.
pub fn read_all(given: &[String], labels: &[String]) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for path in given {
        subjects.extend(read(path)?);
    }
    if labels.len() > subjects.len() {
        bail!(
            "`--label` was given {} times; there are {} results",
            labels.len(),
            subjects.len()
        );
    }
    for (subject, label) in subjects.iter_mut().zip(labels) {
        subject.label.clone_from(label);
    }
    Ok(subjects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_cut_off_only_where_there_is_one() {
        let cases = [
            ("a.json", ("a.json", None)),
            ("a.json#2", ("a.json", Some(2))),
            ("a#b.json", ("a#b.json", None)),
            ("a.json#", ("a.json#", None)),
        ];
        for (given, expected) in cases {
            assert_eq!(split(given), expected, "{given}");
        }
    }
}
