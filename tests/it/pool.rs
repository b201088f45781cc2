//! Pools: which member a call goes to, what becomes of the calls of one that dies, events of all members, and their end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, MemberRole, PoolSubscription, ReconnectOptions, RetryPolicy};

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod soak;
#[cfg(target_os = "linux")]
mod workers;

use crate::fixture::{Fixture, Flavor, GUARD, SerializerKind, block_on, eventually, poll_once};

/// Limits the time in which something must not happen at once, and does not.
const SHORT: Duration = Duration::from_millis(100);

/// What members do.
#[witrpc::service]
trait Duty {
    /// The number of the member.
    async fn who(&self) -> witrpc::Result<u32>;
    /// The same, once the gate is open for one.
    async fn hold(&self) -> witrpc::Result<u32>;
    #[witrpc(idempotent)]
    async fn hold_idempotent(&self) -> witrpc::Result<u32>;
    /// The number of the member, and the text's length, once the gate is open for one.
    #[witrpc(idempotent)]
    async fn hold_text(&self, text: String, bytes: Blob) -> witrpc::Result<(u32, usize)>;
    /// Its number, as often as the gate opens.
    async fn repeat(&self) -> witrpc::Result<Streaming<u32>>;
    /// The number of the member, and the sum.
    async fn sum(&self, numbers: Streaming<u32>) -> witrpc::Result<(u32, u32)>;
    /// Raises the event, and returns the number of the member.
    async fn announce(&self, value: u32) -> witrpc::Result<u32>;
    #[event]
    fn announced(&self) -> &Event<u32>;
}

/// One member's implementation.
#[derive(Clone, Debug)]
struct Guard {
    number: u32,
    gate: Arc<Semaphore>,
    /// The calls of `hold` that have begun.
    held: Arc<AtomicU32>,
    announced: Event<u32>,
}

impl Guard {
    fn new(number: u32) -> Self {
        let (gate, held) = (Arc::new(Semaphore::new(0)), Arc::default());
        Self { number, gate, held, announced: Event::new() }
    }

    fn held(&self) -> u32 {
        self.held.load(Ordering::SeqCst)
    }
}

impl Duty for Guard {
    async fn who(&self) -> witrpc::Result<u32> {
        Ok(self.number)
    }

    async fn hold(&self) -> witrpc::Result<u32> {
        self.held.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.map_err(Error::fault)?.forget();
        Ok(self.number)
    }

    async fn hold_idempotent(&self) -> witrpc::Result<u32> {
        self.hold().await
    }

    async fn hold_text(&self, text: String, bytes: Blob) -> witrpc::Result<(u32, usize)> {
        let number = self.hold().await?;
        Ok((number, text.len() + bytes.len()))
    }

    async fn repeat(&self) -> witrpc::Result<Streaming<u32>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let open = tokio::select! {
                    open = this.gate.acquire() => open,
                    () = sender.closed() => return,
                };
                open.unwrap().forget();
                if sender.send(this.number).is_err() {
                    return;
                }
            }
        });
        Ok(Streaming::new(Received(receiver)))
    }

    async fn sum(&self, mut numbers: Streaming<u32>) -> witrpc::Result<(u32, u32)> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok((self.number, sum))
    }

    async fn announce(&self, value: u32) -> witrpc::Result<u32> {
        self.announced.raise(value)?;
        Ok(self.number)
    }

    fn announced(&self) -> &Event<u32> {
        &self.announced
    }
}

/// A server, and what is connected to it.
struct Post {
    fixture: Arc<Fixture>,
    guard: Guard,
    server: Option<WitServer>,
    client: WitClient,
}

impl Post {
    async fn new(
        number: u32,
        fixture: Arc<Fixture>,
        set: &impl Fn(WitClientBuilder) -> WitClientBuilder,
    ) -> Self {
        let guard = Guard::new(number);
        let client = set(fixture.client_builder()).build().unwrap();
        let mut post = Self { fixture, guard, server: None, client };
        post.serve(1024).await;
        post.client.connect(GUARD).await.unwrap();
        post
    }

    async fn serve(&mut self, max_in_flight: u32) {
        let builder = self.fixture.bare_server_builder().with_max_in_flight(max_in_flight);
        let server = builder.with_service(DutyServer::new(self.guard.clone())).build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        self.server = Some(server);
    }

    /// Ends its server, as if its process died.
    async fn die(&mut self) {
        self.server = None;
        let mut state = self.client.state();
        state.wait_for(|state| *state != ClientState::Connected).await.unwrap();
    }
}

/// What comes out of a channel, as a stream.
struct Received(mpsc::UnboundedReceiver<u32>);

