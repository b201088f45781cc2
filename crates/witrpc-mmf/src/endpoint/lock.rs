//! `N.lock`: its holder is the one live server of `N`. `[seg.file.lock]`
//!
//! The system releases the lock when the holder dies. So whether there is another server never depends on a process id. How a lock is
//! held, and what else it contains, depends on the system.

use std::{fs::File, io, path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use witrpc_core::Error;

use super::about::{About, LONGEST_ABOUT};
use super::os::Lock;
use super::os::fault::failed;
use super::os::lock::{read, write_at};
use super::paths::EndpointPaths;
use super::record::{RECORD_LEN, Record};
use crate::sys::Access;

/// The mark of our lock files: a sweep never takes another program's `x.lock` for ours.
pub(super) const MARK: &[u8] = b"lock of a witrpc server; it removes this file when it stops\n";
/// A sweep or a stopping server holds a lock for far less; a live server for ever.
const PATIENCE: Duration = Duration::from_millis(200);
/// More bytes than mark, record and what is said of the server have together, and the line that some systems add.
pub(super) const LONGEST: u64 = (MARK.len() + RECORD_LEN + LONGEST_ABOUT + 64) as u64;
const PAUSE: Duration = Duration::from_millis(5);

/// Becomes the one server of this name.
///
/// # Errors
///
/// [`Error::NameInUse`] if another live server is; [`Error::Io`].
pub(super) async fn take(paths: &EndpointPaths) -> Result<Lock, Error> {
    let path = paths.lock();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let taken = Lock::try_take(&path, paths.access());
        match taken.map_err(|error| failed(path.display().to_string(), &error))? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < deadline => sleep(PAUSE).await,
            None => {
                return Err(Error::NameInUse {
                    endpoint: paths.name().to_owned(),
                    place: paths.directory().display().to_string(),
                    process_id: holder(paths),
                });
            }
        }
    }
}

/// Says in a lock file that is ours what server this is, and removes what else is there behind the mark: a killed server may have
/// left it. `[seg.file.about]`
///
/// # Errors
///
/// What the system says.
pub(super) fn introduce(lock: &File, about: &About) -> io::Result<()> {
    let mark = MARK.len() as u64;
    lock.set_len(mark)?;
    write_at(lock, about.encode().as_bytes(), mark + RECORD_LEN as u64)
}

/// Which process has the lock, as far as it has said so.
pub(super) fn holder(paths: &EndpointPaths) -> Option<u32> {
    let found = read(&paths.lock(), paths.access()).ok()?;
    told(&found).map(|(record, _)| record.process_id)
}

/// Whether the server that holds the lock says nothing of itself, as those did that have version 1 of the rendezvous protocol.
pub(super) fn is_of_version_1(paths: &EndpointPaths) -> bool {
    let Ok(found) = read(&paths.lock(), paths.access()) else { return false };
    told(&found).is_some_and(|(_, lines)| !About::is_in(lines))
}

/// The server's record in a lock file, and the lines behind it.
pub(super) fn told(found: &[u8]) -> Option<(Record, &[u8])> {
    let (record, lines) = found.strip_prefix(MARK)?.split_at_checked(RECORD_LEN)?;
    Some((Record::decode(record)?, lines))
}

/// Whether a lock file bears our mark. A sweep leaves others alone; so it does an empty one, which a server that
/// was killed between making and marking it leaves behind, and which the next server of that name takes over.
pub(super) fn is_marked(path: &Path, access: Access) -> bool {
    read(path, access).is_ok_and(|found| found.starts_with(MARK))
}
