//! From a name to a connection: where an endpoint's files lie, and the rendezvous of a client with its server.
//!
//! [`MemoryMappedFile`] is the setting that users give. [`Door`] is the server's side of the rendezvous, [`connect`] the client's.
//! `docs/segment.md` describes the files, the records and the order of events. The modules are
//!
//! - `paths`: the directory, and the paths in it,
//! - `lock`: makes sure that a name has one live server,
//! - `slots`, `record`: the slots for clients, and what the lock file says of them,
//! - `about`: what the lock file says of the server,
//! - `listing`: the live servers of a directory,
//! - `rendezvous`: the two kinds of record, as bytes,
//! - `making`: creates a region on a thread of its own,
//! - `door`, `caller`: the two sides,
//!
//! and, with the same names in `unix` and in `windows`,
//!
//! - `directory`: the access rights of the directory,
//! - `listener`, `join_attempt`: how a join request reaches the server, and an answer the client,
//! - `lock`: the system's way to hold a lock,
//! - `sweep`: removes what killed processes left,
//! - `fault`: turns errors of the system into errors with advice.
//!
//! # Invariants
//!
//! - **E1**, **E2** of the files: see `unix` and `windows`.
//! - **E3** A region is complete before a client hears of it.
//! - **E4** A client can delay another for no longer than the handshake deadline, or than its region takes to be created. It cannot
//!   delay the listener or the runtime at all.

use std::path::{Path, PathBuf};

use witrpc_core::{Error, WaitStrategy};

use crate::event::NamedEvent;
use crate::layout::{Instance, LARGEST_REGION, SMALLEST_REGION};

mod about;
mod caller;
mod door;
mod listing;
mod lock;
mod making;
mod paths;
mod record;
mod rendezvous;
mod slots;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

pub use caller::connect;
pub use door::Door;
pub use listing::{Endpoint, endpoints, endpoints_in};
pub(crate) use paths::remove;
pub use slots::ClientSlots;

/// 1 MiB: two rings of 510 KiB each.
const DEFAULT_SIZE: u64 = 1 << 20;
/// As WitRPC's servers do unless told otherwise.
const DEFAULT_MAX_CLIENTS: u32 = 1;
/// With the longest suffix this stays below the 255 bytes that file systems allow.
const LONGEST_NAME: usize = 128;

/// An endpoint, with its settings: a name for which the server creates a memory-mapped file for each client.
///
/// A `&str` or a `String` converts into an endpoint with default settings. Name, directory and group must be the same on both sides. On
/// Unix, a client must also set [`NamedEvent::RawSync`] if its server does. Each side chooses its own wait strategy. The server chooses
/// the size and the number of clients; a client's values are ignored.
///
/// ```
/// use witrpc::MemoryMappedFile;
///
/// let file = MemoryMappedFile::new("MySharedMap").with_size(4 << 20).with_max_clients(8);
/// assert!(file.validate().is_ok());
/// assert!(MemoryMappedFile::from("no/slashes").validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMappedFile {
    name: String,
    size: u64,
    directory: Option<PathBuf>,
    group: Option<u32>,
    max_clients: u32,
    named_event: NamedEvent,
    wait_strategy: WaitStrategy,
}

