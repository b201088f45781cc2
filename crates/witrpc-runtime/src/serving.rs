//! Calls that are taken, and services.

pub(crate) mod host;
pub(crate) mod introspection;
mod peer;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod services;
pub(crate) mod table;
