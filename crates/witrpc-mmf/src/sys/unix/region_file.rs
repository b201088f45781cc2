//! The file of a region: made, then given all its pages; opened without following a link.

use std::{fs::File, io, path::Path};

use rustix::fs::{FallocateFlags, OFlags, StatVfs, fallocate, fstatvfs};
use rustix::io::Errno;
use witrpc_core::fail_point;

use super::access::{Access, TO_FILES};
use super::largest_file;
use super::open::{Kind, make_file, open_ours};

/// Pages are allocated so many bytes at a time, a millisecond's work. The system undoes an allocation that a signal interrupts, so one
/// of any size could be kept from its end by a timer. `None` where an allocation is not repeated.
const PIECE: Option<u64> =
    if cfg!(any(target_os = "linux", target_os = "android")) { Some(4 << 20) } else { None };

/// Makes it, empty. `[seg.file.create]`
///
/// # Errors
///
/// `AlreadyExists` if there is such a file; whatever else the system says.
pub(crate) fn make(path: &Path) -> io::Result<File> {
    make_file(path)
}

/// Gives it this size, with all its pages, as long as that is wanted.
///
/// # Errors
///
/// `StorageFull` if the file system is; `FileTooLarge` if this process may make no such file; `Interrupted` if it is wanted no more;
/// whatever else the system says.
pub(crate) fn fill(
    file: &File,
    size: u64,
    access: Access,
    is_wanted: &dyn Fn() -> bool,
) -> io::Result<()> {
    // Or it would be a signal.
    if largest_file().is_some_and(|largest| size > largest) {
        return Err(Errno::FBIG.into());
    }
    access.open_up(file, TO_FILES)?;
    fail_point::at("region.made");
    // Or everybody else would find it full until it is clear that this does not fit.
    if free(&fstatvfs(file)?).is_some_and(|free| size > free) {
        return Err(Errno::NOSPC.into());
    }
    // Not `set_len`: a sparse file on a full tmpfs is a SIGBUS at some later copy.
    let mut filled = 0;
    while filled < size {
        if !is_wanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let left = size - filled;
        let piece = PIECE.map_or(left, |piece| piece.min(left));
        match fallocate(file, FallocateFlags::empty(), filled, piece) {
            Err(Errno::INTR) => {}
            done => {
                done?;
                filled += piece;
            }
        }
    }
    Ok(())
}

/// The bytes that a file system has free for us; `None` if it does not tell, as a ramfs.
pub(crate) fn free(facts: &StatVfs) -> Option<u64> {
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    (facts.f_blocks > 0).then_some(free)
}

/// Opens what the peer made. `[seg.file.attach]`
///
/// # Errors
///
/// `NotFound` if it is gone; `InvalidData` if it is no regular file of ours.
pub(crate) fn open_existing(path: &Path, access: Access) -> io::Result<File> {
    Ok(File::from(open_ours(path, OFlags::RDWR, Kind::File, &[access])?))
}