impl MemoryMappedFile {
    /// Makes an endpoint with this name: 1 to 128 of the characters `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, not starting with a dot. An
    /// invalid name is an error at `build()`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            size: DEFAULT_SIZE,
            directory: None,
            group: None,
            max_clients: DEFAULT_MAX_CLIENTS,
            named_event: NamedEvent::default(),
            wait_strategy: WaitStrategy::default(),
        }
    }

    /// Sets the size of each client's region in bytes, from 12,288 to 2^36. Another size is an error at `build()`. Default 1 MiB.
    ///
    /// The region has one page for the header, and two rings of equal size. Messages can be larger than a ring: they are sent in chunks. With
    /// a larger region, a sender can write more before it has to wait. The whole region is allocated when a client is accepted.
    #[must_use]
    pub const fn with_size(mut self, bytes: u64) -> Self {
        self.size = bytes;
        self
    }

    /// Sets the directory of the endpoint's files. It must be private to the user. If it does not exist, it is created, with mode 0700.
    ///
    /// The directory should be on a file system in memory: on a disk, the system writes changed pages back. A relative path is made
    /// absolute when it is passed to a builder; a later change of the working directory has no effect.
    ///
    /// Default: the environment variable `WITRPC_DIR`; without it, `/dev/shm/witrpc-<uid>` on Linux, `%LOCALAPPDATA%\witrpc` on Windows,
    /// and `witrpc-<uid>` in the temporary directory on other systems. If `WITRPC_DIR` is relative, it is relative to the working directory
    /// in which this process first used a builder.
    #[must_use]
    pub fn with_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Shares the endpoint among the members of the group with this id (`getent group NAME` shows it), instead of
    /// keeping it private to one user. Unix only. Server and clients must set the same group, together with
    /// [`with_directory`](Self::with_directory), and their users must be members of the group.
    ///
    /// The directory then belongs to the group and has mode 0770, and the files have mode 0660. If the directory does not exist, it is
    /// created. All members of the group, and the directory's owner, can connect, read and write every region, and remove files. If you do
    /// not trust all of them equally, use an access token and encryption.
    #[must_use]
    pub const fn with_group(mut self, id: u32) -> Self {
        self.group = Some(id);
        self
    }

    /// Sets how many clients can be connected at a time. Further clients wait in order. At least 1. Default 1.
    #[must_use]
    pub const fn with_max_clients(mut self, clients: u32) -> Self {
        self.max_clients = clients;
        self
    }

    /// Sets the kind of event with which the two sides wake each other. The server chooses the kind. On Unix, a client must also set
    /// [`NamedEvent::RawSync`] to accept it. Default: [`NamedEvent::Fifo`] on Unix, [`NamedEvent::RawSync`] on Windows.
    #[must_use]
    pub const fn with_named_event(mut self, kind: NamedEvent) -> Self {
        self.named_event = kind;
        self
    }

    /// Sets how the connections of this side wait for their peer. Default [`WaitStrategy::Adaptive`].
    #[must_use]
    pub const fn with_wait_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.wait_strategy = strategy;
        self
    }

    /// Makes a relative directory absolute, by the current working directory. The builders call it, as they keep the value.
    #[doc(hidden)]
    #[must_use]
    pub fn settled(mut self) -> Self {
        paths::note_working_directory();
        // A path that cannot be made absolute stays as it is; its use is an error.
        self.directory = self.directory.map(|path| std::path::absolute(&path).unwrap_or(path));
        self
    }

    /// Checks all settings that can be checked without system calls. `build()` calls it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], which names the setting and its value, and says what to do.
    pub fn validate(&self) -> Result<(), Error> {
        validate_name(&self.name)?;
        if self.size < SMALLEST_REGION || self.size > LARGEST_REGION {
            let advice = format!("give {SMALLEST_REGION} to {LARGEST_REGION} bytes");
            return Err(Error::config("with_size", self.size, advice));
        }
        if self.max_clients == 0 {
            return Err(Error::config("with_max_clients", 0, "give at least 1"));
        }
        if self.directory.as_deref() == Some(Path::new("")) {
            return Err(Error::config("with_directory", "\"\"", "give a path, or remove it"));
        }
        if let (Some(group), None) = (self.group, &self.directory) {
            let advice = "add with_directory: the default directory is private to one user";
            return Err(Error::config("with_group", group, advice));
        }
        if let (Some(group), false) = (self.group, cfg!(unix)) {
            let advice = "groups are supported on Unix only; remove it";
            return Err(Error::config("with_group", group, advice));
        }
        if !self.named_event.is_here() {
            let advice = "FIFOs are supported on Unix only; remove it";
            return Err(Error::config("with_named_event", "Fifo", advice));
        }
        Ok(())
    }

    /// Whether a client may use the kind of event that its server's region names. `[seg.header.events]`
    fn check_event(&self, kind: NamedEvent) -> Result<(), Error> {
        if kind == NamedEvent::default() || kind == self.named_event {
            return Ok(());
        }
        let advice = "the server uses RawSync, which is for peers that trust each other: set \
                      with_named_event(NamedEvent::RawSync) on the client too, or remove it from the server";
        Err(Error::config("with_named_event", format!("{:?}", self.named_event), advice))
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many clients can be connected at a time.
    #[must_use]
    pub const fn max_clients(&self) -> u32 {
        self.max_clients
    }
}

