//! Routes: the indices of a contract's members in the peer's catalog; and the catalog of a side's own services.

use crate::contract::descriptor::ServiceDescriptor;
use crate::contract::introspection::RESERVED;
use crate::error::Error;
use crate::text::{Escaped, escaped};
use crate::wire::catalog::{Catalog, CatalogMember, CatalogService};

/// The catalog of a side that offers these services.
pub fn catalog_of<'a>(services: impl Iterator<Item = &'a ServiceDescriptor>) -> Catalog {
    let member = |name: &str, hash, signature: &str| CatalogMember {
        name: name.to_owned(),
        hash,
        structure: 0,
        signature: signature.to_owned(),
    };
    let services = services.map(|service| CatalogService {
        name: service.name.to_owned(),
        methods: service.methods.iter().map(|m| member(m.name, m.hash(), m.signature)).collect(),
        events: service.events.iter().map(|e| member(e.name, e.hash(), e.signature)).collect(),
    });
    Catalog { services: services.collect() }
}

/// The indices of a contract's service, methods and events at the peer.
#[derive(Clone, Debug)]
pub struct Route {
    pub service: u16,
    /// By index in the contract.
    pub methods: Vec<Result<u16, Error>>,
    /// By index in the contract.
    pub events: Vec<Result<u16, Error>>,
}

impl Route {
    /// Finds the members of `wanted` in the peer's catalog. A member that is missing there has an error, which each use of it returns; if the
    /// service is missing, all have one.
    pub fn find(catalog: &Catalog, wanted: &ServiceDescriptor) -> Result<Self, Error> {
        let Some(service) = catalog.services.iter().position(|s| s.name == wanted.name) else {
            return Err(no_such_service(catalog, wanted.name));
        };
        let offered = &catalog.services[service];
        let methods = wanted.methods.iter().map(|method| {
            find(
                &offered.methods,
                wanted.name,
                method.name,
                method.hash(),
                method.signature,
                |names| Error::NoSuchMethod {
                    service: wanted.name.to_owned(),
                    method: method.name.to_owned(),
                    client: method.signature.to_owned(),
                    server: names,
                },
            )
        });
        let events = wanted.events.iter().map(|event| {
            find(&offered.events, wanted.name, event.name, event.hash(), event.signature, |names| {
                Error::NoSuchEvent {
                    service: wanted.name.to_owned(),
                    event: event.name.to_owned(),
                    client: event.signature.to_owned(),
                    server: names,
                }
            })
        });
        let service = u16::try_from(service).unwrap_or(u16::MAX);
        Ok(Self { service, methods: methods.collect(), events: events.collect() })
    }
}

/// Finds the method with these names in the peer's catalog.
#[cfg(feature = "json")]
pub fn find_by_name(catalog: &Catalog, service: &str, method: &str) -> Result<(u16, u16), Error> {
    let Some(at) = catalog.services.iter().position(|s| s.name == service) else {
        return Err(no_such_service(catalog, service));
    };
    let offered = &catalog.services[at].methods;
    let Some(member) = offered.iter().position(|m| m.name == method) else {
        return Err(Error::NoSuchMethod {
            service: service.to_owned(),
            method: method.to_owned(),
            client: format!("{method}(…)"),
            server: signatures(offered),
        });
    };
    Ok((u16::try_from(at).unwrap_or(u16::MAX), u16::try_from(member).unwrap_or(u16::MAX)))
}

fn no_such_service(catalog: &Catalog, service: &str) -> Error {
    let listed = catalog.services.iter().filter(|s| !s.name.starts_with(RESERVED));
    let names: Vec<_> = listed.map(|s| format!("{:?}", s.name)).collect();
    Error::NoSuchService {
        service: service.to_owned(),
        offered: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
    }
}

/// The signatures of members, for reading.
fn signatures(members: &[CatalogMember]) -> String {
    let texts: Vec<_> =
        members.iter().map(|member| format!("`{}`", Escaped(&member.signature))).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// Finds where `offered` has a member of this name and hash; `missing` makes the error for a name that it lacks.
fn find(
    offered: &[CatalogMember],
    service: &str,
    name: &str,
    hash: u64,
    signature: &str,
    missing: impl FnOnce(String) -> Error,
) -> Result<u16, Error> {
    let Some(at) = offered.iter().position(|member| member.name == name) else {
        return Err(missing(signatures(offered)));
    };
    if offered[at].hash != hash {
        return Err(Error::SignatureMismatch {
            service: service.to_owned(),
            method: name.to_owned(),
            client: signature.to_owned(),
            server: escaped(&offered[at].signature),
        });
    }
    Ok(u16::try_from(at).unwrap_or(u16::MAX))
}
