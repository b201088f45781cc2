//! The file of a region: it is gone when the last handle is closed, however the processes end. `[seg.windows.region]`

use std::{
    fs::File,
    io,
    os::windows::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ATTRIBUTE_REPARSE_POINT, FILE_ATTRIBUTE_TEMPORARY, FILE_FLAG_DELETE_ON_CLOSE,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
};
use witrpc_core::fail_point;

use super::Access;

const SHARED_BY_BOTH: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// Makes it, empty. `[seg.file.create]`
///
/// # Errors
///
/// `AlreadyExists` if there is such a file; whatever else the system says.
pub(crate) fn make(path: &Path) -> io::Result<File> {
    File::options()
        .access_mode(GENERIC_READ | GENERIC_WRITE | DELETE)
        .share_mode(SHARED_BY_BOTH)
        // Its pages need not reach the disk.
        .attributes(FILE_ATTRIBUTE_TEMPORARY)
        .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
        .write(true)
        .create_new(true)
        .open(path)
}

/// Gives it this size, with all its pages.
///
/// # Errors
///
/// `StorageFull` if the file system is; whatever else the system says.
pub(crate) fn fill(
    file: &File,
    size: u64,
    _access: Access,
    _is_wanted: &dyn Fn() -> bool,
) -> io::Result<()> {
    fail_point::at("region.made");
    // Allocates: only files that were asked to be sparse are.
    file.set_len(size)
}

/// Opens what the peer made. `[seg.file.attach]`
///
/// # Errors
///
/// `NotFound` if it is gone; `InvalidData` if it is no regular file.
pub(crate) fn open_existing(path: &Path, _access: Access) -> io::Result<File> {
    let file = File::options()
        .access_mode(GENERIC_READ | GENERIC_WRITE)
        .share_mode(SHARED_BY_BOTH)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() || facts.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        let rule = "it is not a regular file of this user";
        return Err(io::Error::new(io::ErrorKind::InvalidData, rule));
    }
    Ok(file)
}
