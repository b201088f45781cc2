//! Authorization and encryption.
//!
//! `witrpc-runtime` carries out the four messages of the handshake. `authorization` says what an access token has to do with them;
//! `cipher` agrees on keys, seals and opens. The sending half of a session seals a chunk in the step that pushes it; the receiving half
//! opens it where it will stay. `docs/security.md` says what this protects, and what it does not.

pub mod authorization;
pub mod cipher;
