//! What the kernel can enforce.

use super::super::settings::{Restriction, Sandbox};
use super::filter::Opening;
use super::system;

/// From this version on, Landlock can bind all threads of a process.
pub(super) const BINDS_THREADS: u32 = 8;

/// What a kernel can do. Tests make up others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// The version of its Landlock; 0 without.
    pub(super) landlock: u32,
    /// Whether it has seccomp filters.
    pub(super) filters: bool,
}

impl Kernel {
    /// This one, as far as the sandbox makes use of it.
    pub(super) fn here(sandbox: &Sandbox) -> Self {
        let landlock = system::landlock_version().min(sandbox.landlock_at_most);
        Self { landlock, filters: system::has_filters() }
    }

    /// What it cannot enforce of a sandbox.
    ///
    /// A missing version of Landlock is no reason: all that newer ones add is enforced by the filters, too. Without filters it is not, and without
    /// Landlock paths are not.
    pub(super) fn missing(self, sandbox: &Sandbox) -> Vec<Restriction> {
        let mut missing = Vec::new();
        if self.landlock == 0 {
            let closes = self.filters && self.opening(sandbox) == Opening::None;
            missing.push(if closes { Restriction::FilesAtStart } else { Restriction::Files });
        }
        if !self.filters {
            missing.push(Restriction::SystemCalls);
        }
        missing
    }

    /// What a worker opens once its agent has taken over.
    pub(super) fn opening(self, sandbox: &Sandbox) -> Opening {
        match sandbox {
            Sandbox { writable, .. } if !writable.is_empty() => Opening::ForWriting,
            // Nothing but Landlock would keep it to its executable.
            Sandbox { readable, .. } if readable.is_empty() && self.landlock == 0 => Opening::None,
            _ => Opening::ForReading,
        }
    }

    /// What a program opens until then: at least its libraries.
    pub(super) fn opening_at_start(self, sandbox: &Sandbox) -> Opening {
        match self.opening(sandbox) {
            Opening::ForWriting => Opening::ForWriting,
            Opening::None | Opening::ForReading => Opening::ForReading,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Kernel = Kernel { landlock: 0, filters: true };

    #[test]
    fn what_is_missing_depends_on_kernel_and_sandbox() {
        let (compute, reads) = (Sandbox::compute(), Sandbox::compute().with_read("/usr"));
        // The first version of Landlock suffices, and later ones do.
        for landlock in 1..20 {
            let kernel = Kernel { landlock, filters: true };
            assert_eq!(kernel.missing(&compute), []);
            assert_eq!(kernel.missing(&reads.clone().with_write("/tmp")), []);
            let kernel = Kernel { landlock, filters: false };
            assert_eq!(kernel.missing(&compute), [Restriction::SystemCalls]);
        }
        assert_eq!(OLD.missing(&compute), [Restriction::FilesAtStart]);
        assert_eq!(OLD.missing(&reads), [Restriction::Files]);
        let nothing = Kernel { landlock: 0, filters: false };
        assert_eq!(nothing.missing(&compute), [Restriction::Files, Restriction::SystemCalls]);
    }

    #[test]
    fn without_landlock_nothing_is_opened_if_nothing_is_granted() {
        let compute = Sandbox::compute();
        assert_eq!(OLD.opening(&compute), Opening::None);
        assert_eq!(OLD.opening_at_start(&compute), Opening::ForReading);
        assert_eq!(OLD.opening(&compute.clone().with_read("/usr")), Opening::ForReading);
        let writes = compute.clone().with_write("/tmp");
        assert_eq!(OLD.opening(&writes), Opening::ForWriting);
        assert_eq!(OLD.opening_at_start(&writes), Opening::ForWriting);
        let new = Kernel { landlock: 1, filters: true };
        assert_eq!(new.opening(&compute), Opening::ForReading);
    }
}
