//! Removes what killed processes left in a directory. Runs when a server starts to listen.
//! `[seg.file.sweep]`
//!
//! Files with a live owner stay:
//!
//! - `.c` belongs to a client, which opens it for reading right after making it. If nobody reads it, the client is gone, or has made
//!   it only this instant; then the client finds it missing, and asks again with another nonce.
//! - `.lock` and `.door` belong to the holder of the lock (E1), so the lock is taken before they are removed. A server that starts
//!   meanwhile waits for the lock far longer than a sweep holds it, then finds the file gone and makes its own.
//! - `.s` and `.mmf` are made by a server that holds the lock, and may outlive its listening by one handshake. During the handshake
//!   their `.c` has readers: the client, and the server, which keeps it open. So they are removed only if the lock was free and nobody
//!   reads their `.c`.
//!
//! Checking a pipe opens it for writing. A client without an answer sees that as a server that came and went, and asks again. Files
//! that do not have our names, or are not of our kinds, are never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{DirEntry, FileType},
    os::unix::fs::FileTypeExt as _,
    path::PathBuf,
};

use witrpc_core::fail_point;
use witrpc_core::text::Escaped;

use super::Lock;
use crate::endpoint::lock::is_marked;
use crate::endpoint::paths::{EndpointPaths, Kind, parse, remove};
use crate::event::fifo::has_reader;
use crate::sys::Access;

/// The files of one endpoint's name.
#[derive(Debug, Default)]
struct Leftovers {
    lock: bool,
    door: Option<PathBuf>,
    /// By nonce.
    connections: BTreeMap<String, Vec<(Kind, PathBuf)>>,
}

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
    let mut found = BTreeMap::<String, Leftovers>::new();
    for entry in entries.flatten() {
        note(&entry, paths.access(), &mut found);
    }
    for (name, leftovers) in found {
        fail_point::at("sweep.found");
        let own = name == paths.name();
        let lock = if own || !leftovers.needs_lock() {
            None
        } else {
            match Lock::try_take(&paths.directory().join(format!("{name}.lock")), paths.access()) {
                Ok(Some(lock)) => Some(lock),
                // It belongs to a live server, or is not ours. The files of that server's clients are left to them.
                Ok(None) | Err(_) => {
                    leftovers.remove_connections(paths.access(), false);
                    continue;
                }
            }
        };
        leftovers.remove_connections(paths.access(), own || lock.is_some());
        if let Some(door) = &leftovers.door {
            remove(door);
        }
        drop(lock); // Removes its file.
    }
}

impl Leftovers {
    fn needs_lock(&self) -> bool {
        let made_by_server = |(kind, _): &(Kind, PathBuf)| *kind != Kind::ToClient;
        self.lock || self.door.is_some() || self.connections.values().flatten().any(made_by_server)
    }

    /// Removes the files of connections that no live process needs; those made by servers only if `locked`.
    fn remove_connections(&self, access: Access, locked: bool) {
        let mut living = BTreeSet::new();
        for (nonce, files) in &self.connections {
            let event = files.iter().find(|(kind, _)| *kind == Kind::ToClient);
            match event.map(|(_, path)| (path, has_reader(path, access))) {
                Some((path, Some(false))) => remove(path),
                None => {}
                // Living, or there is no telling.
                Some(_) => drop(living.insert(nonce)),
            }
        }
        for (nonce, files) in &self.connections {
            if locked && !living.contains(nonce) {
                tracing::debug!(nonce, "removing files that a killed process left");
                for (_, path) in files {
                    remove(path);
                }
            }
        }
    }
}

fn note(entry: &DirEntry, access: Access, found: &mut BTreeMap<String, Leftovers>) {
    let (file, Ok(kind_of_file)) = (entry.file_name(), entry.file_type()) else { return };
    let Some((name, nonce, kind)) = file.to_str().and_then(parse) else { return };
    if !fits(kind, kind_of_file) || (kind == Kind::Lock && !is_marked(&entry.path(), access)) {
        return;
    }
    let leftovers = found.entry(name.to_owned()).or_default();
    match nonce {
        Some(nonce) => {
            leftovers.connections.entry(nonce.to_owned()).or_default().push((kind, entry.path()))
        }
        None if kind == Kind::Door => leftovers.door = Some(entry.path()),
        None => leftovers.lock = true,
    }
}

fn fits(kind: Kind, file: FileType) -> bool {
    match kind {
        Kind::Door | Kind::ToClient | Kind::ToServer => file.is_fifo(),
        Kind::Lock | Kind::Region => file.is_file(),
    }
}
