//! What travels beside the serialized values of a message: blobs, and streams.
//!
//! While a codec is at work on this thread, a [`Blob`](crate::Blob) or a [`Streaming`](crate::Streaming) anywhere within a
//! value is written as its place in one of these tables, and read from there. That works within any type, under any
//! serializer.

use std::cell::{Cell, RefCell};

use bytes::Bytes;

use crate::inlet::InletHandle;
use crate::outlet::Source;

/// What a serializer came across.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) blobs: Vec<Bytes>,
    pub(crate) sources: Vec<Source>,
    /// Why a stream could not be written: not every format passes that on.
    pub(crate) refused: Option<&'static str>,
}

/// What came with a message.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) blobs: Vec<Bytes>,
    /// Each can be taken once; what is left is cancelled.
    pub(crate) inlets: Vec<Option<InletHandle>>,
}

/// Most messages have nothing beside them: they neither allocate for it, nor move anything.
pub(crate) type Beside<T> = Option<Box<T>>;

/// What the codec of this thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Idle,
    Writing { streams: bool },
    Reading,
}

/// Of the message that the codec is at: empty while it is idle, and for most messages.
#[derive(Debug, Default)]
struct Tables {
    written: Beside<Written>,
    arrived: Beside<Arrived>,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Idle) };
    static TABLES: RefCell<Tables> = const { RefCell::new(Tables { written: None, arrived: None }) };
    /// Whether there may be something in the tables: a look at this costs less than one at them.
    static USED: Cell<bool> = const { Cell::new(false) };
}

/// Puts things back as they were, however the codec ends: idle, or at an outer message.
struct Restore {
    mode: Mode,
    /// The outer message's.
    tables: Option<Tables>,
}

impl Drop for Restore {
    fn drop(&mut self) {
        MODE.set(self.mode);
        let outer = self.tables.take();
        if !USED.replace(outer.is_some()) && outer.is_none() {
            return;
        }
        let left = TABLES.replace(outer.unwrap_or_default());
        // Dropped with the tables free: they may hold streams of the user's, whose code runs then.
        drop(left);
    }
}

/// Nothing is moved for a message that is within no other, and has nothing beside it.
fn enter(mode: Mode) -> Restore {
    let outer = MODE.replace(mode);
    Restore { mode: outer, tables: (outer != Mode::Idle).then(|| TABLES.take()) }
}

/// Puts something into the tables.
fn fill<T>(put: impl FnOnce(&mut Tables) -> T) -> T {
    USED.set(true);
    TABLES.with_borrow_mut(put)
}

/// Runs `write`, and returns what it came across with what it returned. Without `streams`, those are an error.
pub(crate) fn writing<T>(streams: bool, write: impl FnOnce() -> T) -> (T, Beside<Written>) {
    let _restore = enter(Mode::Writing { streams });
    let result = write();
    let written =
        if USED.get() { TABLES.with_borrow_mut(|tables| tables.written.take()) } else { None };
    (result, written)
}

/// Runs `read`, which finds these.
pub(crate) fn reading<T>(arrived: Beside<Arrived>, read: impl FnOnce() -> T) -> T {
    let _restore = enter(Mode::Reading);
    if arrived.is_some() {
        fill(|tables| tables.arrived = arrived);
    }
    read()
}

/// Whether values are read from a message.
pub(crate) fn is_reading() -> bool {
    MODE.get() == Mode::Reading
}

/// Puts a blob beside the message that is being written; returns its place. `None` if there is none.
pub(crate) fn put_blob(blob: &Bytes) -> Option<u32> {
    if !matches!(MODE.get(), Mode::Writing { .. }) {
        return None;
    }
    fill(|Tables { written, .. }| {
        let written = written.get_or_insert_default();
        written.blobs.push(blob.clone());
        u32::try_from(written.blobs.len() - 1).ok()
    })
}

/// The blob at this place of the message that is being read.
pub(crate) fn blob(place: u32) -> Option<Bytes> {
    if !is_reading() {
        return None;
    }
    TABLES.with_borrow(|Tables { arrived, .. }| {
        arrived.as_ref()?.blobs.get(crate::wire::u32_len(place)).cloned()
    })
}

/// Puts the stream that `take` gives beside the message that is being written; returns its place.
///
/// # Errors
///
/// Why it cannot be there; `take` has not been called, or gave nothing.
pub(crate) fn put_stream(take: impl FnOnce() -> Option<Source>) -> Result<u32, &'static str> {
    let Mode::Writing { streams } = MODE.get() else {
        return Err("a stream crosses a connection of witrpc, and goes nowhere else");
    };
    fill(|Tables { written, .. }| {
        let written = written.get_or_insert_default();
        let source = if streams {
            take().ok_or("a stream can be sent once, and this one has been")
        } else {
            Err("neither an event nor an item of a stream can carry a stream")
        };
        let place = source.and_then(|source| {
            written.sources.push(source);
            u32::try_from(written.sources.len() - 1).map_err(|_| "more streams than can be counted")
        });
        written.refused = written.refused.or(place.err());
        place
    })
}

/// Takes the stream at this place of the message that is being read.
///
/// # Errors
///
/// Why there is none.
pub(crate) fn take_stream(place: u32) -> Result<InletHandle, String> {
    if !is_reading() {
        return Err("a stream comes over a connection of witrpc, and from nowhere else".to_owned());
    }
    TABLES.with_borrow_mut(|Tables { arrived, .. }| {
        let inlet = arrived.as_mut().and_then(|arrived| {
            arrived.inlets.get_mut(crate::wire::u32_len(place)).and_then(Option::take)
        });
        inlet.ok_or_else(|| format!("there is no stream {place}"))
    })
}
