//! Windows: the system's own functions, where neither the standard library nor tokio has them.
//!
//! All `unsafe` code for them is here. Nothing here knows of endpoints or regions; callers get handles that close themselves, and copies of
//! numbers and texts.

use std::{
    ffi::c_void,
    io, mem,
    os::windows::ffi::OsStrExt as _,
    os::windows::io::{AsRawHandle, FromRawHandle as _, OwnedHandle, RawHandle},
    path::Path,
    ptr,
    sync::OnceLock,
};

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetNamedSecurityInfoW, SDDL_REVISION_1,
    SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetTokenInformation, OBJECT_SECURITY_INFORMATION,
    OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER,
    TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{CreateDirectoryW, GetDiskFreeSpaceExW};
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::Pipes::{GetNamedPipeClientProcessId, GetNamedPipeServerProcessId};
use windows_sys::Win32::System::Threading::{
    CreateEventA, GetCurrentProcess, GetCurrentProcessorNumber, OpenProcessToken,
};

pub(crate) mod fork;
pub(crate) mod handing;
pub(crate) mod job;
pub(crate) mod region_file;
pub(crate) mod sddl;
pub(crate) mod section;

/// The users that share an endpoint: one user only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    User,
}

impl Access {
    /// Groups are refused before this is asked.
    pub(crate) const fn of(_group: Option<u32>) -> Self {
        Self::User
    }
}

/// The largest size of a file that this process may make: any.
pub(crate) const fn largest_file() -> Option<u64> {
    None
}

/// Both processes read the very same clock.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    static FREQUENCY: OnceLock<u128> = OnceLock::new();
    let frequency = *FREQUENCY.get_or_init(|| {
        let mut ticks = 0;
        // SAFETY: it writes into a variable of ours. Since Windows XP it never fails.
        unsafe { QueryPerformanceFrequency(&mut ticks) };
        u128::try_from(ticks).unwrap_or_default().max(1)
    });
    let mut ticks = 0;
    // SAFETY: as above.
    unsafe { QueryPerformanceCounter(&mut ticks) };
    let ticks = u128::try_from(ticks).unwrap_or_default();
    u64::try_from(ticks * 1_000_000_000 / frequency).unwrap_or(u64::MAX)
}

/// There are large pages for privileged programs only.
pub(crate) const fn back_by_large_pages(_allocation: &mut Vec<u8>) {}

/// The number of the CPU that we run on. With more than 64 of them two may have the same: it is a hint.
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "other systems do not tell")]
pub(crate) fn current_cpu() -> Option<u32> {
    // SAFETY: it takes nothing.
    Some(unsafe { GetCurrentProcessorNumber() })
}

/// Makes a directory that only this user may enter, and whose files only this user may open. `[seg.windows.access]`
///
/// # Errors
///
/// `AlreadyExists` if there is something of that name; whatever else the system says.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let path = wide(path);
    ours(true, |attributes| {
        // SAFETY: a text that ends with NUL, and attributes that live for the call.
        succeed(unsafe { CreateDirectoryW(path.as_ptr(), attributes) })
    })?
}

/// Owner and access list of a file or directory, as text.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn security_of(path: &Path) -> io::Result<String> {
    let path = wide(path);
    // SAFETY: a text that ends with NUL, and pointers that may be null or are variables of ours.
    security(|wanted, descriptor| unsafe {
        GetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            wanted,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            descriptor,
        )
    })
}

/// What the system says when it is asked for an object's owner and access list, as text.
fn security(
    ask: impl FnOnce(OBJECT_SECURITY_INFORMATION, &mut PSECURITY_DESCRIPTOR) -> u32,
) -> io::Result<String> {
    let mut descriptor = ptr::null_mut();
    let error = ask(OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION, &mut descriptor);
    if error != 0 {
        return Err(error_of(error));
    }
    text_of(&Local(descriptor))
}

/// This process's user, as [`security_of`] names an owner. `[seg.windows.access]`
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn user() -> io::Result<String> {
    static USER: OnceLock<String> = OnceLock::new();
    if let Some(user) = USER.get() {
        return Ok(user.clone());
    }
    let user = look_up_user()?;
    Ok(USER.get_or_init(|| user).clone())
}

