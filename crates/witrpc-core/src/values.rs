//! The user's values: how they become bytes, and what crosses beside those.

pub mod attachments;
pub mod blob;
pub mod buffers;
pub mod content;
mod limited;
pub mod serializer;
pub mod spare;
