//! What crosses: fields, frames, and the bodies that `docs/wire.md` lays out. Bytes in, values of the protocol out.

pub mod catalog;
pub mod fields;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod status;
