//! The two arenas of a connection: the host makes both, and the worker takes them over. `[seg.inherited.arenas]`
//!
//! The host's own can be written by nobody else, where the system can promise that. The worker's can be written by the worker, and by the host that
//! has made it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::param::page_size;

use crate::arena::{LARGEST, Lendable, Readable, TrustedPeer};
use crate::channel::Arenas;
use crate::sys::{Access, memory_file, region_file};

const NONE_WAS_MADE: &str =
    "no memory was set aside for it; the host does that by WorkerBuilder::with_lending";
const CAN_BE_WRITTEN: &str = "this system cannot keep the worker from writing to what is lent (Linux can, from 5.1 on); \
     if the worker can be trusted not to, declare that by WorkerBuilder::with_trusted_peer";

/// What one side has of both.
#[derive(Debug)]
pub(super) struct Lending {
    pub(super) own: Lendable,
    pub(super) peers: Readable,
}

/// Makes both, of `size` bytes each: the host's side, and what the worker inherits. The host keeps no descriptor of them.
///
/// # Errors
///
/// Whatever the system says.
pub(super) fn make(size: u64) -> io::Result<(Lending, [OwnedFd; 2])> {
    let [host, worker] = [new_file(size)?, new_file(size)?];
    // Before there is a worker that could map it first.
    let own = Lendable::map(&host, size, |file| memory_file::seal_for_reading(file))?;
    let peers = Readable::map(&worker, size)?;
    memory_file::seal(&worker)?;
    Ok((Lending { own, peers }, [host.into(), worker.into()]))
}

fn new_file(size: u64) -> io::Result<File> {
    let file = memory_file::make("arena")?;
    region_file::fill(&file, size, Access::User, &|| true)?;
    Ok(file)
}

/// The size of an arena for so many bytes: whole pages. 0 is none.
///
/// # Errors
///
/// `InvalidInput` if it is out of bounds.
pub(super) fn size_for(bytes: u64) -> io::Result<u64> {
    if bytes > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the size of arenas is out of bounds",
        ));
    }
    let page = u64::try_from(page_size()).unwrap_or(u64::MAX);
    Ok(bytes.next_multiple_of(page))
}

/// Takes over the host's and the worker's, of which the host has announced the size.
///
/// # Errors
///
/// `InvalidData` if they are something else; whatever else the system says.
pub(super) fn take(size: u64, host: &File, worker: &File) -> io::Result<Lending> {
    let invalid = |rule| io::Error::new(io::ErrorKind::InvalidData, rule);
    if size_for(size).ok() != Some(size) {
        return Err(invalid("the size of arenas is out of bounds"));
    }
    for file in [host, worker] {
        if !memory_file::is_sealed(file)? {
            return Err(invalid("an arena's size is not sealed"));
        }
        if file.metadata()?.len() != size {
            return Err(invalid("an arena is of another size than announced"));
        }
    }
    // Its host has made it, which could do worse.
    let own = Lendable::map(worker, size, |_| Ok(true))?;
    Ok(Lending { own, peers: Readable::map(host, size)? })
}

/// The arenas of a channel.
pub(super) fn arenas(lending: Option<Lending>, trusted: Option<TrustedPeer>) -> Arenas {
    let Some(Lending { own, peers }) = lending else { return Arenas::none(NONE_WAS_MADE) };
    Arenas { own: own.arena(trusted).ok_or(CAN_BE_WRITTEN), peers: Some(peers.arena(trusted)) }
}
