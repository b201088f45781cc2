//! System calls that failed, as errors that say what to do.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use witrpc_core::Error;

use crate::endpoint::paths::CHOOSE;
use crate::sys::largest_file;

/// What to do where a file would be larger than its process may make one.
const FILE_SIZE: &str = "give the server a smaller with_size, or raise its limit on file sizes (RLIMIT_FSIZE, ulimit -f)";

/// What failed here, and the way out where there is one.
pub(crate) fn failed(context: impl Into<String>, error: &io::Error) -> Error {
    let advice = match Errno::from_io_error(error) {
        Some(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            format!(
                "this process can have {limit} file descriptors (RLIMIT_NOFILE): raise the limit with ulimit -n, or close some"
            )
        }
        Some(Errno::FBIG) => match largest_file() {
            None => FILE_SIZE.to_owned(),
            Some(limit) => format!("{FILE_SIZE}, which is {limit} bytes"),
        },
        Some(error) => match advice(error) {
            Some(advice) => advice.to_owned(),
            None => return Error::io(context, &error.into()),
        },
        None => return Error::io(context, error),
    };
    Error::io(context, &io::Error::new(error.kind(), format!("{error}; {advice}")))
}

/// What failed at the server, by the number that it told.
pub(crate) fn failed_at_server(context: impl Into<String>, system_error: u32) -> Error {
    let error = Errno::from_raw_os_error(i32::try_from(system_error).unwrap_or(0));
    let advice = match error {
        Errno::MFILE => Some(
            "the server has no file descriptors left (RLIMIT_NOFILE): raise its limit with ulimit -n",
        ),
        Errno::FBIG => Some(FILE_SIZE),
        error => advice(error),
    };
    let error = io::Error::from(error);
    match advice {
        None => Error::io(context, &error),
        Some(advice) => {
            Error::io(context, &io::Error::new(error.kind(), format!("{error}; {advice}")))
        }
    }
}

/// Whether a system call failed because there are no more descriptors.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn advice(error: Errno) -> Option<&'static str> {
    match error {
        Errno::NFILE => {
            Some("the system has no file descriptors left: close some, or raise fs.file-max")
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Some(CHOOSE),
        Errno::NOSPC | Errno::DQUOT => {
            Some("free some space, or reduce with_size or with_max_clients")
        }
        Errno::OPNOTSUPP | Errno::NOSYS => Some(
            "the file system lacks fallocate, flock or named pipes: choose a directory on another file system, best a tmpfs, \
             with with_directory or the environment variable WITRPC_DIR",
        ),
        Errno::ISDIR | Errno::LOOP | Errno::EXIST => {
            Some("it was not created by witrpc: choose another name or directory")
        }
        _ => None,
    }
}
