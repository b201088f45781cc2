//! A job object: what is assigned to it ends with the last handle of the job, and so with the process that has made it.

use std::ffi::c_void;
use std::os::windows::io::{AsHandle, AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::{io, mem, ptr};

use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation,
    SetInformationJobObject, TerminateJobObject,
};

/// The status of a process that a job has ended.
const ENDED: u32 = 1;

/// A job. Its handle is not inherited.
#[derive(Debug)]
pub struct Job(OwnedHandle);

impl Job {
    /// Makes a job that ends its processes when it is dropped, or when this process ends.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: both may be null.
        let handle = unsafe { CreateJobObjectW(ptr::null(), ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made, and nobody else has it.
        let job = Self(unsafe { OwnedHandle::from_raw_handle(handle) });
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        let size = u32::try_from(mem::size_of_val(&limits)).unwrap_or_default();
        let limits = ptr::from_ref(&limits).cast::<c_void>();
        let kind = JobObjectExtendedLimitInformation;
        // SAFETY: a handle that is ours, and a structure of this kind and size that lives for the call.
        super::succeed(unsafe {
            SetInformationJobObject(job.0.as_raw_handle(), kind, limits, size)
        })?;
        Ok(job)
    }

    /// Assigns a process, and with it all that it will start.
    ///
    /// # Errors
    ///
    /// Whatever the system says; for one, if the process has ended.
    pub fn assign(&self, process: impl AsHandle) -> io::Result<()> {
        let process = process.as_handle().as_raw_handle();
        // SAFETY: two handles that are open.
        super::succeed(unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process) })
    }

    /// Ends its processes.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub fn terminate(&self) -> io::Result<()> {
        // SAFETY: a handle that is open.
        super::succeed(unsafe { TerminateJobObject(self.0.as_raw_handle(), ENDED) })
    }
}
