//! Landlock's rules: which paths can be opened.
//!
//! All rights that a version of Landlock knows are taken away, as far as this list was tried, and the granted ones are given back. What an older
//! kernel does not know, the filters refuse (see the head of `sandbox`).

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope, make_bitflags,
};
use rustix::fs::{FileType, fstat};
use witrpc_core::Error;

/// The newest version of Landlock that is used.
const TRIED: u32 = 7;

/// Rights to a directory and what is below it. A file gets those of them that are for files.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const EXECUTE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | Execute});
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
});

/// Rules that are being made.
#[derive(Debug)]
pub(super) struct Grants {
    rules: RulesetCreated,
    /// What is taken away, and can be granted.
    version: ABI,
}

impl Grants {
    /// Grants nothing, by a Landlock of this version, or an older one.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(super) fn new(landlock: u32) -> Result<Self, Error> {
        let version = ABI::from(i32::try_from(landlock.min(TRIED)).unwrap_or_default());
        let nothing = || {
            let mut rules = Ruleset::default().handle_access(AccessFs::from_all(version))?;
            // What an older one does not know at all must not be asked for.
            if version >= ABI::V4 {
                rules = rules.handle_access(AccessNet::from_all(version))?;
            }
            if version >= ABI::V6 {
                rules = rules.scope(Scope::from_all(version))?;
            }
            rules.create()
        };
        let rules = nothing().map_err(|error| failed(&error))?;
        Ok(Self { rules, version })
    }

    /// Grants reading paths of the user's, by this setting.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if one is not there.
    pub(super) fn read(&mut self, setting: &'static str, paths: &[PathBuf]) -> Result<(), Error> {
        paths.iter().try_for_each(|path| self.grant(path, READ, setting))
    }

    /// The same, for writing.
    ///
    /// # Errors
    ///
    /// The same.
    pub(super) fn write(&mut self, setting: &'static str, paths: &[PathBuf]) -> Result<(), Error> {
        paths.iter().try_for_each(|path| self.grant(path, WRITE, setting))
    }

    /// The same, for executing.
    ///
    /// # Errors
    ///
    /// The same.
    pub(super) fn execute(
        &mut self,
        setting: &'static str,
        paths: &[PathBuf],
    ) -> Result<(), Error> {
        paths.iter().try_for_each(|path| self.grant(path, EXECUTE, setting))
    }

    /// Grants reading what was found. What has gone since is no matter here.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(super) fn read_found(
        &mut self,
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
    ) -> Result<(), Error> {
        self.grant_found(paths, READ)
    }

    /// The same, for executing.
    ///
    /// # Errors
    ///
    /// The same.
    pub(super) fn execute_found(
        &mut self,
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
    ) -> Result<(), Error> {
        self.grant_found(paths, EXECUTE)
    }

    fn grant_found(
        &mut self,
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
        rights: BitFlags<AccessFs>,
    ) -> Result<(), Error> {
        let opened = paths.into_iter().filter_map(|path| PathFd::new(path).ok());
        let mut opened = opened.collect::<Vec<_>>().into_iter();
        opened.try_for_each(|path| self.add(path, rights))
    }

    fn grant(
        &mut self,
        path: &Path,
        rights: BitFlags<AccessFs>,
        setting: &'static str,
    ) -> Result<(), Error> {
        let opened = PathFd::new(path).map_err(|_| {
            let advice = "there is no such path, or it cannot be opened; make it before the worker is started, or grant the directory that is to have it";
            Error::config(setting, path.display(), advice)
        })?;
        self.add(opened, rights)
    }

    fn add(&mut self, path: PathFd, rights: BitFlags<AccessFs>) -> Result<(), Error> {
        let kind = fstat(path.as_fd()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let rights = match kind {
            Ok(FileType::Directory) => rights & AccessFs::from_all(self.version),
            _ => rights & AccessFs::from_file(self.version),
        };
        (&mut self.rules)
            .add_rule(PathBeneath::new(path, rights))
            .map(|_| ())
            .map_err(|error| failed(&error))
    }

    /// The rules, as a process is bound to them.
    pub(super) fn rules(self) -> Option<OwnedFd> {
        self.rules.into()
    }
}

fn failed(error: &RulesetError) -> Error {
    Error::io("making rules for Landlock", &std::io::Error::other(error.to_string()))
}
