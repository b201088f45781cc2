//! The bounds that are left for a value, and the wrapper of a format's part.

use std::cell::Cell;

use serde::{Serialize, Serializer};

use crate::values::attachments::reference::Marker;

/// The maximum nesting of lists, maps, structs, tuples and enum variants with content: that of serde_json.
const MAX_CONTAINERS: u32 = 127;
/// The same including options and newtypes, which take stack too. A level takes about a kilobyte of stack, and a
/// thread of tokio's has 2 MiB.
const MAX_LEVELS: u32 = 2 * MAX_CONTAINERS;
/// The maximum number of items of one message that take no bytes, as units in postcard: a bound on the work for them.
#[cfg(any(feature = "json", feature = "message-pack", feature = "postcard"))]
const MAX_EMPTY_ITEMS: u64 = 1 << 16;

const TOO_DEEP: &str = "it is nested more than 127 levels deep";
const TOO_MANY_ITEMS: &str = "it has more than 65536 items of zero bytes";
pub(super) const NOT_FINITE: &str =
    "JSON cannot express NaN or infinities: send an Option, or a text";

/// The bounds that are left for the current value.
#[derive(Debug)]
pub(crate) struct Bounds {
    containers: Cell<u32>,
    levels: Cell<u32>,
    items: Cell<u64>,
    pub(super) marker: Option<Marker>,
    /// Whether numbers must be finite, as the format does not preserve others.
    pub(super) finite: bool,
    /// The first bound that was exceeded, as not every format passes errors on.
    exceeded: Cell<Option<&'static str>>,
}

impl Bounds {
    /// For a value of this many bytes. Each item except empty ones takes at least one byte.
    #[cfg(any(feature = "json", feature = "message-pack", feature = "postcard"))]
    pub(crate) fn reading(bytes: usize, marker: Option<Marker>) -> Self {
        let items = crate::wire::fields::len_u64(bytes).saturating_add(MAX_EMPTY_ITEMS);
        Self { items: Cell::new(items), ..Self::depth().with_marker(marker) }
    }

    /// For a value whose items are counted elsewhere, if at all.
    pub(crate) const fn depth() -> Self {
        let (containers, levels) = (Cell::new(MAX_CONTAINERS), Cell::new(MAX_LEVELS));
        let (items, exceeded) = (Cell::new(u64::MAX), Cell::new(None));
        Self { containers, levels, items, marker: None, finite: false, exceeded }
    }

    /// Takes finite numbers only.
    #[cfg(feature = "json")]
    pub(crate) const fn finite(mut self) -> Self {
        self.finite = true;
        self
    }

    /// Recognizes references with this marker.
    pub(crate) const fn with_marker(mut self, marker: Option<Marker>) -> Self {
        self.marker = marker;
        self
    }

    /// Checks the number of items of a value of this many bytes, in a format with items that take no bytes.
    ///
    /// # Errors
    ///
    /// What is wrong.
    #[cfg(feature = "postcard")]
    pub(crate) fn check(&self, bytes: usize) -> Result<(), &'static str> {
        let items = u64::MAX - self.items.get();
        let most = crate::wire::fields::len_u64(bytes).saturating_add(MAX_EMPTY_ITEMS);
        if items <= most { Ok(()) } else { Err(TOO_MANY_ITEMS) }
    }

    /// Why the value failed, if it was a bound.
    pub(crate) fn exceeded(&self) -> Option<&'static str> {
        self.exceeded.get()
    }

    /// Enters a container, until the level is dropped.
    #[inline]
    pub(super) fn container(&self) -> Result<Level<'_>, &'static str> {
        let left = self.take(&self.containers, TOO_DEEP)?;
        let mut level = self.wrapper()?;
        self.containers.set(left);
        level.is_container = true;
        Ok(level)
    }

    /// Enters an option or a newtype, until the level is dropped.
    #[inline]
    pub(super) fn wrapper(&self) -> Result<Level<'_>, &'static str> {
        self.levels.set(self.take(&self.levels, TOO_DEEP)?);
        Ok(Level { bounds: self, is_container: false })
    }

    /// Counts an item of a list, or an entry of a map, whose length its sender chooses.
    #[inline]
    pub(super) fn item(&self) -> Result<(), &'static str> {
        match self.items.get().checked_sub(1) {
            Some(left) => self.items.set(left),
            None => return Err(self.exceed(TOO_MANY_ITEMS)),
        }
        Ok(())
    }

    #[inline]
    fn take(&self, left: &Cell<u32>, reason: &'static str) -> Result<u32, &'static str> {
        left.get().checked_sub(1).ok_or_else(|| self.exceed(reason))
    }

    #[cold]
    fn exceed(&self, reason: &'static str) -> &'static str {
        self.exceeded.set(self.exceeded.get().or(Some(reason)));
        reason
    }
}

/// One level deeper than before.
#[derive(Debug)]
pub(super) struct Level<'a> {
    pub(super) bounds: &'a Bounds,
    is_container: bool,
}

impl Drop for Level<'_> {
    #[inline]
    fn drop(&mut self) {
        self.bounds.levels.set(self.bounds.levels.get() + 1);
        if self.is_container {
            self.bounds.containers.set(self.bounds.containers.get() + 1);
        }
    }
}

/// A part of a format (a deserializer, a visitor, a value to be serialized, …) within bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited<'a, T> {
    pub(super) inner: T,
    pub(super) bounds: &'a Bounds,
    /// Whether the sender chooses the number of the items that follow, and not their type.
    pub(super) counts: bool,
}

impl<'a, T> Limited<'a, T> {
    pub(crate) const fn new(inner: T, bounds: &'a Bounds) -> Self {
        Self { inner, bounds, counts: false }
    }

    /// Another part, within the same bounds.
    pub(super) const fn with<U>(&self, inner: U) -> Limited<'a, U> {
        Limited::new(inner, self.bounds)
    }

    pub(super) const fn counting(mut self, counts: bool) -> Self {
        self.counts = counts;
        self
    }
}

/// A value within bounds, for a serializer that is the user's own. Each time that it is serialized is another pass.
#[derive(Debug)]
pub(crate) struct Value<'a, T>(Limited<'a, &'a T>);

impl<'a, T> Value<'a, T> {
    pub(crate) const fn new(value: &'a T, bounds: &'a Bounds) -> Self {
        Self(Limited::new(value, bounds))
    }
}

impl<T: Serialize> Serialize for Value<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::values::attachments::begin_pass();
        self.0.serialize(serializer)
    }
}
