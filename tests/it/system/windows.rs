//! The functions for Windows.

use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::process::ExitStatus;

use tempfile::TempDir;
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessHandleCount, OpenProcess, PROCESS_ACCESS_RIGHTS,
    PROCESS_QUERY_INFORMATION, PROCESS_SUSPEND_RESUME, PROCESS_VM_READ, TerminateProcess,
};

/// As the standard library ends a child.
const KILLED: u32 = 1;

#[link(name = "ntdll")]
unsafe extern "system" {
    fn NtSuspendProcess(process: *mut std::ffi::c_void) -> i32;
    fn NtResumeProcess(process: *mut std::ffi::c_void) -> i32;
}

pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("witrpc-test-").tempdir().unwrap()
}

/// The clock that all processes share, in nanoseconds.
pub(crate) fn now() -> u64 {
    let (mut ticks, mut frequency) = (0, 0);
    // SAFETY: it writes into a variable of ours.
    unsafe { QueryPerformanceCounter(&mut ticks) };
    // SAFETY: it writes into a variable of ours.
    unsafe { QueryPerformanceFrequency(&mut frequency) };
    u64::try_from(i128::from(ticks) * 1_000_000_000 / i128::from(frequency)).unwrap()
}

/// `TerminateProcess`, as `Child::kill` does it from outside.
pub(crate) fn kill_self() -> ! {
    // SAFETY: the pseudo-handle of this process needs no closing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: it ends this process, and all of its threads.
    unsafe { TerminateProcess(process, KILLED) };
    loop {
        std::thread::park();
    }
}

/// A test that fails ends with another code.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.code().map(i32::cast_unsigned) == Some(KILLED)
}

/// Suspends all of its threads.
pub(crate) async fn stop(process: u32) {
    let process = open(process, PROCESS_SUSPEND_RESUME);
    // SAFETY: an open process.
    assert!(unsafe { NtSuspendProcess(process.as_raw_handle()) } >= 0, "it cannot be stopped");
}

/// Resumes them.
pub(crate) fn go_on(process: u32) {
    let process = open(process, PROCESS_SUSPEND_RESUME);
    // SAFETY: an open process.
    assert!(unsafe { NtResumeProcess(process.as_raw_handle()) } >= 0, "it cannot go on");
}

/// What a process holds for itself, and no other can have.
pub(crate) fn anonymous_kib_of(process: u32) -> u64 {
    let process = open(process, PROCESS_QUERY_INFORMATION | PROCESS_VM_READ);
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let size = u32::try_from(size_of_val(&counters)).unwrap();
    // SAFETY: it writes at most `size` bytes into a variable of ours.
    let done = unsafe { K32GetProcessMemoryInfo(process.as_raw_handle(), &mut counters, size) };
    assert_ne!(done, 0, "{}", std::io::Error::last_os_error());
    assert!(counters.PagefileUsage > 0, "a process that holds nothing");
    counters.PagefileUsage as u64 >> 10
}

/// Handles.
pub(crate) fn descriptors() -> usize {
    let mut count = 0;
    // SAFETY: the pseudo-handle of this process needs no closing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: it writes into a variable of ours.
    unsafe { GetProcessHandleCount(process, &mut count) };
    count as usize
}

/// Nobody tells here: the files are what one sees of them.
pub(crate) fn regions() -> usize {
    0
}

pub(crate) fn leave_descriptors(_free: u64) -> Result<(), String> {
    Err("there is no such limit".to_owned())
}

fn open(process: u32, rights: PROCESS_ACCESS_RIGHTS) -> OwnedHandle {
    // SAFETY: it takes numbers.
    let handle = unsafe { OpenProcess(rights, 0, process) };
    assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    unsafe { OwnedHandle::from_raw_handle(handle) }
}
