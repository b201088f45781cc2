//! Two sides that share no clock, as on two machines: a deadline is sent as the time that is left. [wire.clock]

use std::time::{Duration, Instant};

use witrpc::Result;
use witrpc::prelude::*;
use witrpc::transport::memory::MemoryTransport;
use witrpc::transport::{BoxFuture, Channel, ClientTransport, Listener, ServerTransport};

use crate::fixture::{Flavor, GUARD, block_on, is_late};

/// A transport whose channels have no clock.
#[derive(Debug)]
struct Clockless(MemoryTransport);

fn without_clock(mut channel: Channel) -> Channel {
    channel.clock = || 0;
    channel
}

impl ClientTransport for Clockless {
    fn name(&self) -> &str {
        ClientTransport::name(&self.0)
    }

    fn validate(&self) -> Result<()> {
        ClientTransport::validate(&self.0)
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel>> {
        Box::pin(async move { self.0.connect(deadline).await.map(without_clock) })
    }
}

impl ServerTransport for Clockless {
    fn name(&self) -> &str {
        ServerTransport::name(&self.0)
    }

    fn validate(&self) -> Result<()> {
        ServerTransport::validate(&self.0)
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(ClocklessListener(self.0.listen().await?)) as _) })
    }
}

#[derive(Debug)]
struct ClocklessListener(Box<dyn Listener>);

impl Listener for ClocklessListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel>> {
        Box::pin(async move { self.0.accept().await.map(without_clock) })
    }
}

#[witrpc::service]
trait Patience {
    /// What is left until the call's deadline.
    async fn left(&self) -> Result<Option<Duration>>;
    /// Does not return.
    async fn wait(&self) -> Result<()>;
}

struct Patient;

impl Patience for Patient {
    async fn left(&self) -> Result<Option<Duration>> {
        let deadline = CallContext::current().deadline();
        Ok(deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now())))
    }

    async fn wait(&self) -> Result<()> {
        std::future::pending().await
    }
}

#[test]
fn deadlines_cross_as_time_left_where_a_side_has_no_clock() {
    const LIMIT: Duration = Duration::from_secs(1000);
    for (client_has, server_has) in [(true, true), (false, true), (true, false), (false, false)] {
        block_on(Flavor::CurrentThread, async {
            let memory = MemoryTransport::new();
            let server = WitServerBuilder::new().with_service(PatienceServer::new(Patient));
            let server = match server_has {
                true => server.with_transport(memory.clone()),
                false => server.with_transport(Clockless(memory.clone())),
            };
            let server = server.build().unwrap();
            server.start_waiting_for_connection().await.unwrap();
            let client = WitClientBuilder::new();
            let client = match client_has {
                true => client.with_transport(memory),
                false => client.with_transport(Clockless(memory)),
            };
            let client = client.build().unwrap();
            client.connect(GUARD).await.unwrap();
            let service = client.get_service::<PatienceClient>();
            assert_eq!(service.left().await.unwrap(), None);
            let left = service.left().with_timeout(LIMIT).await.unwrap().unwrap();
            assert!(left <= LIMIT && left > LIMIT - GUARD, "{left:?}");
            let waited = service.wait().with_timeout(Duration::from_millis(20)).await;
            assert!(is_late(&waited.unwrap_err()));
            client.disconnect().await;
            server.stop_waiting_for_connection().await;
        });
    }
}
