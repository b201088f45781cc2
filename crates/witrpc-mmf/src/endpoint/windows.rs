//! Meeting on Windows: a door that is a pipe of the kernel, whose name the lock file tells; ask and answer go the same way, which
//! then stays open as the sign of life. `[seg.meet]`, `[seg.windows.door]`
//!
//! # Invariants
//!
//! - **E1** A server has its lock file open, for itself alone, as long as it listens; the system removes it with the last handle,
//!   however the process ends. `[seg.windows.lock]`
//! - **E2** So it does with a region's file. A sweep removes what nobody has open.

use std::{path::Path, sync::Arc};

use super::lock::MARK;
use super::record::{RECORD_LEN, Record};
use crate::layout::Instance;
use crate::sys::Access;

pub(super) mod directory;
pub(super) mod entrance;
pub(super) mod fault;
pub(super) mod knock;
pub(super) mod lock;
pub(super) mod sweep;

pub(super) use self::entrance::{Entrance, Way};
pub(super) use self::knock::Knock;
pub(super) use self::lock::Lock;

/// In front of the digits that name the door, behind the record of a lock file.
const DOOR: &str = "door ";

/// Whether a server lives whose lock file is in this directory.
pub(super) fn lives(directory: &Path, name: &str, _access: Access) -> bool {
    lock::is_held(&directory.join(format!("{name}.lock")))
}

/// The kernel's name of a door.
fn pipe_name(door: &str) -> String {
    format!(r"\\.\pipe\witrpc-{door}")
}

/// The line of a lock file that names a door. `[seg.windows.door]`
fn door_line(door: &Instance) -> String {
    format!("{DOOR}{}\n", super::place::hex(door))
}

/// What a lock file says behind its mark.
pub(super) fn record(text: &[u8]) -> Option<Record> {
    Record::decode(text.get(..RECORD_LEN)?)
}

/// What a lock file says of the server and its door; `None` if it is not complete.
fn read_lock(found: &[u8]) -> Option<(Record, Arc<str>)> {
    let (text, door) = found.strip_prefix(MARK)?.split_at_checked(RECORD_LEN)?;
    let door = str::from_utf8(door).ok()?.strip_prefix(DOOR)?.strip_suffix('\n')?;
    let digits = door.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (digits && door.len() == 32).then_some((record(text)?, door.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frozen vector: what `docs/segment.md` shows.
    #[test]
    fn a_lock_file_is_what_the_document_shows() {
        let record = Record { process_id: 4711, clients: 2, max_clients: 8 };
        let line = door_line(b"0123456789abcdef");
        assert_eq!(line, "door 30313233343536373839616263646566\n");
        let whole = [MARK, record.encode().as_bytes(), line.as_bytes()].concat();
        let (read, door) = read_lock(&whole).unwrap();
        assert_eq!((read, &*door), (record, "30313233343536373839616263646566"));
        for cut in 0..whole.len() {
            assert!(read_lock(&whole[..cut]).is_none());
        }
        assert!(read_lock(&whole.iter().map(u8::to_ascii_uppercase).collect::<Vec<_>>()).is_none());
    }
}
