//! The lock that is an open file: a server has it open for writing, and lets others read only. `[seg.windows.lock]`
//!
//! The system checks that at the one step of opening, for every process, and removes the file with its last handle. A lock on
//! the file's bytes (`LockFileEx`) would keep others from reading the record as well, and would leave the file behind.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::windows::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_DELETE_PENDING, ERROR_SHARING_VIOLATION, GENERIC_READ, GENERIC_WRITE,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_FLAG_DELETE_ON_CLOSE, FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_DELETE,
    FILE_SHARE_READ, FILE_SHARE_WRITE,
};
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::lock_file::door_line;
use crate::endpoint::lock::{LONGEST, MARK};
use crate::endpoint::record::RECORD_LEN;
use crate::layout::Instance;
use crate::sys::Access;
use crate::sys::windows::code_of;

/// The lock on an endpoint's name. It is let go, and its file removed, with the last handle of it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// One attempt. `None` if another process holds it, or its file is being removed.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file is not ours; whatever else the system says.
    pub(crate) fn try_take(path: &Path, access: Access) -> io::Result<Option<Self>> {
        let mut options = File::options();
        options
            .access_mode(GENERIC_READ | GENERIC_WRITE | DELETE)
            .share_mode(FILE_SHARE_READ)
            .custom_flags(FILE_FLAG_DELETE_ON_CLOSE | FILE_FLAG_OPEN_REPARSE_POINT)
            .write(true);
        let opened = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // What the system could not remove, as it stopped itself; or a live server's. Whose it is comes first: opening it
                // so is to remove it.
                match read(path, access) {
                    Ok(found) if !is_ours(&found) => return Err(foreign()),
                    Ok(_) => options.open(path),
                    Err(_) if path.is_dir() => return Err(foreign()),
                    Err(error) => Err(error),
                }
            }
            opened => opened,
        };
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if is_others(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        fail_point::at("lock.taken");
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(MARK)?;
        fail_point::at("lock.marked");
        Ok(Some(Self { path: path.to_owned(), file }))
    }

    /// The file once more, for writing its record. It is to be closed before the lock is let go.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn for_record(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|error| failed(self.path.display().to_string(), &error))
    }

    /// Writes where the door is, behind all that is there. `[seg.windows.door]`
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(super) fn tell_door(&self, door: &Instance) -> io::Result<()> {
        let told = (MARK.len() + RECORD_LEN) as u64; // If it could be.
        let end = self.file.metadata()?.len().max(told);
        write_at(&self.file, door_line(door).as_bytes(), end)
    }
}

/// The content of a lock file, if it may be one of ours.
///
/// # Errors
///
/// What the system says.
pub(crate) fn read(path: &Path, _access: Access) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)?;
    let mut found = Vec::new();
    file.take(LONGEST).read_to_end(&mut found)?;
    Ok(found)
}

/// Whether a process has it open for writing. During this check the lock cannot be taken.
pub(super) fn is_held(path: &Path) -> bool {
    let looked = File::options()
        .read(true)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_DELETE)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path);
    looked.is_err_and(|error| is(&error, ERROR_SHARING_VIOLATION))
}

/// Writes into the middle of a file.
///
/// # Errors
///
/// What the system says.
pub(crate) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = file.seek_write(bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// An empty one was about to be marked.
fn is_ours(found: &[u8]) -> bool {
    found.is_empty() || found.starts_with(MARK)
}

/// Whether another process holds it, or it is being removed with its last handle.
fn is_others(error: &io::Error) -> bool {
    [ERROR_SHARING_VIOLATION, ERROR_DELETE_PENDING, ERROR_ACCESS_DENIED]
        .iter()
        .any(|code| is(error, *code))
        || error.kind() == io::ErrorKind::NotFound
}

fn is(error: &io::Error, code: u32) -> bool {
    code_of(error) == Some(code)
}

fn foreign() -> io::Error {
    let advice = "the file exists and is no witrpc lock; choose another name or directory";
    io::Error::new(io::ErrorKind::InvalidData, advice)
}
