//! All that is compared, a file for each.

use std::sync::LazyLock;

use anyhow::{Context, Result};

use crate::playing::{Entry, Play};
use crate::system::{Flavour, Kind};
use growing::{METHODS, SUBSCRIBERS};

pub(crate) mod growing;
mod iceoryx2;
mod ipc_channel;
mod remoc;
mod ring;
mod shmipc;
mod slotbus;
mod socket;
mod tarpc;
mod tonic;
pub(crate) mod witrpc;
mod xrpc;
mod zbus;

const TOKIO: &[Flavour] = &[Flavour::Ct, Flavour::Mt];
const MT: &[Flavour] = &[Flavour::Mt];
const BLOCKING: &[Flavour] = &[Flavour::Blocking];

/// In the order of the table: floors, witrpc, the others.
pub(crate) fn all() -> &'static [Entry] {
    static ALL: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        vec![
            Entry::new(Kind::Floor, "ring-spin", BLOCKING, ring::RingSystem::Spin).polls(),
            Entry::new(Kind::Floor, "ring-futex", BLOCKING, ring::RingSystem::Futex),
            Entry::new(Kind::Floor, "socket", TOKIO, socket::Socket),
            Entry::new(Kind::Ours, "witrpc-json", TOKIO, witrpc::Witrpc::Json),
            Entry::new(Kind::Ours, "witrpc-msgpack", MT, witrpc::Witrpc::MessagePack),
            Entry::new(Kind::Ours, "witrpc-postcard", TOKIO, witrpc::Witrpc::Postcard),
            Entry::new(Kind::Ours, "witrpc-encrypted", TOKIO, witrpc::Witrpc::Encrypted),
            Entry::new(Kind::Ours, "witrpc-json-thread", MT, witrpc::Witrpc::JsonThread),
            Entry::new(Kind::Ours, "witrpc-postcard-thread", MT, witrpc::Witrpc::PostcardThread),
            Entry::new(Kind::Rival, "tarpc-bincode", TOKIO, tarpc::Tarpc::Bincode),
            Entry::new(Kind::Rival, "tarpc-json", TOKIO, tarpc::Tarpc::Json)
                .excused(tarpc::json_excuse),
            Entry::new(Kind::Rival, "tonic", TOKIO, tonic::Tonic),
            Entry::new(Kind::Rival, "zbus", TOKIO, zbus::Zbus),
            Entry::new(Kind::Rival, "remoc", TOKIO, remoc::Remoc),
            Entry::new(Kind::Rival, "iceoryx2-poll", BLOCKING, iceoryx2::Iceoryx2::Polling).polls(),
            Entry::new(Kind::Rival, "iceoryx2-event", BLOCKING, iceoryx2::Iceoryx2::Events),
            Entry::new(Kind::Rival, "shmipc", TOKIO, shmipc::Shmipc),
            Entry::new(Kind::Rival, "ipc-channel", BLOCKING, ipc_channel::IpcChannel),
            Entry::new(Kind::Rival, "xrpc", TOKIO, xrpc::Xrpc),
            Entry::new(Kind::Rival, "slotbus", TOKIO, slotbus::Slotbus),
        ]
    });
    &ALL
}

/// What is in no table: for how the cost of witrpc grows.
fn growing() -> &'static [Entry] {
    static ALL: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let mt = &[Flavour::Mt];
        let [one, ten, hundred, thousand] = METHODS.map(|(_, name)| name);
        let mut all = vec![
            Entry::new(Kind::Ours, one, mt, growing::One),
            Entry::new(Kind::Ours, ten, mt, growing::Ten),
            Entry::new(Kind::Ours, hundred, mt, growing::Hundred),
            Entry::new(Kind::Ours, thousand, mt, growing::Thousand),
        ];
        let subscribers = SUBSCRIBERS.into_iter();
        all.extend(
            subscribers.map(|(n, name)| Entry::new(Kind::Ours, name, mt, growing::Subscribers(n))),
        );
        all
    });
    &ALL
}

pub(crate) fn named(name: &str) -> Result<&'static dyn Play> {
    let entry = all().iter().chain(growing()).find(|entry| entry.name == name);
    entry.map(|entry| &*entry.system).with_context(|| format!("there is no system {name:?}"))
}
