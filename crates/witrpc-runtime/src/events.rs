//! Events: raised on one side, subscribed to on the other.

pub(crate) mod backlog;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod feed;
pub(crate) mod host;
mod local;
pub(crate) mod publishing;
pub(crate) mod sink;
pub(crate) mod subscriber;
pub(crate) mod subscribing;
pub(crate) mod subscription;
pub(crate) mod table;
