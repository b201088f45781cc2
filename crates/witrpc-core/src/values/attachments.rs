//! The attachments of a message: blobs and streams, which are sent apart from the serialized values.
//!
//! While a codec works on this thread, a [`Blob`](crate::Blob) or a `Streaming` anywhere within a
//! value is written as a [reference](mod@reference) to one of the message's tables, and read from there. That works within any type,
//! under any serializer.

mod opaque;
pub mod reference;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::ManuallyDrop;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer};

pub use self::opaque::{IncomingStream, OutgoingStream, Resource};
use self::reference::{Kind, Marker, Notation, Reference};
use crate::values::loans::LentBlob;
use crate::wire::message::MAX_STREAMS_OF_VALUE;

/// The attachments that a serializer has found.
#[derive(Debug, Default)]
pub struct Written {
    pub blobs: Vec<Bytes>,
    /// By index.
    pub outgoing: Vec<OutgoingStream>,
    /// The marker of the references; chosen with the first.
    pub marker: Marker,
    /// Why a stream could not be written, as not every format passes errors on.
    pub refused: Option<&'static str>,
    /// The address of the `Streaming` from which each source was taken.
    owners: Vec<usize>,
    /// Streams by owner that an earlier pass over the value has taken, and that this pass has not reached yet.
    earlier: HashMap<usize, OutgoingStream>,
}

/// The attachments of a received message.
#[derive(Debug, Default)]
pub struct Arrived {
    pub blobs: Vec<Bytes>,
    /// Each can be taken once; those that are left are cancelled.
    pub incoming: Vec<Option<IncomingStream>>,
    /// Blobs that have crossed as references, by their indexes.
    pub lent: Vec<(u32, Box<dyn LentBlob>)>,
    pub marker: Marker,
}

/// Most messages have no attachments: they neither allocate for them, nor move anything.
pub type Attachments<T> = Option<Box<T>>;

/// What the codec of this thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Idle,
    Writing { notation: Notation, streams: bool },
    Reading { notation: Notation },
}

/// Of the message that the codec is at: empty while it is idle, and for most messages.
#[derive(Debug, Default)]
struct Tables {
    written: Attachments<Written>,
    arrived: Attachments<Arrived>,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Idle) };
    /// Empty while the thread is idle, so nothing is lost for not being dropped; and it is there for a value that is
    /// serialized by another thread-local's destructor.
    static TABLES: ManuallyDrop<RefCell<Tables>> =
        const { ManuallyDrop::new(RefCell::new(Tables { written: None, arrived: None })) };
    /// Whether there may be something in the tables: a look at this costs less than one at them.
    static USED: Cell<bool> = const { Cell::new(false) };
}

/// Restores the previous state when the codec ends: idle, or an outer message.
struct Restore {
    mode: Mode,
    /// The outer message's.
    tables: Option<Tables>,
}

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        MODE.set(self.mode);
        let outer = self.tables.take();
        if !USED.replace(outer.is_some()) && outer.is_none() {
            return;
        }
        let left = TABLES.with(|tables| tables.replace(outer.unwrap_or_default()));
        // Dropped with the tables not borrowed: they may hold streams of the user, whose destructors run then.
        drop(left);
    }
}

/// Nothing is moved for a message that is within no other, and has no attachments.
fn enter(mode: Mode) -> Restore {
    let outer = MODE.replace(mode);
    Restore { mode: outer, tables: (outer != Mode::Idle).then(|| TABLES.with(|t| t.take())) }
}

/// Changes the tables.
fn with_tables<T>(change: impl FnOnce(&mut Tables) -> T) -> T {
    TABLES.with(|tables| change(&mut tables.borrow_mut()))
}

/// Puts something into the tables.
fn fill<T>(put: impl FnOnce(&mut Tables) -> T) -> T {
    USED.set(true);
    with_tables(put)
}

/// Runs `write`, and returns the attachments that it found with its result. Unless `streams`, a stream is an error.
pub fn writing<T>(
    notation: Notation,
    streams: bool,
    write: impl FnOnce() -> T,
) -> (T, Attachments<Written>) {
    let _restore = enter(Mode::Writing { notation, streams });
    let result = write();
    let written = if USED.get() { with_tables(|tables| tables.written.take()) } else { None };
    (result, written)
}

