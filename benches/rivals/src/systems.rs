//! All that is compared, a file for each.

use std::sync::LazyLock;

use anyhow::{Context, Result};

use crate::job::Play;
use crate::system::{Entry, Flavour, Kind};

mod ring;
mod socket;
pub(crate) mod witrpc;

const TOKIO: &[Flavour] = &[Flavour::Ct, Flavour::Mt];
const BLOCKING: &[Flavour] = &[Flavour::Blocking];

/// In the order of the table: floors, witrpc, the others.
pub(crate) fn all() -> &'static [Entry] {
    static ALL: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        vec![
            Entry::new(Kind::Floor, "ring-spin", BLOCKING, ring::RingSystem::Spin).polls(),
            Entry::new(Kind::Floor, "ring-futex", BLOCKING, ring::RingSystem::Futex),
            Entry::new(Kind::Floor, "socket", TOKIO, socket::Socket),
            Entry::new(Kind::Ours, "witrpc-json", TOKIO, witrpc::Witrpc::Json),
            Entry::new(Kind::Ours, "witrpc-msgpack", &[Flavour::Mt], witrpc::Witrpc::MessagePack),
            Entry::new(Kind::Ours, "witrpc-postcard", TOKIO, witrpc::Witrpc::Postcard),
            Entry::new(Kind::Ours, "witrpc-encrypted", TOKIO, witrpc::Witrpc::Encrypted),
        ]
    });
    &ALL
}

pub(crate) fn named(name: &str) -> Result<&'static dyn Play> {
    let entry = all().iter().find(|entry| entry.name == name);
    entry.map(|entry| &*entry.system).with_context(|| format!("there is no system {name:?}"))
}
