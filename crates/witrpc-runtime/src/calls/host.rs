//! The interface by which calls use their connection.

use std::sync::Weak;

use crate::calls::table::CallsMade;
use crate::streams::host::StreamHost;

/// A connection as its calls see it.
pub(crate) trait CallHost: StreamHost {
    fn calls(&self) -> &CallsMade;

    /// Itself, for what is done later.
    fn call_host(&self) -> Weak<dyn CallHost>;

    /// A deadline `left` nanoseconds from now, as it is sent to the peer: a time of the peer's clock, or the time that is left if the two
    /// share no clock. Never 0, which means no deadline. [wire.clock]
    fn deadline_for_peer(&self, left: u64) -> u64;
}
