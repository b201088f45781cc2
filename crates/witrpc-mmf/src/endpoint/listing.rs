//! The live servers of a directory: [`endpoints`]. `[seg.file.list]`
//!
//! The lock files say what there is; live servers keep them up to date. Whether a server is alive is asked of the system. Nothing is
//! locked or written, and no process is woken.

use std::{
    fs::DirEntry,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use witrpc_core::Error;
use witrpc_core::text::Escaped;

use super::about::About;
use super::lock::told;
use super::os::lives;
use super::os::lock::read;
use super::paths::{EndpointPaths, Kind, parse};
use super::record::Record;
use crate::sys::Access;

/// A running server, as [`endpoints`] lists it.
///
/// The texts are what the server wrote. They have at most 64 bytes, with characters that are not printable escaped, and are `None` if the
/// server did not write them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The name to connect to.
    pub name: String,
    /// The server's process id, as that process sees it (in a container, it may be another one outside).
    pub process_id: u32,
    /// The number of clients that are connected or being accepted.
    pub clients: u32,
    /// How many clients the server accepts at a time. Further clients wait.
    pub max_clients: u32,
    /// The file name of the server's program.
    pub program: Option<String>,
    /// How long the server has been accepting clients. May not include time during which the machine slept. `None` if it is unknown.
    pub age: Option<Duration>,
    /// The name of the server's serializer, for example `json`. Clients must use the same.
    pub serializer: Option<String>,
    /// The name of the server's encryption, or `none`. Clients must use the same.
    pub encryption: Option<String>,
    /// How the server authorizes its clients: `none`, `token` (`with_access_token`) or `sent-token` (`with_access_token_provider`).
    pub authorization: Option<String>,
}

/// Lists the running servers of the default directory, sorted by name. The default directory is described at
/// [`with_directory`](crate::MemoryMappedFile::with_directory).
///
/// The list is a snapshot of the servers that accept clients. It is made without connecting to them. It does not include servers that were
/// killed, or servers that have stopped accepting while clients are still connected. It is empty if the directory does not exist.
///
/// # Errors
///
/// [`Error::Config`] if the directory is not private to the user or to a group. [`Error::Io`] if it cannot be read.
pub fn endpoints() -> Result<Vec<Endpoint>, Error> {
    list(EndpointPaths::anonymous(None)?)
}

/// Lists the running servers of another directory, as [`endpoints`] does.
///
/// ```
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path().join("own");
/// for endpoint in witrpc::endpoints_in(&directory)? {
///     println!("{} has {} of {} clients", endpoint.name, endpoint.clients, endpoint.max_clients);
/// }
/// # Ok::<(), witrpc::Error>(())
/// ```
///
/// # Errors
///
/// As [`endpoints`].
pub fn endpoints_in(directory: impl Into<PathBuf>) -> Result<Vec<Endpoint>, Error> {
    list(EndpointPaths::anonymous(Some(directory.into()))?)
}

/// The names of the live servers in a directory, for a message: only some of them, if there are many.
pub(super) fn names(paths: EndpointPaths) -> String {
    const MOST: usize = 8;
    let Ok(found) = list(paths) else { return "unknown".to_owned() };
    let mut names = found
        .iter()
        .take(MOST)
        .map(|found| format!("\"{}\"", Escaped(&found.name)))
        .collect::<Vec<_>>();
    if let Some(more) = found.len().checked_sub(MOST).filter(|more| *more > 0) {
        names.push(format!("and {more} more"));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn list(mut paths: EndpointPaths) -> Result<Vec<Endpoint>, Error> {
    if !paths.check_for_looking()? {
        return Ok(Vec::new());
    }
    let failed = |error: &io::Error| {
        Error::io(format!("listing the endpoints in {}", paths.directory().display()), error)
    };
    let mut found = Vec::new();
    for entry in paths.directory().read_dir().map_err(|error| failed(&error))? {
        found.extend(look(
            paths.directory(),
            paths.access(),
            &entry.map_err(|error| failed(&error))?,
        ));
    }
    found.sort_by(|a: &Endpoint, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The live server of this file, if the file is a lock file that has one.
fn look(directory: &Path, access: Access, entry: &DirEntry) -> Option<Endpoint> {
    let file = entry.file_name();
    let (name, _, Kind::Lock) = parse(file.to_str()?)? else { return None };
    // The record is read before the door is checked: a server writes it before it opens the door.
    let found = read(&entry.path(), access).ok()?;
    let (Record { process_id, clients, max_clients }, lines) = told(&found)?;
    if !lives(directory, name, access) {
        return None;
    }
    let about = About::decode(lines);
    Some(Endpoint {
        name: name.to_owned(),
        process_id,
        clients,
        max_clients,
        age: about.age(),
        program: about.program,
        serializer: about.serializer,
        encryption: about.encryption,
        authorization: about.authorization,
    })
}
