//! User code that calls the library back: a value's `Clone`, `Drop` and `Serialize`, the owner of a blob's bytes, and each function of a
//! waker. Each of them checks that no lock of the library is held, and uses the event, stream, call or subscription that it belongs to.

#[expect(unsafe_code, reason = "a waker's functions")]
mod waker;

use std::cell::Cell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use witrpc::prelude::*;
use witrpc::{Overflow, Subscription};
use witrpc_runtime::__private::is_any_held;

use crate::fixture::{Fixture, eventually, poll_once};

crate::instances::instantiate![
    what_calls_carry_comes_back,
    what_events_carry_comes_back,
    what_streams_carry_comes_back,
    what_is_dropped_with_its_connection_comes_back,
];

/// How many comebacks of a test use the library; all others only look whether a lock is held.
const COMEBACKS: usize = 300;
const ROUNDS: u32 = 40;

#[witrpc::service]
trait Curious {
    async fn echo(&self, value: Value) -> witrpc::Result<Value>;
    async fn add(&self, a: u32, b: u32) -> witrpc::Result<u32>;
    /// Raises as many, and answers.
    async fn raise(&self, count: u32) -> witrpc::Result<()>;
    async fn tail(&self, count: u32) -> witrpc::Result<Streaming<Value>>;
    async fn sum(&self, values: Streaming<Value>) -> witrpc::Result<u32>;
    async fn never(&self, value: Value) -> witrpc::Result<Value>;
    #[event]
    fn raised(&self) -> &Event<Value>;
}

type HeldCall = Pin<Box<dyn Future<Output = witrpc::Result<u32>> + Send>>;

/// What a test has to come back to.
struct World {
    id: u64,
    left: AtomicUsize,
    /// Comebacks with a lock held, which must not be.
    held: AtomicUsize,
    raised: Event<Value>,
    client: Mutex<Option<CuriousClient>>,
    subscriptions: Mutex<Vec<Subscription<Value>>>,
    stream: Mutex<Option<Streaming<Value>>>,
    calls: Mutex<Vec<HeldCall>>,
}

static WORLDS: LazyLock<Mutex<HashMap<u64, Weak<World>>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// What comes back is not to come back from there.
    static BACK: Cell<bool> = const { Cell::new(false) };
}

impl World {
    fn new(overflow: Overflow) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let world = Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            left: AtomicUsize::new(COMEBACKS),
            held: AtomicUsize::new(0),
            raised: Event::new().with_overflow(overflow).with_capacity(4),
            client: Mutex::default(),
            subscriptions: Mutex::default(),
            stream: Mutex::default(),
            calls: Mutex::default(),
        });
        WORLDS.lock().unwrap().insert(world.id, Arc::downgrade(&world));
        world
    }

    fn value(&self, number: u32) -> Value {
        let bytes = vec![7; if number % 8 == 3 { 50_000 } else { 10 }];
        let owner = Owner { world: self.id, bytes };
        Value { world: self.id, number, blob: bytes::Bytes::from_owner(owner).into() }
    }

    /// A value or waker of this world is cloned, serialized, dropped or woken.
    fn come_back(&self) {
        if is_any_held() {
            self.held.fetch_add(1, Ordering::Relaxed);
            eprintln!("with a lock held: {}", std::backtrace::Backtrace::force_capture());
        }
        let less = |left: usize| left.checked_sub(1);
        let again = BACK.replace(true);
        if !again && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            self.use_all();
        }
        BACK.set(again);
    }

    fn use_all(&self) {
        self.raised.raise(self.value(0)).unwrap();
        drop(self.raised.subscribe());
        let client = self.client.try_lock().ok().and_then(|client| client.clone());
        if let Some(client) = client {
            drop(client.raised().subscribe());
            let mut call = Box::pin(async move { client.add(1, 2).await });
            if poll_once(call.as_mut()).is_pending() {
                self.calls.try_lock().map(|mut calls| calls.push(call)).ok();
            }
        }
        if let Ok(mut subscriptions) = self.subscriptions.try_lock() {
            for subscription in &mut *subscriptions {
                drop(poll_once(pin!(subscription.next())));
            }
        }
        if let Ok(mut stream) = self.stream.try_lock() {
            let items = stream.iter_mut();
            items.for_each(|stream| drop(poll_once(pin!(stream.next()))));
        }
    }

    /// Runs a future with wakers that come back.
    async fn run<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let world = Arc::downgrade(self);
            let back = Box::new(move || {
                if let Some(world) = world.upgrade() {
                    world.come_back();
                }
            });
            let calls_back = waker::CallsBack { back, task: cx.waker().clone() };
            let waker = waker::waker(Arc::new(calls_back));
            future.as_mut().poll(&mut std::task::Context::from_waker(&waker))
        })
        .await
    }

    fn check(&self) {
        assert_eq!(self.held.load(Ordering::Relaxed), 0, "with a lock held");
        assert!(self.left.load(Ordering::Relaxed) < COMEBACKS, "nothing came back");
    }

    /// Lets all go that would come back when this is gone.
    fn clear(&self) {
        drop(self.calls.lock().unwrap().drain(..).collect::<Vec<_>>());
        drop(self.subscriptions.lock().unwrap().drain(..).collect::<Vec<_>>());
        let (stream, client) =
            (self.stream.lock().unwrap().take(), self.client.lock().unwrap().take());
        drop((stream, client));
    }
}

