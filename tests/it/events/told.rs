//! What a subscriber is told about values that it does not get, and which values it has when an answer or the end arrives.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;
use witrpc::prelude::*;
use witrpc::{CloseReason, Load};

use super::{FAR_TOO_MANY, Station, TickerClient, connected, serve};
use crate::fixture::{Fixture, GUARD, eventually};

crate::instances::instantiate![
    what_a_handler_raises_is_there_with_its_answer,
    what_waits_is_taken_in_one_turn_of_a_task,
    what_was_dropped_in_a_handler_is_told_with_its_answer,
    what_nothing_follows_is_told_all_the_same,
    what_is_dropped_is_told_where_it_was,
    what_was_raised_leaves_before_a_shutdown,
    what_does_not_leave_before_a_shutdown_is_told,
];

/// What is there without waiting: the values in order, how many were lost, and what else came.
#[derive(Debug, Default, PartialEq)]
struct There {
    values: Vec<u64>,
    lost: u64,
    last: Option<EventError>,
}

impl There {
    fn now(subscription: &mut Subscription<u64>) -> Self {
        let mut there = Self::default();
        while let Poll::Ready(Some(item)) =
            pin!(unconstrained(subscription.next())).poll(&mut Context::from_waker(Waker::noop()))
        {
            there.take(item);
        }
        there
    }

    async fn at_the_end(subscription: &mut Subscription<u64>) -> Self {
        let mut there = Self::default();
        while let Some(item) = subscription.next().await {
            there.take(item);
        }
        there
    }

    /// Each number is the value's own: what is missing is what was lost.
    fn take(&mut self, item: Result<u64, EventError>) {
        match item {
            Ok(value) => {
                assert_eq!(value, self.values.len() as u64 + self.lost, "{:?}", self.last);
                self.values.push(value);
            }
            Err(EventError::Lagged(lost)) => {
                assert!(lost > 0);
                self.lost += lost;
            }
            Err(other) => self.last = Some(other),
        }
    }

    fn all(&self) -> u64 {
        self.values.len() as u64 + self.lost
    }
}

fn ticking(overflow: Overflow, capacity: usize) -> Station {
    let ticked = Event::new().with_overflow(overflow).with_capacity(capacity);
    Station { ticked, ..Station::default() }
}

async fn what_a_handler_raises_is_there_with_its_answer(fixture: Arc<Fixture>) {
    let station = ticking(Overflow::DropOldest, 1024);
    let (server, client, ticker) = connected(&fixture, &station).await;
    for count in [256, 257, 1000, 1024] {
        let (mut ticks, mut others) = (ticker.ticked().subscribe(), ticker.ticked().subscribe());
        ticker.tick(count).await.unwrap();
        for ticks in [&mut ticks, &mut others] {
            assert_eq!(There::now(ticks).values.len() as u64, count);
        }
        // One that has been read goes on as any other.
        ticker.tick(1).await.unwrap();
        assert_eq!(ticks.next().await, Some(Ok(0)));
    }
    let nothing = || server.load().iter().all(|load| *load == Load::default());
    eventually("nothing is held", || nothing() && client.load() == Load::default()).await;
}

/// A task lets others run now and then, but a subscriber that takes what is there once its call is answered has all of it.
async fn what_waits_is_taken_in_one_turn_of_a_task(fixture: Arc<Fixture>) {
    let (_server, _client, ticker) = connected(&fixture, &Station::default()).await;
    let mut ticks = ticker.ticked().subscribe();
    ticker.tick(1024).await.unwrap();
    tokio::task::yield_now().await;
    let mut there = There::default();
    while let Poll::Ready(Some(item)) =
        pin!(ticks.next()).poll(&mut Context::from_waker(Waker::noop()))
    {
        there.take(item);
    }
    assert_eq!(there.values.len(), 1024);
}

async fn what_was_dropped_in_a_handler_is_told_with_its_answer(fixture: Arc<Fixture>) {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let station = ticking(overflow, 100);
        let (_server, client, ticker) = connected(&fixture, &station).await;
        let mut ticks = ticker.ticked().subscribe();
        ticker.tick(FAR_TOO_MANY).await.unwrap();
        let there = There::now(&mut ticks);
        assert_eq!((there.values.len(), there.all()), (256 + 100, FAR_TOO_MANY), "{overflow:?}");
        let last = overflow == Overflow::DropOldest;
        assert_eq!(there.values.last() == Some(&(FAR_TOO_MANY - 1)), last, "{overflow:?}");
        client.disconnect().await;
    }
}

