//! Limits of resources, which the child sets before exec.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::settings::Sandbox;

/// Addresses that are reserved and not used, such as those of allocators: more than this would cost memory for page tables.
const RESERVED: u64 = 4 << 30;
/// In bytes. Less than a page, so no file is written; and a program that the kernel would pipe it to gets none for exactly this number.
const NO_CORE: u64 = 1;

/// Made before fork.
#[derive(Debug)]
pub(super) struct Limits([Option<Limit>; 6]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    resource: Resource,
    current: u64,
    maximum: u64,
}

impl Limits {
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        let at_most = |resource, most: u64| Limit { resource, current: most, maximum: most };
        let memory = sandbox.max_memory;
        Self([
            // What a worker knows must not be in a file that it cannot write itself.
            Some(at_most(Resource::Core, NO_CORE)),
            // Private memory that can be written: the filter refuses all other that is of no file.
            memory.map(|bytes| at_most(Resource::Data, bytes)),
            memory.map(|bytes| at_most(Resource::As, bytes.saturating_add(RESERVED))),
            // The stack of the first thread does not count as data.
            memory.map(|bytes| at_most(Resource::Stack, bytes)),
            sandbox.cpu_time.map(|time| {
                let seconds = seconds(time);
                // The first one sends a signal that says why.
                Limit {
                    resource: Resource::Cpu,
                    current: seconds,
                    maximum: seconds.saturating_add(1),
                }
            }),
            sandbox.max_descriptors.map(|most| at_most(Resource::Nofile, most)),
        ])
    }

    /// Sets them for this process; those that are lower stay. S1.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(super) fn set(&self) -> rustix::io::Result<()> {
        for limit in self.0.iter().flatten() {
            let before = getrlimit(limit.resource);
            let lower = |new: u64, old: Option<u64>| Some(old.map_or(new, |old| old.min(new)));
            let maximum = lower(limit.maximum, before.maximum);
            let current = lower(limit.current, before.current);
            setrlimit(limit.resource, Rlimit { current, maximum })?;
        }
        Ok(())
    }
}

/// Rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_that_were_set_and_no_core_is_dumped() {
        let some = |sandbox: &Sandbox| -> Vec<_> {
            let limits = Limits::of(sandbox).0.into_iter().flatten();
            limits.map(|limit| (limit.resource, limit.current, limit.maximum)).collect()
        };
        assert_eq!(some(&Sandbox::compute()), [(Resource::Core, 1, 1)]);
        let all = Sandbox::compute()
            .with_max_memory(1 << 30)
            .with_cpu_time(Duration::from_millis(1500))
            .with_max_descriptors(64);
        let expected = [
            (Resource::Core, 1, 1),
            (Resource::Data, 1 << 30, 1 << 30),
            (Resource::As, 5 << 30, 5 << 30),
            (Resource::Stack, 1 << 30, 1 << 30),
            (Resource::Cpu, 2, 3),
            (Resource::Nofile, 64, 64),
        ];
        assert_eq!(some(&all), expected);
        let endless = Sandbox::compute().with_cpu_time(Duration::MAX).with_max_memory(u64::MAX);
        assert_eq!(some(&endless)[4], (Resource::Cpu, u64::MAX, u64::MAX));
    }
}
