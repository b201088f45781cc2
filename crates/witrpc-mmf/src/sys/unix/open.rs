//! Opens files by path. No other module of this crate opens, or gives rights to, what a path names.
//!
//! In a directory that several users share, any of them may put a link, or another file, under the name of one of ours, also between two of
//! our steps.
//!
//! # Invariants
//!
//! - **O1** No link is followed, and opening never blocks.
//! - **O2** Checks are made on the open descriptor, not on the path: the file must be of the expected kind, be ours, and have no second name.
//! - **O3** Rights are given by the descriptor of a file that we have just made. Files are written, locked and mapped only by descriptors for
//!   which O2 was checked.
//! - **O4** Code that opens a path for the second time compares both descriptors ([`is_same`]).

use std::{
    fs::{DirBuilder, File},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use witrpc_core::fail_point;

use super::access::{Access, TO_FILES};

/// O1.
const CAREFULLY: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// What a path is to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Pipe,
}

/// Opens what is there, if it is of this kind, has no second name, and is admitted by one of these.
///
/// # Errors
///
/// `InvalidData` if it is something else; whatever else the system says.
pub(crate) fn open_ours(
    path: &Path,
    how: OFlags,
    kind: Kind,
    access: &[Access],
) -> io::Result<OwnedFd> {
    let opened = open(path, how | CAREFULLY, Mode::empty())?;
    let facts = fstat(&opened)?;
    let (expected, rule) = match kind {
        Kind::Directory => {
            (FileType::Directory, "it is not a directory of witrpc for this user or group")
        }
        Kind::File => (FileType::RegularFile, "it is not a file of witrpc for this user or group"),
        Kind::Pipe => (FileType::Fifo, "it is not a named pipe of witrpc for this user or group"),
    };
    let ours = access.iter().any(|access| access.admits(facts.st_uid, facts.st_gid));
    let alone = facts.st_nlink <= 1 || kind == Kind::Directory;
    if FileType::from_raw_mode(facts.st_mode) == expected && ours && alone {
        return Ok(opened);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, rule))
}

/// Whether both are descriptors of one file.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn is_same(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Makes a regular file, for reading and writing, which is open to its user at most.
///
/// # Errors
///
/// `AlreadyExists` if there is anything of that name; whatever else the system says.
pub(crate) fn make_file(path: &Path) -> io::Result<File> {
    let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    Ok(File::from(open(path, how | CAREFULLY, TO_FILES)?))
}

/// Makes a named pipe for us alone or for the group, whatever the umask, and opens its reading end.
///
/// # Errors
///
/// `AlreadyExists` if there is anything of that name; whatever else the system says. There is no pipe then that was not there
/// before.
pub(crate) fn make_pipe(path: &Path, access: Access) -> io::Result<OwnedFd> {
    #[cfg(target_vendor = "apple")]
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    #[cfg(not(target_vendor = "apple"))]
    rustix::fs::mkfifoat(CWD, path, TO_FILES)?;
    fail_point::at("pipe.made");
    let made = open_made(path, OFlags::RDONLY, Kind::Pipe);
    let opened_up = made.and_then(|pipe| access.open_up(&pipe, TO_FILES).map(|()| pipe));
    opened_up.inspect_err(|_| crate::endpoint::remove(path))
}

/// Makes a pipe without a name: its reading end, and another end for reading and writing, which nobody has to wait for and whose use
/// never raises `SIGPIPE`. The two have nothing in common but the pipe: whoever gets one of them cannot make the other one block.
///
/// Where `/proc` is not mounted, the other end is for writing only. Then a program that does not ignore `SIGPIPE` (Rust's do) gets it when
/// it notifies a peer that has just ended.
///
/// # Errors
///
/// Whatever the system says.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn make_nameless_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::os::fd::AsRawFd as _;

    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // The name of a descriptor of ours is no link that others could change.
    let name = format!("/proc/self/fd/{}", reading.as_raw_fd());
    match open(name, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(both) if is_same(&reading, &both)? => Ok((reading, both)),
        Ok(_) | Err(Errno::NOENT) => Ok((reading, writing)),
        Err(error) => Err(error.into()),
    }
}

/// The same, by a named pipe whose name is removed at once.
///
/// # Errors
///
/// Whatever the system says.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn make_nameless_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let path = super::memory_file::random_path("pipe")?;
    let reading = make_pipe(&path, Access::User)?;
    let both = open_ours(&path, OFlags::RDWR, Kind::Pipe, &[Access::User]);
    crate::endpoint::remove(&path);
    let both = both?;
    if is_same(&reading, &both)? { Ok((reading, both)) } else { Err(Errno::NOENT.into()) }
}

