//! How a connection gets to a program that is started, and how a process is ended; with the same names on every system.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

pub(crate) use os::{
    Announced, ENDS_WITH_HOST, Killer, Leash, Offer, Watch, hand_over, is_announced, is_debugged,
    memory_of, prepare, take,
};
