//! Meeting on Unix: a door that is a named pipe of the file system, an answer in a named pipe of the client's own.
//! `[seg.meet]`
//!
//! # Invariants
//!
//! - **E1** Only who holds `N.lock` makes or removes `N.door`, and sweeps what servers of `N` left. Both files are removed only
//!   while they are still what their paths name: somebody may have deleted the directory, and another server made a new one.
//! - **E2** A file is removed by who made it, by its connection's peer once both ends are open, or by a sweep that has
//!   proved that nobody living needs it.

use std::{fs::Metadata, io, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf};

use witrpc_core::transport::Channel;

use super::place::Place;
use super::record::Record;
use crate::channel::{Terms, assemble};
use crate::event::NamedEvent;
use crate::event::fifo::{FifoWaiter, Ringer};
use crate::event::raw_sync::Events;
use crate::layout::Instance;
use crate::region::Region;
use crate::sys::Access;

pub(super) mod directory;
pub(super) mod entrance;
pub(super) mod fault;
pub(super) mod knock;
pub(super) mod lock;
pub(super) mod sweep;

pub(super) use self::entrance::{Entrance, Way};
pub(super) use self::knock::Knock;
pub(super) use self::lock::Lock;

/// `N.door`.
pub(super) fn door(place: &Place) -> PathBuf {
    place.with_suffix(".door")
}

/// Whether a server lives whose lock file is in this directory.
pub(super) fn lives(directory: &Path, name: &str, access: Access) -> bool {
    let door = directory.join(format!("{name}.door"));
    crate::event::fifo::has_reader(&door, access) == Some(true)
}

/// What a lock file says behind its mark.
pub(super) fn record(text: &[u8]) -> Option<Record> {
    Record::decode(text)
}

/// The paths of one connection's files. `[seg.file.connection]`
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The client's named event, on which it is also answered: `.c`, made by the client.
    to_client: PathBuf,
    /// The server's named event: `.s`, made by the server.
    to_server: PathBuf,
    /// The region: `.mmf`, made by the server.
    region: PathBuf,
    access: Access,
}

impl Files {
    fn of(place: &Place, nonce: &Instance) -> Self {
        let [to_client, to_server, region] = ["c", "s", "mmf"].map(|kind| place.file(nonce, kind));
        Self { to_client, to_server, region, access: place.access() }
    }
}

/// Whether this path names the very file that is open.
fn names(path: &Path, open: &Metadata) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// One side's events of a connection, before its region is taken apart.
enum Wakers {
    Fifo,
    RawSync(Events),
}

impl Wakers {
    /// The server's.
    fn create(region: &Region) -> io::Result<Self> {
        Ok(match region.events() {
            NamedEvent::Fifo => Self::Fifo,
            NamedEvent::RawSync => Self::RawSync(Events::create(region)?),
        })
    }

    /// The client's.
    fn open(region: &Region) -> io::Result<Self> {
        Ok(match region.events() {
            NamedEvent::Fifo => Self::Fifo,
            NamedEvent::RawSync => Self::RawSync(Events::open(region)?),
        })
    }

    /// Whoever rings, it is the pipes that tell of the peer's death.
    fn channel(self, region: Region, ringer: Ringer, waiter: FifoWaiter, terms: Terms) -> Channel {
        match self {
            Self::Fifo => assemble(region, ringer, waiter, terms),
            Self::RawSync(events) => {
                let (ringer, waiter) = events.ends(waiter, ringer);
                assemble(region, ringer, waiter, terms)
            }
        }
    }
}
