//! [`Sandbox`]: what users say that a worker may do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use witrpc_core::Error;

/// A program and its libraries hardly start with less.
const LEAST_MEMORY: u64 = 32 << 20;
/// A runtime has a dozen of its own.
const FEWEST_DESCRIPTORS: u64 = 32;
/// The system counts seconds.
const SHORTEST_CPU_TIME: Duration = Duration::from_secs(1);

/// What a worker may do, enforced by the kernel. Linux only (`x86_64` and `aarch64`), with the feature `sandbox`.
///
/// [`compute`](Self::compute) permits memory and CPU, and nothing else; the other methods loosen or tighten that. There is never a network, and there
/// are never new processes. A worker keeps its connection, its host's services, and the descriptors that its host sends it
/// ([`Descriptor`](crate::Descriptor)).
///
/// The executable, its loader and its libraries need not be named. The worker calls [`Agent::from_env`](crate::Agent::from_env) first in a plain
/// `fn main`, before a runtime is started.
///
/// What the kernel cannot enforce is [`Error::Unsupported`], unless [`best_effort`](Self::best_effort) says otherwise. The guide's chapter on
/// sandboxes says what is refused, and what a sandbox does not protect against.
///
/// ```no_run
/// # use std::time::Duration;
/// use witrpc::{RestartPolicy, Sandbox, Worker};
///
/// # async fn host() -> witrpc::Result<()> {
/// let sandbox = Sandbox::compute()
///     .with_read("/usr/share/app/models")
///     .with_max_memory(512 << 20)
///     .with_cpu_time(Duration::from_secs(60));
/// let worker = Worker::this_program().with_sandbox(sandbox).with_restart(RestartPolicy::on_failure()).spawn().await?;
/// # drop(worker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Sandbox {
    pub(super) readable: Vec<PathBuf>,
    pub(super) writable: Vec<PathBuf>,
    pub(super) executable: Vec<PathBuf>,
    pub(super) max_memory: Option<u64>,
    pub(super) cpu_time: Option<Duration>,
    pub(super) max_descriptors: Option<u64>,
    pub(super) landlock_at_most: u32,
    best_effort: bool,
}

impl Sandbox {
    /// Permits memory and CPU, and nothing else: no files, no network, no processes. Limits are those of the host until they are set here.
    pub const fn compute() -> Self {
        Self {
            readable: Vec::new(),
            writable: Vec::new(),
            executable: Vec::new(),
            max_memory: None,
            cpu_time: None,
            max_descriptors: None,
            landlock_at_most: u32::MAX,
            best_effort: false,
        }
    }

    /// Makes do with this version of Landlock, as on a kernel that has no newer one; 0 is none. For tests.
    #[doc(hidden)]
    pub const fn with_landlock_at_most(mut self, version: u32) -> Self {
        self.landlock_at_most = version;
        self
    }

    /// Permits reading this file, or all files and directories below this directory. May be repeated. The path must exist when the worker is started.
    pub fn with_read(mut self, path: impl Into<PathBuf>) -> Self {
        self.readable.push(path.into());
        self
    }

