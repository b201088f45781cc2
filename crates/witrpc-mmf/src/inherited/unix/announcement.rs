//! How the descriptors are announced to the program that inherits them: a line of text. `[seg.inherited.variable]`

use std::fmt;

use crate::layout::Instance;
use crate::sys::inheriting::Announced;

/// `[seg.inherited.variable]` Raised by every change of the descriptors or of this text.
const VERSION: &str = "3";
/// In front of what is no part of the connection.
const EXTRA: char = '+';

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    /// The instance of the region.
    pub(super) nonce: Instance,
    /// The host's, as it sees itself.
    pub(super) process_id: u32,
    /// Of each arena, in bytes; 0 if there are none.
    pub(super) arena_size: u64,
    /// In the order of `[seg.inherited.descriptors]`.
    pub(super) descriptors: Vec<Announced>,
    /// What the host has added.
    pub(super) extras: Vec<Announced>,
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} ")?;
        self.nonce.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, " {} {}", self.process_id, self.arena_size)?;
        self.descriptors.iter().try_for_each(|one| write!(f, " {}:{}", one.number, one.inode))?;
        self.extras.iter().try_for_each(|one| write!(f, " {EXTRA}{}:{}", one.number, one.inode))
    }
}

impl Announcement {
    /// `None` if it is something else, or of another version.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != VERSION {
            return None;
        }
        let digits = words.next().filter(|digits| digits.len() == 32)?;
        let mut nonce = Instance::default();
        for (at, byte) in nonce.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        let process_id = words.next()?.parse().ok()?;
        let arena_size = words.next()?.parse().ok()?;
        let (mut descriptors, mut extras) = (Vec::new(), Vec::new());
        for word in words {
            let (word, list) = match word.strip_prefix(EXTRA) {
                Some(word) => (word, &mut extras),
                None => (word, &mut descriptors),
            };
            let (number, inode) = word.split_once(':')?;
            list.push(Announced { number: number.parse().ok()?, inode: inode.parse().ok()? });
        }
        Some(Self { nonce, process_id, arena_size, descriptors, extras })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frozen vector: what `docs/segment.md` says.
    #[test]
    fn an_announcement_is_what_the_document_says() {
        let descriptors =
            vec![Announced { number: 3, inode: 1042 }, Announced { number: 17, inode: u64::MAX }];
        let nonce = [0xab; 16];
        let (process_id, arena_size, extras) = (4711, 0, Vec::new());
        let mut announcement = Announcement { nonce, process_id, arena_size, descriptors, extras };
        let text = announcement.to_string();
        assert_eq!(text, format!("3 {} 4711 0 3:1042 17:18446744073709551615", "ab".repeat(16)));
        assert_eq!(Announcement::parse(&text).as_ref(), Some(&announcement));
        announcement.arena_size = 8192;
        announcement.extras = vec![Announced { number: 18, inode: 7 }];
        let text = announcement.to_string();
        let nonce = "ab".repeat(16);
        let expected = format!("3 {nonce} 4711 8192 3:1042 17:18446744073709551615 +18:7");
        assert_eq!(text, expected);
        assert_eq!(Announcement::parse(&text), Some(announcement));
    }

    #[test]
    fn what_is_no_announcement_is_refused() {
        let nonce = "0".repeat(32);
        for text in [
            String::new(),
            "3".to_owned(),
            format!("2 {nonce} 1 0 3:1"),
            format!("3 {nonce}"),
            format!("3 {nonce} 1"),
            format!("3 {nonce} 1 3:1"),
            format!("3 {nonce} -1 0 3:1"),
            format!("3 {nonce} 1 -1 3:1"),
            format!("3 {} 1 0 3:1", "0".repeat(31)),
            format!("3 {} 1 0 3:1", "x".repeat(32)),
            format!("3 {nonce} 1 0 3"),
            format!("3 {nonce} 1 0 3:1 4:x"),
            format!("3 {nonce} 1 0 3:1  4:2"),
        ] {
            assert_eq!(Announcement::parse(&text), None, "{text:?}");
        }
    }
}
