//! Confined workers: what a worker may do, enforced by the kernel. Linux only; feature `sandbox`.
//!
//! `settings` is what users see. `linux` compiles a [`Sandbox`] for each start into a [`Confinement`], which binds the child between fork and exec, and
//! has what the worker is told; [`obey`] is the worker's side. Elsewhere, and without the feature, `none` has the same names.
//!
//! # Two stages
//!
//! *Stage one*, in the child before exec: resource limits, no capabilities, `no_new_privs`, a Landlock domain, a seccomp filter. It is complete: a program
//! that is hostile from its first instruction is held by it. It permits in addition what it takes to become the worker: to execute the program, to read
//! its loader and its libraries, and to bind itself further.
//!
//! *Stage two*, in `Agent::from_env`, before anything of the connection is read: a filter for all threads that takes away exec and the rest of what a
//! start needs, and a second Landlock domain, in which only the executable (for backtraces) and what the user grants can be read. So a worker that is
//! taken over by what its host sends it can load no library, and execute nothing.
//!
//! # Why the filters list what is allowed
//!
//! A list of what is refused is shorter, and lets more programs run. But it is open to whatever its author did not know: each version of Linux has new
//! system calls, and old ones have side doors (`fcntl` can have the kernel send any signal to any process; `io_uring` executes what a filter does not
//! see). What a worker needs can be known: it computes, has threads, waits, and uses descriptors that it was given. So the filters list that, where
//! needed with the arguments. Whatever else there is, now or later, is refused: with `EPERM`, or with `ENOSYS` where libraries have a fallback for
//! older kernels (`clone3`, whose flags no filter can see; whatever is newer than this list).
//!
//! # Who enforces what
//!
//! The filter enforces everything that can be told by numbers, and does not depend on the version of Landlock: no network, no processes, no signals,
//! no changes of modes or owners, files opened for reading only. Landlock enforces which paths can be opened. Whatever newer versions of it can do
//! besides (TCP, devices, scopes of signals and of abstract sockets) is switched on as a second wall, and not relied upon.
//!
//! # Invariants
//!
//! - **S1** Between fork and exec there are system calls only. All that they need is made before.
//! - **S2** A start that cannot be confined as its user says is an error, and starts nothing.
//! - **S3** Each start is confined anew, by what the paths are then.

#[cfg(all(
    feature = "sandbox",
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod linux;
#[cfg(not(all(
    feature = "sandbox",
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod none;
#[cfg(feature = "sandbox")]
mod settings;

#[cfg(all(
    feature = "sandbox",
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use linux as os;
#[cfg(not(all(
    feature = "sandbox",
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
use none as os;

#[cfg(not(feature = "sandbox"))]
pub(crate) use none::Sandbox;
pub(crate) use os::Confinement;
#[cfg(unix)]
pub(crate) use os::obey;
#[cfg(feature = "sandbox")]
pub use settings::{Restriction, Sandbox};

#[cfg(feature = "sandbox")]
impl Sandbox {
    /// Returns what the kernel cannot enforce of this; empty if it can enforce all.
    #[must_use]
    pub fn missing(&self) -> Vec<Restriction> {
        os::missing(self)
    }
}