/// Makes a directory, and opens it. Only its user may enter it yet, if even that one may.
///
/// # Errors
///
/// `AlreadyExists` if there is anything of that name; whatever else the system says.
pub(crate) fn make_directory(path: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new().mode(0o700).create(path)?;
    // Without effect on anything but an empty directory.
    open_made_directory(path).inspect_err(|_| drop(std::fs::remove_dir(path)))
}

fn open_made_directory(path: &Path) -> io::Result<OwnedFd> {
    let made = open_made(path, OFlags::RDONLY | OFlags::DIRECTORY, Kind::Directory)?;
    // Another directory of ours that somebody has moved here is not to be opened to others.
    let is_other = Dir::read_from(&made)?.any(|entry| {
        !entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
    });
    if is_other {
        return Err(io::Error::other("another directory was put in its place"));
    }
    Ok(made)
}

/// Opens what we have just made, and what has our own right to read it, whatever the umask.
fn open_made(path: &Path, how: OFlags, kind: Kind) -> io::Result<OwnedFd> {
    let open = || open_ours(path, how, kind, &[Access::User]);
    match open() {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => {
            regain(path, kind)?;
            open()
        }
        opened => opened,
    }
}

/// Gives us the rights to what is ours, which the umask has taken.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn regain(path: &Path, kind: Kind) -> io::Result<()> {
    use std::os::{fd::AsRawFd as _, unix::fs::PermissionsExt};

    // A descriptor that needs no rights, and gives none; the name of its own that it has here is no link that leads elsewhere.
    let made = open_ours(path, OFlags::PATH, kind, &[Access::User])?;
    let name = format!("/proc/self/fd/{}", made.as_raw_fd());
    std::fs::set_permissions(name, PermissionsExt::from_mode(0o700))
}

/// Gives us the rights to what is ours, which the umask has taken.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn regain(path: &Path, _kind: Kind) -> io::Result<()> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chmodat(CWD, path, super::access::TO_DIRECTORIES, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::sys::TO_DIRECTORIES;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_was_put_in_the_place_of_what_we_have_made_gets_no_rights() {
        let outer = tempfile::tempdir().unwrap();
        let at = |name: &str| outer.path().join(name);
        std::fs::create_dir(at("private")).unwrap();
        std::fs::write(at("private/letter"), "precious").unwrap();
        symlink(at("private"), at("link")).unwrap();
        std::fs::set_permissions(at("private"), PermissionsExt::from_mode(0o500)).unwrap();
        for name in ["private", "link", "private/letter", "nothing"] {
            open_made_directory(&at(name)).unwrap_err();
        }
        assert_eq!(mode(&at("private")), 0o500);
        let made = make_directory(&at("new")).unwrap();
        Access::User.open_up(&made, TO_DIRECTORIES).unwrap();
        assert_eq!(mode(&at("new")), 0o700);
        assert_eq!(make_directory(&at("link")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(make_file(&at("link")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        make_pipe(&at("link"), Access::User).unwrap_err();
        std::fs::set_permissions(at("private"), PermissionsExt::from_mode(0o700)).unwrap();
    }

    #[test]
    fn only_what_is_of_the_kind_and_ours_and_has_one_name_is_opened() {
        let outer = tempfile::tempdir().unwrap();
        let at = |name: &str| outer.path().join(name);
        drop(make_file(&at("file")).unwrap());
        drop(make_pipe(&at("pipe"), Access::User).unwrap());
        symlink(at("file"), at("link")).unwrap();
        let open = |name, kind, access| open_ours(&at(name), OFlags::RDONLY, kind, &[access]);
        open("file", Kind::File, Access::User).unwrap();
        open("pipe", Kind::Pipe, Access::User).unwrap();
        open(".", Kind::Directory, Access::User).unwrap();
        open("file", Kind::Pipe, Access::User).unwrap_err();
        open("pipe", Kind::File, Access::User).unwrap_err();
        open("link", Kind::File, Access::User).unwrap_err();
        open("file", Kind::File, Access::Group(54_321)).unwrap_err();
        let one = open("file", Kind::File, Access::User).unwrap();
        let pipe = open("pipe", Kind::Pipe, Access::User).unwrap();
        assert!(is_same(&one, open("file", Kind::File, Access::User).unwrap()).unwrap());
        assert!(!is_same(&one, &pipe).unwrap());
        for (name, kind) in [("file", Kind::File), ("pipe", Kind::Pipe)] {
            std::fs::hard_link(at(name), at("second")).unwrap();
            let error = open(name, kind, Access::User).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            std::fs::remove_file(at("second")).unwrap();
        }
    }
}
