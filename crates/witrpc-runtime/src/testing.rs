//! A server and a client within one process, for tests.

use std::time::{Duration, Instant};

use crate::events::remote_subscriber::{Attached, EventSubscriber, unknown_event};
use crate::serving::service::{Dispatch, Request, unknown_method};
use crate::transport::memory::MemoryTransport;
use crate::{Service, ServiceDescriptor, WitClient, WitClientBuilder, WitServer, WitServerBuilder};

/// A timeout: longer than anything takes that is not stuck.
const GUARD: Duration = Duration::from_secs(30);

/// A server and a client of it, connected within this process.
pub(crate) async fn connected() -> (WitServer, WitClient) {
    let transport = MemoryTransport::new();
    let server = WitServerBuilder::new().with_transport(transport.clone());
    let server = server.with_service(Nothing).build().expect("its settings are fine");
    server.start_waiting_for_connection().await.expect("nobody else has the transport");
    let client = WitClientBuilder::new().with_transport(transport).build();
    let client = client.expect("its settings are fine");
    client.connect(GUARD).await.expect("there is a server");
    (server, client)
}

/// A service without methods.
struct Nothing;

impl Service for Nothing {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        static DESCRIPTOR: ServiceDescriptor =
            ServiceDescriptor { name: "Nothing", docs: "", methods: &[], events: &[] };
        &DESCRIPTOR
    }

    fn call(&self, _: usize, request: Request) -> Dispatch {
        unknown_method(request)
    }

    fn subscribe(&self, _: usize, subscriber: EventSubscriber) -> Attached {
        unknown_event(subscriber)
    }
}

/// Blocks the thread until the condition holds.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < GUARD, "not in time: {what}");
        std::thread::yield_now();
    }
}
