//! The service by which every server describes itself, and the types of its answer.
//!
//! It is written by hand and not by the macro, as the macro's output is for crates that depend on this one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use witrpc_core::Error;
use witrpc_core::contract::descriptor::ServiceDescriptor;
use witrpc_core::contract::introspection::DESCRIPTOR;

use crate::calls::arguments::arguments0;
use crate::calls::outcome::outcome;
use crate::events::remote_subscriber::{Attached, EventSubscriber, unknown_event};
use crate::serving::service::{Dispatch, Request, Service, answer, unknown_method};

/// A server's name, description and services, as [`WitClient::describe`](crate::WitClient::describe) returns them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerDescription {
    /// The name that the server's builder set by `with_name`.
    pub name: Option<String>,
    /// The description that the server's builder set by `with_description`.
    pub description: Option<String>,
    /// Its services.
    pub services: Vec<ServiceDescription>,
}

/// One service of a [`ServerDescription`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceDescription {
    /// The name on the wire.
    pub name: String,
    /// The documentation comment of the trait.
    pub docs: String,
    /// Its methods.
    pub methods: Vec<MemberDescription>,
    /// Its events.
    pub events: Vec<MemberDescription>,
}

/// One method or event of a [`ServiceDescription`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberDescription {
    /// Its name.
    pub name: String,
    /// Its signature as text, for example `add(a: i32, b: i32) -> Result<i32>`.
    pub signature: String,
    /// Its documentation comment.
    pub docs: String,
}

impl ServerDescription {
    pub(crate) fn new(
        name: Option<String>,
        description: Option<String>,
        services: impl Iterator<Item = &'static ServiceDescriptor>,
    ) -> Self {
        let services = services.map(ServiceDescription::new).collect();
        Self { name, description, services }
    }
}

impl ServiceDescription {
    fn new(service: &ServiceDescriptor) -> Self {
        let member = |name: &str, signature: &str, docs: &str| MemberDescription {
            name: name.to_owned(),
            signature: signature.to_owned(),
            docs: docs.to_owned(),
        };
        Self {
            name: service.name.to_owned(),
            docs: service.docs.to_owned(),
            methods: service.methods.iter().map(|m| member(m.name, m.signature, m.docs)).collect(),
            events: service.events.iter().map(|e| member(e.name, e.signature, e.docs)).collect(),
        }
    }
}

/// The built-in service.
pub(crate) struct Introspection(pub(crate) Arc<ServerDescription>);

impl Service for Introspection {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &DESCRIPTOR
    }

    fn call(&self, method: usize, request: Request) -> Dispatch {
        let description = Arc::clone(&self.0);
        match method {
            0 => answer(request, arguments0(), outcome(), |()| async move {
                Ok::<_, Error>((*description).clone())
            }),
            _ => unknown_method(request),
        }
    }

    fn subscribe(&self, _event: usize, subscriber: EventSubscriber) -> Attached {
        unknown_event(subscriber)
    }
}
