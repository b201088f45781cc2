//! Removes what the system could not, because it stopped itself: files of ours that nobody has open. Runs when a server starts to
//! listen. `[seg.windows.sweep]`
//!
//! A process that makes or uses such a file has it open all the time, and allows no other process to open it exclusively.

use std::{fs::File, os::windows::fs::OpenOptionsExt as _, path::Path};

use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_FLAG_DELETE_ON_CLOSE, FILE_FLAG_OPEN_REPARSE_POINT,
};
use witrpc_core::fail_point;
use witrpc_core::text::Escaped;

use super::Lock;
use crate::endpoint::lock::is_marked;
use crate::endpoint::paths::{EndpointPaths, Kind, parse};

/// Sweeps the directory of `paths`, whose own lock the caller holds.
pub(crate) fn sweep(paths: &EndpointPaths) {
    let entries = match paths.directory().read_dir() {
        Ok(entries) => entries,
        Err(error) => {
            return tracing::warn!(
                error = %Escaped(error),
                "could not remove files of killed processes"
            );
        }
    };
    for entry in entries.flatten() {
        let (file, Ok(kind)) = (entry.file_name(), entry.file_type()) else { continue };
        let Some((name, _, part)) = file.to_str().and_then(parse) else { continue };
        if !kind.is_file() {
            continue;
        }
        fail_point::at("sweep.found");
        match part {
            Kind::Region => remove_if_unused(&entry.path()),
            // To have it is to remove it.
            Kind::Lock if name != paths.name() && is_marked(&entry.path(), paths.access()) => {
                drop(Lock::try_take(&entry.path(), paths.access()));
            }
            _ => {}
        }
    }
}

fn remove_if_unused(path: &Path) {
    let opened = File::options()
        .access_mode(DELETE)
        .share_mode(0)
        .custom_flags(FILE_FLAG_DELETE_ON_CLOSE | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path);
    if opened.is_ok() {
        tracing::debug!(path = %Escaped(path.display()), "removing a file that a killed process left");
    }
}
