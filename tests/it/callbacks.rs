//! Clients that serve: handlers call back, events go from client to server, and calls in opposite directions do not wait for each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use witrpc::{Blob, Call, CallContext, Error, Event, EventError, Peer, WitClient, WitServer};

use crate::fixture::{Fixture, GUARD, eventually, is_late};

crate::instances::instantiate![
    a_handler_calls_the_client_that_calls_it,
    calls_go_to_and_fro_as_deep_as_one_likes,
    calls_cross_in_both_directions,
    a_client_that_offers_nothing_says_so,
    a_peer_can_be_called_outside_a_handler_until_it_goes,
    a_dropped_call_cancels_what_its_handler_called,
    a_dropped_call_cancels_what_is_called_for_it_elsewhere,
    a_call_within_a_call_has_the_time_that_is_left,
    a_clients_events_reach_the_server,
    a_clients_limit_of_calls_holds,
];

/// What the client offers.
#[witrpc::service]
trait Desk {
    async fn double(&self, n: u32) -> witrpc::Result<u32>;
    async fn negate(&self, picture: Blob) -> witrpc::Result<Blob>;
    /// Goes back to the server `depth` times more.
    async fn descend(&self, depth: u32) -> witrpc::Result<u32>;
    /// Never answers.
    async fn hang(&self) -> witrpc::Result<()>;
    /// The milliseconds that are left for this call.
    async fn left(&self) -> witrpc::Result<Option<u64>>;
    #[event]
    fn rung(&self) -> &Event<u32>;
}

/// What the server offers.
#[witrpc::service]
trait Hall {
    /// Asks the caller to double.
    async fn double(&self, n: u32) -> witrpc::Result<u32>;
    async fn negate(&self, picture: Blob) -> witrpc::Result<Blob>;
    async fn descend(&self, depth: u32) -> witrpc::Result<u32>;
    async fn hang(&self) -> witrpc::Result<()>;
    /// What is left for a call back, for one that is given a minute, and for one that is detached.
    async fn left(&self) -> witrpc::Result<[Option<u64>; 3]>;
    /// Blocks until a call back that never answers ends, and notes how.
    #[witrpc(blocking)]
    async fn block(&self) -> witrpc::Result<()>;
    /// A task of its own calls back, and notes how that ends: within the handler's scope, with a call of the handler's, or with a call
    /// that is detached.
    async fn delegate(&self, how: How) -> witrpc::Result<()>;
    /// The server remembers the caller.
    async fn enter(&self) -> witrpc::Result<()>;
}

/// How a task comes by its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    InScope,
    Given,
    Detached,
}

#[derive(Clone, Default)]
struct Porter {
    hanging: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    rung: Event<u32>,
}