impl From<&str> for MemoryMappedFile {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for MemoryMappedFile {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// Makes a directory that endpoints can be in, if it is missing.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    paths::EndpointPaths::anonymous(Some(path.to_owned()))?.prepare()
}

/// Makes a name that cannot be guessed: `prefix`, a dash, and 128 random bits as 32 hexadecimal digits.
///
/// Use it for an endpoint that only one other process is to find: a parent makes the name and passes it to its worker, for example in an
/// argument. The name is not secret from processes that can list the endpoint's directory or the arguments of processes. Use an access
/// token against those.
///
/// ```
/// use std::process::Command;
/// use witrpc::{MemoryMappedFile, unique_name};
///
/// let name = unique_name("worker")?;
/// let mut worker = Command::new("my-worker");
/// worker.arg("--endpoint").arg(&name);
/// // Here the parent serves or connects on the same name.
/// let file = MemoryMappedFile::new(name);
/// assert!(file.validate().is_ok());
/// # Ok::<(), witrpc::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Config`] if the prefix is empty, has a character that names cannot have, or is longer than 95 characters. [`Error::Io`] if
/// the system has no random bytes.
pub fn unique_name(prefix: &str) -> Result<String, Error> {
    let mut random = Instance::default();
    getrandom::fill(&mut random).map_err(|error| {
        Error::io("getting random bytes from the system", &std::io::Error::other(error.to_string()))
    })?;
    let name = format!("{prefix}-{}", paths::hex(&random));
    let fault = if prefix.is_empty() { name_fault(prefix) } else { name_fault(&name) };
    match fault {
        None => Ok(name),
        Some(fault) => Err(Error::config("unique_name prefix", format!("{prefix:?}"), fault)),
    }
}

/// The rule for names. `[seg.file.name]`
fn validate_name(name: &str) -> Result<(), Error> {
    match name_fault(name) {
        None => Ok(()),
        Some(fault) => {
            Err(Error::config("with_memory_mapped_file name", format!("{name:?}"), fault))
        }
    }
}

fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty; give 1 to 128 of the characters A-Z a-z 0-9 . _ -");
    }
    if name.starts_with('.') {
        return Some("starts with a dot; start it with a letter, a digit, '_' or '-'");
    }
    let stranger = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c)));
    match stranger {
        Some('/' | '\\') => {
            return Some("contains a slash; a name is not a path: give the path to with_directory");
        }
        Some('\0') => return Some("contains a NUL character; use only A-Z a-z 0-9 . _ -"),
        Some(c) if !c.is_ascii() => {
            return Some("contains a character that is not ASCII; use only A-Z a-z 0-9 . _ -");
        }
        Some(_) => return Some("contains a character that is not allowed; use A-Z a-z 0-9 . _ -"),
        None => {}
    }
    if cfg!(windows) && is_device(name) {
        return Some("is the name of a device on Windows; choose another name");
    }
    (name.len() > LONGEST_NAME).then_some("is longer than 128 characters; shorten it")
}

