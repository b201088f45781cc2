//! Who is let in, and how frames are sealed.

pub mod authorization;
pub mod cipher;
