//! The directory of an endpoint, and the paths of the files in it. `[seg.file.name]`
//!
//! The directory is private to one user, which keeps others from names, pipes and regions. Its parent directories are resolved as
//! usual. What "private" means depends on the system: see `directory`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use witrpc_core::Error;
use witrpc_core::text::Escaped;

use super::MemoryMappedFile;
use super::os::directory;
use crate::layout::Instance;
use crate::sys::{Access, largest_file};

/// Overrides the default directory.
const VARIABLE: &str = "WITRPC_DIR";
/// Where an error says how to choose another directory.
pub(super) const CHOOSE: &str =
    "choose another directory with with_directory or the environment variable WITRPC_DIR";

/// The working directory when this was first used.
static FIRST: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::current_dir().ok());

/// Notes the current working directory, unless one was noted already.
pub(super) fn note_working_directory() {
    LazyLock::force(&FIRST);
}

/// An endpoint's name and its directory, which may not exist yet.
#[derive(Clone, Debug)]
pub(super) struct EndpointPaths {
    /// Absolute: the working directory may change between two uses.
    directory: PathBuf,
    /// The setting that chose the directory, for messages.
    setting: &'static str,
    access: Access,
    name: String,
}

impl EndpointPaths {
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
            (None, _) => (directory::default()?, "with_directory"),
        };
        let absolute = match (setting, &*FIRST) {
            // The variable is the same all along, and so is what it names.
            (VARIABLE, Some(first)) => Ok(first.join(&directory)),
            _ => std::path::absolute(&directory),
        };
        let absolute = absolute.map_err(|error| {
            let fault = format!("cannot be made absolute: {error}; {CHOOSE}");
            Error::config(setting, directory.display(), fault)
        })?;
        // Without a trailing slash, which would follow a symlink.
        let directory = absolute.components().collect();
        Ok(Self { directory, setting, access: Access::User, name: String::new() })
    }

    /// Makes the directory if it is missing, and checks that it is private. `[seg.file.directory]`
    pub(super) fn prepare(&self) -> Result<(), Error> {
        directory::make(&self.directory, self.access).map_err(|what| self.fault(what))?;
        if self.check()? { Ok(()) } else { Err(self.fault("vanished".to_owned())) }
    }

    /// Whether the directory exists; if so, it is open to those only whom it is to be open to.
    pub(super) fn check(&self) -> Result<bool, Error> {
        match directory::fault(&self.directory, self.access) {
            Ok(None) => Ok(true),
            Ok(Some(fault)) => Err(self.fault(fault)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.fault(format!("cannot be examined: {error}"))),
        }
    }

    /// As [`check`](Self::check), for listing only: the directory may also be a group's.
    pub(super) fn check_for_looking(&mut self) -> Result<bool, Error> {
        if let Some(access) = directory::shared(&self.directory) {
            self.access = access;
        }
        self.check()
    }

    /// Refuses a region that the file system has no room for. An early check only: each region allocates its room when it is created.
    pub(super) fn check_room(&self, size: u64) -> Result<(), Error> {
        let free = directory::free(&self.directory).map_err(|error| {
            self.fault(format!("has free space that cannot be determined: {error}"))
        })?;
        let Some(free) = free.filter(|free| size > *free) else { return Ok(()) };
        let directory = self.directory.display();
        let advice = format!(
            "{directory} has only {free} bytes free, and each client needs a region of this size; give less, or {CHOOSE}"
        );
        Err(Error::config("with_size", size, advice))
    }

    /// Refuses a region that is larger than a file of this process may be. Called before any file is made, as a lock has a size too.
    pub(super) fn check_limit(size: u64) -> Result<(), Error> {
        let Some(largest) = largest_file().filter(|largest| size > *largest) else { return Ok(()) };
        let advice = format!(
            "this process can create files of at most {largest} bytes (RLIMIT_FSIZE); raise the limit with ulimit -f, or give less"
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

    /// A file of one connection, by its last suffix. `[seg.file.connection]`
    pub(super) fn file(&self, nonce: &Instance, kind: &str) -> PathBuf {
        self.with_suffix(&format!(".{}.{kind}", hex(nonce)))
    }

    pub(super) fn with_suffix(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}{suffix}", self.name))
    }

    fn fault(&self, what: String) -> Error {
        Error::config(self.setting, self.directory.display(), format!("{what}; {CHOOSE}"))
    }
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

/// Removes a file of ours that only serves the rendezvous. A missing file is no error. Any other failure is logged only: the next
/// sweep removes the file.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(
                path = %Escaped(path.display()),
                error = %Escaped(&error),
                "could not remove a file"
            );
        }
    }
}

pub(super) fn hex(nonce: &Instance) -> String {
    let number = nonce.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
    format!("{number:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_files_are_taken_apart_as_they_are_put_together() {
        let paths = EndpointPaths {
            directory: "/d".into(),
            setting: "",
            access: Access::User,
            name: "a.b".to_owned(),
        };
        let nonce = *b"\x00\x01\xff456789abcdef\0";
        let digits = hex(&nonce);
        assert_eq!(digits, "0001ff34353637383961626364656600");
        for (path, kind, nonce) in [
            (paths.with_suffix(".door"), Kind::Door, None),
            (paths.lock(), Kind::Lock, None),
            (paths.file(&nonce, "c"), Kind::ToClient, Some(&*digits)),
            (paths.file(&nonce, "s"), Kind::ToServer, Some(&*digits)),
            (paths.file(&nonce, "mmf"), Kind::Region, Some(&*digits)),
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
