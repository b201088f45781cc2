//! The catalog: the services that each side offers, as they are sent in the handshake.

use crate::text::Escaped;
use crate::wire::fields::{Fields, Malformed, Put};

/// The services that a side offers. [wire.catalog]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    pub services: Vec<CatalogService>,
}

/// One service of a catalog, identified by its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogService {
    pub name: String,
    pub methods: Vec<CatalogMember>,
    pub events: Vec<CatalogMember>,
}

/// One method or event of a service, identified by its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogMember {
    pub name: String,
    pub hash: u64,
    /// Kept for a hash of the structure of its types; 0 where a side says nothing of it. [wire.catalog]
    pub structure: u64,
    pub signature: String,
}

impl Catalog {
    /// `Service.method`, for reading; numbers where there is no such thing.
    pub fn method_name(&self, service: u16, method: u16) -> String {
        self.member_name(service, method, |service| &service.methods)
    }

    /// `Service.event`, for reading; numbers where there is no such thing.
    pub fn event_name(&self, service: u16, event: u16) -> String {
        self.member_name(service, event, |service| &service.events)
    }

    fn member_name(
        &self,
        service: u16,
        member: u16,
        members: fn(&CatalogService) -> &[CatalogMember],
    ) -> String {
        let found = self.services.get(usize::from(service)).and_then(|offered| {
            Some((&offered.name, &members(offered).get(usize::from(member))?.name))
        });
        match found {
            Some((service, member)) => format!("{}.{}", Escaped(service), Escaped(member)),
            None => format!("{service}.{member}"),
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(count(self.services.len()));
        for service in &self.services {
            out.put_bytes(service.name.as_bytes());
            for members in [&service.methods, &service.events] {
                out.put_u32(count(members.len()));
                for member in members {
                    out.put_bytes(member.name.as_bytes());
                    out.put_u64(member.hash);
                    out.put_u64(member.structure);
                    out.put_bytes(member.signature.as_bytes());
                }
            }
        }
    }

    pub fn decode(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        // The vectors grow as entries are read, never on a count.
        let mut services = Vec::new();
        for _ in 0..fields.u32("catalog")? {
            services.push(CatalogService {
                name: fields.text("catalog service")?,
                methods: decode_members(fields)?,
                events: decode_members(fields)?,
            });
        }
        Ok(Self { services })
    }
}

fn decode_members(fields: &mut Fields<'_>) -> Result<Vec<CatalogMember>, Malformed> {
    let mut members = Vec::new();
    for _ in 0..fields.u32("catalog service")? {
        members.push(CatalogMember {
            name: fields.text("catalog member")?,
            hash: fields.u64("catalog member")?,
            structure: fields.u64("catalog member")?,
            signature: fields.text("catalog member")?,
        });
    }
    Ok(members)
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
