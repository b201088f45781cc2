//! System calls that failed, as errors that say what to do.

use std::io;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_DISK_FULL, ERROR_FILE_EXISTS, ERROR_HANDLE_DISK_FULL,
    ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY, ERROR_WRITE_PROTECT,
};
use witrpc_core::Error;

use crate::endpoint::paths::CHOOSE;
use crate::sys::windows::{code_of, error_of};

/// What failed here, and the way out where there is one.
pub(crate) fn failed(context: impl Into<String>, error: &io::Error) -> Error {
    match advice(error) {
        None => Error::io(context, error),
        Some(advice) => {
            Error::io(context, &io::Error::new(error.kind(), format!("{error}; {advice}")))
        }
    }
}

/// What failed at the server, by the number that it told.
pub(crate) fn failed_at_server(context: impl Into<String>, system_error: u32) -> Error {
    failed(context, &error_of(system_error))
}

fn advice(error: &io::Error) -> Option<&'static str> {
    match code_of(error)? {
        ERROR_ACCESS_DENIED | ERROR_WRITE_PROTECT => Some(CHOOSE),
        ERROR_DISK_FULL | ERROR_HANDLE_DISK_FULL => {
            Some("free some space, or reduce with_size or with_max_clients")
        }
        ERROR_FILE_EXISTS => Some("it was not created by witrpc: choose another name or directory"),
        ERROR_NOT_ENOUGH_MEMORY | ERROR_NO_SYSTEM_RESOURCES => {
            Some("the system has no memory left: reduce with_size or with_max_clients")
        }
        _ => None,
    }
}
