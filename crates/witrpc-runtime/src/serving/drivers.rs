//! The drivers of an endpoint's connections, which are woken while handlers keep the runtime's workers busy.
//!
//! A worker of tokio's looks for notifications of the system, and for tasks that have yielded, only when it has nothing else to do, and after
//! every 61 polls. If handlers compute for a millisecond each, a request would wait that long until its driver reads it, and so learn late
//! that it is refused. So each handler that ends while others wait looks whether a driver has something to read.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::link::host::Host;
use crate::locks::{Mutex, Rank};

/// How many connections are looked at each time.
const LOOKS: usize = 2;

/// The connections of an endpoint.
pub(crate) struct Drivers {
    hosts: Mutex<Vec<Weak<dyn Host>>>,
    next: AtomicUsize,
}

impl Default for Drivers {
    fn default() -> Self {
        Self { hosts: Mutex::new(Rank::Drivers, Vec::new()), next: AtomicUsize::new(0) }
    }
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drivers").finish_non_exhaustive()
    }
}

impl Drivers {
    pub(crate) fn add(&self, host: Weak<dyn Host>) {
        let mut hosts = self.hosts.lock();
        hosts.retain(|host| host.strong_count() > 0);
        hosts.push(host);
    }

    /// Wakes those of the next drivers that have something to read.
    pub(super) fn hurry(&self) {
        for _ in 0..LOOKS {
            // Dropped with no lock held.
            if let Some(host) = self.next() {
                host.link().receiving.hurry_driver();
            }
        }
    }

    fn next(&self) -> Option<Arc<dyn Host>> {
        let hosts = self.hosts.lock();
        // Relaxed: it need not be exact.
        let next = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(hosts.len())?;
        hosts.get(next)?.upgrade()
    }
}
