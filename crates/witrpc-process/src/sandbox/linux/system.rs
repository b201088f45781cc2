//! System calls that no crate has as safe functions, and the hook between fork and exec.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;

use rustix::io::Errno;
use rustix::process::getpid;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::filter::Filter;
use super::limits::Limits;

/// `LANDLOCK_CREATE_RULESET_VERSION` of `linux/landlock.h`.
const ASKS_FOR_VERSION: libc::c_uint = 1;
/// `LANDLOCK_RESTRICT_SELF_TSYNC`.
const ALL_THREADS: libc::c_uint = 1 << 3;

/// The version of the kernel's Landlock; 0 without.
pub(super) fn landlock_version() -> u32 {
    let none = ptr::null::<libc::c_void>();
    // SAFETY: with this flag it takes no pointer and no length, and changes nothing.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, ASKS_FOR_VERSION)
    };
    u32::try_from(version).unwrap_or_default()
}

/// Whether the kernel has seccomp filters that can refuse a call.
pub(super) fn has_filters() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    let flags: libc::c_uint = 0;
    // SAFETY: it reads the action, and changes nothing.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, flags, &raw const action)
    };
    answer == 0
}

/// Stage one, ready for the child.
#[derive(Debug)]
pub(super) struct Bonds {
    pub(super) limits: Limits,
    pub(super) rules: Option<OwnedFd>,
    pub(super) filter: Option<Filter>,
}

impl Bonds {
    /// Has the program of this command be bound, in the child between fork and exec.
    pub(super) fn bind_before_exec(mut self, command: &mut Command) {
        let bind = move || self.bind();
        // SAFETY: S1: `bind` makes system calls only, and an error of the system is a number.
        unsafe { command.pre_exec(bind) };
    }

    /// Binds this process: a child that is about to execute a program. S1.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn bind(&mut self) -> io::Result<()> {
        self.limits.set()?;
        set_no_new_privs(true)?;
        // Also of root: exec would not give them back without new privileges.
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, none)?;
        if let Some(rules) = &self.rules {
            restrict(rules, false)?;
        }
        if let Some(filter) = &mut self.filter {
            filter.is_for(getpid().as_raw_nonzero().get().unsigned_abs());
            install(filter)?;
        }
        Ok(())
    }
}

/// Binds this thread, and those that it will start, to a set of Landlock's rules; or all threads. S1.
///
/// # Errors
///
/// Whatever the system says.
pub(super) fn restrict(rules: impl AsFd, all_threads: bool) -> io::Result<()> {
    let rules = rules.as_fd().as_raw_fd();
    let flags = if all_threads { ALL_THREADS } else { 0 };
    // SAFETY: it takes numbers, and restricts what this process can do.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs a filter for all threads of this process. S1.
///
/// # Errors
///
/// Whatever the system says; `Other` if another thread has a filter that this one does not have.
pub(super) fn install(filter: &Filter) -> io::Result<()> {
    let program = &filter.0;
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(Errno::INVAL))?;
    // The same layout; the kernel only reads it.
    let instructions = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let program = libc::sock_fprog { len: length, filter: instructions };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: the program is as long as it says, and lives until the call returns. It restricts what this process can do.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match done {
        0 => Ok(()),
        // The id of a thread.
        1.. => Err(Errno::BUSY.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the calling thread is the only one of this process. `None` if nobody tells.
pub(super) fn is_alone() -> Option<bool> {
    // SAFETY: a process of one thread has nothing to unshare; with others it is an error. Nothing changes either way.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Some(true);
    }
    if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        return Some(false);
    }
    // A container may refuse that. This folder has a link for each thread, and two more.
    let links = rustix::fs::stat("/proc/self/task").ok()?.st_nlink;
    (links > 2).then_some(links == 3)
}

#[cfg(test)]
mod tests {
    use super::is_alone;

    /// The harness has a thread for each test.
    #[test]
    fn a_process_with_threads_is_not_alone() {
        assert_eq!(is_alone(), Some(false));
    }
}
