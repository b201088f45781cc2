//! Descriptors that a process passes to a program that it starts, and that the program takes over by their numbers.
//!
//! # Invariants
//!
//! - **I1** Between fork and exec there are system calls only: no allocation, no lock.
//! - **I2** A descriptor is taken over by number only if the file behind it has the announced inode, and all are taken together, once in the
//!   life of a process. A forked child inherits that they are taken.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::fstat;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// The lowest number that is not one of the standard streams'.
const LOWEST: RawFd = 3;

/// Whether this process has taken over what it inherited.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A descriptor as it is announced: its number, and the inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) number: RawFd,
    pub(crate) inode: u64,
}

impl Announced {
    /// How this descriptor is announced.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn of(descriptor: &OwnedFd) -> io::Result<Self> {
        Ok(Self { number: descriptor.as_raw_fd(), inode: inode(descriptor)? })
    }
}

#[expect(clippy::useless_conversion, reason = "its type differs between systems")]
fn inode(descriptor: impl std::os::fd::AsFd) -> io::Result<u64> {
    Ok(u64::from(fstat(descriptor)?.st_ino))
}

/// Gives a descriptor another number if it has that of a standard stream, which a program that is started gets anew.
///
/// # Errors
///
/// If there are no descriptors left.
pub(crate) fn above_standard_streams(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() >= LOWEST {
        return Ok(descriptor);
    }
    Ok(fcntl_dupfd_cloexec(&descriptor, LOWEST)?)
}

/// Has the program of this command inherit these descriptors, by the numbers that they have, and no others but the standard streams. The
/// command keeps them open; drop it once the program is started.
pub(crate) fn pass_on(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let prepare = move || {
        close_all_on_exec();
        for descriptor in &descriptors {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: I1: `prepare` makes system calls only, and an error of the system is a number.
    unsafe { command.pre_exec(prepare) };
}

/// Marks all descriptors of this process but the standard streams as closed on exec, also those that other code has opened without that mark.
/// Before Linux 5.11 those stay open.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn close_all_on_exec() {
    // SAFETY: it changes flags of descriptors of a process that is about to execute a program.
    let _too_old = unsafe {
        libc::syscall(libc::SYS_close_range, LOWEST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
}

/// There is no such call.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const fn close_all_on_exec() {}

/// Whether the announced descriptors are here, and were not taken over yet.
pub(crate) fn are_here(announced: &[Announced]) -> bool {
    !TAKEN.load(Ordering::Relaxed) && announced.iter().all(|one| one.check().is_ok())
}

/// Takes over all of them. From now on they are closed on exec.
///
/// # Errors
///
/// `NotFound` if one of them is not there, or if this was done before; whatever else the system says.
pub(crate) fn take_over(announced: &[Announced]) -> io::Result<Vec<OwnedFd>> {
    // Acquire and release are not needed: the descriptors are the system's.
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(missing("they were taken over before, in this process or in its parent"));
    }
    let checked = announced.iter().try_for_each(|one| one.check());
    let distinct = (1..announced.len())
        .all(|at| announced[..at].iter().all(|one| one.number != announced[at].number));
    if !distinct || checked.is_err() {
        TAKEN.store(false, Ordering::Relaxed);
        checked?;
        return Err(missing("one number stands for two of them"));
    }
    announced
        .iter()
        .map(|one| {
            // SAFETY: I2: it is open, is what was announced to this process and to nobody else in it, and is taken once.
            let descriptor = unsafe { OwnedFd::from_raw_fd(one.number) };
            fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
            Ok(descriptor)
        })
        .collect()
}

impl Announced {
    /// Whether this number is that file here.
    fn check(self) -> io::Result<()> {
        if self.number < LOWEST {
            return Err(missing("a number is that of a standard stream"));
        }
        // SAFETY: asking for the flags of a number that may not be open changes nothing.
        if unsafe { libc::fcntl(self.number, libc::F_GETFD) } < 0 {
            return Err(missing("one of them is not open"));
        }
        // SAFETY: it was open a moment ago. Whoever closes what others have inherited gets an error here, or the inode of another file.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.number) };
        if inode(descriptor)? == self.inode {
            return Ok(());
        }
        Err(missing("one number is another file here"))
    }
}

fn missing(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, why)
}
