//! The directory of an endpoint: of one owner, with one mode. `[seg.file.directory]`

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use witrpc_core::Error;

use crate::endpoint::paths::CHOOSE;
use crate::sys::{Access, TO_DIRECTORIES, open, region_file};

/// The default directory of endpoints.
pub(crate) fn default() -> Result<PathBuf, Error> {
    let own = format!("witrpc-{}", geteuid().as_raw());
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Ok(std::env::temp_dir().join(own));
    }
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        return Ok(memory.join(own));
    }
    Err(Error::config("with_directory", memory.display(), format!("does not exist; {CHOOSE}")))
}

/// Makes it, if it is missing.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(crate) fn make(path: &Path, access: Access) -> Result<(), String> {
    let made = match open::make_directory(path) {
        Ok(made) => made,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(format!("cannot be created: {error}")),
    };
    access.open_up(&made, TO_DIRECTORIES).map_err(|error| {
        // Not to be found by a next attempt, half made.
        drop(std::fs::remove_dir(path));
        match access {
            Access::User => format!("cannot be made private: {error}"),
            Access::Group(id) => format!("cannot be given to the group {id}: {error}"),
        }
    })
}

/// What keeps it from being one, if anything does.
///
/// # Errors
///
/// `NotFound` if there is none; whatever else the system says.
pub(crate) fn fault(path: &Path, access: Access) -> io::Result<Option<String>> {
    let facts = path.symlink_metadata()?;
    if facts.is_symlink() {
        return Ok(Some("is a symbolic link".to_owned()));
    }
    if !facts.is_dir() {
        return Ok(Some("is not a directory".to_owned()));
    }
    let admitted = access.admits(facts.uid(), facts.gid());
    let mode = facts.mode() & 0o777;
    Ok(match access {
        Access::User if !admitted => Some("belongs to another user".to_owned()),
        Access::User if mode & 0o077 != 0 => Some(
            "is open to other users (its mode must be 0700, unless with_group is set)".to_owned(),
        ),
        Access::Group(id) if !admitted => {
            Some(format!("belongs to the group {}, not to {id} (with_group)", facts.gid()))
        }
        Access::Group(_) if mode != 0o770 => {
            Some(format!("has mode {mode:04o}, but with_group needs 0770"))
        }
        _ => None,
    })
}

/// Who shares it, if it is a group's.
pub(crate) fn shared(path: &Path) -> Option<Access> {
    let facts = path.symlink_metadata().ok()?;
    (facts.mode() & 0o070 != 0).then(|| Access::Group(facts.gid()))
}

/// The bytes that are free for us on its file system; `None` if it does not report that, as a ramfs.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn free(path: &Path) -> io::Result<Option<u64>> {
    Ok(region_file::free(&rustix::fs::statvfs(path)?))
}