impl Stream for Received {
    type Item = u32;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        self.0.poll_recv(cx)
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap()
}

/// Runs a test with this many members over each transport, with each serializer, on each runtime.
fn test(members: usize, body: impl AsyncFn(Vec<Post>, Pool)) {
    test_with(members, |client| client, body);
}

fn test_with(
    members: usize,
    set: impl Fn(WitClientBuilder) -> WitClientBuilder,
    body: impl AsyncFn(Vec<Post>, Pool),
) {
    use {Flavor::*, SerializerKind::*};
    type Make = fn() -> Fixture;
    let combinations: &[(Make, _, _)] = &[
        (Fixture::memory, Json, MultiThread),
        (Fixture::memory, Postcard, CurrentThread),
        (Fixture::mmf, MessagePack, MultiThread),
        (Fixture::mmf, Json, CurrentThread),
        (Fixture::mmf_smallest, Postcard, MultiThread),
        (Fixture::mmf_dedicated_threads, Json, MultiThread),
        #[cfg(unix)]
        (Fixture::inherited, Postcard, MultiThread),
    ];
    for (fixture, serializer, flavor) in combinations {
        // They look at what is left when the runtime has ended.
        let fixtures: Vec<_> =
            (0..members).map(|_| Arc::new(fixture().with(*serializer))).collect();
        block_on(*flavor, async {
            let mut posts = Vec::new();
            for (index, fixture) in fixtures.iter().enumerate() {
                posts.push(Post::new(number(index), Arc::clone(fixture), &set).await);
            }
            let pool = Pool::of_clients(posts.iter().map(|post| post.client.clone())).unwrap();
            body(posts, pool).await;
        });
    }
}

fn reconnects(client: WitClientBuilder) -> WitClientBuilder {
    let ms = Duration::from_millis;
    client.with_auto_reconnect(|options: ReconnectOptions| {
        options.with_initial_delay(ms(1)).with_max_delay(ms(20))
    })
}

/// What `calls` members have in flight.
fn in_flight(pool: &Pool) -> Vec<usize> {
    pool.state().members.iter().map(|member| member.in_flight).collect()
}

/// Makes calls that stay, and waits until each has begun.
async fn hold(pool: &Pool, posts: &[Post], calls: u32) -> JoinSet<witrpc::Result<u32>> {
    let began = || posts.iter().map(|post| post.guard.held()).sum::<u32>();
    let (mut holds, before) = (JoinSet::new(), began());
    for _ in 0..calls {
        holds.spawn(pool.get_service::<DutyClient>().hold());
    }
    eventually("they have begun", || began() == before + calls).await;
    holds
}

#[test]
fn calls_go_to_whoever_has_the_fewest_and_among_equals_in_turn() {
    test(3, async |posts, pool| {
        let duty: DutyClient = pool.get_service();
        let mut had = [0; 3];
        for _ in 0..9 {
            had[duty.who().await.unwrap() as usize] += 1;
        }
        assert_eq!(had, [3; 3]);
        // One each, and one more for some.
        let mut holds = hold(&pool, &posts, 4).await;
        let mut counts = in_flight(&pool);
        let most = counts.iter().position(|count| *count == 2).unwrap();
        for _ in 0..6 {
            assert_ne!(duty.who().await.unwrap() as usize, most);
        }
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 2]);
        posts[most].guard.gate.add_permits(2);
        for _ in 0..2 {
            let done = holds.join_next().await.unwrap().unwrap();
            assert_eq!(done.unwrap() as usize, most);
        }
        eventually("they are counted no more", || in_flight(&pool)[most] == 0).await;
        for _ in 0..4 {
            assert_eq!(duty.who().await.unwrap() as usize, most);
        }
    });
}

#[test]
fn many_calls_at_once_are_spread_evenly() {
    test(3, async |posts, pool| {
        let mut holds = hold(&pool, &posts, 300).await;
        assert_eq!(in_flight(&pool), [100; 3]);
        for post in &posts {
            post.guard.gate.add_permits(100);
        }
        while let Some(done) = holds.join_next().await {
            done.unwrap().unwrap();
        }
        let calls: Vec<_> = pool.state().members.iter().map(|member| member.calls).collect();
        assert_eq!(calls, [100; 3]);
    });
}

#[test]
fn calls_that_are_dropped_are_counted_no_more() {
    test(2, async |posts, pool| {
        let mut holds = hold(&pool, &posts, 4).await;
        assert_eq!(in_flight(&pool), [2; 2]);
        holds.shutdown().await;
        assert_eq!(in_flight(&pool), [0; 2]);
        // Neither are those that have not begun.
        drop(pool.get_service::<DutyClient>().who());
        assert_eq!(in_flight(&pool), [0; 2]);
    });
}

