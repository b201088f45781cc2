//! A file without a name: in memory where the system has that, else a temporary file whose name is removed at once.
//!
//! On Linux its size is sealed once it is complete. Then no process can truncate it, whoever has a descriptor of it.

use std::{fs::File, io, os::fd::AsFd};

#[cfg(any(target_os = "linux", target_os = "android"))]
use self::linux as os;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use self::unlinked as os;

/// Makes one, empty. It is closed on exec. `/proc` shows what it is for.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn make(what: &str) -> io::Result<File> {
    os::make(what)
}

/// Fixes its size, where the system can. `[seg.inherited.region]`
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn seal(file: impl AsFd) -> io::Result<()> {
    os::seal(file)
}

/// Fixes its size, as [`seal`] does, and keeps all processes from writing to it, but by mappings that exist. Returns `false` if the system cannot
/// do the latter: before Linux 5.1, and where there are no seals. `[seg.inherited.arenas]`
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn seal_for_reading(file: impl AsFd) -> io::Result<bool> {
    os::seal_for_reading(file)
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

    /// The last one keeps everybody from adding others, for example one against writing.
    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

    pub(super) fn make(what: &str) -> io::Result<File> {
        let name = format!("witrpc-{what}");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let made = match memfd_create(&name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create(&name, flags), // Before Linux 6.3.
            made => made,
        };
        Ok(File::from(made?))
    }

    pub(super) fn seal(file: impl AsFd) -> io::Result<()> {
        Ok(fcntl_add_seals(file, SEALS)?)
    }

    pub(super) fn seal_for_reading(file: impl AsFd) -> io::Result<bool> {
        match fcntl_add_seals(&file, SEALS | SealFlags::FUTURE_WRITE) {
            Err(Errno::INVAL) => seal(file).map(|()| false),
            sealed => Ok(sealed.map(|()| true)?),
        }
    }

    pub(super) fn is_sealed(file: impl AsFd) -> io::Result<bool> {
        Ok(fcntl_get_seals(file)?.contains(SEALS))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod unlinked {
    use std::{fs::File, io, os::fd::AsFd};

    use crate::sys::open::make_file;

    pub(super) fn make(what: &str) -> io::Result<File> {
        let path = super::random_path(what)?;
        let file = make_file(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(super) fn seal(_file: impl AsFd) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(super) fn seal_for_reading(_file: impl AsFd) -> io::Result<bool> {
        Ok(false)
    }

    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(super) fn is_sealed(_file: impl AsFd) -> io::Result<bool> {
        Ok(true)
    }
}
