//! What calls need of their connection.

use crate::calls::table::CallsMade;
use crate::streams::host::StreamHost;

/// See the module.
pub(crate) trait CallHost: StreamHost {
    fn calls(&self) -> &CallsMade;

    /// A deadline in so many nanoseconds, as the peer is told of it: a time of its clock, or how much is left where there is no clock in
    /// common. Never 0, which means none. [wire.clock]
    fn deadline_for_peer(&self, left: u64) -> u64;
}
