//! A transport of regions without a name, both of whose sides are in this process: each client that connects makes a pair, and hands the
//! worker's end to the server. For the suite; programs get one end from their host.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use witrpc::transport::{BoxFuture, Channel, ClientTransport, Listener, ServerTransport};
use witrpc::{Error, WaitStrategy};
use witrpc_mmf::inherited::{Bequest, pair};

const SIZE: u64 = 1 << 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs(Arc<Rendezvous>);

#[derive(Debug, Default)]
struct Rendezvous {
    /// Where clients put what a worker would inherit, while a server listens.
    door: Mutex<Option<mpsc::UnboundedSender<Bequest>>>,
    changed: Notify,
}

impl Pairs {
    fn door(&self) -> Option<mpsc::UnboundedSender<Bequest>> {
        self.0.door.lock().unwrap().clone().filter(|door| !door.is_closed())
    }

    fn connect_to(&self, door: &mpsc::UnboundedSender<Bequest>) -> Result<Channel, Error> {
        let failed = |error| Error::io("making a pair", &error);
        let (host, lifeline, bequest) = pair(SIZE, 0).map_err(failed)?;
        let process = Some(std::process::id());
        let opened = host.open(process, None, WaitStrategy::default(), Box::new(lifeline), None);
        let channel = opened.map_err(failed)?;
        // If nobody takes it, its end is seen at the handshake.
        drop(door.send(bequest));
        Ok(channel)
    }
}

impl ServerTransport for Pairs {
    fn name(&self) -> &'static str {
        "inherited"
    }

    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async {
            // Of a server that was just dropped.
            while let Some(last) = self.door() {
                last.closed().await;
            }
            let (sender, clients) = mpsc::unbounded_channel();
            *self.0.door.lock().unwrap() = Some(sender);
            self.0.changed.notify_waiters();
            Ok(Box::new(Clients(clients)) as Box<dyn Listener>)
        })
    }
}

#[derive(Debug)]
struct Clients(mpsc::UnboundedReceiver<Bequest>);

impl Listener for Clients {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async {
            let Some(bequest) = self.0.recv().await else { return std::future::pending().await };
            let failed = |error| Error::io("taking over a pair", &error);
            let (worker, lifeline) = bequest.keep().map_err(failed)?;
            let opened = worker.open(WaitStrategy::default(), Box::new(lifeline), None);
            opened.map_err(failed)
        })
    }
}

impl ClientTransport for Pairs {
    fn name(&self) -> &'static str {
        "inherited"
    }

    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        let began = Instant::now();
        Box::pin(async move {
            loop {
                let changed = self.0.changed.notified();
                if let Some(door) = self.door() {
                    return self.connect_to(&door);
                }
                if tokio::time::timeout_at(deadline.into(), changed).await.is_err() {
                    return Err(Error::NotRunning {
                        endpoint: "inherited".to_owned(),
                        place: "this process".to_owned(),
                        running: "none".to_owned(),
                        waited: began.elapsed(),
                    });
                }
            }
        })
    }
}
