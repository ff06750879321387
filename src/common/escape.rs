//! Escapes for what others wrote: names, and records that nobody verified.
//!
//! A terminal obeys control characters, and shows text in another order or not at all
//! after some others. They are shown by their numbers.

use jarvis_vault::is_hidden;

/// Text as a terminal may show it, in one line.
pub(crate) fn line(text: &str) -> String {
    escape(text, |_| false)
}

/// Text as a terminal may show it; its line breaks and tabs are our own.
pub(crate) fn lines(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

fn escape(text: &str, keeps: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && !keeps(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// JSON with the same meaning, in which such characters are escaped as JSON has it.
pub(crate) fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Outside of strings there are none but line breaks and blanks.
        if is_hidden(c) && c != '\n' {
            let units = &mut [0; 2];
            for unit in c.encode_utf16(units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Cell of a table that programs read: escaped, and no formula to a spreadsheet.
pub(crate) fn csv_cell(text: &str) -> String {
    let shown = line(text);
    if shown.starts_with(['=', '+', '-', '@']) {
        return format!("'{shown}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILD: &str = "a\u{1b}[2J\u{202e}\u{9b}\n\u{e0041}b";

    #[test]
    fn a_terminal_gets_no_orders() {
        assert_eq!(line(WILD), r"a\u{1b}[2J\u{202e}\u{9b}\u{a}\u{e0041}b");
        assert_eq!(lines("a\tb\r\nc"), "a\tb\\u{d}\nc");
        assert_eq!(line("\u{fc}bung/\u{43a}"), "\u{fc}bung/\u{43a}");
    }

    #[test]
    fn json_means_the_same() {
        let text = serde_json::to_string_pretty(&[WILD]).unwrap();
        let shown = json(&text);
        assert!(!shown.chars().any(|c| is_hidden(c) && c != '\n'));
        let back: Vec<String> = serde_json::from_str(&shown).unwrap();
        assert_eq!(back, [WILD]);
    }

    #[test]
    fn cells_are_no_formulas() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)"] {
            assert_eq!(csv_cell(text), format!("'{text}"));
        }
        assert_eq!(csv_cell("\t=1"), r"\u{9}=1");
        assert_eq!(csv_cell("a=b"), "a=b");
    }
}
