//! Which process made something: there is no `fork` here, so nothing is ever inherited, and this process made everything.

use std::io;

/// The process that made something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner;

impl Owner {
    /// This process.
    #[inline]
    pub(crate) const fn here() -> Self {
        Self
    }

    /// Whether that is this process.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        self == Self::here()
    }

    /// The same, as an error.
    ///
    /// # Errors
    ///
    /// If it is not, which cannot be.
    #[inline]
    pub(crate) fn check(self) -> io::Result<()> {
        if self.is_here() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
    }
}
