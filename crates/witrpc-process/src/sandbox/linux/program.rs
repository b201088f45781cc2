//! The files that a program needs before its first instruction: itself, its loader, and its libraries, as the loader will look for them.
//!
//! It is looked for as the loaders of glibc and musl do. Where they would take the first of several files, all are found here: granting a second
//! library is harmless, and missing the right one is not. A program that needs something else (a library that it opens itself, `$LIB` in
//! a path) ends with the loader's message, and its directory can be granted by `with_read`.
//!
//! What is read here may be hostile: nothing is executed, and sizes are bounded.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use self::elf::{Binary, split};

mod cache;
mod elf;

/// Where loaders look last.
const USUAL: &[&str] = &[
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    #[cfg(target_arch = "x86_64")]
    "/lib/x86_64-linux-gnu",
    #[cfg(target_arch = "x86_64")]
    "/usr/lib/x86_64-linux-gnu",
    #[cfg(target_arch = "aarch64")]
    "/lib/aarch64-linux-gnu",
    #[cfg(target_arch = "aarch64")]
    "/usr/lib/aarch64-linux-gnu",
];
/// Below a directory, variants for newer processors.
const VARIANTS: &[&str] = &[
    "",
    #[cfg(target_arch = "x86_64")]
    "glibc-hwcaps/x86-64-v2",
    #[cfg(target_arch = "x86_64")]
    "glibc-hwcaps/x86-64-v3",
    #[cfg(target_arch = "x86_64")]
    "glibc-hwcaps/x86-64-v4",
];
const CACHE: &str = "/etc/ld.so.cache";
const PRELOAD: &str = "/etc/ld.so.preload";
/// A list of libraries is much shorter.
const LONGEST_LIST: u64 = 1 << 20;
/// `#!` and its line, as far as the kernel reads.
const LONGEST_LINE: u64 = 256;
/// The kernel follows no more scripts.
const SCRIPTS: usize = 5;
/// Where programs are without `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// Those that the kernel executes: programs, interpreters of scripts, and loaders.
    pub(super) executables: BTreeSet<PathBuf>,
    /// What loaders read.
    pub(super) libraries: BTreeSet<PathBuf>,
    loaders: BTreeSet<PathBuf>,
}

impl Programs {
    /// What this command's program needs, and others that it may execute.
    pub(super) fn of(command: &Command, others: &[PathBuf]) -> Self {
        let mut search = Search::new(command);
        if let Some(path) = executed(command) {
            search.program(&path, SCRIPTS);
        }
        for path in others {
            search.program(path, SCRIPTS);
        }
        search.found
    }

    /// Whether it is there for others only.
    pub(super) fn is_loader(&self, path: &Path) -> bool {
        self.loaders.contains(path)
    }
}

/// The program that a command executes; `None` if there is none.
fn executed(command: &Command) -> Option<PathBuf> {
    let program = Path::new(command.get_program());
    let folder = command.get_current_dir().unwrap_or(Path::new(""));
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Some(folder.join(program));
    }
    let path = variable(command, "PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut candidates = env::split_paths(&path).map(|entry| folder.join(entry).join(program));
    candidates.find(|candidate| is_file(candidate))
}

/// A variable as the program will have it, unless its environment is cleared.
fn variable(command: &Command, name: &str) -> Option<OsString> {
    match command.get_envs().find(|(set, _)| *set == name) {
        Some((_, value)) => value.map(OsStr::to_owned),
        None => env::var_os(name),
    }
}

/// A search for all that programs need.
struct Search {
    found: Programs,
    /// Those of the environment, and of the system.
    folders: Vec<PathBuf>,
    cache: Vec<(OsString, PathBuf)>,
    /// Libraries that every program gets.
    preloaded: Vec<OsString>,
}

