//! The file of a region: made with all its pages, opened without following a link.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::Errno;
use witrpc_core::fail_point;

use super::Access;

/// Makes it, of this size. `[seg.file.create]`
///
/// # Errors
///
/// `AlreadyExists` if there is such a file; `StorageFull` if the file system is; whatever else the system says. There is no
/// file then that was not there before.
pub(crate) fn create(path: &Path, size: u64, access: Access) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
    fill(&file, size, access).inspect_err(|_| crate::endpoint::remove(path))?;
    Ok(file)
}

fn fill(file: &File, size: u64, access: Access) -> io::Result<()> {
    access.open_up(file)?;
    fail_point::at("region.made");
    // Not `set_len`: a sparse file on a full tmpfs is a SIGBUS at some later copy.
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Opens what the peer made. `[seg.file.attach]`
///
/// # Errors
///
/// `NotFound` if it is gone; `InvalidData` if it is no regular file of ours.
pub(crate) fn open_existing(path: &Path, access: Access) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(open(path, flags, Mode::empty())?);
    let facts = file.metadata()?;
    if !facts.file_type().is_file() || !access.admits(facts.uid(), facts.gid()) {
        let rule = "it is not a regular file of ours";
        return Err(io::Error::new(io::ErrorKind::InvalidData, rule));
    }
    Ok(file)
}
