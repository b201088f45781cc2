//! The rings without events or a peer, for `benches/ring.rs`, and directories and pipes for tests. Not part of the interface.

use std::{io, path::Path};

use witrpc_core::transport::{RecordReceiver, RecordSender};

use crate::channel::{Arenas, directions};
use crate::event::{NamedEvent, Notify};
use crate::region::{Region, Side};
use crate::sys::Access;

/// A peer that never sleeps.
#[derive(Debug)]
struct Awake;

impl Notify for Awake {
    fn notify(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Both ends of one direction of a region of `size` bytes, mapped twice as two processes would. `path` is where its
/// file lies until this returns.
///
/// # Errors
///
/// Whatever the system says.
pub fn pair(
    path: &Path,
    size: u64,
) -> io::Result<(Box<dyn RecordSender>, Box<dyn RecordReceiver>)> {
    let instance = [0; 16];
    let server = Region::create(path, size, &instance, NamedEvent::default(), Access::User)?;
    let client = Region::attach(path, &instance, Access::User);
    crate::endpoint::remove(path); // Where it does not go by itself.
    let arenas = Arenas::of_named_files;
    let (sender, _) = directions(client?, Side::Client, Awake, arenas());
    let (_, receiver) = directions(server, Side::Server, Awake, arenas());
    Ok((sender, receiver))
}

/// Makes a directory as a server makes it.
///
/// # Errors
///
/// [`Error::Config`](witrpc_core::Error::Config), naming what is wrong with it.
pub fn make_directory(path: &Path) -> Result<(), witrpc_core::Error> {
    crate::endpoint::make_directory(path)
}

/// Makes a named pipe as both sides make theirs.
///
/// # Errors
///
/// Whatever the system says.
#[cfg(unix)]
pub fn make_pipe(path: &Path) -> io::Result<()> {
    crate::sys::open::make_pipe(path, Access::User).map(drop)
}
