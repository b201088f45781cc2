//! What a connection between a host and its worker is like, as the host or the worker has set it.

use witrpc_core::{Error, WaitStrategy};
use witrpc_mmf::inherited::LARGEST_LENDING;
use witrpc_mmf::{MemoryMappedFile, TrustedPeer};

/// As `MemoryMappedFile`'s: two rings of 510 KiB each.
const DEFAULT_SIZE: u64 = 1 << 20;

/// Sizes are the host's to choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    /// Of the region.
    pub(crate) size: u64,
    /// The bytes that each side can lend.
    pub(crate) lending: u64,
    pub(crate) wait_strategy: WaitStrategy,
    pub(crate) trusted: Option<TrustedPeer>,
}

impl Default for Connection {
    fn default() -> Self {
        let wait_strategy = WaitStrategy::default();
        Self { size: DEFAULT_SIZE, lending: 0, wait_strategy, trusted: None }
    }
}

impl Connection {
    /// # Errors
    ///
    /// [`Error::Config`], naming the setting, the value and the way out.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.lending > LARGEST_LENDING {
            let advice = format!("give at most {LARGEST_LENDING} bytes, or 0 to lend nothing");
            return Err(Error::config("with_lending", self.lending, advice));
        }
        // The name is nobody's: the size is checked, which has the same bounds everywhere.
        MemoryMappedFile::new("worker").with_size(self.size).validate()
    }
}
