//! witrpc with contracts that grow: in methods, or in subscribers of an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use seq_macro::seq;
use tokio::sync::Notify;
use witrpc::prelude::*;

use super::witrpc::Witrpc;
use crate::client::{Caller, Multiplexed};
use crate::system::{Endpoint, Ready, System};

const CONNECT: Duration = Duration::from_secs(60);
/// Smaller than usual, as there are hundreds.
const REGION: u64 = 256 << 10;

pub(crate) const SUBSCRIBERS: [(u32, &str); 7] = [
    (1, "subscribers-1"),
    (3, "subscribers-3"),
    (10, "subscribers-10"),
    (30, "subscribers-30"),
    (100, "subscribers-100"),
    (250, "subscribers-250"),
    (500, "subscribers-500"),
];
pub(crate) const METHODS: [(u32, &str); 4] =
    [(1, "methods-1"), (10, "methods-10"), (100, "methods-100"), (1000, "methods-1000")];

/// A contract with so many methods, of which the last is called.
macro_rules! contract {
    ($system:ident, $service:ident, $server:ident, $client:ident, $local:ident, $count:literal, $last:ident) => {
        seq!(N in 0..$count {
            /// What is called.
            #[witrpc::service]
            pub(crate) trait $service {
                #(async fn method_~N(&self, a: i32, b: i32) -> witrpc::Result<i32>;)*
            }

            struct $local;

            impl $service for $local {
                #(async fn method_~N(&self, a: i32, b: i32) -> witrpc::Result<i32> {
                    Ok(a.wrapping_add(b))
                })*
            }
        });

        pub(crate) struct $system;

        impl System for $system {
            type Client = Multiplexed<$client>;

            async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
                let server = Witrpc::Postcard
                    .server()
                    .with_service($server::new($local))
                    .with_memory_mapped_file(Witrpc::file(&at))
                    .build()?;
                server.start_waiting_for_connection().await?;
                ready.tell("");
                std::future::pending().await
            }

            async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
                let client = Witrpc::Postcard.connected(Witrpc::file(&at)).await?;
                Ok(Multiplexed(client.get_service::<$client>()))
            }
        }

        impl Caller for $client {
            async fn add(&self, a: i32, b: i32) -> Result<i32> {
                Ok(self.$last(a, b).await?)
            }

            async fn echo(&self, _payload: Vec<u8>) -> Result<Vec<u8>> {
                bail!("it has numbers only")
            }
        }
    };
}

contract!(One, One1, One1Server, One1Client, Local1, 1, method_0);
contract!(Ten, Ten10, Ten10Server, Ten10Client, Local10, 10, method_9);
contract!(Hundred, Hundred100, Hundred100Server, Hundred100Client, Local100, 100, method_99);
contract!(Thousand, Many1000, Many1000Server, Many1000Client, Local1000, 1000, method_999);

/// So many clients subscribe to one event. A call is one value that is raised, until all of them have it.
pub(crate) struct Subscribers(pub(crate) u32);

/// What raises.
#[witrpc::service]
pub(crate) trait News {
    async fn publish(&self, value: i32) -> witrpc::Result<()>;
    #[event]
    fn published(&self) -> &Event<i32>;
}

#[derive(Default)]
struct LocalNews {
    published: Event<i32>,
}

impl News for LocalNews {
    async fn publish(&self, value: i32) -> witrpc::Result<()> {
        self.published.raise(value)
    }

    fn published(&self) -> &Event<i32> {
        &self.published
    }
}

impl Subscribers {
    fn file(&self, at: Endpoint) -> MemoryMappedFile {
        Witrpc::file(&Endpoint { clients: self.0, region: REGION, ..at })
    }
}

impl System for Subscribers {
    type Client = Multiplexed<Publisher>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let server = Witrpc::Postcard
            .server()
            .with_service(NewsServer::new(LocalNews::default()))
            .with_memory_mapped_file(self.file(at))
            .build()?;
        server.start_waiting_for_connection().await?;
        ready.tell("");
        std::future::pending().await
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let (mut news, file) = (Vec::new(), self.file(at));
        let arrived = Arc::new((AtomicUsize::new(0), Notify::new()));
        for _ in 0..self.0 {
            let client = Witrpc::Postcard.client().with_memory_mapped_file(file.clone()).build()?;
            client.connect(CONNECT).await?;
            let service = client.get_service::<NewsClient>();
            let (mut subscription, arrived) = (service.published().subscribe(), arrived.clone());
            tokio::spawn(async move {
                while let Some(Ok(_)) = subscription.next().await {
                    arrived.0.fetch_add(1, Ordering::AcqRel);
                    arrived.1.notify_one();
                }
            });
            // Subscriptions are in force before any later call of theirs; this one raises nothing that is waited for.
            news.push(service);
        }
        let publisher = Publisher { news: Arc::new(news), arrived };
        publisher.settle().await?;
        Ok(Multiplexed(publisher))
    }
}

#[derive(Clone)]
pub(crate) struct Publisher {
    news: Arc<Vec<NewsClient>>,
    arrived: Arc<(AtomicUsize, Notify)>,
}

impl Publisher {
    /// Every client raises once, after which its own subscription is in force; then waits until nothing more comes.
    async fn settle(&self) -> Result<()> {
        for news in &*self.news {
            news.publish(0).await?;
        }
        let mut seen = usize::MAX;
        while seen != self.arrived.0.load(Ordering::Acquire) {
            seen = self.arrived.0.load(Ordering::Acquire);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

impl Caller for Publisher {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        let (arrived, more) = &*self.arrived;
        arrived.store(0, Ordering::Release);
        self.news[0].publish(a.wrapping_add(b)).await?;
        while arrived.load(Ordering::Acquire) < self.news.len() {
            more.notified().await;
        }
        Ok(a.wrapping_add(b))
    }

    async fn echo(&self, _payload: Vec<u8>) -> Result<Vec<u8>> {
        bail!("it has numbers only")
    }
}
