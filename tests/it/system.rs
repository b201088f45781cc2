//! What the tests need from the system, under the same names on each: directories, the death of a process, the resources of a process.

use std::path::Path;

use tempfile::TempDir;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
#[expect(unsafe_code, reason = "the tests' own calls of the system")]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

pub(crate) use os::{
    anonymous_kib_of, descriptors, go_on, kill_self, leave_descriptors, now, regions, stop,
    was_killed,
};
#[cfg(unix)]
pub(crate) use os::{is_stopped, stop_self};

/// A fresh directory that only we may enter.
pub(crate) fn private_directory() -> TempDir {
    let directory = os::directory();
    // As a server makes it.
    std::fs::remove_dir(directory.path()).unwrap();
    witrpc_mmf::bench_support::make_directory(directory.path()).unwrap();
    directory
}

/// What lies in a directory.
pub(crate) fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The same but for the regions of connections, which on Windows are files as long as those last.
pub(crate) fn lasting_files(directory: &Path) -> Vec<String> {
    let mut names = files(directory);
    names.retain(|name| cfg!(unix) || !name.ends_with(".mmf"));
    names
}

/// The files that a server of this name has while it listens.
pub(crate) fn listening(name: &str) -> Vec<String> {
    let kinds: &[&str] = if cfg!(unix) { &["door", "lock"] } else { &["lock"] };
    kinds.iter().map(|kind| format!("{name}.{kind}")).collect()
}

/// Starts a process. Wine fails to, once in some thousand times, and says that this is an error of its own.
pub(crate) fn started<T>(mut start: impl FnMut() -> std::io::Result<T>) -> T {
    const INTERNAL_ERROR: i32 = 1359;
    for _ in 0..5 {
        match start() {
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(INTERNAL_ERROR) => {}
            started => return started.unwrap(),
        }
    }
    start().unwrap()
}

/// Memory of this process that is no file's and nobody else's: what it holds itself.
pub(crate) fn anonymous_kib() -> u64 {
    anonymous_kib_of(std::process::id())
}
