//! Connections, services and builders of witrpc, for every transport.
//!
//! Most users depend on the `witrpc` crate, which brings a transport and the macro with it; this crate is for those who
//! combine the parts themselves. The protocol is in [`witrpc_core`]; this crate waits, locks and wakes, on tokio.

#![forbid(unsafe_code)]

mod builder;
mod calls;
mod client;
mod connection;
mod context;
mod events;
#[cfg(all(feature = "json", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz_support;
mod link;
mod locks;
mod server;
mod serving;
mod streams;
#[cfg(all(test, feature = "json"))]
mod testing;
pub mod transport;

pub use builder::WitClientBuilder;
pub use builder::WitServerBuilder;
pub use calls::call::Call;
pub use calls::outcome::Outcome;
pub use calls::ping::Ping;
pub use calls::retry::RetryPolicy;
pub use client::WitClient;
#[doc(hidden)]
pub use client::pool::{ClientPool, PoolMember};
pub use client::reconnect::{ClientState, ReconnectOptions};
pub use connection::load::{Load, Memory};
pub use context::{CallContext, Peer};
#[doc(hidden)]
pub use context::{SharedLease, SideChannel, side_channel};
pub use events::backlog::Overflow;
pub use events::error::EventError;
pub use events::event::Event;
pub use events::pool_subscription::PoolSubscription;
pub use events::subscriber::EventValue;
pub use events::subscription::Subscription;
pub use link::loan::Loan;
#[doc(hidden)]
pub use link::{rescue, reuse};
pub use server::WitServer;
pub use serving::introspection::{MemberDescription, ServerDescription, ServiceDescription};
pub use serving::service::{Service, ServiceClient};
#[doc(hidden)]
pub use streams::resource::{IncomingResource, Resource, resource, write_resource};
pub use streams::streaming::Streaming;
pub use witrpc_core::security::authorization::AccessTokenValidator;
pub use witrpc_core::transport::Credentials;
pub use witrpc_core::{
    Blob, CipherError, CipherPair, CloseReason, Encryptor, Error, KeyAgreement, NoiseEncryptor,
    Opener, Result, Role, Sealer, Secret, Serializer, SerializerError, ServiceDescriptor,
    WaitStrategy, serde,
};

/// For generated code only; changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use std::future::Future;
    pub use std::sync::Arc;

    pub use witrpc_core::contract::descriptor::{
        EventDescriptor, MethodDescriptor, ServiceDescriptor,
    };
    pub use witrpc_core::security::authorization::{AsFuture, AtOnce};

    pub use crate::builder::missing;
    pub use crate::calls::arguments::{
        Argument, ArgumentsOf, arguments0, arguments1, arguments2, arguments3, arguments4,
        arguments5, arguments6, arguments7, arguments8, arguments9, arguments10, arguments11,
        arguments12, arguments13, arguments14, arguments15, arguments16,
    };
    pub use crate::calls::call::{Call, Remote};
    pub use crate::calls::outcome::{Outcome, OutcomeOf, ResultError, ResultValue, outcome};
    pub use crate::events::event::{Event, attach};
    pub use crate::events::remote_subscriber::{Attached, EventSubscriber, unknown_event};
    pub use crate::events::subscriber::EventValue;
    pub use crate::link::reply::Reply;
    pub use crate::locks::is_any_held;
    pub use crate::serving::service::{
        Dispatch, Request, Service, ServiceClient, answer, unknown_method,
    };
}