fn look_up_user() -> io::Result<String> {
    let mut token: *mut c_void = ptr::null_mut();
    // SAFETY: the pseudo-handle of this process needs no closing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: it writes into a variable of ours.
    succeed(unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token) })?;
    // SAFETY: just opened, and nobody else's.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // Words, as it begins with a pointer. More than the largest identity takes.
    let mut buffer = [0_usize; 32];
    let size = u32::try_from(mem::size_of_val(&buffer)).unwrap_or_default();
    let mut used = 0;
    // SAFETY: it writes at most `size` bytes into the buffer.
    succeed(unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            buffer.as_mut_ptr().cast(),
            size,
            &mut used,
        )
    })?;
    // SAFETY: that is what it has written there; both it and what it points to are in the buffer.
    let user = unsafe { ptr::read(buffer.as_ptr().cast::<TOKEN_USER>()) };
    sddl::owner_of(&text_of_owner(user.User.Sid)?)
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other("the security identifier of this user cannot be read"))
}

/// The text of a descriptor that has this owner, and nothing else.
fn text_of_owner(owner: *mut c_void) -> io::Result<String> {
    use windows_sys::Win32::Security::{
        InitializeSecurityDescriptor, SECURITY_DESCRIPTOR, SetSecurityDescriptorOwner,
    };
    const REVISION: u32 = 1;
    let mut descriptor = SECURITY_DESCRIPTOR::default();
    let pointer: PSECURITY_DESCRIPTOR = ptr::from_mut(&mut descriptor).cast();
    // SAFETY: a variable of ours.
    succeed(unsafe { InitializeSecurityDescriptor(pointer, REVISION) })?;
    // SAFETY: the owner is valid, and outlives the descriptor, which only points there.
    succeed(unsafe { SetSecurityDescriptorOwner(pointer, owner, 0) })?;
    text(pointer)
}

/// What the system allocated for us, and we free.
struct Local(PSECURITY_DESCRIPTOR);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: allocated by the system for the caller to free, which is done here, once.
        unsafe { LocalFree(self.0) };
    }
}

fn text_of(descriptor: &Local) -> io::Result<String> {
    text(descriptor.0)
}

/// Of a valid descriptor.
fn text(descriptor: PSECURITY_DESCRIPTOR) -> io::Result<String> {
    let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let (mut text, mut length) = (ptr::null_mut(), 0);
    // SAFETY: a valid descriptor, by this function's callers, and variables of ours.
    succeed(unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            SDDL_REVISION_1,
            wanted,
            &mut text,
            &mut length,
        )
    })?;
    let text = Local(text.cast());
    let length = usize::try_from(length).unwrap_or_default();
    // SAFETY: so many units were written there, and nobody changes them.
    let units = unsafe { std::slice::from_raw_parts(text.0.cast::<u16>(), length) };
    Ok(String::from_utf16_lossy(units).trim_end_matches('\0').to_owned())
}

/// Calls with attributes that give all access to this user, and none to anybody else.
fn ours<T>(directory: bool, call: impl FnOnce(*mut SECURITY_ATTRIBUTES) -> T) -> io::Result<T> {
    let wanted = sddl::only(&user()?, directory);
    let (wanted, mut descriptor) = (wide(wanted.as_ref()), ptr::null_mut());
    // SAFETY: a text that ends with NUL, and a variable of ours.
    succeed(unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wanted.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor,
            ptr::null_mut(),
        )
    })?;
    let descriptor = Local(descriptor);
    let mut attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(mem::size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    Ok(call(&mut attributes))
}

/// The bytes that this user may still write in a directory.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let (directory, mut free) = (wide(directory), 0);
    // SAFETY: a text that ends with NUL, and a variable of ours.
    succeed(unsafe {
        GetDiskFreeSpaceExW(directory.as_ptr(), &mut free, ptr::null_mut(), ptr::null_mut())
    })?;
    Ok(free)
}