#[test]
fn members_that_are_not_connected_get_no_calls() {
    test(3, async |mut posts, pool| {
        posts[1].die().await;
        let duty: DutyClient = pool.get_service();
        for _ in 0..6 {
            assert_ne!(duty.who().await.unwrap(), 1);
        }
        let state = pool.state();
        assert!(!state.members[1].is_connected && state.members[1].role == MemberRole::Active);
        posts[1].serve(8).await;
        posts[1].client.connect(GUARD).await.unwrap();
        let mut seen = [false; 3];
        for _ in 0..3 {
            seen[duty.who().await.unwrap() as usize] = true;
        }
        assert_eq!(seen, [true; 3]);
    });
}

/// Some are idempotent, others wait in line for a place at their member.
#[test]
fn calls_of_a_member_that_dies_are_made_again_on_another_if_that_does_no_harm() {
    test(2, async |mut posts, pool| {
        for post in &mut posts {
            post.die().await;
            post.serve(1).await;
            post.client.connect(GUARD).await.unwrap();
        }
        let duty: DutyClient = pool.get_service();
        let mut holds = hold(&pool, &posts, 2).await;
        let lines: Vec<_> = (0..2).map(|_| tokio::spawn(duty.hold())).collect();
        eventually("they wait in line", || in_flight(&pool) == [2; 2]).await;
        posts[0].die().await;
        let lost = holds.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
        eventually("all are at the other", || in_flight(&pool)[1] == 3).await;
        posts[1].guard.gate.add_permits(3);
        assert_eq!(holds.join_next().await.unwrap().unwrap().unwrap(), 1);
        for waited in lines {
            assert_eq!(waited.await.unwrap().unwrap(), 1);
        }
        // It has run, and runs once more.
        posts[0].serve(8).await;
        posts[0].client.connect(GUARD).await.unwrap();
        let begun: u32 = posts[1].guard.held();
        let again = hold(&pool, &posts[1..], 1);
        let idempotent = tokio::spawn(duty.hold_idempotent());
        drop(again);
        eventually("it has begun", || {
            posts[0].guard.held() == 2 || posts[1].guard.held() == begun + 1
        })
        .await;
        let (dies, other) = if posts[0].guard.held() == 2 { (0, 1) } else { (1, 0) };
        posts[dies].die().await;
        posts[other].guard.gate.add_permits(1);
        assert_eq!(idempotent.await.unwrap().unwrap() as usize, other);
    });
}

/// Whether they fit into one chunk, or are queued.
#[test]
fn calls_are_made_again_with_the_arguments_that_they_had() {
    test(2, async |mut posts, pool| {
        let duty: DutyClient = pool.get_service();
        for len in [0, 100, 300_000] {
            let before: Vec<_> = posts.iter().map(|post| post.guard.held()).collect();
            let call = tokio::spawn(duty.hold_text("x".repeat(len), vec![7; len].into()));
            let mut at = None;
            eventually("it has begun", || {
                at = (0..2).find(|at| posts[*at].guard.held() > before[*at]);
                at.is_some()
            })
            .await;
            let (dies, other) = (at.unwrap(), 1 - at.unwrap());
            posts[dies].die().await;
            posts[other].guard.gate.add_permits(1);
            assert_eq!(call.await.unwrap().unwrap(), (number(other), 2 * len));
            posts[dies].serve(8).await;
            posts[dies].client.connect(GUARD).await.unwrap();
        }
    });
}

#[test]
fn an_idempotent_call_is_not_made_again_for_ever() {
    let set = |client: WitClientBuilder| {
        client.with_retry_policy(|policy: RetryPolicy| policy.with_attempts(1))
    };
    test_with(3, set, async |mut posts, pool| {
        let call = tokio::spawn(pool.get_service::<DutyClient>().hold_idempotent());
        for _ in 0..2 {
            let mut at = None;
            eventually("it has begun", || {
                let began = |post: &Post| post.server.is_some() && post.guard.held() == 1;
                at = posts.iter().position(began);
                at.is_some()
            })
            .await;
            posts[at.unwrap()].die().await;
        }
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Closed { maybe_executed: true, .. }), "{error}");
        assert_eq!(posts.iter().map(|post| post.guard.held()).sum::<u32>(), 2);
    });
}