/// What Windows takes for a device in every directory, with or without a suffix. `[seg.windows.name]`
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).to_ascii_uppercase();
    match stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) {
        Some(number) => number.len() == 1 && number != "0" && number.parse::<u8>().is_ok(),
        None => ["CON", "PRN", "AUX", "NUL"].contains(&&*stem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(file: &MemoryMappedFile) -> String {
        file.validate().unwrap_err().to_string()
    }

    #[test]
    fn names_within_the_rule_are_taken() {
        for name in ["a", "MySharedMap", "_x", "-", "a.b..c", "0", &"x".repeat(128)] {
            MemoryMappedFile::from(name).validate().unwrap();
        }
    }

    #[test]
    fn names_outside_the_rule_are_refused_with_their_reason() {
        let long = "x".repeat(129);
        for (name, reason) in [
            ("", "is empty"),
            (&*long, "longer than 128"),
            ("a/b", "a slash"),
            ("../x", "starts with a dot"),
            ("..", "starts with a dot"),
            (".hidden", "starts with a dot"),
            ("a\\b", "a slash"),
            ("a\0b", "NUL"),
            ("naïve", "not ASCII"),
            ("a b", "not allowed"),
            ("a\n", "not allowed"),
        ] {
            let error = fault(&MemoryMappedFile::new(name));
            assert!(error.starts_with("with_memory_mapped_file name = "), "{error}");
            assert!(error.contains(reason), "{name:?}: {error}");
        }
    }

    #[test]
    fn devices_of_windows_are_known() {
        for name in ["con", "NUL.x", "Com1", "lpt9.a.b"] {
            assert!(is_device(name), "{name}");
            assert_eq!(MemoryMappedFile::from(name).validate().is_ok(), cfg!(unix), "{name}");
        }
        for name in ["console", "com0", "com", "com12", "x.nul", "lptx", "null"] {
            assert!(!is_device(name), "{name}");
        }
    }

    #[test]
    fn unique_names_are_valid_and_differ() {
        let names: std::collections::BTreeSet<_> =
            (0..1000).map(|_| unique_name("worker").unwrap()).collect();
        assert_eq!(names.len(), 1000);
        for name in names {
            let digits = name.strip_prefix("worker-").unwrap();
            assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            MemoryMappedFile::new(name).validate().unwrap();
        }
        let longest = unique_name(&"x".repeat(95)).unwrap();
        MemoryMappedFile::new(longest).validate().unwrap();
        for (prefix, reason) in
            [("", "is empty"), ("a/b", "a slash"), (".a", "a dot"), (&"x".repeat(96), "longer")]
        {
            let error = unique_name(prefix).unwrap_err().to_string();
            assert!(error.contains("unique_name prefix") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn sizes_and_counts_out_of_bounds_are_refused_with_the_way_out() {
        let file = MemoryMappedFile::new("x");
        assert_eq!(
            fault(&file.clone().with_size(12_287)),
            "with_size = 12287: give 12288 to 68719476736 bytes"
        );
        file.clone().with_size(12_288).validate().unwrap();
        file.clone().with_size(64 << 30).validate().unwrap();
        assert!(fault(&file.clone().with_size((64 << 30) + 1)).starts_with("with_size"));
        assert_eq!(
            fault(&file.clone().with_max_clients(0)),
            "with_max_clients = 0: give at least 1"
        );
        assert!(fault(&file.clone().with_directory("")).starts_with("with_directory"));
        assert!(fault(&file.clone().with_group(7)).starts_with("with_group = 7"));
        let group = file.clone().with_group(7).with_directory("/x").validate();
        assert_eq!(group.is_ok(), cfg!(unix));
        for kind in [NamedEvent::Fifo, NamedEvent::RawSync] {
            let chosen = file.clone().with_named_event(kind).validate();
            assert_eq!(chosen.is_ok(), cfg!(unix) || kind == NamedEvent::RawSync);
        }
        file.check_event(NamedEvent::default()).unwrap();
    }
}