/// An instance of a named pipe, open to this user only. `[seg.windows.access]`
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn create_pipe(options: &ServerOptions, name: &str) -> io::Result<NamedPipeServer> {
    ours(false, |attributes| {
        // SAFETY: valid attributes, as `ours` makes them, which live for the call.
        unsafe { options.create_with_security_attributes_raw(name, attributes.cast()) }
    })?
}

/// An event that resets itself, open to this user only; `None` if there is one of that name already, whosesoever.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn create_event(name: &str) -> io::Result<Option<OwnedHandle>> {
    let name = std::ffi::CString::new(name)?;
    let (handle, error) = ours(false, |attributes| {
        // SAFETY: a text that ends with NUL, and valid attributes.
        let handle = unsafe { CreateEventA(attributes, 0, 0, name.as_ptr().cast()) };
        (handle, io::Error::last_os_error())
    })?;
    let exists = code_of(&error) == Some(ERROR_ALREADY_EXISTS);
    if handle.is_null() {
        // Somebody else's, whom we may not ask; or a thing of another kind.
        let taken = exists || error.kind() == io::ErrorKind::PermissionDenied;
        return if taken || is_other_kind(&error) { Ok(None) } else { Err(error) };
    }
    // SAFETY: just opened, and nobody else's.
    let event = unsafe { OwnedHandle::from_raw_handle(handle) };
    Ok((!exists).then_some(event))
}

/// The error with this number of the system's.
pub(crate) fn error_of(code: u32) -> io::Error {
    io::Error::from_raw_os_error(i32::from_le_bytes(code.to_le_bytes()))
}

/// The system's number of an error.
pub(crate) fn code_of(error: &io::Error) -> Option<u32> {
    error.raw_os_error().map(|code| u32::from_le_bytes(code.to_le_bytes()))
}

fn is_other_kind(error: &io::Error) -> bool {
    code_of(error) == Some(windows_sys::Win32::Foundation::ERROR_INVALID_HANDLE)
}

/// The process that made the pipe of which this is a client's end.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn server_process(pipe: &impl AsRawHandle) -> io::Result<u32> {
    // SAFETY: an open pipe.
    process_behind(pipe.as_raw_handle(), |pipe, id| unsafe {
        GetNamedPipeServerProcessId(pipe, id)
    })
}

/// The process that has opened the pipe of which this is a server's end.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn client_process(pipe: &impl AsRawHandle) -> io::Result<u32> {
    // SAFETY: an open pipe.
    process_behind(pipe.as_raw_handle(), |pipe, id| unsafe {
        GetNamedPipeClientProcessId(pipe, id)
    })
}

fn process_behind(
    pipe: RawHandle,
    ask: impl FnOnce(RawHandle, *mut u32) -> i32,
) -> io::Result<u32> {
    let mut id = 0;
    succeed(ask(pipe, &mut id))?;
    Ok(id)
}

fn succeed(outcome: i32) -> io::Result<()> {
    if outcome == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wide(text: &Path) -> Vec<u16> {
    text.as_os_str().encode_wide().chain(Some(0)).collect()
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::Security::Authorization::{GetSecurityInfo, SE_KERNEL_OBJECT};

    use super::*;

    fn security_behind(object: &impl AsRawHandle) -> String {
        // SAFETY: an open handle, and pointers that may be null or are variables of ours.
        let text = security(|wanted, descriptor| unsafe {
            GetSecurityInfo(
                object.as_raw_handle(),
                SE_KERNEL_OBJECT,
                wanted,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                descriptor,
            )
        });
        text.unwrap()
    }

    #[tokio::test]
    async fn what_is_made_is_open_to_this_user_and_nobody_else() {
        let name = format!("witrpc-test-{}", std::process::id());
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("own");
        create_directory(&directory).unwrap();
        let event = create_event(&name).unwrap().unwrap();
        let pipe = create_pipe(&ServerOptions::new(), &format!(r"\\.\pipe\{name}")).unwrap();
        let user = user().unwrap();
        let directory = security_of(&directory).unwrap();
        for text in [directory, security_behind(&event), security_behind(&pipe)] {
            assert_eq!(sddl::fault(&text, &user), None, "{text}");
            assert!(text.contains(&format!(";;;{user})")), "{text}");
        }
    }
}
