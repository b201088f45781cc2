//! Whom the files of an endpoint are open to: one user, or a group. `[seg.file.access]`

use std::{io, os::fd::AsFd};

use rustix::fs::{Gid, Mode, fchmod, fchown};
use rustix::process::geteuid;

/// Who shares an endpoint.
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

    pub(crate) const fn file_mode(self) -> Mode {
        let user = Mode::RUSR.union(Mode::WUSR);
        match self {
            Self::User => user,
            Self::Group(_) => user.union(Mode::RGRP).union(Mode::WGRP),
        }
    }

    /// Gives a file of our own making its group and mode, whatever the umask took away.
    ///
    /// # Errors
    ///
    /// `EPERM` if we are no member of the group.
    pub(crate) fn open_up(self, file: impl AsFd) -> io::Result<()> {
        if let Self::Group(id) = self {
            fchown(&file, None, Some(Gid::from_raw(id)))?;
        }
        Ok(fchmod(&file, self.file_mode())?)
    }
}