fn come_back(world: u64) {
    let found = WORLDS.lock().unwrap().get(&world).and_then(Weak::upgrade);
    if let Some(world) = found {
        world.come_back();
    }
}

/// A value whose every copy, on either side, comes back.
struct Value {
    world: u64,
    number: u32,
    blob: Blob,
}

impl Clone for Value {
    fn clone(&self) -> Self {
        come_back(self.world);
        Self { world: self.world, number: self.number, blob: self.blob.clone() }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        come_back(self.world);
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        come_back(self.world);
        (self.world, self.number, &self.blob).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (world, number, blob) = Deserialize::deserialize(deserializer)?;
        come_back(world);
        Ok(Self { world, number, blob })
    }
}

/// Has the bytes of a blob.
struct Owner {
    world: u64,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        come_back(self.world);
    }
}

struct Local(Arc<World>);

impl Curious for Local {
    async fn echo(&self, value: Value) -> witrpc::Result<Value> {
        Ok(value)
    }

    async fn add(&self, a: u32, b: u32) -> witrpc::Result<u32> {
        Ok(a + b)
    }

    async fn raise(&self, count: u32) -> witrpc::Result<()> {
        for number in 0..count {
            self.0.raised.raise(self.0.value(number))?;
        }
        Ok(())
    }

    async fn tail(&self, count: u32) -> witrpc::Result<Streaming<Value>> {
        let world = Arc::clone(&self.0);
        Ok(Streaming::iter((0..count).map(move |number| world.value(number))))
    }

    async fn sum(&self, mut values: Streaming<Value>) -> witrpc::Result<u32> {
        let mut sum = 0;
        while let Some(value) = values.next().await {
            sum += value?.number;
        }
        Ok(sum)
    }

    async fn never(&self, value: Value) -> witrpc::Result<Value> {
        std::future::pending::<()>().await;
        Ok(value)
    }

    fn raised(&self) -> &Event<Value> {
        &self.0.raised
    }
}

/// A server, a client, and its handle, which the world has too.
async fn inhabited(fixture: &Fixture, world: &Arc<World>) -> (WitServer, WitClient, CuriousClient) {
    let local = Local(Arc::clone(world));
    let server =
        fixture.bare_server_builder().with_service(CuriousServer::new(local)).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let curious: CuriousClient = client.get_service();
    *world.client.lock().unwrap() = Some(curious.clone());
    (server, client, curious)
}

