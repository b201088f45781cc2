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
//! task that sleeps), `poller` (how long not to), `rescue` (whether it was woken). What users touch: [`WitServerBuilder`], [`WitServer`],
//! [`WitClientBuilder`], [`WitClient`], [`Call`], [`CallContext`], [`Error`].

#![forbid(unsafe_code)]

mod authorization;
#[cfg(feature = "json")]
#[doc(hidden)]
pub mod bench_support;
mod beside;
mod blob;
mod buffers;
mod builder;
mod call;
mod callee;
mod cipher;
mod client;
mod connection;
mod context;
mod dedicated;
mod driver;
#[cfg(feature = "json")]
mod dynamic;
mod error;
mod event;
mod exchange;
#[doc(hidden)]
pub mod fail_point;
mod feed;
mod frame;
#[cfg(all(feature = "json", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz_support;
mod handshake;
mod inbound;
mod inlet;
mod introspection;
mod ledger;
mod message;
mod options;
mod outbound;
mod outlet;
mod pending;
mod poller;
mod reception;
mod reconnect;
#[doc(hidden)]
pub mod rescue;
mod retry;
mod serializer;
mod served;
mod server;
mod service;
#[cfg(test)]
mod simulation;
mod sink;
mod streaming;
mod subscription;
mod sync;
#[cfg(any(test, fuzzing))]
mod testing;
pub mod transport;
mod wire;

pub use authorization::AccessTokenValidator;
pub use blob::Blob;
pub use builder::{WitClientBuilder, WitServerBuilder};
pub use call::Call;
pub use cipher::{
    CipherError, CipherPair, Encryptor, KeyAgreement, NoiseEncryptor, Opener, Role, Sealer, Secret,
};
pub use client::WitClient;
pub use connection::Load;
pub use context::{CallContext, Peer};
pub use error::{CloseReason, Error, Result};
pub use event::{Event, EventValue, Overflow};
pub use introspection::{MemberDescription, ServerDescription, ServiceDescription};
pub use options::WaitStrategy;
pub use reconnect::{ClientState, ReconnectOptions};
pub use retry::RetryPolicy;
pub use serde;
pub use serializer::{Serializer, SerializerError};
pub use server::WitServer;
pub use service::{Outcome, Service, ServiceClient, ServiceDescriptor};
pub use streaming::Streaming;
pub use subscription::{EventError, Subscription};

/// What generated code uses. Not for people: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use std::future::Future;
    pub use std::sync::Arc;

    pub use crate::authorization::{AsFuture, AtOnce};
    pub use crate::call::{Call, Remote};
    pub use crate::event::{Event, EventValue};
    pub use crate::service::{
        Dispatch, EventDescriptor, MethodDescriptor, Outcome, Reply, Request, Service,
        ServiceClient, ServiceDescriptor, answer, unknown_method,
    };
    pub use crate::sink::{Attached, EventSink, attach, unknown_event};
}
