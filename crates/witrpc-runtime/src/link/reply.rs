//! How a request is answered, and how a stream ends.

use std::fmt;
use std::time::Duration;

use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::wire::fields::Put;
use witrpc_core::wire::status::Status;

/// The outcome of a call.
#[doc(hidden)]
pub struct Reply {
    pub(crate) status: Status,
    pub(crate) content: Content,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Reply {
    /// A status with a text that explains it.
    pub(crate) fn text(status: Status, text: &str) -> Self {
        Self { status, content: Content::plain(buffers::take(), text.as_bytes()) }
    }

    /// Refuses a call that would have been late.
    pub(crate) fn overloaded(left: Duration, wait: Duration) -> Self {
        let mut body = Vec::new();
        for duration in [left, wait] {
            body.put_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        }
        Self { status: Status::Overloaded, content: Content::plain(Vec::new(), &body) }
    }

    /// Refuses a result of `size` bytes, where the caller accepts at most `limit`.
    pub(crate) fn too_large(size: u64, limit: u64) -> Self {
        let mut body = Vec::new();
        body.put_u64(size);
        body.put_u64(limit);
        Self { status: Status::TooLarge, content: Content::plain(Vec::new(), &body) }
    }
}
