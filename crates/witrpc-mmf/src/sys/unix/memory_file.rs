//! A file without a name: in memory where the system has that, else a temporary file whose name is removed at once.
//!
//! On Linux its size is sealed once it is complete. Then no process can truncate it, whoever has a descriptor of it.

use std::{fs::File, io, os::fd::AsFd};

#[cfg(any(target_os = "linux", target_os = "android"))]
use self::linux as os;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use self::unlinked as os;

/// Makes one, empty. It is closed on exec.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn make() -> io::Result<File> {
    os::make()
}

/// Fixes its size, where the system can. `[seg.inherited.region]`
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn seal(file: impl AsFd) -> io::Result<()> {
    os::seal(file)
}

/// Whether nobody can change its size; `true` where the system cannot fix one.
///
/// # Errors
///
/// Whatever the system says; on Linux, if it is no file in memory.
pub(crate) fn is_sealed(file: impl AsFd) -> io::Result<bool> {
    os::is_sealed(file)
}

/// A path that nobody else uses, for what gets no lasting name.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn random_path(kind: &str) -> io::Result<std::path::PathBuf> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let name = format!("witrpc-{kind}-{:032x}", u128::from_le_bytes(random));
    Ok(std::env::temp_dir().join(name))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::{fs::File, io, os::fd::AsFd};

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
    use rustix::io::Errno;

    /// What `/proc` shows.
    const NAME: &str = "witrpc-region";
    /// The last one keeps everybody from adding others, for example one against writing.
    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

    pub(super) fn make() -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let made = match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create(NAME, flags), // Before Linux 6.3.
            made => made,
        };
        Ok(File::from(made?))
    }

    pub(super) fn seal(file: impl AsFd) -> io::Result<()> {
        Ok(fcntl_add_seals(file, SEALS)?)
    }

    pub(super) fn is_sealed(file: impl AsFd) -> io::Result<bool> {
        Ok(fcntl_get_seals(file)?.contains(SEALS))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod unlinked {
    use std::{fs::File, io, os::fd::AsFd};

    use crate::sys::open::make_file;

    pub(super) fn make() -> io::Result<File> {
        let path = super::random_path("region")?;
        let file = make_file(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(super) fn seal(_file: impl AsFd) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(super) fn is_sealed(_file: impl AsFd) -> io::Result<bool> {
        Ok(true)
    }
}
