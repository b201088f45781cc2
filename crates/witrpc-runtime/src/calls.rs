//! Calls that are made.

pub(crate) mod call;
pub(crate) mod callee;
#[cfg(feature = "json")]
pub(crate) mod dynamic;
pub(crate) mod host;
pub(crate) mod making;
pub(crate) mod outcome;
pub(crate) mod ping;
pub(crate) mod retry;
pub(crate) mod table;
