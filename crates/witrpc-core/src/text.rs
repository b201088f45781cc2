//! Escaping of untrusted texts that people will read.
//!
//! A text of the peer may contain anything: a line break would forge a line of a log, and an escape sequence would control a terminal. So texts
//! for people are escaped where they are decoded. Log output is escaped once more, as an error may show a value of the user, which the
//! library does not change. Names are compared as they were sent.

use std::fmt::{self, Write};
use std::time::Duration;

/// Shows a value on one line: what is not printable is escaped, as in a string literal. Quotes and backslashes stay as they are,
/// so that escaping twice is escaping once.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Shows a duration with three digits, or to the second.
#[derive(Clone, Copy, Debug)]
pub struct Rounded(pub Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u128 = 1_000_000_000;
        let nanos = self.0.as_nanos();
        let digits = nanos.checked_ilog10().unwrap_or(0) + 1;
        let unit = 10_u128.pow(digits.saturating_sub(3)).min(SECOND);
        let nanos = (nanos + unit / 2) / unit * unit;
        let whole = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
        let part = u32::try_from(nanos % SECOND).expect("less than a second");
        write!(f, "{:?}", Duration::new(whole, part))
    }
}

/// The same, as a text.
pub fn escaped(text: impl fmt::Display) -> String {
    Escaped(text).to_string()
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // In pieces between what stays: a letter and the accents behind it are escaped together, or not at all.
        for piece in text.split_inclusive(['"', '\'', '\\']) {
            let stays = piece.char_indices().next_back().filter(|(_, c)| "\"'\\".contains(*c));
            let (before, stays) = piece.split_at(stays.map_or(piece.len(), |(at, _)| at));
            write!(self.0, "{}", before.escape_debug())?;
            self.0.write_str(stays)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;
    use super::Rounded;
    use super::escaped;
    use std::time::Duration;

    #[test]
    fn a_duration_has_three_digits() {
        for (nanos, shown) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_234, "1.23µs"),
            (9_996, "10µs"),
            (999_500_000, "1s"),
            (250_000_000, "250ms"),
            (250_499_999, "250ms"),
            (1_005_000_001, "1.01s"),
            (12_345_678_901, "12.3s"),
            (12_345_678_901_234, "12346s"),
        ] {
            assert_eq!(Rounded(Duration::from_nanos(nanos)).to_string(), shown);
        }
        assert_eq!(Rounded(Duration::MAX).to_string(), "18446744073709551615s");
    }

    #[test]
    fn what_can_be_printed_stays_and_all_else_is_escaped() {
        for (text, shown) in [
            ("", ""),
            ("plain", "plain"),
            ("`a` is 'b', not \"c\" \\ d", "`a` is 'b', not \"c\" \\ d"),
            ("naïve हिन्दी cafe\u{301} 漢字 🦀", "naïve हिन्दी cafe\u{301} 漢字 🦀"),
            ("one\ntwo\r\n\tthree\0", "one\\ntwo\\r\\n\\tthree\\0"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\u{9b}2J\u{7f}\u{8}", "\\u{9b}2J\\u{7f}\\u{8}"),
            ("\u{202e}gpj.exe\u{2028}\u{feff}", "\\u{202e}gpj.exe\\u{2028}\\u{feff}"),
            ("\\\n'\n\"\n", "\\\\n'\\n\"\\n"),
        ] {
            assert_eq!(escaped(text), shown);
            assert_eq!(escaped(shown), shown, "once more");
        }
    }

    #[test]
    fn a_value_is_escaped_in_whatever_pieces_it_is_shown() {
        let pieces = format_args!("{}|{:?}|{}", "a\nb", "c\nd", '\u{1b}').to_string();
        assert_eq!(
            Escaped(format_args!("{}|{:?}|{}", "a\nb", "c\nd", '\u{1b}')).to_string(),
            escaped(pieces)
        );
    }
}
