#![doc = include_str!("../README.md")]
//!
//! # Map of this crate
//!
//! * To write a contract: [`macro@service`], [`Result`], [`Error`].
//! * To serve it: [`WitServerBuilder`], [`WitServer`], and [`CallContext`] inside a handler.
//! * To call it: [`WitClientBuilder`], [`WitClient`], [`Call`].
//! * To send more than answers: [`Event`], [`Subscription`], [`Streaming`], [`Blob`].
//! * To choose where and how: [`MemoryMappedFile`], [`unique_name`], [`WaitStrategy`], [`Serializer`].
//! * To look at servers: [`endpoints()`], [`WitClient::describe`], [`WitClient::call_dynamic`].
//! * For a transport of your own, and one within a process for tests: [`transport`].

#![forbid(unsafe_code)]

#[doc(hidden)]
pub use witrpc_core::__private;
pub use witrpc_core::{
    AccessTokenValidator, Blob, Call, CallContext, CipherError, CipherPair, ClientState,
    CloseReason, Encryptor, Error, Event, EventError, EventValue, KeyAgreement, Load,
    MemberDescription, NoiseEncryptor, Opener, Outcome, Overflow, Peer, ReconnectOptions, Result,
    RetryPolicy, Role, Sealer, Secret, Serializer, SerializerError, ServerDescription, Service,
    ServiceClient, ServiceDescription, ServiceDescriptor, Streaming, Subscription, WaitStrategy,
    WitClient, WitClientBuilder, WitServer, WitServerBuilder, serde, transport,
};
pub use witrpc_macros::service;
pub use witrpc_mmf::{
    Endpoint, MemoryMappedFile, NamedEvent, endpoints, endpoints_in, unique_name,
};
pub use witrpc_mmf_client::{
    MmfClientTransport, WithMemoryMappedFile as ClientWithMemoryMappedFile,
};
pub use witrpc_mmf_server::{
    MmfServerTransport, WithMemoryMappedFile as ServerWithMemoryMappedFile,
};

/// Everything that most programs need, in one line: `use witrpc::prelude::*;`.
pub mod prelude {
    pub use std::time::Duration;

    pub use crate::{
        Blob, CallContext, ClientState, Event, EventError, MemoryMappedFile, Overflow, Streaming,
        Subscription, WaitStrategy, WitClient, WitClientBuilder, WitServer, WitServerBuilder,
    };
    pub use witrpc_mmf_client::WithMemoryMappedFile as _;
    pub use witrpc_mmf_server::WithMemoryMappedFile as _;
}