struct Hanging(Arc<AtomicU32>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Desk for Porter {
    async fn double(&self, n: u32) -> witrpc::Result<u32> {
        Ok(n * 2)
    }

    async fn negate(&self, picture: Blob) -> witrpc::Result<Blob> {
        Ok(picture.iter().map(|byte| !byte).collect())
    }

    async fn descend(&self, depth: u32) -> witrpc::Result<u32> {
        match depth {
            0 => Ok(0),
            _ => Ok(1 + back::<HallClient>().descend(depth - 1).await?),
        }
    }

    async fn hang(&self) -> witrpc::Result<()> {
        let hanging = self.hanging.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(hanging, Ordering::SeqCst);
        let _hanging = Hanging(Arc::clone(&self.hanging));
        std::future::pending().await
    }

    async fn left(&self) -> witrpc::Result<Option<u64>> {
        Ok(left())
    }

    fn rung(&self) -> &Event<u32> {
        &self.rung
    }
}

/// The milliseconds that are left for the call that is served.
fn left() -> Option<u64> {
    let deadline = CallContext::current().deadline()?;
    Some(deadline.saturating_duration_since(tokio::time::Instant::now()).as_millis() as u64)
}

fn back<C: witrpc::ServiceClient>() -> C {
    CallContext::current().peer().get_service()
}

#[derive(Clone, Default)]
struct Host {
    guests: Arc<Mutex<Vec<Peer>>>,
    blocked: Arc<Mutex<Vec<witrpc::Result<()>>>>,
}

impl Hall for Host {
    async fn double(&self, n: u32) -> witrpc::Result<u32> {
        back::<DeskClient>().double(n).await
    }

    async fn negate(&self, picture: Blob) -> witrpc::Result<Blob> {
        back::<DeskClient>().negate(picture).await
    }

    async fn descend(&self, depth: u32) -> witrpc::Result<u32> {
        match depth {
            0 => Ok(0),
            _ => Ok(1 + back::<DeskClient>().descend(depth - 1).await?),
        }
    }

    async fn hang(&self) -> witrpc::Result<()> {
        back::<DeskClient>().hang().await
    }

    async fn left(&self) -> witrpc::Result<[Option<u64>; 3]> {
        let desk = back::<DeskClient>();
        let minute = desk.left().with_timeout(Duration::from_secs(60));
        Ok([desk.left().await?, minute.await?, desk.left().detached().await?])
    }

    async fn block(&self) -> witrpc::Result<()> {
        // Elsewhere, as what this handler awaits is dropped with it.
        let (call, runtime) = (back::<DeskClient>().hang(), tokio::runtime::Handle::current());
        let blocked = std::thread::spawn(move || runtime.block_on(call)).join().unwrap();
        self.blocked.lock().unwrap().push(blocked);
        Ok(())
    }

    async fn delegate(&self, how: How) -> witrpc::Result<()> {
        let (context, desk) = (CallContext::current(), back::<DeskClient>());
        let ended = Arc::clone(&self.blocked);
        let note = |call: Call<witrpc::Result<()>>| async move {
            let result = call.await;
            ended.lock().unwrap().push(result);
        };
        match how {
            How::InScope => {
                drop(tokio::spawn(context.scope(async move { note(desk.hang()).await })))
            }
            How::Given => drop(tokio::spawn(note(desk.hang()))),
            How::Detached => drop(tokio::spawn(note(desk.hang().detached()))),
        }
        std::future::pending().await
    }

    async fn enter(&self) -> witrpc::Result<()> {
        self.guests.lock().unwrap().push(CallContext::current().peer());
        Ok(())
    }
}

async fn house(fixture: &Fixture) -> (WitServer, Host) {
    let host = Host::default();
    let server = fixture.server_builder().with_service(HallServer::new(host.clone()));
    let server = server.build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    (server, host)
}

async fn guest(fixture: &Fixture) -> (WitClient, Porter) {
    let porter = Porter::default();
    let client = fixture.client_builder().with_service(DeskServer::new(porter.clone()));
    let client = client.build().unwrap();
    client.connect(GUARD).await.unwrap();
    (client, porter)
}

async fn a_handler_calls_the_client_that_calls_it(fixture: Arc<Fixture>) {
    let (_server, _) = house(&fixture).await;
    let (client, _) = guest(&fixture).await;
    let hall: HallClient = client.get_service();
    assert_eq!(hall.double(21).await.unwrap(), 42);
    let picture: Blob = (0..300_000_u32).map(|n| n as u8).collect();
    let negative = hall.negate(picture.clone()).await.unwrap();
    assert!(negative.iter().zip(picture.iter()).all(|(n, p)| *n == !p));
    assert_eq!(negative.len(), picture.len());
}

async fn calls_go_to_and_fro_as_deep_as_one_likes(fixture: Arc<Fixture>) {
    let (_server, _) = house(&fixture).await;
    let (client, _) = guest(&fixture).await;
    let hall: HallClient = client.get_service();
    for depth in [1, 2, 3, 64, 333] {
        assert_eq!(hall.descend(depth).await.unwrap(), depth);
    }
}

async fn a_call_within_a_call_has_the_time_that_is_left(fixture: Arc<Fixture>) {
    let (_server, host) = house(&fixture).await;
    let (client, porter) = guest(&fixture).await;
    let hall: HallClient = client.get_service();
    let [plain, minute, detached] = hall.left().await.unwrap();
    assert!(plain.is_none() && detached.is_none());
    assert!(minute.is_some_and(|left| left <= 60_000), "{minute:?}");
    let within = Duration::from_secs(30);
    let [plain, minute, detached] = hall.left().with_timeout(within).await.unwrap();
    for left in [plain, minute] {
        assert!(left.is_some_and(|left| left <= 30_000), "{left:?}");
    }
    assert_eq!(detached, None);
    // Nobody can drop a handler that blocks.
    let error = hall.block().with_timeout(Duration::from_millis(50)).await.unwrap_err();
    assert!(is_late(&error), "{error}");
    eventually("the handler ends", || !host.blocked.lock().unwrap().is_empty()).await;
    let blocked = host.blocked.lock().unwrap().pop();
    assert!(matches!(blocked, Some(Err(Error::TimedOut { .. }))), "{blocked:?}");
    eventually("nothing hangs", || porter.hanging.load(Ordering::SeqCst) == 0).await;
}

async fn calls_cross_in_both_directions(fixture: Arc<Fixture>) {
    let (_server, host) = house(&fixture).await;
    let (client, _) = guest(&fixture).await;
    let hall: HallClient = client.get_service();
    hall.enter().await.unwrap();
    let desk: DeskClient = host.guests.lock().unwrap()[0].get_service();
    let tasks = (0..32).map(|n| {
        let (hall, desk) = (hall.clone(), desk.clone());
        let mine = tokio::spawn(async move {
            for m in 0..50 {
                assert_eq!(hall.double(n * m).await.unwrap(), n * m * 2);
            }
        });
        let theirs = tokio::spawn(async move {
            for m in 0..50 {
                assert_eq!(desk.double(n + m).await.unwrap(), (n + m) * 2);
            }
        });
        (mine, theirs)
    });
    for (mine, theirs) in tasks.collect::<Vec<_>>() {
        mine.await.unwrap();
        theirs.await.unwrap();
    }
}

async fn a_client_that_offers_nothing_says_so(fixture: Arc<Fixture>) {
    let (_server, _) = house(&fixture).await;
    let client = fixture.client().await;
    let error = client.get_service::<HallClient>().double(1).await.unwrap_err().to_string();
    assert!(error.contains("no service \"Desk\""), "{error}");
}

async fn a_peer_can_be_called_outside_a_handler_until_it_goes(fixture: Arc<Fixture>) {
    let (_server, host) = house(&fixture).await;
    let (client, porter) = guest(&fixture).await;
    client.get_service::<HallClient>().enter().await.unwrap();
    let peer = host.guests.lock().unwrap()[0].clone();
    let desk: DeskClient = peer.get_service();
    assert_eq!(desk.double(4).await.unwrap(), 8);
    let hasty = desk.with_timeout(Duration::from_millis(20));
    assert!(is_late(&hasty.hang().await.unwrap_err()));
    eventually("it was called off", || porter.hanging.load(Ordering::SeqCst) == 0).await;
    let waiting = tokio::spawn(desk.hang());
    eventually("it hangs", || porter.hanging.load(Ordering::SeqCst) == 1).await;
    client.disconnect().await;
    let lost = waiting.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
    for desk in [desk, peer.get_service()] {
        let gone = desk.double(4).await.unwrap_err();
        assert!(matches!(gone, Error::Closed { maybe_executed: false, .. }), "{gone}");
    }
}

async fn a_dropped_call_cancels_what_its_handler_called(fixture: Arc<Fixture>) {
    let (_server, _) = house(&fixture).await;
    let (client, porter) = guest(&fixture).await;
    let hall: HallClient = client.get_service();
    let call = tokio::spawn(hall.hang());
    eventually("it hangs", || porter.hanging.load(Ordering::SeqCst) == 1).await;
    call.abort();
    eventually("it was called off", || porter.hanging.load(Ordering::SeqCst) == 0).await;
    assert_eq!(hall.double(1).await.unwrap(), 2);
}

async fn a_dropped_call_cancels_what_is_called_for_it_elsewhere(fixture: Arc<Fixture>) {
    let (_server, host) = house(&fixture).await;
    let (client, porter) = guest(&fixture).await;
    let hall: HallClient = client.get_service();
    let hanging = |count| move |porter: &Porter| porter.hanging.load(Ordering::SeqCst) == count;
    let ended = || host.blocked.lock().unwrap().pop();
    let has_ended = || !host.blocked.lock().unwrap().is_empty();
    for how in [How::InScope, How::Given, How::Detached] {
        let call = tokio::spawn(hall.delegate(how));
        eventually("it hangs", || hanging(1)(&porter)).await;
        call.abort();
        drop(call.await);
        if how == How::Detached {
            // The handler has gone.
            assert_eq!(hall.double(1).await.unwrap(), 2);
            assert!(hanging(1)(&porter) && ended().is_none());
            client.reconnect(GUARD).await.unwrap();
        } else {
            eventually("it was called off", || hanging(0)(&porter) && has_ended()).await;
            assert!(matches!(ended(), Some(Err(Error::Cancelled))), "{how:?}");
        }
    }
    eventually("the connection has ended", || hanging(0)(&porter) && has_ended()).await;
    drop(ended());
    // A thread that waits for a call of the handler's.
    let hall: HallClient = client.get_service();
    let call = tokio::spawn(hall.block());
    eventually("it hangs", || hanging(1)(&porter)).await;
    call.abort();
    eventually("it was called off", || hanging(0)(&porter) && has_ended()).await;
    assert!(matches!(ended(), Some(Err(Error::Cancelled))));
}

async fn a_clients_events_reach_the_server(fixture: Arc<Fixture>) {
    let (_server, host) = house(&fixture).await;
    let (client, porter) = guest(&fixture).await;
    client.get_service::<HallClient>().enter().await.unwrap();
    let peer = host.guests.lock().unwrap()[0].clone();
    let desk: DeskClient = peer.get_service();
    let mut rung = desk.rung().subscribe();
    desk.double(1).await.unwrap();
    for n in 0..1000 {
        porter.rung.raise(n).unwrap();
        assert_eq!(rung.next().await, Some(Ok(n)));
    }
    client.disconnect().await;
    assert!(matches!(rung.next().await, Some(Err(EventError::Closed(_)))));
    assert_eq!(rung.next().await, None);
    let mut late = peer.get_service::<DeskClient>().rung().subscribe();
    assert!(matches!(late.next().await, Some(Err(EventError::Closed(_)))));
}

async fn a_clients_limit_of_calls_holds(fixture: Arc<Fixture>) {
    let (_server, host) = house(&fixture).await;
    let porter = Porter::default();
    let client = fixture.client_builder().with_service(DeskServer::new(porter.clone()));
    let client = client.with_max_in_flight(2).build().unwrap();
    client.connect(GUARD).await.unwrap();
    client.get_service::<HallClient>().enter().await.unwrap();
    let desk: DeskClient = host.guests.lock().unwrap()[0].get_service();
    let calls = (0..5).map(|_| tokio::spawn(desk.hang())).collect::<Vec<_>>();
    eventually("two hang", || porter.hanging.load(Ordering::SeqCst) == 2).await;
    let late = desk.with_timeout(Duration::from_millis(30)).double(1).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "there is no place: {late:?}");
    assert_eq!(porter.most.load(Ordering::SeqCst), 2);
    for call in calls {
        call.abort();
        drop(call.await);
    }
    assert_eq!(desk.double(3).await.unwrap(), 6);
}

#[test]
fn services_of_a_client_are_checked_like_a_servers() {
    let transport = witrpc::transport::memory::MemoryTransport::new();
    let desk = || DeskServer::new(Porter::default());
    let twice = witrpc::WitClientBuilder::new().with_transport(transport);
    let error = twice.with_service(desk()).with_service(desk()).build().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}
