//! The files of an endpoint and of its connections, by their paths.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::endpoint::paths::EndpointPaths;
use crate::layout::Instance;
use crate::sys::Access;

/// `N.door`.
pub(super) fn door(paths: &EndpointPaths) -> PathBuf {
    paths.with_suffix(".door")
}

/// The paths of one connection's files. `[seg.file.connection]`
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The client's named event, on which it is also answered: `.c`, made by the client.
    pub(super) to_client: PathBuf,
    /// The server's named event: `.s`, made by the server.
    pub(super) to_server: PathBuf,
    /// The region: `.mmf`, made by the server.
    pub(super) region: PathBuf,
    pub(super) access: Access,
}

impl Files {
    pub(super) fn of(paths: &EndpointPaths, nonce: &Instance) -> Self {
        let [to_client, to_server, region] = ["c", "s", "mmf"].map(|kind| paths.file(nonce, kind));
        Self { to_client, to_server, region, access: paths.access() }
    }
}

/// Whether this path names the very file that is open.
pub(super) fn names(path: &Path, open: &Metadata) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