#[test]
fn calls_wait_for_a_member_that_reconnects_within_their_deadlines() {
    test_with(2, reconnects, async |mut posts, pool| {
        let duty: DutyClient = pool.get_service();
        for post in &mut posts {
            post.die().await;
        }
        let late = duty.with_timeout(SHORT).who().await.unwrap_err();
        assert!(matches!(late, Error::TimedOut { after } if after == SHORT), "{late}");
        let mut cancelled = Box::pin(duty.who());
        assert!(poll_once(cancelled.as_mut()).is_pending());
        let calls: Vec<_> = (0..5).map(|_| tokio::spawn(duty.who())).collect();
        let streamed = tokio::spawn(duty.sum(Streaming::iter([1, 2, 3])));
        eventually("they wait", || pool.state().waiting == 7).await;
        drop(cancelled);
        assert_eq!((pool.state().waiting, in_flight(&pool)), (6, vec![0, 0]));
        posts[1].serve(1024).await;
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), 1);
        }
        assert_eq!(streamed.await.unwrap().unwrap(), (1, 6));
        assert_eq!(pool.state().waiting, 0);
    });
}

#[test]
fn without_a_member_that_may_come_calls_fail_at_once() {
    test(2, async |mut posts, pool| {
        let duty: DutyClient = pool.get_service();
        let held = hold(&pool, &posts, 1).await;
        for post in &mut posts {
            post.die().await;
        }
        drop(held);
        let none = duty.who().await.unwrap_err();
        assert!(matches!(none, Error::NotConnected { .. }), "{none}");
        // A client that connects is waited for.
        let connecting = tokio::spawn({
            let client = posts[0].client.clone();
            async move { client.connect(GUARD).await }
        });
        let mut call = Box::pin(duty.who());
        eventually("it waits", || {
            if poll_once(call.as_mut()).is_ready() {
                call = Box::pin(duty.who());
            }
            pool.state().waiting == 1
        })
        .await;
        posts[0].serve(8).await;
        connecting.await.unwrap().unwrap();
        assert_eq!(call.await.unwrap(), 0);
    });
}

#[test]
fn calls_that_wait_fail_when_the_last_attempt_to_reconnect_has_failed() {
    let set = |client: WitClientBuilder| {
        let ms = Duration::from_millis;
        client.with_auto_reconnect(|options| options.with_initial_delay(ms(10)).with_attempts(2))
    };
    test_with(2, set, async |mut posts, pool| {
        let duty: DutyClient = pool.get_service();
        for post in &mut posts {
            post.die().await;
        }
        let none = duty.who().await.unwrap_err();
        assert!(none.is_surely_not_executed(), "{none}");
        for post in &posts {
            let mut state = post.client.state();
            state.wait_for(|state| *state == ClientState::GaveUp).await.unwrap();
        }
    });
}

#[test]
fn streams_stay_with_the_member_of_their_call() {
    test(2, async |posts, pool| {
        let duty: DutyClient = pool.get_service();
        let mut streams = [duty.repeat().await.unwrap(), duty.repeat().await.unwrap()];
        let firsts = async |streams: &mut [Streaming<u32>; 2]| {
            posts.iter().for_each(|post| post.guard.gate.add_permits(1));
            let mut numbers = Vec::new();
            for stream in streams {
                numbers.push(stream.next().await.unwrap().unwrap());
            }
            numbers
        };
        let numbers = firsts(&mut streams).await;
        assert_ne!(numbers[0], numbers[1]);
        for _ in 0..10 {
            let (_, sum) = duty.sum(Streaming::iter(0..100)).await.unwrap();
            assert_eq!(sum, 4950);
            assert_eq!(firsts(&mut streams).await, numbers);
        }
        // Also when nothing else is left of the pool.
        drop((duty, pool));
        assert_eq!(firsts(&mut streams).await, numbers);
    });
}

async fn next(events: &mut PoolSubscription<u32>) -> (usize, Result<u32, EventError>) {
    events.next().await.expect("it has ended")
}

