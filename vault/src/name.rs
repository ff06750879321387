//! Names of secrets: the one place where a foreign path is checked.

use std::fmt;

use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Longest segment of a name in bytes (NAME_MAX of Linux).
pub const MAX_SEGMENT: usize = 255;
/// Most segments in a name.
pub const MAX_SEGMENTS: usize = 16;
/// Longest name in bytes. A path may have 4,095 (PATH_MAX of Linux): the rest is for where
/// the tree is mounted, and for `.kid` before and a key id behind the name.
pub(crate) const MAX_NAME: usize = 2048;
/// The control file's name, which no secret may have.
const RESERVED: &str = "jarvisctl";

/// A checked name: 1 to 16 segments of 1 to 255 bytes joined by `/`, 2,048 in
/// all, UTF-8 in normal form C, without hidden characters, blanks at the ends of a segment or a dot at its
/// beginning; the first segment is not `jarvisctl`. What looks alike but for its letters
/// is one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(Box<str>);

/// Reason why a name was refused, and the segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no bytes.
    #[error("the name is empty")]
    Empty,
    /// Two slashes in a row, or one at an end.
    #[error("segment {0} of the name is empty (no leading, trailing or double slash)")]
    EmptySegment(usize),
    /// A segment over 255 bytes.
    #[error("segment {0} of the name has {1} bytes, at most {MAX_SEGMENT} are allowed")]
    LongSegment(usize, usize),
    /// Over 2,048 bytes.
    #[error("the name has {0} bytes, at most {MAX_NAME} are allowed: no path could lead to it")]
    Long(usize),
    /// More than 16 segments.
    #[error("the name has {0} segments, at most {MAX_SEGMENTS} are allowed")]
    TooDeep(usize),
    /// A segment starts with a dot (also `.` and `..`).
    #[error("segment {0} of the name starts with a dot")]
    LeadingDot(usize),
    /// A control character.
    #[error("segment {0} of the name holds the control character U+{1:04X}")]
    Control(usize, u32),
    /// A character that is not seen, that changes how others are shown, or that is none yet.
    #[error("segment {0} of the name holds the hidden character U+{1:04X}")]
    Hidden(usize, u32),
    /// A blank at an end of a segment.
    #[error("segment {0} of the name begins or ends with a blank")]
    Blank(usize),
    /// Characters in pieces that exist as one.
    #[error("segment {0} of the name is not in Unicode's normal form C")]
    NotNormal(usize),
    /// The control file's name.
    #[error("`{RESERVED}` is the control file's name")]
    Reserved,
}

