//! Patterns of names.
//!
//! `*` alone is everything; elsewhere `*` is any run of characters within a
//! segment and `**`, a segment by itself, is any number of segments (at the end
//! at least one). Matching keeps the set of reachable positions in the bits of
//! a word, so its time is the product of the lengths, whatever the pattern.

/// Most segments of a pattern and of a name; positions fit a `u32`.
const MAX_SEGMENTS: usize = 16;
/// Longest segment of a name.
const MAX_SEGMENT_BYTES: usize = 255;

/// Why a text is no pattern; the message stands behind "the pattern".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The pattern has more segments than any name.
    #[error("has {0} segments, at most {MAX_SEGMENTS}")]
    TooManySegments(usize),
    /// A segment is empty.
    #[error("has an empty segment (no leading, trailing or double slash)")]
    EmptySegment,
    /// A segment is longer, in bytes, than any of a name.
    #[error("has a segment of {0} bytes, at most {MAX_SEGMENT_BYTES}")]
    LongSegment(usize),
    /// `**` is only a part of its segment.
    #[error("has `**` beside other characters; it must be a segment by itself")]
    StarsBesideText,
    /// A segment starts with a dot.
    #[error("has a segment that starts with a dot, which no name does")]
    LeadingDot,
    /// A segment has a control character.
    #[error("has a control character")]
    ControlCharacter,
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    text: Box<str>,
    segments: Vec<PatternSegment>,
}

#[derive(Debug)]
enum PatternSegment {
    /// `**`
    Any,
    /// Text between stars: one part is a literal.
    Glob(Vec<Box<str>>),
}