/// The serializer begins a pass over the value. Only the attachments of the last pass count.
#[inline]
pub fn begin_pass() {
    if !USED.get() {
        return;
    }
    with_tables(|Tables { written, .. }| {
        let Some(written) = written else { return };
        written.blobs.clear();
        written.refused = None;
        written.earlier.extend(written.owners.drain(..).zip(written.outgoing.drain(..)));
    });
}

/// Runs `read` with these attachments.
pub fn reading<T>(
    notation: Notation,
    arrived: Attachments<Arrived>,
    read: impl FnOnce() -> T,
) -> T {
    let _restore = enter(Mode::Reading { notation });
    if arrived.is_some() {
        fill(|tables| tables.arrived = arrived);
    }
    read()
}

/// Whether values are read from a message.
#[inline]
pub fn is_reading() -> bool {
    matches!(MODE.get(), Mode::Reading { .. })
}

/// Writes the reference to an attachment.
///
/// # Errors
///
/// The serializer's.
fn write_reference<S: Serializer>(
    serializer: S,
    kind: Kind,
    (notation, marker, place): (Notation, Marker, u32),
) -> Result<S::Ok, S::Error> {
    match notation {
        Notation::Places => serializer.serialize_u32(place),
        Notation::Markers => serializer.serialize_str(&marker.text(kind, place)),
    }
}

/// Reads the reference to an attachment; returns its index.
fn read_reference<'de, D: Deserializer<'de>>(deserializer: D, kind: Kind) -> Result<u32, D::Error> {
    if MODE.get() == (Mode::Reading { notation: Notation::Places }) {
        return u32::deserialize(deserializer);
    }
    let marker =
        with_tables(|tables| tables.arrived.as_ref().map_or_else(Marker::default, |a| a.marker));
    deserializer.deserialize_newtype_struct("witrpc", Reference { kind, marker, within: false })
}

/// Writes a blob as a reference, and adds it to the attachments of the message that is being written; as bytes if none is.
///
/// # Errors
///
/// The serializer's.
pub fn write_blob<S: Serializer>(blob: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    let Mode::Writing { notation, .. } = MODE.get() else {
        return serializer.serialize_bytes(blob);
    };
    let put = fill(|tables| tables.written(notation).put_blob(blob));
    match put {
        Ok((marker, place)) => write_reference(serializer, Kind::Blob, (notation, marker, place)),
        Err(reason) => Err(serde::ser::Error::custom(reason)),
    }
}

/// Reads a blob of the message that is being read.
///
/// # Errors
///
/// The deserializer's.
pub fn read_blob<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let place = read_reference(deserializer, Kind::Blob)?;
    let blob = with_tables(|Tables { arrived, .. }| {
        let arrived = arrived.as_mut()?;
        if let Ok(lent) = arrived.lent.binary_search_by_key(&place, |(index, _)| *index) {
            return Some(arrived.lent[lent].1.read());
        }
        arrived.blobs.get(crate::wire::fields::u32_len(place)).map(hand_out)
    });
    match blob {
        Some(Some(blob)) => Ok(blob),
        Some(None) => Err(serde::de::Error::custom(format!("two values refer to blob {place}"))),
        None => Err(serde::de::Error::custom(format!("there is no blob {place}"))),
    }
}

/// A blob for the value that refers to it; `None` if another value holds it already. Otherwise a message that refers to one blob many times
/// could create values many times its own size. A value that was discarded, as by an untagged enum that tries its variants, does not
/// hold it any more.
fn hand_out(blob: &Bytes) -> Option<Bytes> {
    (blob.is_empty() || blob.is_unique()).then(|| blob.clone())
}

/// Writes the stream that `take` gives, of the owner at this address, as a reference, and adds it to the attachments of the message
/// that is being written.
///
/// # Errors
///
/// Why it cannot be there; the serializer's.
pub fn write_stream<S: Serializer>(
    owner: usize,
    take: impl FnOnce() -> Option<OutgoingStream>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let take = |streams: bool| match streams {
        true => take().ok_or("a Streaming can be sent only once, and this one was already sent"),
        false => Err("an event's value or a stream's item cannot contain a Streaming"),
    };
    let elsewhere =
        "a Streaming can only be serialized as part of an argument or a result of a witrpc call";
    write_outgoing(owner, take, elsewhere, serializer)
}