    /// Permits reading and writing this file, or below this directory: reading, writing, making, renaming and removing files and directories. May be
    /// repeated. The path must exist when the worker is started.
    ///
    /// Modes, owners and times cannot be changed (so `std::fs::copy` fails; `std::io::copy` works), and no links, sockets or devices can be made.
    pub fn with_write(mut self, path: impl Into<PathBuf>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Permits executing this program on the way to the worker: for a command that is a launcher, which executes the worker's program in its own
    /// place. May be repeated. The path must exist when the worker is started; its loader and its libraries need not be named.
    ///
    /// Once the worker has called [`Agent::from_env`](crate::Agent::from_env), nothing can be executed.
    pub fn with_execute(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable.push(path.into());
        self
    }

    /// Limits the memory that the worker can have, in bytes: what it can write in its heap, its data and the stacks of its threads. Default: no limit
    /// but the host's. At least 32 MiB.
    ///
    /// An allocation beyond it fails, which usually ends the worker. What an allocator keeps after it was freed counts: glibc's does that for each
    /// of several threads. Program, libraries and connection do not count. Addresses are limited, too: to 4 GiB more than this.
    pub const fn with_max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// Limits the CPU time that each process of the worker can use, all threads together, rounded up to seconds. Then it is ended by `SIGXCPU`, or a second
    /// later by `SIGKILL`. Default: no limit but the host's.
    pub const fn with_cpu_time(mut self, time: Duration) -> Self {
        self.cpu_time = Some(time);
        self
    }

    /// Limits how many descriptors the worker can open, in addition to those that it inherits. Default: no limit but the host's. At least 32.
    pub const fn with_max_descriptors(mut self, descriptors: u64) -> Self {
        self.max_descriptors = Some(descriptors);
        self
    }

    /// Starts the worker also where the kernel cannot enforce all of this, and enforces the rest. [`missing`](Self::missing) and the log say what
    /// is not enforced.
    pub const fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    /// # Errors
    ///
    /// [`Error::Config`] if a limit is so low that nothing would run.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if let Some(bytes) = self.max_memory.filter(|bytes| *bytes < LEAST_MEMORY) {
            let advice = "programs hardly start with so little; give at least 32 MiB";
            return Err(Error::config("with_max_memory", bytes, advice));
        }
        if let Some(time) = self.cpu_time.filter(|time| *time < SHORTEST_CPU_TIME) {
            let advice = "the system counts seconds; give at least 1 s";
            return Err(Error::config("with_cpu_time", format!("{time:?}"), advice));
        }
        if let Some(few) = self.max_descriptors.filter(|few| *few < FEWEST_DESCRIPTORS) {
            let advice = "a runtime hardly starts with so few; give at least 32";
            return Err(Error::config("with_max_descriptors", few, advice));
        }
        Ok(())
    }

    /// Goes on although this is missing, or does not.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`].
    pub(super) fn accept(&self, worker: &str, missing: &[Restriction]) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = missing.iter().map(Restriction::to_string).collect();
        let missing = missing.join("; ");
        if self.best_effort {
            tracing::warn!(worker, missing, "the worker is confined in part only");
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("the sandbox of the worker {worker:?}"),
            advice: format!(
                "the system cannot restrict {missing}; best_effort() starts the worker without that"
            ),
        })
    }
}

/// What a kernel may be unable to enforce: [`Sandbox::missing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restriction {
    /// Which files can be opened, at any time. It takes Landlock: Linux 5.13 or later, switched on.
    Files,
    /// Which files can be read before the worker calls [`Agent::from_env`](crate::Agent::from_env); from then on none can be opened, not even the
    /// executable. It takes Landlock.
    FilesAtStart,
    /// Which system calls can be made, and so network, processes and signals. It takes seccomp filters.
    SystemCalls,
    /// Memory, CPU time and descriptors.
    Limits,
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "files (no Landlock: it takes Linux 5.13 or later, with Landlock switched on)",
            Self::FilesAtStart => {
                "files that are read before the worker calls Agent::from_env() (no Landlock: it takes Linux 5.13 or later, with Landlock switched on)"
            }
            Self::SystemCalls => "network, processes and other system calls (no seccomp filters)",
            Self::Limits => "memory, CPU time and descriptors",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sandbox: &Sandbox) -> String {
        sandbox.validate().unwrap_err().to_string()
    }

    #[test]
    fn limits_that_nothing_would_run_with_are_refused() {
        let sandbox = Sandbox::compute;
        sandbox().validate().unwrap();
        let low = refused(&sandbox().with_max_memory(LEAST_MEMORY - 1));
        assert!(low.starts_with("with_max_memory = 33554431: "), "{low}");
        let short = refused(&sandbox().with_cpu_time(Duration::from_millis(999)));
        assert!(short.starts_with("with_cpu_time = 999ms: "), "{short}");
        let few = refused(&sandbox().with_max_descriptors(31));
        assert!(few.starts_with("with_max_descriptors = 31: "), "{few}");
        let least = sandbox().with_max_memory(LEAST_MEMORY).with_cpu_time(SHORTEST_CPU_TIME);
        least.with_max_descriptors(FEWEST_DESCRIPTORS).validate().unwrap();
    }

    #[test]
    fn what_is_missing_is_an_error_unless_the_user_makes_do() {
        let missing = [Restriction::FilesAtStart, Restriction::SystemCalls];
        let strict = Sandbox::compute();
        strict.accept("w", &[]).unwrap();
        let error = strict.accept("w", &missing).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
        let text = error.to_string();
        for part in ["worker \"w\"", "Agent::from_env", "no seccomp filters", "best_effort()"] {
            assert!(text.contains(part), "{text}");
        }
        strict.best_effort().accept("w", &missing).unwrap();
    }
}