/// Positions in a pattern; bit `n` is "after segment n - 1".
#[derive(Clone, Copy)]
struct Positions(u32);

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// [`PatternError`], whose message stands behind "the pattern".
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let segments = match text {
            "*" => vec![PatternSegment::Any],
            _ => text.split('/').map(segment).collect::<Result<_, _>>()?,
        };
        if segments.len() > MAX_SEGMENTS {
            return Err(PatternError::TooManySegments(segments.len()));
        }
        Ok(Self {
            text: text.into(),
            segments,
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the secret `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.after(name).0 & self.end() != 0
    }

    /// True if every name matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.covers_beneath("")
    }

    /// True if some name beneath directory `dir` (`""` is the root) matches.
    pub(crate) fn matches_beneath(&self, dir: &str) -> bool {
        self.after(dir).0 & (self.end() - 1) != 0
    }

    /// True if every name beneath `dir` matches.
    pub(crate) fn covers_beneath(&self, dir: &str) -> bool {
        let last = self.segments.len().saturating_sub(1);
        matches!(self.segments.last(), Some(PatternSegment::Any)) && self.after(dir).has(last)
    }

    fn end(&self) -> u32 {
        1 << self.segments.len()
    }

    fn after(&self, path: &str) -> Positions {
        let start = self.close(Positions(1));
        if path.is_empty() {
            return start;
        }
        let mut at = start;
        for segment in path.split('/') {
            at = self.step(at, segment);
            if at.0 == 0 {
                break;
            }
        }
        at
    }

    fn step(&self, at: Positions, name: &str) -> Positions {
        let mut next = Positions(0);
        let reached = self.segments.iter().enumerate().filter(|(i, _)| at.has(*i));
        for (index, segment) in reached {
            match segment {
                PatternSegment::Any => {
                    next.add(index);
                    if index + 1 == self.segments.len() {
                        next.add(index + 1);
                    }
                }
                PatternSegment::Glob(parts) if glob(parts, name) => next.add(index + 1),
                PatternSegment::Glob(_) => {}
            }
        }
        self.close(next)
    }

    /// `**` before the end may stand for no segment.
    fn close(&self, mut at: Positions) -> Positions {
        let last = self.segments.len().saturating_sub(1);
        for (index, segment) in self.segments.iter().enumerate().take(last) {
            if matches!(segment, PatternSegment::Any) && at.has(index) {
                at.add(index + 1);
            }
        }
        at
    }
}

impl Positions {
    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    fn add(&mut self, index: usize) {
        self.0 |= 1 << index;
    }
}

fn segment(text: &str) -> Result<PatternSegment, PatternError> {
    if text == "**" {
        return Ok(PatternSegment::Any);
    }
    if text.is_empty() {
        return Err(PatternError::EmptySegment);
    }
    if text.len() > MAX_SEGMENT_BYTES {
        return Err(PatternError::LongSegment(text.len()));
    }
    if text.contains("**") {
        return Err(PatternError::StarsBesideText);
    }
    if text.starts_with('.') {
        return Err(PatternError::LeadingDot);
    }
    if text.chars().any(char::is_control) {
        return Err(PatternError::ControlCharacter);
    }
    Ok(PatternSegment::Glob(
        text.split('*').map(Box::from).collect(),
    ))
}

/// Matches greedily: every part as early as it can be, the first and last anchored.
fn glob(parts: &[Box<str>], name: &str) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return name == &**first;
    };
    let Some(mut left) = name
        .strip_prefix(&**first)
        .and_then(|tail| tail.strip_suffix(&**last))
    else {
        return false;
    };
    for part in middle {
        match left.split_once(&**part) {
            Some((_, tail)) => left = tail,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn stars() {
        for (pattern, yes, no) in [
            ("*", vec!["a", "a/b/c"], vec![]),
            ("**", vec!["a", "a/b/c"], vec![]),
            ("a", vec!["a"], vec!["b", "a/b", "aa"]),
            ("a/*", vec!["a/b"], vec!["a", "a/b/c", "b/b"]),
            ("a/**", vec!["a/b", "a/b/c"], vec!["a", "b/a"]),
            ("**/p", vec!["p", "a/p", "a/b/p"], vec!["a/p/x", "ap"]),
            ("a/**/p", vec!["a/p", "a/b/p"], vec!["p", "a/b"]),
            ("db_*", vec!["db_", "db_x"], vec!["db", "db_x/y"]),
            ("*a*b", vec!["ab", "xaxb", "aab"], vec!["a", "ba", "ab/b"]),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn beneath() {
        let at = |pattern: &str, dir: &str| {
            let pattern = Pattern::parse(pattern).unwrap();
            (pattern.matches_beneath(dir), pattern.covers_beneath(dir))
        };
        assert_eq!(at("*", ""), (true, true));
        assert_eq!(at("a/**", ""), (true, false));
        assert_eq!(at("a/**", "a"), (true, true));
        assert_eq!(at("a/**", "a/b"), (true, true));
        assert_eq!(at("a/**", "b"), (false, false));
        assert_eq!(at("a/*", "a"), (true, false));
        assert_eq!(at("a/*", "a/b"), (false, false));
        assert_eq!(at("**/p", "x/y"), (true, false));
    }

    #[test]
    fn bad_patterns_say_why() {
        let seventeen = ["a"; 17].join("/");
        let long = "a".repeat(256);
        for (pattern, why) in [
            ("", "empty segment"),
            ("/a", "empty segment"),
            ("a/", "empty segment"),
            ("a//b", "empty segment"),
            ("a**", "by itself"),
            ("../a", "dot"),
            (".kid/x", "dot"),
            ("a\tb", "control"),
            (&seventeen, "17 segments"),
            (&long, "256 bytes"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err().to_string();
            assert!(error.contains(why), "{pattern:?}: {error}");
        }
    }

    #[test]
    fn hostile_patterns_are_fast() {
        let stars = "*a".repeat(100);
        assert!(!matches(&stars, &"a".repeat(99)));
        let deep = ["**/a"; 8].join("/");
        assert!(!matches(&deep, &["a"; 7].join("/")));
    }

    fn reference(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((&"**", [])), _) => !name.is_empty(),
            (Some((&"**", rest)), None) => reference(rest, name),
            (Some((&"**", rest)), Some((_, tail))) => {
                reference(rest, name) || reference(pattern, tail)
            }
            (Some(_), None) => false,
            (Some((p, rest)), Some((n, tail))) => {
                chars(
                    &p.chars().collect::<Vec<_>>(),
                    &n.chars().collect::<Vec<_>>(),
                ) && reference(rest, tail)
            }
        }
    }

    fn chars(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some(('*', rest)), None) => chars(rest, name),
            (Some(('*', rest)), Some((_, tail))) => chars(rest, name) || chars(pattern, tail),
            (Some(_), None) => false,
            (Some((p, rest)), Some((n, tail))) => p == n && chars(rest, tail),
        }
    }

    fn a_pattern() -> impl Strategy<Value = String> {
        let segment = prop_oneof!["[ab*]{1,4}", Just("**".to_owned())];
        prop::collection::vec(segment, 1..5)
            .prop_map(|segments| segments.join("/"))
            .prop_filter("compiles", |p| p != "*" && Pattern::parse(p).is_ok())
    }

    fn a_name() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{1,4}", 1..6).prop_map(|segments| segments.join("/"))
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_matcher(pattern in a_pattern(), name in a_name()) {
            let p: Vec<&str> = pattern.split('/').collect();
            let n: Vec<&str> = name.split('/').collect();
            prop_assert_eq!(matches(&pattern, &name), reference(&p, &n));
        }

        #[test]
        fn beneath_is_never_too_strict(pattern in a_pattern(), name in a_name()) {
            let compiled = Pattern::parse(&pattern).unwrap();
            let mut dirs: Vec<&str> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
            dirs.push("");
            for dir in dirs {
                if compiled.matches(&name) {
                    prop_assert!(compiled.matches_beneath(dir));
                } else {
                    prop_assert!(!compiled.covers_beneath(dir));
                }
            }
        }
    }
}
