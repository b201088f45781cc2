//! Calls that are taken, and services.
//!
//! Only the driver serves. It polls a handler once in place. A handler that is not ready then becomes a task of the runtime; so does, at
//! once, the handler of a method that has been slow or is `blocking`. A call that would be late is refused (`admission`). `introspection` is a service like any other, written by hand, and
//! every server adds it behind the user's.

pub(crate) mod admission;
pub(crate) mod authorizer;
pub(crate) mod drivers;
mod gate;
mod handling;
pub(crate) mod host;
pub(crate) mod introspection;
mod peer;
mod processors;
mod runs;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod services;
pub(crate) mod table;
