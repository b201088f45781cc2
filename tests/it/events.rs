//! Events: which subscriber gets which values, in which order, and what happens to a subscriber that is too slow.

mod told;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use witrpc::prelude::*;
use witrpc::{Blob, CloseReason, Error};

use crate::fixture::{Fixture, GUARD, eventually, poll_once};

crate::instances::instantiate![
    values_arrive_in_order,
    several_subscribers_in_several_clients,
    events_of_two_services_do_not_mix,
    an_event_raised_in_a_handler_is_seen_before_the_answer,
    a_large_event_is_seen_before_the_answer,
    a_subscription_is_in_force_before_later_calls,
    unsubscribing_is_dropping,
    a_subscriber_dropped_while_events_rain,
    complex_payloads_cross,
    a_subscriber_that_lags_is_told_how_far,
    the_newest_is_dropped_if_the_event_says_so,
    a_laggard_is_disconnected_if_the_event_says_so,
    raising_waits_for_room_if_the_event_says_so,
    a_slow_subscriber_holds_up_nobody,
    subscriptions_beyond_the_limit_are_refused_and_disturb_nobody,
    a_subscription_before_connect_waits,
    subscriptions_survive_a_reconnect,
    what_was_queued_before_a_reconnect_is_read_after_it,
    subscriptions_end_with_their_connection,
    subscriptions_end_at_disconnect,
    an_event_that_differs_is_refused,
    raising_a_remote_event_is_an_error,
    a_local_subscriber_has_the_same_stream,
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    step: u64,
    name: String,
    picture: Blob,
    parts: Vec<Option<(f32, String)>>,
}

/// A service with a property: getter, setter, changed event.
#[witrpc::service]
pub(crate) trait Ticker {
    /// Raises `count` ticks within the handler, then answers.
    async fn tick(&self, count: u64) -> witrpc::Result<u64>;
    /// Raises a report whose picture has so many bytes.
    async fn report(&self, step: u64, bytes: usize) -> witrpc::Result<()>;
    /// Says `count` texts of a number and so many more bytes.
    async fn say(&self, count: u64, bytes: usize) -> witrpc::Result<()>;
    async fn volume(&self) -> witrpc::Result<u32>;
    async fn set_volume(&self, volume: u32) -> witrpc::Result<()>;
    #[event]
    fn ticked(&self) -> &Event<u64>;
    #[event]
    fn reported(&self) -> &Event<Report>;
    #[event]
    fn said(&self) -> &Event<String>;
    #[event]
    fn volume_changed(&self) -> &Event<u32>;
}

/// The same event name in another service.
#[witrpc::service]
pub(crate) trait Clock {
    #[event]
    fn ticked(&self) -> &Event<String>;
}

#[derive(Clone)]
pub(crate) struct Station {
    ticked: Event<u64>,
    reported: Event<Report>,
    said: Event<String>,
    volume_changed: Event<u32>,
    named: Event<String>,
    volume: Arc<std::sync::Mutex<u32>>,
}

impl Default for Station {
    fn default() -> Self {
        Self {
            ticked: Event::default(),
            reported: Event::default(),
            // Little is kept of what is large.
            said: Event::new().with_capacity(2),
            volume_changed: Event::default(),
            named: Event::default(),
            volume: Arc::default(),
        }
    }
}

impl Ticker for Station {
    async fn tick(&self, count: u64) -> witrpc::Result<u64> {
        for n in 0..count {
            self.ticked.raise(n)?;
            if n % 100 == 99 {
                // Also from a handler that has been handed over to the runtime.
                tokio::task::yield_now().await;
            }
        }
        Ok(count)
    }

    async fn report(&self, step: u64, bytes: usize) -> witrpc::Result<()> {
        let parts = vec![None, Some((1.5, "part".to_owned()))];
        self.reported.raise(Report {
            step,
            name: "r".into(),
            picture: vec![9; bytes].into(),
            parts,
        })
    }

    async fn say(&self, count: u64, bytes: usize) -> witrpc::Result<()> {
        (0..count).try_for_each(|n| self.said.raise(format!("{n} {}", "s".repeat(bytes))))
    }

    async fn volume(&self) -> witrpc::Result<u32> {
        Ok(*self.volume.lock().unwrap())
    }

    async fn set_volume(&self, volume: u32) -> witrpc::Result<()> {
        *self.volume.lock().unwrap() = volume;
        self.volume_changed.raise(volume)
    }

    fn ticked(&self) -> &Event<u64> {
        &self.ticked
    }

