//! Which queries of a batch attend in one product.
//!
//! A product takes some sequences side by side, each with as many queries as the others, over as
//! many keys as the longest has. Single queries (decoding, and the last layer) share products with
//! those of similar length; chunks of prompts attend piece by piece, so that early pieces do not
//! pay for late keys. **Invariant.** Every row is in one group exactly, a padded group is less than
//! twice what it holds, and the numbers of a group are bounded whatever the batch is.

use std::ops::Range;

/// Queries of a sequence that attend at once.
const MOST_QUERIES: usize = 256;
/// Keys of all sequences of a group; a single sequence may have more.
const MOST_KEYS: usize = 1 << 16;

/// Consecutive rows of the batch that belong to one sequence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span<'a> {
    pub(super) rows: Range<usize>,
    /// Tokens of the sequence up to the last of the rows, that one included.
    pub(super) tokens: usize,
    pub(super) blocks: &'a [u32],
}

/// Spans of equal length that attend together.
pub(super) type Group<'a> = Vec<Span<'a>>;

/// Cuts the spans into groups.
pub(super) fn groups<'a>(spans: impl Iterator<Item = Span<'a>>) -> Vec<Group<'a>> {
    let (mut groups, mut singles) = (Vec::new(), Vec::new());
    for span in spans {
        if span.rows.len() == 1 {
            singles.push(span);
        } else {
            groups.extend(pieces(&span).map(|piece| vec![piece]));
        }
    }
    singles.sort_by_key(|span| span.tokens);
    let mut group: Group<'a> = Vec::new();
    for span in singles {
        let keys = (group.len() + 1) * span.tokens;
        let full = |first: &Span<'_>| span.tokens >= 2 * first.tokens || keys > MOST_KEYS;
        if group.first().is_some_and(full) {
            groups.push(std::mem::take(&mut group));
        }
        group.push(span);
    }
    groups.extend(Some(group).filter(|group| !group.is_empty()));
    groups
}

fn pieces<'a>(span: &Span<'a>) -> impl Iterator<Item = Span<'a>> {
    let Span {
        rows,
        tokens,
        blocks,
    } = span.clone();
    let end = rows.end;
    rows.step_by(MOST_QUERIES).map(move |start| {
        let rows = start..end.min(start + MOST_QUERIES);
        let tokens = tokens - (end - rows.end);
        Span {
            rows,
            tokens,
            blocks,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_attends_once_and_padding_is_bounded(
            lengths in prop::collection::vec((1_usize..700, 0_usize..9000), 0..60)
        ) {
            let mut end = 0;
            let spans: Vec<_> = lengths
                .iter()
                .map(|(count, before)| {
                    end += count;
                    Span { rows: end - count..end, tokens: before + count, blocks: &[] }
                })
                .collect();
            let groups = groups(spans.iter().cloned());
            let mut seen = vec![0; end];
            for group in &groups {
                let queries = group[0].rows.len();
                prop_assert!(queries <= MOST_QUERIES);
                let longest = group.iter().map(|span| span.tokens).max().unwrap();
                let held: usize = group.iter().map(|span| span.tokens).sum();
                prop_assert!(longest * group.len() < 2 * held || group.len() == 1);
                prop_assert!(group.len() == 1 || longest * group.len() <= MOST_KEYS);
                for span in group {
                    prop_assert_eq!(span.rows.len(), queries);
                    let of = spans.iter().find(|of| of.rows.contains(&span.rows.start)).unwrap();
                    // the position of a row does not depend on how its span was cut
                    prop_assert_eq!(span.tokens + (of.rows.end - span.rows.end), of.tokens);
                    for row in span.rows.clone() {
                        seen[row] += 1;
                    }
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn similar_lengths_share_a_product() {
        let lengths = [300_usize, 40, 33, 90, 70, 512];
        let spans = lengths.iter().enumerate().map(|(row, tokens)| Span {
            rows: row..row + 1,
            tokens: *tokens,
            blocks: &[],
        });
        let found: Vec<Vec<usize>> = groups(spans)
            .iter()
            .map(|group| group.iter().map(|span| span.tokens).collect())
            .collect();
        assert_eq!(found, [vec![33, 40], vec![70, 90], vec![300, 512]]);
    }
}