#[test]
fn events_of_all_members_come_with_their_indexes() {
    test(3, async |mut posts, pool| {
        let mut events = pool.subscribe(|duty: &DutyClient| duty.announced());
        let duty: DutyClient = pool.get_service();
        let mut plain = duty.announced().subscribe();
        for value in 0..30 {
            let index = duty.announce(value).await.unwrap() as usize;
            assert_eq!(next(&mut events).await, (index, Ok(value)));
            assert_eq!(plain.next().await.unwrap(), Ok(value));
        }
        drop(plain);
        posts[1].die().await;
        let lost = EventError::Closed(CloseReason::PeerGone);
        let (index, item) = next(&mut events).await;
        assert!(index == 1 && matches!(item, Err(EventError::Closed(_))), "{item:?}, not {lost:?}");
        for value in 0..4 {
            let index = duty.announce(value).await.unwrap() as usize;
            assert_eq!(next(&mut events).await, (index, Ok(value)));
        }
        let busy: Vec<_> = (0..200).map(|value| duty.announce(value)).collect();
        let mut sums = [0; 3];
        for call in busy {
            call.await.unwrap();
        }
        for _ in 0..200 {
            let (index, value) = next(&mut events).await;
            sums[index] += value.unwrap();
        }
        assert_eq!((sums[1], sums.iter().sum::<u32>()), (0, 199 * 100));
        pool.shutdown(GUARD).await;
        for _ in 0..2 {
            let (_, last) = next(&mut events).await;
            assert_eq!(last, Err(EventError::Closed(CloseReason::Local)));
        }
        assert_eq!(events.next().await, None);
        let mut late = pool.subscribe(|duty: &DutyClient| duty.announced());
        assert_eq!(late.next().await, None);
    });
}

#[test]
fn subscriptions_go_on_where_a_member_reconnects() {
    test_with(2, reconnects, async |mut posts, pool| {
        let mut events = pool.subscribe(|duty: &DutyClient| duty.announced());
        for index in [1, 0] {
            posts[index].die().await;
            posts[index].serve(8).await;
            assert_eq!(next(&mut events).await, (index, Err(EventError::Reconnected)));
            posts[index].client.get_service::<DutyClient>().announce(7).await.unwrap();
            assert_eq!(next(&mut events).await, (index, Ok(7)));
        }
    });
}

#[test]
fn a_subscription_ends_with_its_pool() {
    test(1, async |posts, pool| {
        let mut events = pool.subscribe(|duty: &DutyClient| duty.announced());
        drop(pool);
        // Its member goes on.
        posts[0].client.get_service::<DutyClient>().announce(1).await.unwrap();
        assert_eq!(next(&mut events).await, (0, Ok(1)));
        posts[0].client.disconnect().await;
        assert_eq!(next(&mut events).await.0, 0);
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn a_pool_that_shuts_down_lets_calls_and_streams_finish() {
    test(2, async |posts, pool| {
        let duty: DutyClient = pool.get_service();
        let mut stream = duty.repeat().await.unwrap();
        let mut holds = hold(&pool, &posts, 3).await;
        let pool = Arc::new(pool);
        let shutting_down = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.shutdown(GUARD).await }
        });
        eventually("it shuts down", || pool.state().is_shut_down).await;
        let refused = duty.who().await.unwrap_err();
        let Error::Closed { reason: CloseReason::Local, maybe_executed: false } = refused else {
            panic!("{refused}")
        };
        posts.iter().for_each(|post| post.guard.gate.add_permits(3));
        while let Some(done) = holds.join_next().await {
            done.unwrap().unwrap();
        }
        stream.next().await.unwrap().unwrap();
        assert!(!shutting_down.is_finished(), "there is a stream");
        drop(stream);
        shutting_down.await.unwrap();
        assert!(posts.iter().all(|post| !post.client.is_connected()));
        assert_eq!(pool.state().members, []);
    });
}

#[test]
fn a_shutdown_ends_with_its_grace_and_nothing_is_made_again() {
    test(2, async |posts, pool| {
        let mut holds = hold(&pool, &posts, 2).await;
        let idempotent = tokio::spawn(pool.get_service::<DutyClient>().hold_idempotent());
        eventually("it has begun", || in_flight(&pool).iter().sum::<usize>() == 3).await;
        pool.shutdown(SHORT).await;
        while let Some(cut) = holds.join_next().await {
            let cut = cut.unwrap().unwrap_err();
            assert!(matches!(cut, Error::Closed { .. }), "{cut}");
        }
        let cut = idempotent.await.unwrap().unwrap_err();
        assert!(matches!(cut, Error::Closed { reason: CloseReason::Local, .. }), "{cut}");
        // Once more does no harm.
        pool.shutdown(SHORT).await;
    });
}

#[test]
fn what_cannot_be_a_pool_is_refused() {
    block_on(Flavor::CurrentThread, async {
        let none = Pool::of_clients([]).unwrap_err();
        assert!(matches!(none, Error::Config { setting: "Pool::of_clients", .. }), "{none}");
        let client =
            |serializer| Fixture::memory().with(serializer).client_builder().build().unwrap();
        let clients = [client(SerializerKind::Json), client(SerializerKind::Postcard)];
        let mixed = Pool::of_clients(clients).unwrap_err().to_string();
        assert!(mixed.contains("with_serializer = postcard") && mixed.contains("json"), "{mixed}");
    });
}