impl SecretName {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`NameError`] says which segment (counted from 1) breaks which rule.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::Long(text.len()));
        }
        let count = text.split('/').count();
        if count > MAX_SEGMENTS {
            return Err(NameError::TooDeep(count));
        }
        for (index, segment) in text.split('/').enumerate() {
            check_segment(index + 1, segment)?;
        }
        if text.split('/').next() == Some(RESERVED) {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The name as one path, without a leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, at least one.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// Follows the segments from `start` with `step`, which gives the node of a
    /// segment and what to go on from; `None` once there is none.
    pub(crate) fn follow<N, E>(
        &self,
        start: u64,
        id: impl Fn(&N) -> u64,
        step: impl Fn(u64, &str) -> Result<Option<N>, E>,
    ) -> Result<Option<N>, E> {
        let (mut parent, mut found) = (start, None);
        for segment in self.segments() {
            let Some(node) = step(parent, segment)? else {
                return Ok(None);
            };
            parent = id(&node);
            found = Some(node);
        }
        Ok(found)
    }

    /// The last segment.
    #[must_use]
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_segment(number: usize, segment: &str) -> Result<(), NameError> {
    if segment.is_empty() {
        return Err(NameError::EmptySegment(number));
    }
    if segment.len() > MAX_SEGMENT {
        return Err(NameError::LongSegment(number, segment.len()));
    }
    if segment.starts_with('.') {
        return Err(NameError::LeadingDot(number));
    }
    if let Some(c) = segment.chars().find(|&c| is_hidden(c)) {
        let code = u32::from(c);
        return Err(if c.is_control() {
            NameError::Control(number, code)
        } else {
            NameError::Hidden(number, code)
        });
    }
    if segment.starts_with(' ') || segment.ends_with(' ') {
        return Err(NameError::Blank(number));
    }
    if !is_nfc(segment) {
        return Err(NameError::NotNormal(number));
    }
    Ok(())
}

/// Whether `c` is not seen where it is shown, or changes how what is around it is shown:
/// control and format characters (also those of direction and of no width), separators
/// other than the blank, and the letters, marks and symbols that Unicode has shown as nothing.
/// What is assigned to no character, or to whatever its users agreed on, is shown by each
/// program as it likes, and may come to mean one of these: it counts as not seen.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    match c.general_category() {
        GeneralCategory::Control
        | GeneralCategory::Format
        | GeneralCategory::LineSeparator
        | GeneralCategory::ParagraphSeparator
        | GeneralCategory::PrivateUse
        | GeneralCategory::Surrogate
        | GeneralCategory::Unassigned => true,
        GeneralCategory::SpaceSeparator => c != ' ',
        _ => matches!(c,
            '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}'
            | '\u{3164}' | '\u{ffa0}' | '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{13441}' | '\u{13442}' | '\u{16fe4}' | '\u{1d159}'
            | '\u{e0100}'..='\u{e01ef}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_exact() {
        assert!(SecretName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(
            SecretName::parse(&"a".repeat(256)),
            Err(NameError::LongSegment(1, 256))
        );
        let long = vec!["a".repeat(255); 8].join("/");
        assert_eq!(long.len(), 2047);
        assert!(SecretName::parse(&format!("{long}a")).is_err(), "a segment");
        let exact = format!("{}/aa", &long[..2045]);
        assert_eq!(
            SecretName::parse(&exact).map(|name| name.as_str().len()),
            Ok(2048)
        );
        assert_eq!(
            SecretName::parse(&format!("{exact}a")),
            Err(NameError::Long(2049))
        );
        assert!(SecretName::parse(&["a"; 16].join("/")).is_ok());
        assert_eq!(
            SecretName::parse(&["a"; 17].join("/")),
            Err(NameError::TooDeep(17))
        );
    }

    #[test]
    fn bad_names_say_what_and_where() {
        let cases = [
            ("", NameError::Empty),
            ("/a", NameError::EmptySegment(1)),
            ("a/", NameError::EmptySegment(2)),
            ("a//b", NameError::EmptySegment(2)),
            ("..", NameError::LeadingDot(1)),
            ("a/../b", NameError::LeadingDot(2)),
            (".kid", NameError::LeadingDot(1)),
            ("a/b\nc", NameError::Control(2, 10)),
            ("a\0", NameError::Control(1, 0)),
            ("a\u{1b}[2J", NameError::Control(1, 0x1b)),
            ("a\u{9b}2J", NameError::Control(1, 0x9b)),
            ("a/b\u{202e}c", NameError::Hidden(2, 0x202e)),
            ("a\u{200b}", NameError::Hidden(1, 0x200b)),
            ("a\u{feff}", NameError::Hidden(1, 0xfeff)),
            ("a\u{2028}b", NameError::Hidden(1, 0x2028)),
            ("a\u{a0}b", NameError::Hidden(1, 0xa0)),
            ("a\u{3164}b", NameError::Hidden(1, 0x3164)),
            ("a\u{fe0f}", NameError::Hidden(1, 0xfe0f)),
            ("a\u{e0041}", NameError::Hidden(1, 0xe0041)),
            ("a\u{e0100}", NameError::Hidden(1, 0xe0100)),
            ("a\u{2800}", NameError::Hidden(1, 0x2800)),
            ("a\u{1d159}", NameError::Hidden(1, 0x1d159)),
            ("a\u{13441}", NameError::Hidden(1, 0x13441)),
            ("a\u{16fe4}", NameError::Hidden(1, 0x16fe4)),
            ("a\u{e000}", NameError::Hidden(1, 0xe000)),
            ("a\u{10fffd}", NameError::Hidden(1, 0x10_fffd)),
            ("a\u{378}", NameError::Hidden(1, 0x378)),
            ("a\u{2065}", NameError::Hidden(1, 0x2065)),
            ("a\u{ffff}", NameError::Hidden(1, 0xffff)),
            ("a ", NameError::Blank(1)),
            ("a/ b", NameError::Blank(2)),
            (" /b", NameError::Blank(1)),
            ("u\u{308}bung", NameError::NotNormal(1)),
            ("jarvisctl", NameError::Reserved),
            ("jarvisctl/x", NameError::Reserved),
        ];
        for (text, error) in cases {
            assert_eq!(SecretName::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn ordinary_names_pass() {
        for text in [
            "a",
            "team/db/password",
            "übung/ключ",
            "a b",
            "x/jarvisctl",
            "a.b",
        ] {
            let name = SecretName::parse(text).unwrap();
            assert_eq!(name.segments().collect::<Vec<_>>().join("/"), text);
        }
    }
}
