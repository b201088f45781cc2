//! Streams, in both directions.
//!
//! 1. Serializing a value takes each `Streaming` out of it, and leaves a reference to the message's attachments in its place. Dropping
//!    the message before it is queued drops the user's stream.
//! 2. When the message is queued, in one step under `outbound`, each of its streams gets an id and a lane of its own, and a stream
//!    sender in the connection's table (`writing`, `sender`). Then each gets a task (`producer`), which waits for credit.
//! 3. The receiving side learns of the streams from the message's head, and makes a stream receiver for each (`adopting`). Its reader
//!    stays with the content until somebody deserializes it. Dropping the reader cancels the stream, wherever that happens: in a call
//!    that is gone, arguments that do not deserialize, an answer that nobody waits for. As any lock may be held then, the destructor
//!    only leaves word for the driver.
//! 4. The reader's first poll gives the first credit, a window. Later polls *lead*, as those of calls do. Credit for what was taken is
//!    returned in halves of the window.
//! 5. The task polls the user's stream as far as it has credit, a few items at a time, in the context of the handler that returned it.
//!    Items take room in the sending queue, and wait in the lane of their stream, which takes turns with long messages.
//! 6. The end is the last frame in the lane. The entry leaves the table when the end has left, and on the other side when it has come.
//!    A cancel is answered by an end, too, so whatever crosses it is known to belong to a stream that existed.
//!
//! A *resource* crosses beside the messages, and is a stream within them ([`resource`]). Events and items of streams may have resources,
//! and no other streams.
//!
//! # What is held
//!
//! At the reader, a stream's items are on the account of its window and not on that of the messages, so a stream that nobody reads stops
//! its writer and nobody else. All windows of a connection have a part of `max_buffered` together (`windows`); the more streams, the less
//! each has. A window counts 128 of its bytes for each item that it allows. It is given back once nothing of its stream is held and
//! nothing can come. The one item that may exceed a window stays on the messages' account.
//!
//! At the writer, items are in the sending queue and have its room; an item that was polled waits for room. While one waits, the streams
//! of the connection are polled one at a time.

pub(crate) mod adopting;
pub(crate) mod host;
pub(crate) mod producer;
pub(crate) mod reader;
pub(crate) mod reading;
pub(crate) mod receiver;
pub(crate) mod resource;
pub(crate) mod sender;
pub(crate) mod streaming;
pub(crate) mod table;
pub(crate) mod unfetched;
pub(crate) mod windows;
pub(crate) mod writing;
