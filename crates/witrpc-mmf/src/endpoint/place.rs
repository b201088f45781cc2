//! The directory of an endpoint, and the paths of the files in it. `[seg.file.name]`
//!
//! The directory is private to one user: that is what keeps others from names, pipes and regions. Its parents
//! resolve as usual.

use std::{
    fs::{DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use witrpc_core::Error;

use super::MemoryMappedFile;
use crate::access::Access;
use crate::layout::Instance;

/// Overrides the default directory.
const VARIABLE: &str = "WITRPC_DIR";
/// Where an error says how to choose another directory.
pub(super) const CHOOSE: &str =
    "choose another one with with_directory or the environment variable WITRPC_DIR";

/// An endpoint's name and its directory, which may not exist yet.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    /// The setting that chose the directory, for messages.
    setting: &'static str,
    access: Access,
    name: String,
}

impl Place {
    /// Where the files of this endpoint lie.
    pub(super) fn of(file: &MemoryMappedFile) -> Result<Self, Error> {
        let access = Access::of(file.group);
        Ok(Self { name: file.name.clone(), access, ..Self::anonymous(file.directory.clone())? })
    }

    /// A directory, or the default one, for no endpoint in particular.
    pub(super) fn anonymous(directory: Option<PathBuf>) -> Result<Self, Error> {
        let (directory, setting) = match (directory, std::env::var_os(VARIABLE)) {
            (Some(directory), _) => (directory, "with_directory"),
            (None, Some(directory)) if !directory.is_empty() => (directory.into(), VARIABLE),
            (None, _) => (default_directory()?, "with_directory"),
        };
        // Without a trailing slash, which would follow a symlink.
        let directory = directory.components().collect();
        Ok(Self { directory, setting, access: Access::User, name: String::new() })
    }

    /// Makes the directory if it is missing, and checks that it is private. `[seg.file.directory]`
    pub(super) fn prepare(&self) -> Result<(), Error> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Ok(()) => self.open_up().map_err(|error| {
                // Not to be found by a next attempt, half made.
                drop(std::fs::remove_dir(&self.directory));
                match self.access {
                    Access::User => self.fault(format!("cannot be made private: {error}")),
                    Access::Group(id) => {
                        self.fault(format!("cannot be given to the group {id}: {error}"))
                    }
                }
            })?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.fault(format!("cannot be made: {error}"))),
        }
        if self.check()? { Ok(()) } else { Err(self.fault("vanished".to_owned())) }
    }

    /// Gives the directory just made its mode, of which the umask may have taken bits, and its group.
    fn open_up(&self) -> io::Result<()> {
        let mode = match self.access {
            Access::User => 0o700,
            Access::Group(id) => {
                chown(&self.directory, None, Some(id))?;
                0o770
            }
        };
        std::fs::set_permissions(&self.directory, PermissionsExt::from_mode(mode))
    }

    /// Whether the directory exists; if so, it is open to those only whom it is to be open to.
    pub(super) fn check(&self) -> Result<bool, Error> {
        let Some(facts) = self.facts()? else { return Ok(false) };
        match fault_of(&facts, self.access) {
            None => Ok(true),
            Some(fault) => Err(self.fault(fault)),
        }
    }

    /// As [`check`](Self::check), for who wants to look around only: a group's directory will do too.
    pub(super) fn check_for_looking(&mut self) -> Result<bool, Error> {
        if let Some(facts) = self.facts()?
            && facts.mode() & 0o070 != 0
        {
            self.access = Access::Group(facts.gid());
        }
        self.check()
    }

    /// `None` if there is no such directory.
    fn facts(&self) -> Result<Option<Metadata>, Error> {
        match self.directory.symlink_metadata() {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.fault(format!("cannot be looked at: {error}"))),
        }
    }

    /// Refuses a region that the file system has no room for. Only a courtesy: each region takes its room when made.
    pub(super) fn check_room(&self, size: u64) -> Result<(), Error> {
        let facts = rustix::fs::statvfs(&self.directory)
            .map_err(|error| self.fault(format!("cannot be measured: {error}")))?;
        let free = facts.f_bavail.saturating_mul(facts.f_frsize);
        if size <= free {
            return Ok(());
        }
        let directory = self.directory.display();
        let advice = format!(
            "{directory} has only {free} bytes free, and each client takes as many as its region; give less, or {CHOOSE}"
        );
        Err(Error::config("with_size", size, advice))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn access(&self) -> Access {
        self.access
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.with_suffix(".lock")
    }

    pub(super) fn door(&self) -> PathBuf {
        self.with_suffix(".door")
    }

    /// The files of one connection.
    pub(super) fn files(&self, nonce: &Instance) -> Files {
        let file = |kind| self.with_suffix(&format!(".{}.{kind}", hex(nonce)));
        Files {
            to_client: file("c"),
            to_server: file("s"),
            region: file("mmf"),
            access: self.access,
        }
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}{suffix}", self.name))
    }

    fn fault(&self, what: String) -> Error {
        Error::config(self.setting, self.directory.display(), format!("{what}; {CHOOSE}"))
    }
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

