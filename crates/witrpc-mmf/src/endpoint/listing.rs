//! Which servers live in a directory: [`endpoints`]. `[seg.file.list]`
//!
//! Read from lock files, which live servers keep up to date; who lives, the system tells. Nothing is locked, nothing is
//! written, and nobody is woken.

use std::{
    fs::DirEntry,
    io,
    path::{Path, PathBuf},
};

use witrpc_core::Error;

use super::lock::MARK;
use super::os::lock::read;
use super::os::{lives, record};
use super::place::{Kind, Place, parse};
use super::record::Record;
use crate::sys::Access;

/// A live server, as [`endpoints`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The name to connect to.
    pub name: String,
    /// The server's process id, as that process sees it.
    pub process_id: u32,
    /// Clients that are connected or being let in.
    pub clients: u32,
    /// How many it takes at a time; more wait.
    pub max_clients: u32,
}

/// The live servers of the default directory (the environment variable `WITRPC_DIR`, or the one that
/// [`with_directory`](crate::MemoryMappedFile::with_directory) names), by name.
///
/// A picture of one moment, taken without disturbing anybody: servers that wait for clients. Not those that have
/// been killed, nor those that have stopped to wait while clients are still connected. An empty list if there is no such
/// directory.
///
/// # Errors
///
/// [`Error::Config`] if the directory is not private to the user or to a group, [`Error::Io`] if it cannot be read.
pub fn endpoints() -> Result<Vec<Endpoint>, Error> {
    list(Place::anonymous(None)?)
}

/// [`endpoints`] of another directory.
///
/// ```
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path().join("own");
/// for endpoint in witrpc_mmf::endpoints_in(&directory)? {
///     println!("{} has {} of {} clients", endpoint.name, endpoint.clients, endpoint.max_clients);
/// }
/// # Ok::<(), witrpc_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`endpoints`].
pub fn endpoints_in(directory: impl Into<PathBuf>) -> Result<Vec<Endpoint>, Error> {
    list(Place::anonymous(Some(directory.into()))?)
}

fn list(mut place: Place) -> Result<Vec<Endpoint>, Error> {
    if !place.check_for_looking()? {
        return Ok(Vec::new());
    }
    let failed = |error: &io::Error| {
        Error::io(format!("listing the endpoints in {}", place.directory().display()), error)
    };
    let mut found = Vec::new();
    for entry in place.directory().read_dir().map_err(|error| failed(&error))? {
        found.extend(look(
            place.directory(),
            place.access(),
            &entry.map_err(|error| failed(&error))?,
        ));
    }
    found.sort_by(|a: &Endpoint, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The live server of this lock file, if it is one, and has one.
fn look(directory: &Path, access: Access, entry: &DirEntry) -> Option<Endpoint> {
    let file = entry.file_name();
    let (name, _, Kind::Lock) = parse(file.to_str()?)? else { return None };
    // The record first: it is there before the door, so what a door that is read belongs to has written it.
    let found = read(&entry.path()).ok()?;
    let Record { process_id, clients, max_clients } = record(found.strip_prefix(MARK)?)?;
    let lives = lives(directory, name, access);
    lives.then(|| Endpoint { name: name.to_owned(), process_id, clients, max_clients })
}
