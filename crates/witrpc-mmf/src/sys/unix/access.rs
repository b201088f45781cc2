//! Access to the files of an endpoint: one user, or a group. `[seg.file.access]`

use std::{io, os::fd::AsFd};

use rustix::fs::{Gid, Mode, fchmod, fchown};
use rustix::process::geteuid;

/// What a user may do with files of its own.
pub(crate) const TO_FILES: Mode = Mode::RUSR.union(Mode::WUSR);
/// What a user may do with directories of its own.
pub(crate) const TO_DIRECTORIES: Mode = Mode::RWXU;

/// The users that share an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The effective user alone.
    User,
    /// All members of the group with this id.
    Group(u32),
}

impl Access {
    pub(crate) const fn of(group: Option<u32>) -> Self {
        match group {
            None => Self::User,
            Some(id) => Self::Group(id),
        }
    }

    /// Whether a file of this owner and group is one of ours.
    pub(crate) fn admits(self, user: u32, group: u32) -> bool {
        match self {
            Self::User => user == geteuid().as_raw(),
            Self::Group(id) => group == id,
        }
    }

    /// Gives something of our own making its group and mode, whatever the umask took away: the user has these rights to it, and
    /// so has the group.
    ///
    /// # Errors
    ///
    /// `EPERM` if we are no member of the group.
    pub(crate) fn open_up(self, made: impl AsFd, user: Mode) -> io::Result<()> {
        let Self::Group(id) = self else { return Ok(fchmod(&made, user)?) };
        fchown(&made, None, Some(Gid::from_raw(id)))?;
        let group = Mode::from_bits_truncate(user.bits() >> 3);
        Ok(fchmod(&made, user | group)?)
    }
}
