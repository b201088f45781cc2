//! The middle of witrpc: protocol, connections and builders, for every transport.
//!
//! Most users depend on the `witrpc` crate, which brings a transport and the macro with it; this crate is for those who
//! combine the parts themselves. It opens no file and maps no memory: that is a [transport]'s job.
//!
//! # Layout, in reading order
//!
//! What crosses: `wire` (fields) → `frame` (headers) → `message` (bodies) → `handshake` (the opening four). One session:
//! `outbound` and `inbound` (its two halves), `pending` (calls made), `served` (calls taken), `ledger` (who holds how
//! many bytes). One connection: `exchange` (the handshake carried out), `connection` (locks and steps), `driver` (the
//! task that sleeps), `poller` (how long not to). What users touch: [`WitServerBuilder`], [`WitServer`],
//! [`WitClientBuilder`], [`WitClient`], [`Call`], [`CallContext`], [`Error`].

#![forbid(unsafe_code)]

mod authorization;
#[doc(hidden)]
pub mod bench_support;
mod buffers;
mod builder;
mod call;
mod cipher;
mod client;
mod connection;
mod context;
mod driver;
mod error;
mod exchange;
mod frame;
mod handshake;
mod inbound;
mod ledger;
mod message;
mod options;
mod outbound;
mod pending;
mod poller;
mod serializer;
mod served;
mod server;
mod service;
pub mod transport;
mod wire;

pub use builder::{WitClientBuilder, WitServerBuilder};
pub use call::Call;
pub use client::WitClient;
pub use connection::Load;
pub use context::{CallContext, Peer};
pub use error::{CloseReason, Error, Result};
pub use options::WaitStrategy;
pub use serde;
pub use serializer::{Serializer, SerializerError};
pub use server::WitServer;
pub use service::{Outcome, Service, ServiceClient, ServiceDescriptor};

/// What generated code uses. Not for people: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use std::future::Future;
    pub use std::sync::Arc;

    pub use crate::call::{Call, Remote};
    pub use crate::service::{
        Dispatch, MethodDescriptor, Outcome, Reply, Request, Service, ServiceClient,
        ServiceDescriptor, answer, unknown_method,
    };
}
