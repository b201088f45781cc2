//! The description of a live server, in a line of its lock file behind the record. For display only. `[seg.file.about]`
//!
//! It is written once, before the record and the door. So a process that finds those also finds it. Nothing
//! depends on it but what a client says that got no answer.

use std::time::Duration;

use witrpc_core::text::escaped;
use witrpc_core::transport::ServerTerms;

use crate::sys::monotonic_nanoseconds;

/// The first word of the line.
const ABOUT: &str = "about ";
/// Between two pairs. No text has a comma.
const NEXT: &str = ", ";
const PROGRAM: &str = "program";
const SINCE: &str = "since";
const SERIALIZER: &str = "serializer";
const ENCRYPTION: &str = "encryption";
const AUTHORIZATION: &str = "authorization";
/// The maximum length of a text, in bytes: several texts fit on a line of a screen.
const LONGEST_TEXT: usize = 64;
/// More bytes than a line of today's has, so that later ones may have more pairs.
pub(super) const LONGEST_ABOUT: usize = 1024;

/// What is not said is `None`; texts are fit to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    /// The file name of the program.
    pub(super) program: Option<String>,
    /// When it started to listen, by the clock that all processes of a machine share until it is booted again.
    pub(super) since: Option<u64>,
    pub(super) serializer: Option<String>,
    pub(super) encryption: Option<String>,
    pub(super) authorization: Option<String>,
}

impl About {
    /// Of a server of this process that starts to listen now.
    pub(super) fn here(terms: Option<&ServerTerms>) -> Self {
        let program = std::env::current_exe().ok();
        let program = program.as_ref().and_then(|path| path.file_name());
        Self {
            program: program.and_then(|name| shown(&name.to_string_lossy())),
            since: Some(monotonic_nanoseconds()),
            serializer: terms.and_then(|terms| shown(&terms.serializer)),
            encryption: terms.and_then(|terms| shown(&terms.encryption)),
            authorization: terms.and_then(|terms| shown(&terms.authorization)),
        }
    }

    pub(super) fn encode(&self) -> String {
        let Self { program, since, serializer, encryption, authorization } = self;
        let since = since.map(|since| since.to_string());
        let pairs = [
            (PROGRAM, program),
            (SINCE, &since),
            (SERIALIZER, serializer),
            (ENCRYPTION, encryption),
            (AUTHORIZATION, authorization),
        ];
        let pairs =
            pairs.iter().filter_map(|(key, value)| Some(format!("{key} {}", (*value).as_ref()?)));
        format!("{ABOUT}{}\n", pairs.collect::<Vec<_>>().join(NEXT))
    }

    /// Whether the line is there, whatever it says.
    pub(super) fn is_in(behind_record: &[u8]) -> bool {
        behind_record.split(|byte| *byte == b'\n').any(|line| line.starts_with(ABOUT.as_bytes()))
    }

    /// What is said behind a record. Other lines and other pairs are passed over; so is a line that is not whole.
    pub(super) fn decode(behind_record: &[u8]) -> Self {
        let mut about = Self::default();
        let mut lines = behind_record.split_inclusive(|byte| *byte == b'\n');
        let line = lines.find_map(|line| line.strip_prefix(ABOUT.as_bytes())?.strip_suffix(b"\n"));
        let line = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
        for (key, value) in line.split(NEXT).filter_map(|pair| pair.split_once(' ')) {
            match key {
                PROGRAM => about.program = shown(value),
                SINCE => about.since = value.parse().ok(),
                SERIALIZER => about.serializer = shown(value),
                ENCRYPTION => about.encryption = shown(value),
                AUTHORIZATION => about.authorization = shown(value),
                _ => {}
            }
        }
        about
    }

    /// How long ago the server started to listen; `None` if it does not say, or names a moment that is yet to come here.
    pub(super) fn age(&self) -> Option<Duration> {
        monotonic_nanoseconds().checked_sub(self.since?).map(Duration::from_nanos)
    }
}