    fn reported(&self) -> &Event<Report> {
        &self.reported
    }

    fn said(&self) -> &Event<String> {
        &self.said
    }

    fn volume_changed(&self) -> &Event<u32> {
        &self.volume_changed
    }
}

impl Clock for Station {
    fn ticked(&self) -> &Event<String> {
        &self.named
    }
}

async fn serve(fixture: &Fixture, station: &Station) -> WitServer {
    let server = fixture
        .bare_server_builder()
        .with_service(TickerServer::new(station.clone()))
        .with_service(ClockServer::new(station.clone()))
        .build()
        .unwrap();
    server.start_waiting_for_connection().await.unwrap();
    server
}

async fn connected(fixture: &Fixture, station: &Station) -> (WitServer, WitClient, TickerClient) {
    let server = serve(fixture, station).await;
    let client = fixture.client().await;
    let ticker = client.get_service();
    (server, client, ticker)
}

/// Takes values until `last`, checks that they come in order, and returns how many came and how many were lost.
async fn take_until(subscription: &mut Subscription<u64>, last: u64) -> (u64, u64) {
    let (mut taken, mut lost, mut expected) = (0, 0, None::<u64>);
    loop {
        match subscription.next().await.expect("the stream has ended") {
            Ok(value) => {
                assert!(
                    expected.is_none_or(|expected| value == expected),
                    "{value}, not {expected:?}"
                );
                taken += 1;
                expected = Some(value + 1);
                if value == last {
                    return (taken, lost);
                }
            }
            Err(EventError::Lagged(n)) => {
                lost += n;
                expected = expected.map(|expected| expected + n);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn values_arrive_in_order(fixture: Arc<Fixture>) {
    let station = Station { ticked: Event::new().with_capacity(100_000), ..Station::default() };
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    let ticking = tokio::spawn(ticker.tick(5000));
    assert_eq!(take_until(&mut ticks, 4999).await, (5000, 0));
    assert_eq!(ticking.await.unwrap().unwrap(), 5000);
}

async fn several_subscribers_in_several_clients(fixture: Arc<Fixture>) {
    let station = Station { ticked: Event::new().with_capacity(100_000), ..Station::default() };
    let server = serve(&fixture, &station).await;
    let mut readers = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = fixture.client().await;
        let ticker: TickerClient = client.get_service();
        for _ in 0..2 {
            let mut ticks = ticker.ticked().subscribe();
            readers.push(tokio::spawn(async move { take_until(&mut ticks, 999).await }));
        }
        // In force: a call made after it has come back.
        ticker.volume().await.unwrap();
        clients.push(client);
    }
    assert_eq!(station.ticked.subscriber_count(), 6);
    for n in 0..1000 {
        station.ticked.raise(n).unwrap();
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (1000, 0));
    }
    drop(clients);
    eventually("nobody subscribes", || station.ticked.subscriber_count() == 0).await;
    drop(server);
}

async fn events_of_two_services_do_not_mix(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let clock: ClockClient = client.get_service();
    let (mut numbers, mut names) = (ticker.ticked().subscribe(), clock.ticked().subscribe());
    ticker.volume().await.unwrap();
    station.named.raise("noon".to_owned()).unwrap();
    station.ticked.raise(12).unwrap();
    assert_eq!(numbers.next().await, Some(Ok(12)));
    assert_eq!(names.next().await, Some(Ok("noon".to_owned())));
}

async fn an_event_raised_in_a_handler_is_seen_before_the_answer(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut changes = ticker.volume_changed().subscribe();
    for volume in 0..200 {
        ticker.set_volume(volume).await.unwrap();
        let seen = poll_once(std::pin::pin!(changes.next()));
        assert_eq!(seen, std::task::Poll::Ready(Some(Ok(volume))));
        assert_eq!(ticker.volume().await.unwrap(), volume);
    }
}

async fn a_large_event_is_seen_before_the_answer(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut reports = ticker.reported().subscribe();
    for step in 0..5 {
        ticker.report(step, 1 << 20).await.unwrap();
        let seen = poll_once(std::pin::pin!(reports.next()));
        let std::task::Poll::Ready(Some(Ok(report))) = seen else { panic!("{seen:?}") };
        assert_eq!((report.step, report.picture.len()), (step, 1 << 20));
    }
}

async fn a_subscription_is_in_force_before_later_calls(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    for round in 0..50 {
        let mut ticks = ticker.ticked().subscribe();
        ticker.tick(round + 1).await.unwrap();
        assert_eq!(take_until(&mut ticks, round).await, (round + 1, 0));
    }
}

async fn unsubscribing_is_dropping(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (server, client, ticker) = connected(&fixture, &station).await;
    let ticks = ticker.ticked().subscribe();
    let mut others = ticker.ticked().subscribe();
    ticker.volume().await.unwrap();
    assert_eq!(station.ticked.subscriber_count(), 2);
    drop(ticks);
    ticker.tick(3).await.unwrap();
    assert_eq!(station.ticked.subscriber_count(), 1);
    assert_eq!(take_until(&mut others, 2).await, (3, 0));
    drop(others);
    ticker.tick(1).await.unwrap();
    assert_eq!(client.load().subscriptions, 0);
    assert!(server.load().iter().all(|load| load.subscriptions == 0));
}

async fn a_subscriber_dropped_while_events_rain(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (server, client, ticker) = connected(&fixture, &station).await;
    let raining = tokio::spawn({
        let ticked = station.ticked.clone();
        async move {
            for n in 0.. {
                ticked.raise(n).unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..30 {
        let mut ticks = ticker.ticked().subscribe();
        for _ in 0..round {
            assert!(ticks.next().await.is_some());
        }
    }
    raining.abort();
    drop(raining.await);
    assert_eq!(ticker.volume().await.unwrap(), 0);
    eventually("nothing is held", || client.load().subscriptions == 0).await;
    eventually("nothing is held there", || {
        server.load().iter().all(|l| l.subscriptions + l.queued_bytes as usize == 0)
    })
    .await;
}

async fn complex_payloads_cross(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut reports = ticker.reported().subscribe();
    let mut again = ticker.reported().subscribe();
    for (step, bytes) in [0, 1, 5000, 100_000].into_iter().enumerate() {
        ticker.report(step as u64, bytes).await.unwrap();
        let report = reports.next().await.unwrap().unwrap();
        assert_eq!((report.step, report.picture.len()), (step as u64, bytes));
        assert!(report.picture.iter().all(|byte| *byte == 9));
        assert_eq!(report.parts, [None, Some((1.5, "part".to_owned()))]);
        assert_eq!(again.next().await.unwrap().unwrap(), report);
    }
}

/// Raises so much that the window and the backlog of a subscriber who does not read are full.
const FAR_TOO_MANY: u64 = 1000;

async fn a_subscriber_that_lags_is_told_how_far(fixture: Arc<Fixture>) {
    let station = Station { ticked: Event::new().with_capacity(10), ..Station::default() };
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.tick(FAR_TOO_MANY).await.unwrap();
    let (taken, lost) = take_until(&mut ticks, FAR_TOO_MANY - 1).await;
    assert_eq!(taken + lost, FAR_TOO_MANY);
    // The window was under way, and the ten newest waited.
    assert_eq!(taken, 256 + 10);
    // And it goes on.
    ticker.tick(1).await.unwrap();
    assert_eq!(ticks.next().await, Some(Ok(0)));
}

async fn the_newest_is_dropped_if_the_event_says_so(fixture: Arc<Fixture>) {
    let ticked = Event::new().with_overflow(Overflow::DropNewest).with_capacity(10);
    let station = Station { ticked, ..Station::default() };
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.tick(FAR_TOO_MANY).await.unwrap();
    assert_eq!(take_until(&mut ticks, 256 + 10 - 1).await, (256 + 10, 0));
    ticker.tick(1).await.unwrap();
    assert_eq!(ticks.next().await, Some(Err(EventError::Lagged(FAR_TOO_MANY - 256 - 10))));
    assert_eq!(ticks.next().await, Some(Ok(0)));
}

async fn a_laggard_is_disconnected_if_the_event_says_so(fixture: Arc<Fixture>) {
    let ticked = Event::new().with_overflow(Overflow::Disconnect).with_capacity(10);
    let station = Station { ticked, ..Station::default() };
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let other = fixture.client().await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.volume().await.unwrap();
    for n in 0..FAR_TOO_MANY {
        station.ticked.raise(n).unwrap();
    }
    let mut last = None;
    while let Some(item) = ticks.next().await {
        last = Some(item);
    }
    let Some(Err(EventError::Closed(CloseReason::Peer(reason)))) = last else { panic!("{last:?}") };
    assert!(reason.contains("keep up"), "{reason}");
    eventually("the client knows", || !client.is_connected()).await;
    assert_eq!(other.get_service::<TickerClient>().volume().await.unwrap(), 0);
}

/// Each costs the same, however many there are: where each went over the list of the others, this took minutes.
#[test]
fn dropping_many_subscriptions_takes_as_long_for_each_as_making_them() {
    const MANY: usize = 200_000;
    let began = std::time::Instant::now();
    let event = Event::<u8>::new();
    let local: Vec<_> = (0..MANY).map(|_| event.subscribe()).collect();
    assert_eq!(event.subscriber_count(), MANY);
    drop(local);
    assert_eq!(event.subscriber_count(), 0);
    // A client's, which wait for a connection.
    let client = Fixture::memory().client_builder().build().unwrap();
    let ticker: TickerClient = client.get_service();
    let ticked = ticker.ticked();
    drop((0..MANY).map(|_| ticked.subscribe()).collect::<Vec<_>>());
    assert!(began.elapsed() < GUARD, "{:?}", began.elapsed());
}

async fn subscriptions_beyond_the_limit_are_refused_and_disturb_nobody(fixture: Arc<Fixture>) {
    const LIMIT: usize = 4096;
    let station = Station::default();
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let ticked = ticker.ticked();
    let mut subscriptions: Vec<_> = (0..5 * LIMIT).map(|_| ticked.subscribe()).collect();
    ticker.tick(1).await.unwrap();
    for (at, subscription) in subscriptions.iter_mut().enumerate().step_by(64) {
        match subscription.next().await {
            Some(Ok(0)) => assert!(at < LIMIT),
            Some(Err(EventError::Refused(error))) => {
                assert!(at >= LIMIT && error.to_string().contains("4096"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(subscriptions);
    eventually("all are gone", || client.load().subscriptions == 0).await;
    let mut next = ticked.subscribe();
    ticker.tick(1).await.unwrap();
    assert_eq!(next.next().await, Some(Ok(0)));
}

async fn raising_waits_for_room_if_the_event_says_so(fixture: Arc<Fixture>) {
    let ticked = Event::new().with_overflow(Overflow::Block(GUARD)).with_capacity(4);
    let station = Station { ticked, ..Station::default() };
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.volume().await.unwrap();
    let raising = tokio::spawn({
        let ticked = station.ticked.clone();
        async move {
            for n in 0..FAR_TOO_MANY {
                ticked.raise_async(n).await.unwrap();
            }
        }
    });
    // Nothing is lost, however far it is behind.
    assert_eq!(take_until(&mut ticks, FAR_TOO_MANY - 1).await, (FAR_TOO_MANY, 0));
    raising.await.unwrap();
    // A thread that raises waits too, and no longer than the event says.
    let impatient =
        Event::new().with_overflow(Overflow::Block(Duration::from_millis(10))).with_capacity(1);
    let mut local = impatient.subscribe();
    for n in 0..3_u64 {
        impatient.raise(n).unwrap();
    }
    assert_eq!(local.next().await, Some(Ok(0)));
    impatient.raise(3).unwrap();
    assert_eq!(local.next().await, Some(Err(EventError::Lagged(2))));
    assert_eq!(local.next().await, Some(Ok(3)));
}

async fn a_slow_subscriber_holds_up_nobody(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let other = fixture.client().await;
    // Neither of these is ever read.
    let _ticks = ticker.ticked().subscribe();
    let _reports = ticker.reported().subscribe();
    let swift: TickerClient = other.get_service();
    let mut reports = swift.reported().subscribe();
    swift.volume().await.unwrap();
    for step in 0..40 {
        ticker.report(step, 1 << 20).await.unwrap();
        assert_eq!(reports.next().await.unwrap().unwrap().step, step);
        station.ticked.raise(step).unwrap();
        assert_eq!(ticker.volume().await.unwrap(), 0);
    }
}

async fn a_subscription_before_connect_waits(fixture: Arc<Fixture>) {
    let station = Station::default();
    let _server = serve(&fixture, &station).await;
    let client = fixture.client_builder().build().unwrap();
    let ticker: TickerClient = client.get_service();
    let mut ticks = ticker.ticked().subscribe();
    client.connect(GUARD).await.unwrap();
    ticker.tick(2).await.unwrap();
    assert_eq!(take_until(&mut ticks, 1).await, (2, 0));
}

async fn subscriptions_survive_a_reconnect(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.tick(1).await.unwrap();
    assert_eq!(ticks.next().await, Some(Ok(0)));
    for _ in 0..2 {
        client.reconnect(GUARD).await.unwrap();
        assert_eq!(ticks.next().await, Some(Err(EventError::Reconnected)));
        ticker.tick(2).await.unwrap();
        assert_eq!(take_until(&mut ticks, 1).await, (2, 0));
    }
}

async fn what_was_queued_before_a_reconnect_is_read_after_it(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    for _ in 0..3 {
        ticker.tick(200).await.unwrap();
        client.reconnect(GUARD).await.unwrap();
    }
    ticker.tick(200).await.unwrap();
    for round in 0..4 {
        for n in 0..200 {
            assert_eq!(ticks.next().await, Some(Ok(n)), "round {round}");
        }
        if round < 3 {
            assert_eq!(ticks.next().await, Some(Err(EventError::Reconnected)));
        }
    }
    // The server still lets it run ahead as far as before, and no further.
    ticker.tick(1000).await.unwrap();
    assert_eq!(take_until(&mut ticks, 999).await, (1000, 0));
    assert_eq!(ticker.tick(0).await.unwrap(), 0);
}

async fn subscriptions_end_with_their_connection(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (server, _client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.tick(1).await.unwrap();
    drop(server);
    assert_eq!(ticks.next().await, Some(Ok(0)));
    let closed = ticks.next().await;
    assert!(matches!(&closed, Some(Err(EventError::Closed(_)))), "{closed:?}");
    assert_eq!(ticks.next().await, None);
    eventually("the service has no subscriber", || station.ticked.subscriber_count() == 0).await;
}

async fn subscriptions_end_at_disconnect(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let mut ticks = ticker.ticked().subscribe();
    client.disconnect().await;
    assert_eq!(ticks.next().await, Some(Err(EventError::Closed(CloseReason::Local))));
    assert_eq!(ticks.next().await, None);
    // A new one waits for the next connection.
    let mut ticks = ticker.ticked().subscribe();
    client.connect(GUARD).await.unwrap();
    ticker.tick(1).await.unwrap();
    assert_eq!(ticks.next().await, Some(Ok(0)));
}

/// `Clock` and `Ticker` as a client that is not up to date has them.
mod old {
    use witrpc::Event;

    #[witrpc::service(name = "Ticker")]
    pub(crate) trait OldTicker {
        #[event]
        fn ticked(&self) -> &Event<String>;
        #[event]
        fn rang(&self) -> &Event<()>;
    }

    #[witrpc::service]
    pub(crate) trait Gone {
        #[event]
        fn went(&self) -> &Event<()>;
    }
}

async fn an_event_that_differs_is_refused(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, client, ticker) = connected(&fixture, &station).await;
    let odd: old::OldTickerClient = client.get_service();
    let gone: old::GoneClient = client.get_service();
    let mut ticked = odd.ticked().subscribe();
    let Some(Err(EventError::Refused(error))) = ticked.next().await else { panic!("accepted") };
    assert!(matches!(&error, Error::SignatureMismatch { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("ticked: String") && text.contains("ticked: u64"), "{text}");
    assert_eq!(ticked.next().await, None);
    let Some(Err(EventError::Refused(error))) = odd.rang().subscribe().next().await else {
        panic!("accepted")
    };
    assert!(matches!(error, Error::NoSuchEvent { .. }), "{error}");
    let Some(Err(EventError::Refused(error))) = gone.went().subscribe().next().await else {
        panic!("accepted")
    };
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");
    assert_eq!(ticker.volume().await.unwrap(), 0);
}

async fn raising_a_remote_event_is_an_error(fixture: Arc<Fixture>) {
    let station = Station::default();
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    let error = ticker.ticked().raise(1).unwrap_err();
    assert!(error.to_string().contains("Ticker.ticked"), "{error}");
    assert!(matches!(error, Error::RemoteEvent { .. }));
    assert!(ticker.ticked().raise_async(1).await.is_err());
}

async fn a_local_subscriber_has_the_same_stream(fixture: Arc<Fixture>) {
    async fn two(ticker: &impl Ticker) -> (u64, u64) {
        let mut ticks = ticker.ticked().subscribe();
        ticker.tick(2).await.unwrap();
        take_until(&mut ticks, 1).await
    }
    let station = Station { ticked: Event::new().with_capacity(1), ..Station::default() };
    let (_server, _client, ticker) = connected(&fixture, &station).await;
    assert_eq!(two(&ticker).await, (2, 0));
    let mut lagging = station.ticked.subscribe();
    for n in 0..5 {
        station.ticked.raise(n).unwrap();
    }
    assert_eq!(lagging.next().await, Some(Err(EventError::Lagged(4))));
    assert_eq!(lagging.next().await, Some(Ok(4)));
    drop(lagging);
    let roomy = Station::default();
    assert_eq!(two(&roomy).await, (2, 0));
}