async fn what_nothing_follows_is_told_all_the_same(fixture: Arc<Fixture>) {
    let station = ticking(Overflow::DropNewest, 4);
    let server = serve(&fixture, &station).await;
    // A value of the other event may be too large for it.
    let client = fixture.client_builder().with_max_message_size(5000).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let ticker: TickerClient = client.get_service();
    let mut ticks = ticker.ticked().subscribe();
    let mut said = ticker.said().subscribe();
    ticker.volume().await.unwrap();
    for n in 0..FAR_TOO_MANY {
        station.ticked.raise(n).unwrap();
    }
    let mut there = There::default();
    while there.all() < FAR_TOO_MANY {
        there.take(ticks.next().await.unwrap());
    }
    assert!(there.lost > 0 && there.values.len() > 4, "{there:?}");
    // Of many marks one is enough, and each counts what it stands for.
    for _ in 0..FAR_TOO_MANY {
        station.said.raise("s".repeat(6000)).unwrap();
    }
    let mut lost = 0;
    while lost < FAR_TOO_MANY {
        let Some(Err(EventError::Lagged(n))) = said.next().await else { panic!("a value") };
        lost += n;
    }
    // In the service's own process, too.
    let mut local = station.ticked.subscribe();
    for n in 0..10 {
        station.ticked.raise(n).unwrap();
    }
    let there = There::now(&mut local);
    assert_eq!((there.values.len(), there.lost), (4, 6));
    drop(server);
}

/// A value that is too large, one that is not, and again: what is told of the last stands behind the one that came, also while none of them
/// can leave, as something long is ahead of them.
async fn what_is_dropped_is_told_where_it_was(fixture: Arc<Fixture>) {
    let station = Station::default();
    let server = serve(&fixture, &station).await;
    let client = fixture.client_builder().with_max_message_size(400_000).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let ticker: TickerClient = client.get_service();
    let (mut reports, mut said) = (ticker.reported().subscribe(), ticker.said().subscribe());
    ticker.volume().await.unwrap();
    for round in 0..20_u64 {
        // Nothing is awaited from here on: where there is one thread, no reader runs.
        let (name, picture, parts) = (String::new(), vec![9; 300_000].into(), Vec::new());
        station.reported.raise(super::Report { step: round, name, picture, parts }).unwrap();
        for text in ["s".repeat(500_000), "small".to_owned(), "s".repeat(500_000)] {
            station.said.raise(text).unwrap();
        }
        assert_eq!(reports.next().await.unwrap().unwrap().step, round);
        assert_eq!(said.next().await, Some(Err(EventError::Lagged(1))), "{round}");
        assert_eq!(said.next().await, Some(Ok("small".to_owned())), "{round}");
        assert_eq!(said.next().await, Some(Err(EventError::Lagged(1))), "{round}");
    }
    drop(server);
}

async fn what_was_raised_leaves_before_a_shutdown(fixture: Arc<Fixture>) {
    const COUNT: u64 = 1000;
    for eager in [true, false] {
        let station = Station::default();
        let (server, client, ticker) = connected(&fixture, &station).await;
        let mut reader = Err(ticker.ticked().subscribe());
        ticker.volume().await.unwrap();
        if eager {
            let Err(mut own) = reader else { unreachable!() };
            reader = Ok(tokio::spawn(async move { There::at_the_end(&mut own).await }));
        }
        for n in 0..COUNT {
            station.ticked.raise(n).unwrap();
        }
        server.shutdown(GUARD).await;
        let there = match reader {
            Ok(reading) => reading.await.unwrap(),
            Err(mut late) => There::at_the_end(&mut late).await,
        };
        assert_eq!((there.values.len() as u64, there.lost), (COUNT, 0), "eager: {eager}");
        let Some(EventError::Closed(CloseReason::Peer(reason))) = there.last else {
            panic!("{:?}", there.last)
        };
        assert!(reason.contains("shutting down"), "{reason}");
        drop(client);
    }
}

async fn what_does_not_leave_before_a_shutdown_is_told(fixture: Arc<Fixture>) {
    const COUNT: u64 = 3000;
    for shuts_down in [true, false] {
        let station = Station::default();
        let server = serve(&fixture, &station).await;
        // It takes little, and reads nothing.
        let builder = fixture.client_builder().with_max_message_size(4000).with_max_buffered(8000);
        let client = builder.build().unwrap();
        client.connect(GUARD).await.unwrap();
        let ticker: TickerClient = client.get_service();
        let mut ticks = ticker.ticked().subscribe();
        ticker.volume().await.unwrap();
        for n in 0..COUNT {
            station.ticked.raise(n).unwrap();
        }
        if shuts_down {
            server.shutdown(std::time::Duration::from_millis(20)).await;
        } else {
            drop(server);
        }
        let there = There::at_the_end(&mut ticks).await;
        assert_eq!(there.all(), COUNT, "{there:?}");
        assert!(there.lost > 0 && !there.values.is_empty(), "{there:?}");
        assert!(matches!(there.last, Some(EventError::Closed(CloseReason::Peer(_)))), "{there:?}");
        drop(client);
    }
}