/// A text as it goes into the line, and comes out of it: whoever wrote it, it is escaped, has no comma, and is not long. To do this
/// twice is to do it once.
fn shown(text: &str) -> Option<String> {
    let mut text = escaped(text).replace(',', "\\u{2c}");
    let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default().min(text.len()));
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            program: Some("thumbnailer".to_owned()),
            since: Some(86_400_000_000_001),
            serializer: Some("json".to_owned()),
            encryption: Some("none".to_owned()),
            authorization: Some("sent-token".to_owned()),
        }
    }

    const LINE: &str = "about program thumbnailer, since 86400000000001, serializer json, encryption none, \
                        authorization sent-token\n";
    /// What is behind it on Windows.
    const DOOR: &str = "door 30313233343536373839616263646566\n";

    /// A frozen vector: what `docs/segment.md` shows.
    #[test]
    fn a_line_is_frozen() {
        assert_eq!(about().encode(), LINE);
        for around in [["", ""], ["", DOOR], [DOOR, ""], ["later things\n", "\0\0\0"]] {
            let text = [around[0], LINE, around[1]].concat();
            assert_eq!(About::decode(text.as_bytes()), about(), "{around:?}");
        }
        assert_eq!(About::default().encode(), "about \n");
        assert_eq!(About::decode(b"about \n"), About::default());
    }

    #[test]
    fn a_line_that_is_cut_or_none_says_nothing() {
        let text = [DOOR, LINE].concat();
        for cut in 0..text.len() {
            assert_eq!(About::decode(&text.as_bytes()[..cut]), About::default(), "{cut}");
        }
        for text in
            [&b"about program \xff\n"[..], b"About program x\n", b" about program x\n", &[0; 99]]
        {
            assert_eq!(About::decode(text), About::default(), "{text:?}");
        }
    }

    #[test]
    fn pairs_come_in_any_order_and_unknown_ones_are_passed_over() {
        let text = b"about , colour red, serializer postcard, since -1, lonely, encryption , program a b,c\n";
        let program = Some("a b\\u{2c}c".to_owned());
        let serializer = Some("postcard".to_owned());
        assert_eq!(About::decode(text), About { program, serializer, ..About::default() });
    }

    #[test]
    fn texts_of_others_are_escaped_and_not_long_however_they_come() {
        let evil = "x\u{1b}[2J, program y\r\u{202e}";
        let long = "\u{1f980}".repeat(500);
        let about = About {
            program: shown(evil),
            since: Some(u64::MAX),
            serializer: shown(&long),
            ..about()
        };
        let line = about.encode();
        assert_eq!(line.trim_end().chars().find(|c| c.is_control()), None, "{line}");
        let read = About::decode(line.as_bytes());
        assert_eq!(read, about);
        assert_eq!(read.program.as_deref(), Some("x\\u{1b}[2J\\u{2c} program y\\r\\u{202e}"));
        assert_eq!(read.serializer, Some("\u{1f980}".repeat(16)));
        // One that was written by somebody else.
        let text = format!("about program x\u{1b}[2J\t{long}\n");
        let program = About::decode(text.as_bytes()).program.unwrap();
        assert!(
            program.starts_with("x\\u{1b}[2J\\t\u{1f980}") && program.len() <= LONGEST_TEXT,
            "{program}"
        );
        for text in ["", "a,b", "\"\u{301},\u{301}'", "\\", &"\n".repeat(99), &format!("a{long}")] {
            let once = shown(text);
            assert_eq!(once.as_deref().and_then(shown), once, "{text:?}");
        }
    }

    #[test]
    fn the_longest_line_is_within_its_bound() {
        let text = shown(&"x".repeat(99));
        let about = About {
            program: text.clone(),
            since: Some(u64::MAX),
            serializer: text.clone(),
            encryption: text.clone(),
            authorization: text,
        };
        assert!(about.encode().len() <= LONGEST_ABOUT / 2);
    }

    #[test]
    fn a_moment_that_is_yet_to_come_gives_no_age() {
        let here = About::here(None);
        assert!(here.age().is_some());
        assert_eq!(About { since: Some(u64::MAX), ..About::default() }.age(), None);
        assert_eq!(About::default().age(), None);
    }
}
