//! An event of raw_sync on Windows: an object of the kernel, found by a number in the region. `[seg.windows.event]` An inherited connection
//! has events without names, and raw_sync has none of those: they are the system's own.
//!
//! raw_sync would open an event that exists already where it is to create one. So the event is created here, with a number that is
//! not in use, and for this user alone. raw_sync then opens it by that number, while our handle keeps it in existence.

use std::{io, os::windows::io::OwnedHandle, sync::Arc, sync::atomic::Ordering};

use raw_sync::Timeout;
use raw_sync::events::{Event, EventImpl, EventInit as _, EventState};
use witrpc_core::text::Escaped;

use crate::region::EventMemory;
use crate::sys::windows::{create_event, handing};

/// One event.
pub(super) struct Signal {
    event: Kind,
}

enum Kind {
    RawSync(Box<dyn EventImpl>),
    /// Without a name.
    Own(OwnedHandle),
}

// SAFETY: it is a handle, which every thread of the process may use.
unsafe impl Send for Signal {}
// SAFETY: as for `Send`; both calls of it are one of the system's, which no other disturbs.
unsafe impl Sync for Signal {}

impl Signal {
    /// A new one, whose number is written into memory that nobody else looks at yet.
    #[expect(clippy::needless_pass_by_value, reason = "on other systems the event lies there")]
    pub(super) fn create(memory: EventMemory) -> io::Result<Self> {
        Self::create_as(&memory, || {
            let mut number = [0; 4];
            getrandom::fill(&mut number).map_err(io::Error::other)?;
            Ok(u32::from_le_bytes(number))
        })
    }

    fn create_as(
        memory: &EventMemory,
        mut number: impl FnMut() -> io::Result<u32>,
    ) -> io::Result<Self> {
        loop {
            let number = number()?;
            if let Some(_made) = create_event(&name(number))? {
                let signal = Self::find(number)?; // While `_made` is open.
                memory.word().store(number, Ordering::Relaxed);
                return Ok(signal);
            }
        }
    }

    /// One that the peer has made.
    #[expect(clippy::needless_pass_by_value, reason = "on other systems the event lies there")]
    pub(super) fn open(memory: EventMemory) -> io::Result<Self> {
        Self::find(memory.word().load(Ordering::Relaxed))
    }

    fn find(mut number: u32) -> io::Result<Self> {
        // SAFETY: a number of our own, from which it makes the name, as `name` does.
        let found = unsafe { Event::from_existing((&raw mut number).cast()) };
        let (event, _) = found.map_err(|error| {
            let advice = "both processes must be in one session";
            io::Error::other(format!("{error}; {advice}"))
        })?;
        Ok(Self { event: Kind::RawSync(event) })
    }

    /// One without a name.
    pub(super) const fn of(event: OwnedHandle) -> Self {
        Self { event: Kind::Own(event) }
    }

    /// Until it is notified; `false` if it cannot be waited for.
    pub(super) fn wait(&self) -> bool {
        match &self.event {
            Kind::RawSync(event) => event.wait(Timeout::Infinite).is_ok(),
            Kind::Own(event) => handing::wait(event),
        }
    }

    fn set(&self) -> io::Result<()> {
        match &self.event {
            Kind::RawSync(event) => {
                let set = event.set(EventState::Signaled);
                set.map_err(|error| io::Error::other(error.to_string()))
            }
            Kind::Own(event) => handing::set(event),
        }
    }

    /// Sets it without waiting for anything.
    pub(super) fn set_aside(this: &Arc<Self>) {
        if let Err(error) = this.set() {
            tracing::warn!(error = %Escaped(&error), "could not wake the peer");
        }
    }
}

/// As raw_sync makes it from a number.
fn name(number: u32) -> String {
    format!("event_{number}")
}

/// The notifying end.
#[derive(Debug)]
pub(crate) struct Notifier {
    peer: Signal,
}

impl Notifier {
    // A `Result` as on other systems.
    #[expect(clippy::unnecessary_wraps, reason = "on other systems it makes a thread")]
    pub(super) fn new(peer: Signal) -> io::Result<Self> {
        Ok(Self { peer })
    }

    pub(super) fn notify(&self) -> io::Result<()> {
        self.peer.set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NamedEvent;
    use crate::layout::SMALLEST_REGION;
    use crate::region::{Region, Side};
    use crate::sys::Access;

    fn region() -> (tempfile::TempDir, Region) {
        let place = tempfile::tempdir().unwrap();
        let (path, kind) = (place.path().join("region"), NamedEvent::RawSync);
        let region = Region::create(&path, SMALLEST_REGION, &[1; 16], kind, Access::User);
        (place, region.unwrap())
    }

    /// raw_sync's fault: it would take the first for its own.
    #[test]
    fn an_event_that_exists_already_is_not_taken_for_ours() {
        let (_place, region) = region();
        let memory = region.event_memory(Side::Client);
        let mut drawn = [0; 4];
        getrandom::fill(&mut drawn).unwrap();
        let taken = u32::from_le_bytes(drawn) | 1;
        let theirs = create_event(&name(taken)).unwrap().unwrap();
        assert!(create_event(&name(taken)).unwrap().is_none());
        let mut numbers = [taken, taken, taken - 1].into_iter();
        let ours = Signal::create_as(&memory, || Ok(numbers.next().unwrap())).unwrap();
        assert_eq!(memory.word().load(Ordering::Relaxed), taken - 1);
        drop((theirs, ours));
        let error = Signal::open(memory).unwrap_err().to_string();
        assert!(error.contains("in one session"), "{error}");
    }

    /// raw_sync's fault: a timeout of less than a millisecond is none at all. There is no timeout here.
    #[test]
    fn a_wait_has_no_limit() {
        let (_place, region) = region();
        let signal = Signal::create(region.event_memory(Side::Client)).unwrap();
        let notifier = Signal::open(region.event_memory(Side::Client)).unwrap();
        let waiting = std::thread::spawn(move || signal.wait());
        // Longer than any timeout that is meant to be short, and than `LOOK_AROUND`.
        std::thread::sleep(super::super::threads::LOOK_AROUND * 3 / 2);
        assert!(!waiting.is_finished());
        notifier.set().unwrap();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn an_event_is_gone_when_both_sides_have_dropped_it() {
        let (_place, region) = region();
        let made = Signal::create(region.event_memory(Side::Client)).unwrap();
        let number = region.event_memory(Side::Client).word().load(Ordering::Relaxed);
        let found = Signal::open(region.event_memory(Side::Client)).unwrap();
        drop(made);
        assert!(create_event(&name(number)).unwrap().is_none(), "one side has it");
        drop(found);
        assert!(create_event(&name(number)).unwrap().is_some(), "somebody still has it");
    }
}
