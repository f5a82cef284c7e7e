//! Stop strings, found across token borders and never sent.
//!
//! Invariant: what [`Stops::push`] lets through, up to the stop, is the text before the stop string
//! that is complete first (of two, the longer), whatever pieces the text comes in. Text that may
//! turn out to begin a stop string is held back, and no more than that.

/// The stop strings of one request, and the text that waits for a decision.
#[derive(Debug)]
pub(super) struct Stops {
    strings: Vec<String>,
    held: String,
}

/// What has been decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// Text that can go out.
    pub(super) text: String,
    /// A stop string came after it; nothing follows.
    pub(super) stopped: bool,
}

impl Stops {
    /// None of `strings` may be empty.
    pub(super) fn new(strings: Vec<String>) -> Self {
        debug_assert!(strings.iter().all(|string| !string.is_empty()));
        Self {
            strings,
            held: String::new(),
        }
    }

    /// Takes the next piece of text.
    pub(super) fn push(&mut self, piece: &str) -> Decided {
        self.held.push_str(piece);
        let found = self.strings.iter().filter_map(|stop| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start))
        });
        let stop = found.min().map(|(_, start)| start);
        let end = stop.unwrap_or_else(|| self.undecided());
        let text = self.held[..end].to_owned();
        self.held.drain(..end);
        Decided {
            text,
            stopped: stop.is_some(),
        }
    }

    /// Lets a piece through unread, with what was held.
    pub(super) fn pass(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        self.finish()
    }

    /// What was held after all, when nothing follows.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the first end of the held text begins that may begin a stop string.
    fn undecided(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let begins = |at: usize| {
            let end = &self.held[at..];
            self.strings.iter().any(|stop| stop.starts_with(end))
        };
        (from..self.held.len())
            .find(|&at| self.held.is_char_boundary(at) && begins(at))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Stop strings, pieces, what is sent for each and at the end, and whether it stopped.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], bool);

    fn pieces(strings: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stops = Stops::new(strings.iter().map(|stop| (*stop).to_owned()).collect());
        let mut sent = Vec::new();
        for piece in pieces {
            let decided = stops.push(piece);
            sent.push(decided.text);
            if decided.stopped {
                return (sent, true);
            }
        }
        sent.push(stops.finish());
        (sent, false)
    }

    #[test]
    fn a_stop_across_pieces_is_found_and_not_sent() {
        let cases: [Case<'_>; 7] = [
            (&[], &["ab", "c"], &["ab", "c", ""], false),
            (&["END"], &["aE", "N", "Db"], &["a", "", ""], true),
            (&["END"], &["aE", "N", "X"], &["a", "", "ENX", ""], false),
            (&["END"], &["aEN"], &["a", "EN"], false),
            (&["b", "ab"], &["xab"], &["x"], true),
            (&["。好"], &["你好。", "好的"], &["你好", ""], true),
            (&["aab"], &["aa", "aab"], &["", "aa"], true),
        ];
        for (strings, text, sent, stopped) in cases {
            let sent: Vec<String> = sent.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(
                pieces(strings, text),
                (sent, stopped),
                "{strings:?} {text:?}"
            );
        }
    }

    #[test]
    fn text_can_pass_unread() {
        let mut stops = Stops::new(vec!["ab".into()]);
        assert_eq!(stops.pass("ab"), "ab");
        assert_eq!(stops.push("a").text, "");
        assert_eq!(stops.pass("b"), "ab");
    }

    proptest! {
        #[test]
        fn the_text_before_the_first_stop_comes_out_for_any_pieces(
            text in "[ab汉]{0,30}",
            strings in prop::collection::vec("[ab汉]{1,4}", 0..4),
            cuts in prop::collection::vec(0..30_usize, 0..10),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let length = characters.len();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(length)).collect();
            cuts.extend([0, length]);
            cuts.sort_unstable();
            let cut: Vec<String> = cuts
                .windows(2)
                .map(|pair| characters[pair[0]..pair[1]].iter().collect())
                .collect();
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let cut: Vec<&str> = cut.iter().map(String::as_str).collect();
            let (sent, stopped) = pieces(&strings, &cut);
            let first = strings
                .iter()
                .filter_map(|stop| text.find(stop).map(|at| (at + stop.len(), at)))
                .min();
            prop_assert_eq!(stopped, first.is_some());
            prop_assert_eq!(sent.concat(), &text[..first.map_or(text.len(), |(_, at)| at)]);
        }
    }
}