/// Which file a name in the directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Door,
    Lock,
    Region,
    ToClient,
    ToServer,
}

/// Takes a file's name apart into the endpoint's name, the connection's nonce where there is one, and the kind;
/// `None` if it is not one of ours. Suffixes differ, so no file of one endpoint is ever one of another.
pub(super) fn parse(file: &str) -> Option<(&str, Option<&str>, Kind)> {
    let (stem, kind) = file.rsplit_once('.')?;
    let kind = match kind {
        "c" => Kind::ToClient,
        "door" => Kind::Door,
        "lock" => Kind::Lock,
        "mmf" => Kind::Region,
        "s" => Kind::ToServer,
        _ => return None,
    };
    let (name, nonce) = match kind {
        Kind::Door | Kind::Lock => (stem, None),
        Kind::Region | Kind::ToClient | Kind::ToServer => {
            let (name, nonce) = stem.rsplit_once('.')?;
            let digits = nonce.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            (name, Some(nonce).filter(|_| digits && nonce.len() == 32)?.into())
        }
    };
    super::name_fault(name).is_none().then_some((name, nonce, kind))
}

/// Whether this path names the very file that is open.
pub(super) fn names(path: &Path, open: &Metadata) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file of ours that is there only to meet. One that is gone already is fine; anything else is worth
/// a line in the log, and no more: the next sweep finds it.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file could not be removed");
    }
}

pub(super) fn hex(nonce: &Instance) -> String {
    let number = nonce.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
    format!("{number:032x}")
}

fn fault_of(facts: &Metadata, access: Access) -> Option<String> {
    if facts.is_symlink() {
        return Some("is a symbolic link".to_owned());
    }
    if !facts.is_dir() {
        return Some("is not a directory".to_owned());
    }
    let admitted = access.admits(facts.uid(), facts.gid());
    let mode = facts.mode() & 0o777;
    match access {
        Access::User if !admitted => Some("belongs to another user".to_owned()),
        Access::User if mode & 0o077 != 0 => Some(
            "is open to other users (its mode must be 0700, unless with_group is set)".to_owned(),
        ),
        Access::Group(id) if !admitted => {
            Some(format!("belongs to the group {}, not to {id} (with_group)", facts.gid()))
        }
        Access::Group(_) if mode != 0o770 => {
            Some(format!("has mode {mode:04o}, but with_group needs 0770"))
        }
        _ => None,
    }
}

fn default_directory() -> Result<PathBuf, Error> {
    let own = format!("witrpc-{}", geteuid().as_raw());
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Ok(std::env::temp_dir().join(own));
    }
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        return Ok(memory.join(own));
    }
    Err(Error::config("with_directory", memory.display(), format!("is not there; {CHOOSE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_files_are_taken_apart_as_they_are_put_together() {
        let place = Place {
            directory: "/d".into(),
            setting: "",
            access: Access::User,
            name: "a.b".to_owned(),
        };
        let nonce = *b"\x00\x01\xff456789abcdef\0";
        let files = place.files(&nonce);
        let digits = hex(&nonce);
        assert_eq!(digits, "0001ff34353637383961626364656600");
        for (path, kind, nonce) in [
            (place.door(), Kind::Door, None),
            (place.lock(), Kind::Lock, None),
            (files.to_client, Kind::ToClient, Some(&*digits)),
            (files.to_server, Kind::ToServer, Some(&*digits)),
            (files.region, Kind::Region, Some(&*digits)),
        ] {
            let file = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(parse(file), Some(("a.b", nonce, kind)));
        }
    }

    #[test]
    fn files_of_others_are_not_ours() {
        let digits = "0".repeat(32);
        for file in [
            "x",
            ".lock",
            "..door",
            "a b.lock",
            "x.mmf",
            "x.s",
            "x.c",
            "main.c",
            "x.DOOR",
            "lock",
            &format!(".{digits}.c"),
            &format!("x.{digits}0.c"),
            &format!("x.{}A.c", &digits[1..]),
        ] {
            assert_eq!(parse(file), None, "{file}");
        }
    }
}