impl Search {
    fn new(command: &Command) -> Self {
        let folder = command.get_current_dir().unwrap_or(Path::new(""));
        let listed = variable(command, "LD_LIBRARY_PATH").unwrap_or_default();
        let listed = split(&listed, b":;").map(|entry| folder.join(entry));
        let mut folders: Vec<_> = listed.collect();
        folders.extend(USUAL.iter().map(PathBuf::from));
        let wanted = variable(command, "LD_PRELOAD").unwrap_or_default();
        let system = OsString::from_vec(read(Path::new(PRELOAD), LONGEST_LIST));
        let preloaded = split(&wanted, b": ").chain(split(&system, b": \t\n"));
        let preloaded = preloaded.map(OsStr::to_owned).collect();
        let cache = cache::parse(&read(Path::new(CACHE), cache::LARGEST));
        let mut found = Programs::default();
        let lists = [CACHE, PRELOAD].map(PathBuf::from);
        found.libraries.extend(lists.into_iter().filter(|list| is_file(list)));
        Self { found, folders, cache, preloaded }
    }

    /// Notes a program and what it needs. `scripts` is how many may follow each other.
    fn program(&mut self, path: &Path, scripts: usize) {
        if !is_file(path) || !self.found.executables.insert(path.to_owned()) {
            return;
        }
        if let Some(binary) = Binary::read(path) {
            if let Some(loader) = binary.interpreter.as_ref().map(PathBuf::from) {
                self.found.executables.insert(loader.clone());
                self.found.loaders.insert(loader);
            }
            self.libraries(path, binary);
        } else if let Some(interpreter) = interpreter(path).filter(|_| scripts > 0) {
            self.program(&interpreter, scripts - 1);
        }
    }

    /// Notes the libraries of a program, those of these, and so on.
    fn libraries(&mut self, path: &Path, program: Binary) {
        let mut own_folders = Vec::new();
        let mut left = vec![(path.to_owned(), program)];
        let mut wanted = self.preloaded.clone();
        while let Some((path, binary)) = left.pop() {
            // A folder of one is for all that it needs, too, by the older of the two settings; here by both.
            own_folders.extend(binary.folders.iter().map(|folder| with_origin(folder, &path)));
            wanted.extend(binary.needed);
            for name in wanted.drain(..) {
                for file in self.candidates(&name, &own_folders) {
                    if is_file(&file) && self.found.libraries.insert(file.clone()) {
                        left.extend(Binary::read(&file).map(|binary| (file, binary)));
                    }
                }
            }
        }
    }

    /// The files that a name may stand for.
    fn candidates(&self, name: &OsStr, own_folders: &[PathBuf]) -> Vec<PathBuf> {
        if name.as_bytes().contains(&b'/') {
            return vec![PathBuf::from(name)];
        }
        let folders = own_folders.iter().chain(&self.folders);
        let in_folders = folders
            .flat_map(|folder| VARIANTS.iter().map(|variant| folder.join(variant).join(name)));
        let cached = self.cache.iter().filter(|(cached, _)| cached == name);
        in_folders.chain(cached.map(|(_, path)| path.clone())).collect()
    }
}

/// Whether something can be read there as a file.
fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// A folder in which `$ORIGIN` stands for that of the file.
fn with_origin(folder: &OsStr, file: &Path) -> PathBuf {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let origin = file.parent().unwrap_or(Path::new("/"));
    for name in ["$ORIGIN", "${ORIGIN}"] {
        if let Some(rest) = folder.as_bytes().strip_prefix(name.as_bytes()) {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            return origin.join(OsStr::from_bytes(rest));
        }
    }
    PathBuf::from(folder)
}

/// What executes a script.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let begin = read(script, LONGEST_LINE);
    let line = begin.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    words.next().map(|word| PathBuf::from(OsStr::from_bytes(word)))
}

/// The first bytes of a file; none if it cannot be read.
fn read(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = is_file(path).then(|| File::open(path).ok()).flatten();
    let read = file.map(|file| file.take(most).read_to_end(&mut bytes));
    if read.is_some_and(|read| read.is_err()) {
        bytes.clear();
    }
    bytes
}

#[cfg(test)]
mod tests;
