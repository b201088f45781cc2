//! What travels beside the serialized values of a message: blobs, and streams.
//!
//! While a codec is at work on this thread, a [`Blob`](crate::Blob) or a [`Streaming`](crate::Streaming) anywhere within a
//! value is written as its place in one of these tables, and read from there. That works within any type, under any
//! serializer.

use std::cell::RefCell;

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

/// The message that a codec is at work on.
#[derive(Debug)]
enum Table {
    Writing { written: Written, streams: bool },
    Reading(Arrived),
}

thread_local! {
    static TABLE: RefCell<Option<Table>> = const { RefCell::new(None) };
}

/// Puts the table of an outer message back, however the inner one ends.
struct Restore(Option<Table>);

impl Drop for Restore {
    fn drop(&mut self) {
        let outer = self.0.take();
        // Dropped with the table free: it may hold streams of the user's, whose code runs then.
        drop(TABLE.with_borrow_mut(|table| std::mem::replace(table, outer)));
    }
}

fn enter(table: Table) -> Restore {
    Restore(TABLE.with_borrow_mut(|current| current.replace(table)))
}

/// Runs `write`, and returns what it came across with what it returned. Without `streams`, those are an error.
pub(crate) fn writing<T>(streams: bool, write: impl FnOnce() -> T) -> (T, Written) {
    let _restore = enter(Table::Writing { written: Written::default(), streams });
    let result = write();
    let written = TABLE.with_borrow_mut(|table| match table {
        Some(Table::Writing { written, .. }) => std::mem::take(written),
        _ => Written::default(),
    });
    (result, written)
}

/// Runs `read`, which finds these.
pub(crate) fn reading<T>(arrived: Arrived, read: impl FnOnce() -> T) -> T {
    let _restore = enter(Table::Reading(arrived));
    read()
}

/// Whether values are read from a message.
pub(crate) fn is_reading() -> bool {
    TABLE.with_borrow(|table| matches!(table, Some(Table::Reading(_))))
}

/// Puts a blob beside the message that is being written; returns its place. `None` if there is none.
pub(crate) fn put_blob(blob: &Bytes) -> Option<u32> {
    TABLE.with_borrow_mut(|table| match table {
        Some(Table::Writing { written, .. }) => {
            written.blobs.push(blob.clone());
            u32::try_from(written.blobs.len() - 1).ok()
        }
        _ => None,
    })
}

/// The blob at this place of the message that is being read.
pub(crate) fn blob(place: u32) -> Option<Bytes> {
    TABLE.with_borrow(|table| match table {
        Some(Table::Reading(arrived)) => arrived.blobs.get(crate::wire::u32_len(place)).cloned(),
        _ => None,
    })
}

/// Puts the stream that `take` gives beside the message that is being written; returns its place.
///
/// # Errors
///
/// Why it cannot be there; `take` has not been called, or gave nothing.
pub(crate) fn put_stream(take: impl FnOnce() -> Option<Source>) -> Result<u32, &'static str> {
    TABLE.with_borrow_mut(|table| {
        let Some(Table::Writing { written, streams }) = table else {
            return Err("a stream crosses a connection of witrpc, and goes nowhere else");
        };
        let source = if *streams {
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
    TABLE.with_borrow_mut(|table| match table {
        Some(Table::Reading(arrived)) => arrived
            .inlets
            .get_mut(crate::wire::u32_len(place))
            .and_then(Option::take)
            .ok_or_else(|| format!("there is no stream {place}")),
        _ => Err("a stream comes over a connection of witrpc, and from nowhere else".to_owned()),
    })
}