async fn what_calls_carry_comes_back(fixture: Arc<Fixture>) {
    let world = World::new(Overflow::DropOldest);
    let (_server, _client, curious) = inhabited(&fixture, &world).await;
    let calls = world.run(async {
        for number in 0..ROUNDS {
            let held = curious.never(world.value(number));
            assert_eq!(curious.echo(world.value(number)).await.unwrap().number, number);
            let mut held = pin!(held);
            assert!(poll_once(held.as_mut()).is_pending());
            drop(curious.echo(world.value(number)));
        }
        // Many at a time, some of which are dropped half-way.
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..ROUNDS {
            let (curious, world) = (curious.clone(), Arc::clone(&world));
            tasks.spawn(async move {
                let value = world.value(number);
                let call = world.run(curious.echo(value));
                if number % 4 == 0 {
                    drop(poll_once(pin!(call)))
                } else {
                    drop(call.await.unwrap())
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
    calls.await;
    world.clear();
    world.check();
}

async fn what_events_carry_comes_back(fixture: Arc<Fixture>) {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let world = World::new(overflow);
        let (_server, client, curious) = inhabited(&fixture, &world).await;
        let (mut remote, mut local) = (curious.raised().subscribe(), world.raised.subscribe());
        world
            .subscriptions
            .lock()
            .unwrap()
            .extend([curious.raised().subscribe(), world.raised.subscribe()]);
        let unread = (curious.raised().subscribe(), world.raised.subscribe());
        let events = world.run(async {
            for _ in 0..ROUNDS {
                curious.raise(20).await.unwrap();
                // Some was raised last: it is waiting, or its place was taken by a mark.
                drop(remote.next().await);
                drop(local.next().await);
                drop(curious.raised().subscribe());
            }
        });
        events.await;
        drop(unread);
        client.disconnect().await;
        world.clear();
        world.check();
    }
}

async fn what_streams_carry_comes_back(fixture: Arc<Fixture>) {
    let world = World::new(Overflow::DropOldest);
    let (_server, _client, curious) = inhabited(&fixture, &world).await;
    *world.stream.lock().unwrap() = Some(curious.tail(1000).await.unwrap());
    let streams = world.run(async {
        for _ in 0..ROUNDS / 4 {
            let mut values = curious.tail(50).await.unwrap();
            let mut sum = 0;
            while let Some(value) = values.next().await {
                sum += value.unwrap().number;
            }
            let sent = Arc::clone(&world);
            let values = Streaming::iter((0..50).map(move |number| sent.value(number)));
            assert_eq!(curious.sum(values).await.unwrap(), sum);
            let mut dropped = curious.tail(50).await.unwrap();
            drop(dropped.next().await);
        }
    });
    streams.await;
    world.clear();
    world.check();
}

/// What waits in queues and tables when a connection ends, on either side.
async fn what_is_dropped_with_its_connection_comes_back(fixture: Arc<Fixture>) {
    let world = World::new(Overflow::DropOldest);
    let (server, client, curious) = inhabited(&fixture, &world).await;
    let ends = world.run(async {
        for round in 0..4 {
            client.connect(crate::fixture::GUARD).await.unwrap();
            let stream = curious.tail(1000).await.unwrap();
            let unread = (curious.raised().subscribe(), world.raised.subscribe());
            curious.raise(20).await.unwrap();
            let mut calls: Vec<_> =
                (0..ROUNDS).map(|n| Box::pin(curious.never(world.value(n)))).collect();
            for call in &mut calls {
                assert!(poll_once(call.as_mut()).is_pending());
            }
            if round % 2 == 0 {
                client.disconnect().await
            } else {
                drop(calls.split_off(3))
            }
            drop((stream, unread, calls));
            client.disconnect().await;
            eventually("the server lets the client go", || server.client_count() == 0).await;
        }
    });
    ends.await;
    drop(server);
    world.clear();
    world.check();
}

/// A subscriber that did not keep up is there until it is dropped, and takes nothing more.
#[test]
fn what_comes_for_a_subscriber_that_must_go_comes_back() {
    let world = World::new(Overflow::Disconnect);
    let laggard = world.raised.subscribe();
    for number in 0..20 {
        world.raised.raise(world.value(number)).unwrap();
    }
    drop(laggard);
    world.check();
}
