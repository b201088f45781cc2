//! The last line of a lock file: the name of the door. `[seg.windows.door]`

use std::sync::Arc;

use crate::endpoint::lock::told;
use crate::endpoint::paths::hex;
use crate::endpoint::record::Record;
use crate::layout::Instance;

/// In front of the digits that name the door, in a line behind the record of a lock file.
const DOOR: &str = "door ";

/// The kernel's name of a door.
pub(super) fn pipe_name(door: &str) -> String {
    format!(r"\\.\pipe\witrpc-{door}")
}

/// The line of a lock file that names a door. `[seg.windows.door]`
pub(super) fn door_line(door: &Instance) -> String {
    format!("{DOOR}{}\n", hex(door))
}

/// The server's record and its door, from a lock file; `None` if it is incomplete.
pub(super) fn read_lock(found: &[u8]) -> Option<(Record, Arc<str>)> {
    let (record, lines) = told(found)?;
    let mut lines = lines.split_inclusive(|byte| *byte == b'\n');
    let door = lines.find_map(|line| line.strip_prefix(DOOR.as_bytes())?.strip_suffix(b"\n"))?;
    let door = std::str::from_utf8(door).ok()?;
    let digits = door.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (digits && door.len() == 32).then(|| (record, door.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::lock::MARK;

    /// A frozen vector: what `docs/segment.md` shows.
    #[test]
    fn a_lock_file_is_what_the_document_shows() {
        let record = Record { process_id: 4711, clients: 2, max_clients: 8 };
        let line = door_line(b"0123456789abcdef");
        assert_eq!(line, "door 30313233343536373839616263646566\n");
        for about in ["", "about program x\n", "about program door 1\nlater things\n"] {
            let whole =
                [MARK, record.encode().as_bytes(), about.as_bytes(), line.as_bytes()].concat();
            let (read, door) = read_lock(&whole).unwrap();
            assert_eq!((read, &*door), (record, "30313233343536373839616263646566"));
            for cut in 0..whole.len() {
                assert!(read_lock(&whole[..cut]).is_none());
            }
            let upper = whole.iter().map(u8::to_ascii_uppercase).collect::<Vec<_>>();
            assert!(read_lock(&upper).is_none());
        }
    }
}
