//! The directory of an endpoint: of one owner, with one access list. `[seg.file.directory]`, `[seg.windows.access]`

use std::{
    io,
    os::windows::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use windows_sys::Win32::Storage::FileSystem::FILE_ATTRIBUTE_REPARSE_POINT;
use witrpc_core::Error;

use crate::endpoint::paths::CHOOSE;
use crate::sys::Access;
use crate::sys::windows::{create_directory, free_bytes, sddl, security_of, user};

/// The default directory of endpoints.
pub(crate) fn default() -> Result<PathBuf, Error> {
    match std::env::var_os("LOCALAPPDATA") {
        Some(local) if !local.is_empty() => Ok(Path::new(&local).join("witrpc")),
        _ => {
            let fault = format!("is not set, so there is no default directory; {CHOOSE}");
            Err(Error::config("with_directory", "%LOCALAPPDATA%", fault))
        }
    }
}

/// Makes it, if it is missing.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(crate) fn make(path: &Path, _access: Access) -> Result<(), String> {
    match create_directory(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("cannot be created: {error}"))
        }
        _ => Ok(()),
    }
}

/// What keeps it from being one, if anything does.
///
/// # Errors
///
/// `NotFound` if there is none; whatever else the system says.
pub(crate) fn fault(path: &Path, _access: Access) -> io::Result<Option<String>> {
    let facts = path.symlink_metadata()?;
    if facts.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        return Ok(Some("is a symbolic link or another kind of reparse point".to_owned()));
    }
    if !facts.is_dir() {
        return Ok(Some("is not a directory".to_owned()));
    }
    Ok(sddl::fault(&security_of(path)?, &user()?))
}

/// Groups share no directories here.
pub(crate) const fn shared(_path: &Path) -> Option<Access> {
    None
}

/// The bytes that its file system has free for us.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn free(path: &Path) -> io::Result<Option<u64>> {
    free_bytes(path).map(Some)
}
