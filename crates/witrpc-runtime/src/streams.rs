//! Streams, in both directions.

pub(crate) mod adopting;
pub(crate) mod host;
pub(crate) mod inlet;
pub(crate) mod outlet;
pub(crate) mod producer;
pub(crate) mod reader;
pub(crate) mod reading;
pub(crate) mod streaming;
pub(crate) mod table;
pub(crate) mod windows;
pub(crate) mod writing;
