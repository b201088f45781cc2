//! Handles that a process gives to a program that it has started: it duplicates them into that process, and tells it their numbers.
//!
//! # Invariants
//!
//! - **H1** A number is taken over as a handle only in the process for which it was made, and all of them together, once in the life of that
//!   process. Its host knows the process's id, and says it with the numbers.

use std::fs::File;
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{
    AsHandle, AsRawHandle as _, FromRawHandle as _, IntoRawHandle as _, OwnedHandle, RawHandle,
};
use std::path::Path;
use std::ptr;

use tokio::net::windows::named_pipe::NamedPipeClient;
use windows_sys::Win32::Foundation::{
    DUPLICATE_SAME_ACCESS, DuplicateHandle, GetHandleInformation, INVALID_HANDLE_VALUE,
    WAIT_OBJECT_0,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, CreatePipe, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PeekNamedPipe,
};
use windows_sys::Win32::System::Threading::{
    CreateEventA, GetCurrentProcess, INFINITE, SetEvent, WaitForSingleObject,
};

use super::{ours, succeed, wide};

/// The room of the pipe between two sides, of which nothing is ever used but its end.
const ROOM: u32 = 512;

/// Duplicates a handle into another process. Returns its number there, which means nothing here.
///
/// # Errors
///
/// Whatever the system says; for one, if the process has ended.
pub(crate) fn give(process: &impl AsHandle, handle: &impl AsHandle) -> io::Result<usize> {
    let mut number: RawHandle = ptr::null_mut();
    // SAFETY: the pseudo-handle of this process needs no closing.
    let here = unsafe { GetCurrentProcess() };
    let (from, to) = (handle.as_handle().as_raw_handle(), process.as_handle().as_raw_handle());
    // SAFETY: handles that are open, and a variable of ours. The duplicate is not inherited by what that process starts.
    succeed(unsafe { DuplicateHandle(here, from, to, &mut number, 0, 0, DUPLICATE_SAME_ACCESS) })?;
    Ok(number.addr())
}

/// Takes over the handle that has this number, by H1 of callers.
///
/// # Errors
///
/// If there is none.
pub(crate) fn take_over(number: usize) -> io::Result<OwnedHandle> {
    let handle: RawHandle = ptr::without_provenance_mut(number);
    let mut flags = 0;
    // SAFETY: asking about a number that may be no handle changes nothing.
    succeed(unsafe { GetHandleInformation(handle, &mut flags) })?;
    // SAFETY: H1: it was made for this process, by its host, and is taken once.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// A pipe without a name: its reading end, and its writing end.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn one_way() -> io::Result<(OwnedHandle, OwnedHandle)> {
    let (mut reading, mut writing) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: variables of ours; attributes may be null: then nothing is inherited.
    succeed(unsafe { CreatePipe(&mut reading, &mut writing, ptr::null(), 0) })?;
    // SAFETY: just made, and nobody else's.
    let reading = unsafe { OwnedHandle::from_raw_handle(reading) };
    // SAFETY: the same.
    Ok((reading, unsafe { OwnedHandle::from_raw_handle(writing) }))
}

/// What can be read from a pipe, and is left there; nothing if it is no pipe, or is empty.
pub(crate) fn peek<const N: usize>(pipe: &impl AsHandle) -> [u8; N] {
    let (mut bytes, mut read) = ([0; N], 0);
    let size = u32::try_from(N).unwrap_or_default();
    let (to, none) = (bytes.as_mut_ptr().cast(), ptr::null_mut());
    let pipe = pipe.as_handle().as_raw_handle();
    // SAFETY: a handle that is open, of whatever; it writes so many bytes at most.
    let peeked = unsafe { PeekNamedPipe(pipe, to, size, &mut read, none, none) };
    if peeked == 0 || read < size { [0; N] } else { bytes }
}

/// Two ends of a pipe, of which each shows the end of the other, and which a runtime can wait for. Its name leads nowhere: its one instance
/// is connected already.
///
/// # Errors
///
/// `PermissionDenied` or busy if somebody else was faster; whatever else the system says.
pub(crate) fn both_ways(name: &str) -> io::Result<(OwnedHandle, OwnedHandle)> {
    let path = format!(r"\\.\pipe\{name}");
    let wide = wide(Path::new(&path));
    let access = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE;
    let mode = PIPE_TYPE_BYTE | PIPE_REJECT_REMOTE_CLIENTS;
    let (handle, error) = ours(false, |attributes| {
        // SAFETY: a text that ends with NUL, and valid attributes.
        let pipe =
            unsafe { CreateNamedPipeW(wide.as_ptr(), access, mode, 1, ROOM, ROOM, 0, attributes) };
        (pipe, io::Error::last_os_error())
    })?;
    if handle == INVALID_HANDLE_VALUE {
        return Err(error);
    }
    // SAFETY: just made, and nobody else's.
    let server = unsafe { OwnedHandle::from_raw_handle(handle) };
    let mut options = File::options();
    let client = options.read(true).write(true).custom_flags(FILE_FLAG_OVERLAPPED).open(path)?;
    Ok((server, client.into()))
}

/// Gives an end of such a pipe to the runtime of the current task, as [`registered`](crate::event::registered) wants it.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn register(end: OwnedHandle) -> io::Result<NamedPipeClient> {
    // SAFETY: its handle, which was opened for overlapped use, and which this function owns. Both ends are the same once they are connected.
    unsafe { NamedPipeClient::from_raw_handle(end.into_raw_handle()) }
}

/// An event without a name, which resets itself.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn event() -> io::Result<OwnedHandle> {
    // SAFETY: attributes and name may be null: then it is not inherited, and has none.
    let handle = unsafe { CreateEventA(ptr::null(), 0, 0, ptr::null()) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Sets an event.
///
/// # Errors
///
/// Whatever the system says; for one, if it is something else.
pub(crate) fn set(event: &OwnedHandle) -> io::Result<()> {
    // SAFETY: a handle that is open.
    succeed(unsafe { SetEvent(event.as_raw_handle()) })
}

/// Waits until an event is set; `false` if it cannot be waited for.
pub(crate) fn wait(event: &OwnedHandle) -> bool {
    // SAFETY: a handle that is open.
    unsafe { WaitForSingleObject(event.as_raw_handle(), INFINITE) == WAIT_OBJECT_0 }
}
