//! The memory of a region: a mapped file, or a section that has no file and no name. `[seg.windows.inherited]`

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr;

use memmap2::MmapRaw;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, FILE_MAP_WRITE, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
    PAGE_READWRITE, UnmapViewOfFile,
};

/// Mapped memory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Map {
    /// `len` bytes from there on are mapped, and may be written, as long as `_kept` lives.
    at: *mut u8,
    len: usize,
    _kept: Kept,
}

#[derive(Debug)]
#[expect(dead_code, reason = "it is kept")]
enum Kept {
    File(MmapRaw),
    View(View),
}

// SAFETY: what is mapped belongs to the process, and not to a thread; whoever accesses it answers for that.
unsafe impl Send for Map {}
// SAFETY: as for `Send`.
unsafe impl Sync for Map {}

impl From<MmapRaw> for Map {
    fn from(map: MmapRaw) -> Self {
        Self { at: map.as_mut_ptr(), len: map.len(), _kept: Kept::File(map) }
    }
}

impl Map {
    pub(crate) const fn as_ptr(&self) -> *const u8 {
        self.at.cast_const()
    }

    pub(crate) const fn as_mut_ptr(&self) -> *mut u8 {
        self.at
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

/// A section: memory that processes share who have a handle of it. Its size cannot change.
#[derive(Debug)]
pub(crate) struct Section(OwnedHandle);

impl Section {
    /// Makes one of so many zeros. All of them are promised by the system now.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, or whatever else the system says, if there is no room.
    pub(crate) fn make(size: u64) -> io::Result<Self> {
        // The two halves of the size.
        let [high, low] = [size >> 32, size & u64::from(u32::MAX)];
        let [high, low] = [high, low].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let (nothing, name) = (ptr::null(), ptr::null());
        // SAFETY: no file, no attributes and no name are permitted: it is then of the system's memory, and not inherited.
        let handle = unsafe {
            CreateFileMappingW(INVALID_HANDLE_VALUE, nothing, PAGE_READWRITE, high, low, name)
        };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    pub(crate) fn into_handle(self) -> OwnedHandle {
        self.0
    }

    /// Maps so much of it. It stays mapped when the handle is closed.
    ///
    /// # Errors
    ///
    /// If it is no section, or is smaller; whatever else the system says.
    pub(crate) fn map(&self, len: usize) -> io::Result<Map> {
        let access = FILE_MAP_READ | FILE_MAP_WRITE;
        // SAFETY: a handle that is open; whatever it is, the system checks that.
        let view = unsafe { MapViewOfFile(self.0.as_raw_handle(), access, 0, 0, len) };
        if view.Value.is_null() {
            return Err(io::Error::last_os_error());
        }
        let at = view.Value.cast();
        Ok(Map { at, len, _kept: Kept::View(View(view.Value)) })
    }
}

impl From<OwnedHandle> for Section {
    fn from(handle: OwnedHandle) -> Self {
        Self(handle)
    }
}

/// Where a section is mapped.
#[derive(Debug)]
struct View(*mut c_void);

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the system has mapped it there, and nobody uses it any more: its `Map` is being dropped.
        unsafe { UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: self.0 }) };
    }
}
