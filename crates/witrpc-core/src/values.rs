//! The user's values: how they become bytes, and which attachments cross with those.
//!
//! `serializer::Codec` turns values into bytes. The built-in formats are compiled against each type; a user's format is one erased call.
//! Whatever the format, every value passes through `limited`, which bounds its depth and its items. While a codec works on a thread,
//! `attachments` has the tables of that message.

pub mod attachments;
pub mod blob;
pub mod buffers;
pub mod content;
mod limited;
pub mod loans;
pub mod serializer;
pub mod spare;
