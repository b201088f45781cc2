//! `N.lock`: whoever holds a lock on it is the one live server of `N`. `[seg.file.lock]`
//!
//! The system takes the lock away when its holder dies, so "is there another server?" never rests on a process id.
//! The file is removed, but only by who holds it (E1). So after locking it, one looks whether it is still what its
//! path names: if not, it was removed between opening and locking, and whoever makes the next one is not kept out
//! by ours.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, open};
use tokio::time::{Instant, sleep};
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::place::{Place, names, remove};
use super::record::RECORD_LEN;
use crate::access::Access;

/// What a lock file says, so that a sweep never takes another program's `x.lock` for ours.
pub(super) const MARK: &[u8] = b"lock of a witrpc server; it removes this file when it stops\n";
/// A sweep or a stopping server holds a lock for far less; a live server for ever.
const PATIENCE: Duration = Duration::from_millis(200);
/// More bytes than any lock file of ours has, by one.
pub(super) const LONGEST: u64 = (MARK.len() + RECORD_LEN + 1) as u64;
const PAUSE: Duration = Duration::from_millis(5);

/// The lock on an endpoint's name. Dropping it removes its file, then lets go.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Locked while open.
    file: File,
}

impl Lock {
    /// Becomes the one server of this name.
    ///
    /// # Errors
    ///
    /// [`Error::NameInUse`] if another live server is; [`Error::Io`].
    pub(super) async fn take(place: &Place) -> Result<Self, Error> {
        let path = place.lock();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let taken = Self::try_take(&path, place.access());
            match taken.map_err(|error| failed(path.display().to_string(), &error))? {
                Some(lock) => return Ok(lock),
                None if Instant::now() < deadline => sleep(PAUSE).await,
                None => {
                    return Err(Error::NameInUse {
                        endpoint: place.name().to_owned(),
                        place: place.directory().display().to_string(),
                    });
                }
            }
        }
    }

    /// One try. `None` if somebody else has it, or removed it under our hands.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file is not ours; whatever else the system says.
    pub(super) fn try_take(path: &Path, access: Access) -> io::Result<Option<Self>> {
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
    pub(super) fn reopen(&self) -> Result<File, Error> {
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

/// Whether a lock file bears our mark. A sweep leaves others alone; so it does an empty one, which a server that
/// was killed between making and marking it leaves behind, and which the next server of that name takes over.
pub(super) fn is_marked(path: &Path) -> bool {
    let mut found = Vec::new();
    open_lock(path).is_ok_and(|file| file.take(LONGEST).read_to_end(&mut found).is_ok())
        && found.starts_with(MARK)
}

/// Opens a lock file for looking into it.
///
/// # Errors
///
/// What the system says.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(open(path, flags, Mode::empty())?.into())
}

fn foreign() -> io::Error {
    let advice = "it is there, but it is no witrpc lock; choose another name or directory";
    io::Error::new(io::ErrorKind::InvalidData, advice)
}