/// Writes the resource that `take` gives as a stream, which may also be within an event's value or a stream's item. `take(true)` is for a
/// call, whose peer is the only one to get it: that takes it out of its owner. An event's value is written once for each serializer, so
/// `take(false)` leaves it there.
///
/// # Errors
///
/// Why it cannot be there; the serializer's.
pub fn write_resource<S: Serializer>(
    owner: usize,
    take: impl FnOnce(bool) -> Option<Resource>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let take = |streams: bool| {
        let sent =
            "a Descriptor can be sent only once, and this one was already sent: send a clone";
        take(streams).map(OutgoingStream::from).ok_or(sent)
    };
    write_outgoing(
        owner,
        take,
        "a Descriptor can only be serialized as part of a witrpc call, event or stream",
        serializer,
    )
}

fn write_outgoing<S: Serializer>(
    owner: usize,
    take: impl FnOnce(bool) -> Result<OutgoingStream, &'static str>,
    elsewhere: &'static str,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let put = match MODE.get() {
        Mode::Writing { notation, streams } => {
            let put = fill(|tables| tables.written(notation).put_stream(owner, streams, take));
            put.map(|(marker, place)| (notation, marker, place))
        }
        _ => Err(elsewhere),
    };
    write_reference(serializer, Kind::Stream, put.map_err(serde::ser::Error::custom)?)
}

/// Reads a stream of the message that is being read, which can be taken once.
///
/// # Errors
///
/// Why there is none; the deserializer's.
pub fn read_stream<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IncomingStream, D::Error> {
    if !is_reading() {
        return Err(serde::de::Error::custom(
            "a Streaming can only be deserialized as part of an argument or a result of a witrpc call",
        ));
    }
    let place = read_reference(deserializer, Kind::Stream)?;
    let stream = with_tables(|Tables { arrived, .. }| {
        arrived.as_mut()?.incoming.get_mut(crate::wire::fields::u32_len(place))?.take()
    });
    stream.ok_or_else(|| {
        serde::de::Error::custom(format!("there is no stream {place}, or two values refer to it"))
    })
}

/// The marker that references to this message's attachments have; `None` if it has none, or another notation.
#[inline]
pub fn marker() -> Option<Marker> {
    if !USED.get() || MODE.get() != (Mode::Reading { notation: Notation::Markers }) {
        return None;
    }
    with_tables(|tables| tables.arrived.as_ref().map(|arrived| arrived.marker))
}

impl Tables {
    fn written(&mut self, notation: Notation) -> &mut Written {
        self.written.get_or_insert_with(|| {
            let marker = match notation {
                Notation::Places => Marker::default(),
                Notation::Markers => Marker::random(),
            };
            Box::new(Written { marker, ..Written::default() })
        })
    }
}

impl Written {
    fn put_blob(&mut self, blob: &Bytes) -> Result<(Marker, u32), &'static str> {
        self.blobs.push(blob.clone());
        let place = u32::try_from(self.blobs.len() - 1);
        place.map(|place| (self.marker, place)).map_err(|_| "a message can have at most 2^32 blobs")
    }

    fn put_stream(
        &mut self,
        owner: usize,
        streams: bool,
        take: impl FnOnce(bool) -> Result<OutgoingStream, &'static str>,
    ) -> Result<(Marker, u32), &'static str> {
        let source = match self.earlier.remove(&owner) {
            _ if !streams && self.outgoing.len() >= usize::from(MAX_STREAMS_OF_VALUE) => {
                Err("an event's value or a stream's item can have at most 64 descriptors")
            }
            Some(source) => Ok(source),
            None => take(streams),
        };
        let place = source.and_then(|source| {
            self.outgoing.push(source);
            self.owners.push(owner);
            u32::try_from(self.outgoing.len() - 1).map_err(|_| "a message has too many streams")
        });
        self.refused = self.refused.or(place.err());
        place.map(|place| (self.marker, place))
    }
}
