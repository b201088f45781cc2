//! The lock that is a lock on the file. `[seg.file.lock]`
//!
//! The file is removed, but only by who holds it (E1). So after locking it, one looks whether it is still what its
//! path names: if not, it was removed between opening and locking, and whoever makes the next one is not kept out
//! by ours.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open};
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::names;
use crate::endpoint::lock::{LONGEST, MARK};
use crate::endpoint::place::remove;
use crate::sys::Access;

/// The lock on an endpoint's name. Dropping it removes its file, then lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    /// Locked while open.
    file: File,
}

impl Lock {
    /// One try. `None` if somebody else has it, or removed it under our hands.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file is not ours; whatever else the system says.
    pub(crate) fn try_take(path: &Path, access: Access) -> io::Result<Option<Self>> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
        let facts = file.metadata()?;
        // Ours, if it is new; then it has yet to be given to the group.
        let ours = [Access::User, access].iter().any(|a| a.admits(facts.uid(), facts.gid()));
        if !facts.file_type().is_file() || !ours {
            return Err(foreign());
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !names(path, &facts)? {
            return Ok(None);
        }
        fail_point::at("lock.taken");
        Self::mark(&file, access)?;
        fail_point::at("lock.marked");
        Ok(Some(Self { path: path.to_owned(), file }))
    }

    /// The file once more, for writing its record. Closing it does not let go of the lock.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn reopen(&self) -> Result<File, Error> {
        File::options()
            .write(true)
            .open(&self.path)
            .map_err(|error| failed(self.path.display().to_string(), &error))
    }

    /// Writes our mark into a new file, or finds it in an old one.
    fn mark(mut file: &File, access: Access) -> io::Result<()> {
        let mut found = Vec::new();
        file.take(LONGEST).read_to_end(&mut found)?;
        if found.starts_with(MARK) {
            return Ok(());
        }
        if !found.is_empty() {
            return Err(foreign());
        }
        access.open_up(file)?;
        file.write_all(MARK)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While held: E1. The file closes after this.
        if self.file.metadata().is_ok_and(|facts| names(&self.path, &facts).unwrap_or(false)) {
            remove(&self.path);
        }
        fail_point::at("lock.removed");
    }
}

/// What a lock file says, as far as it can be one of ours.
///
/// # Errors
///
/// What the system says.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(open(path, flags, Mode::empty())?);
    let mut found = Vec::new();
    file.take(LONGEST).read_to_end(&mut found)?;
    Ok(found)
}

/// Writes into the middle of a file.
///
/// # Errors
///
/// What the system says.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

fn foreign() -> io::Error {
    let advice = "it is there, but it is no witrpc lock; choose another name or directory";
    io::Error::new(io::ErrorKind::InvalidData, advice)
}
