//! `N.lock` as a lock on the file. `[seg.file.lock]`
//!
//! The file may be removed, but only by its holder (E1). So after locking it, a process checks whether the path still names the file.
//! If not, the file was removed between opening and locking, and this lock would not keep out the holder of the next file. Everything
//! is written through the locked descriptor, and only into a file that bears our mark or that we have made. So nothing that somebody
//! else has put there is changed.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use witrpc_core::text::Escaped;
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::files::names;
use crate::endpoint::lock::{LONGEST, MARK};
use crate::endpoint::paths::remove;
use crate::sys::open::{Kind, make_file, open_ours};
use crate::sys::{Access, Owner, TO_FILES};

/// The lock on an endpoint's name. Dropping it removes its file, then lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    owner: Owner,
    path: PathBuf,
    /// Locked while open.
    file: File,
}

impl Lock {
    /// One attempt. `None` if another process holds it, or the file was removed meanwhile, or it has no mark yet.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file is not ours; whatever else the system says.
    pub(crate) fn try_take(path: &Path, access: Access) -> io::Result<Option<Self>> {
        let (file, new) = match make_file(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Of the user's own, if it has yet to be given to the group.
                let access = [Access::User, access];
                match open_ours(path, OFlags::RDWR, Kind::File, &access) {
                    Ok(file) => (File::from(file), false),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        return Err(foreign());
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if !names(path, &file.metadata()?)? {
            return Ok(None);
        }
        fail_point::at("lock.taken");
        if new {
            access.open_up(&file, TO_FILES)?;
            (&file).write_all(MARK)?;
        } else if !Self::is_marked(&file)? {
            remove(path); // Under the lock: E1.
            return Ok(None);
        }
        fail_point::at("lock.marked");
        Ok(Some(Self { owner: Owner::here(), path: path.to_owned(), file }))
    }

    /// The file once more, for writing its record. Closing it does not let go of the lock, and keeping it does not keep the lock.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn for_record(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|error| failed(self.path.display().to_string(), &error))
    }

    /// Whether our mark is in a file that we have not made; `false` if nothing is.
    fn is_marked(file: &File) -> io::Result<bool> {
        let mut found = Vec::new();
        file.take(LONGEST).read_to_end(&mut found)?;
        if found.starts_with(MARK) || found.is_empty() {
            return Ok(!found.is_empty());
        }
        Err(foreign())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The lock is the parent's until it closes the file, too.
        }
        // While held: E1.
        if self.file.metadata().is_ok_and(|facts| names(&self.path, &facts).unwrap_or(false)) {
            remove(&self.path);
        }
        fail_point::at("lock.removed");
        // Not by closing it: there are more descriptors of this opening, one of the record, and those of forked children.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(error = %Escaped(&error), "could not release a lock");
        }
    }
}

/// The content of a lock file, if it may be one of ours.
///
/// # Errors
///
/// What the system says.
pub(crate) fn read(path: &Path, access: Access) -> io::Result<Vec<u8>> {
    let file = File::from(open_ours(path, OFlags::RDONLY, Kind::File, &[access])?);
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
    let advice = "the file exists and is no witrpc lock; choose another name or directory";
    io::Error::new(io::ErrorKind::InvalidData, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &Path) -> Lock {
        Lock::try_take(path, Access::User).unwrap().expect("nobody has it")
    }

    /// An attacker with write access to the directory replaces a held lock by a link.
    #[test]
    fn a_record_goes_into_the_file_that_is_locked_whatever_its_path_names() {
        let directory = tempfile::tempdir().unwrap();
        let [path, victim] = ["x.lock", "victim"].map(|name| directory.path().join(name));
        let precious = "precious".repeat(20);
        std::fs::write(&victim, &precious).unwrap();
        let lock = take(&path);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write_at(&lock.for_record().unwrap(), b"record", MARK.len() as u64).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), precious);
        drop(lock);
        assert!(path.is_symlink(), "it is not ours to remove");
    }

    #[test]
    fn a_lock_is_let_go_whoever_has_its_file_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let lock = take(&path);
        let kept = [lock.for_record().unwrap(), File::open(&path).unwrap()];
        assert!(Lock::try_take(&path, Access::User).unwrap().is_none());
        let file = &lock.file.try_clone().unwrap();
        drop(lock);
        flock(file, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
        drop(kept);
    }

    /// One that a server left that was killed before it could mark it; or somebody's, under this name.
    #[test]
    fn an_empty_file_is_replaced_and_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        drop(make_file(&path).unwrap());
        let empty = File::open(&path).unwrap();
        assert!(Lock::try_take(&path, Access::User).unwrap().is_none());
        let _lock = take(&path);
        assert_eq!(empty.metadata().unwrap().len(), 0);
        assert!(!names(&path, &empty.metadata().unwrap()).unwrap());
    }
}
