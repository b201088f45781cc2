//! A `tracing` subscriber that every test installs, unless it has its own. It checks that nothing is logged while a lock of the library is
//! held, because a user's subscriber may call the library.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use witrpc_runtime::__private::is_any_held;

/// What was logged in this process with a lock held.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Witness;

impl Witness {
    fn look(what: &Metadata<'_>) {
        if is_any_held() {
            HELD.fetch_add(1, Ordering::Relaxed);
            eprintln!("logged with a lock held: {what:?}");
        }
    }
}

impl Subscriber for Witness {
    fn enabled(&self, what: &Metadata<'_>) -> bool {
        what.target().starts_with("witrpc")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self::look(span.metadata());
        Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn event(&self, event: &Event<'_>) {
        Self::look(event.metadata());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// From now on, in this process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(tracing::subscriber::set_global_default(Witness)));
}

/// Nothing was logged with a lock held, by this test or another.
pub(crate) fn saw_nothing() {
    assert_eq!(HELD.load(Ordering::Relaxed), 0, "something was logged with a lock held");
}
