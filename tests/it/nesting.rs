//! Calls within calls, at and beyond the limits; and calls that are kept without being polled.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use witrpc::{Blob, CallContext, Error, WitClient, WitServer};

use crate::fixture::{Fixture, GUARD, is_late, poll_once};

crate::instances::instantiate![
    calls_within_calls_never_wait_for_each_other,
    at_the_limit_what_is_nested_too_deeply_says_so,
    a_task_of_a_handler_has_a_place_of_its_own_within_its_scope,
    many_calls_back_at_once_wait_for_their_turns,
    large_calls_that_come_back_with_large_ones_end,
    a_large_call_that_is_held_holds_up_nobody_else,
    a_call_that_is_held_for_its_place_holds_up_nobody_else,
    a_call_that_leaves_its_line_makes_way,
];

/// Offered by both sides.
#[witrpc::service]
trait Side {
    async fn ready(&self) -> witrpc::Result<u32>;
    /// Goes to and fro `depth` times more, with a blob of `size` bytes each time, and comes back with one.
    async fn descend(&self, depth: u32, size: usize, blob: Blob) -> witrpc::Result<Blob>;
    /// Calls the caller from a task, `count` times at once.
    async fn spread(&self, count: u32, in_scope: bool) -> witrpc::Result<u32>;
    async fn put(&self, blob: Blob) -> witrpc::Result<usize>;
    /// Never answers.
    async fn hang(&self) -> witrpc::Result<()>;
}

struct Both;

/// Polls all of them until all are ready.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if futures.iter().all(|(_, output)| output.is_some()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

fn back() -> SideClient {
    CallContext::current().peer().get_service()
}

impl Side for Both {
    async fn ready(&self) -> witrpc::Result<u32> {
        Ok(7)
    }

    async fn descend(&self, depth: u32, size: usize, _blob: Blob) -> witrpc::Result<Blob> {
        let blob = Blob::from(vec![7; size]);
        if depth == 0 { Ok(blob) } else { back().descend(depth - 1, size, blob).await }
    }

    async fn spread(&self, count: u32, in_scope: bool) -> witrpc::Result<u32> {
        let (context, side) = (CallContext::current(), back());
        // The calls are made within the task: that is where it counts.
        let calls = async move { join_all((0..count).map(|_| side.ready())).await };
        let task = if in_scope { tokio::spawn(context.scope(calls)) } else { tokio::spawn(calls) };
        let answers = task.await.map_err(Error::fault)?;
        answers.into_iter().sum()
    }

    async fn put(&self, blob: Blob) -> witrpc::Result<usize> {
        Ok(blob.len())
    }

    async fn hang(&self) -> witrpc::Result<()> {
        std::future::pending().await
    }
}

const MESSAGE: u64 = 1 << 20;
const LARGE: usize = 1_000_000;

/// A server and a client that offer the service to each other, with these limits of calls in flight.
async fn sides(fixture: &Fixture, at_server: u32, at_client: u32) -> (WitServer, WitClient) {
    let server = fixture.server_builder().with_service(SideServer::new(Both));
    let server = server.with_max_message_size(MESSAGE).with_max_buffered(2 * MESSAGE);
    let server = server.with_max_in_flight(at_server).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client_builder().with_service(SideServer::new(Both));
    let client = client.with_max_message_size(MESSAGE).with_max_buffered(2 * MESSAGE);
    let client = client.with_max_in_flight(at_client).build().unwrap();
    client.connect(GUARD).await.unwrap();
    (server, client)
}

/// Whether the connection is as good as new: as many calls as there are places, and one large one, are answered.
async fn is_free(client: &WitClient) {
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    for answer in join_all((0..8).map(|_| side.ready())).await {
        assert_eq!(answer.unwrap(), 7);
    }
    assert_eq!(side.put(vec![1; LARGE].into()).await.unwrap(), LARGE);
}

async fn calls_within_calls_never_wait_for_each_other(fixture: Arc<Fixture>) {
    for (at_server, at_client, tasks) in [(1, 1, 1), (1, 1, 5), (2, 1, 5), (1, 3, 9), (8, 8, 30)] {
        let (_server, client) = sides(&fixture, at_server, at_client).await;
        let side = client.get_service::<SideClient>().with_timeout(GUARD);
        // There, back, and there again: the last has a place of its own kind, whatever the outer ones do.
        let calls = (0..tasks).map(|_| tokio::spawn(side.descend(2, 1, Blob::default())));
        for call in join_all(calls).await {
            match call.unwrap() {
                Ok(blob) => assert_eq!(blob.len(), 1),
                Err(error) => assert!(error.to_string().contains("nested too deeply"), "{error}"),
            }
        }
        is_free(&client).await;
    }
    let (_server, client) = sides(&fixture, 1, 1).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    assert_eq!(side.descend(2, 1, Blob::default()).await.unwrap().len(), 1);
}

async fn at_the_limit_what_is_nested_too_deeply_says_so(fixture: Arc<Fixture>) {
    let (_server, client) = sides(&fixture, 1, 1).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    // The outer place and the nested one of each side are taken by the four calls above the last.
    let error = side.descend(4, 1, Blob::default()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no place among the calls in flight for Side.descend"), "{text}");
    assert!(text.contains("raise the peer's with_max_in_flight"), "{text}");
    is_free(&client).await;
}

async fn a_task_of_a_handler_has_a_place_of_its_own_within_its_scope(fixture: Arc<Fixture>) {
    let (_server, client) = sides(&fixture, 1, 1).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    assert_eq!(side.spread(1, true).await.unwrap(), 7);
    assert_eq!(side.spread(1, false).await.unwrap(), 7, "nobody else uses the client's place");
    is_free(&client).await;
}

async fn many_calls_back_at_once_wait_for_their_turns(fixture: Arc<Fixture>) {
    let (_server, client) = sides(&fixture, 2, 3).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    for answer in join_all((0..4).map(|_| side.spread(200, true))).await {
        assert_eq!(answer.unwrap(), 7 * 200);
    }
    is_free(&client).await;
}

async fn large_calls_that_come_back_with_large_ones_end(fixture: Arc<Fixture>) {
    for depth in 0..5 {
        let (_server, client) = sides(&fixture, 8, 8).await;
        let side = client.get_service::<SideClient>().with_timeout(GUARD);
        for size in [1, 5000, LARGE / 3, LARGE] {
            let calls = (0..6).map(|_| side.descend(depth, size, vec![1; size].into()));
            for call in join_all(calls).await {
                match call {
                    Ok(blob) => assert_eq!(blob.len(), size),
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.contains("nested too deeply"), "{depth} {size}: {text}");
                    }
                }
            }
        }
        is_free(&client).await;
    }
}

async fn a_large_call_that_is_held_holds_up_nobody_else(fixture: Arc<Fixture>) {
    let (_server, client) = sides(&fixture, 8, 8).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    // Polled once each. The first are sent, and answered. The others wait for room, and are not polled when it is there.
    let mut held = Vec::new();
    while held.len() < 4 {
        let mut calls: Vec<_> = (0..4).map(|_| Box::pin(side.put(vec![0; LARGE].into()))).collect();
        calls.retain_mut(|call| poll_once(call.as_mut()).is_pending());
        held.append(&mut calls);
    }
    for size in [1_000, 10_000, LARGE] {
        let other = tokio::spawn(side.put(vec![0; size].into()));
        assert_eq!(other.await.unwrap().unwrap(), size);
    }
    for call in held {
        assert_eq!(call.await.unwrap(), LARGE);
    }
    is_free(&client).await;
}

async fn a_call_that_is_held_for_its_place_holds_up_nobody_else(fixture: Arc<Fixture>) {
    let (_server, client) = sides(&fixture, 1, 1).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    let mut hanging = Box::pin(side.hang());
    assert!(poll_once(hanging.as_mut()).is_pending());
    let mut held: Vec<_> = (0..5).map(|_| Box::pin(side.ready())).collect();
    for call in &mut held {
        assert!(poll_once(call.as_mut()).is_pending(), "the only place is taken");
    }
    drop(hanging);
    for _ in 0..5 {
        assert_eq!(tokio::spawn(side.ready()).await.unwrap().unwrap(), 7);
    }
    for call in held {
        assert_eq!(call.await.unwrap(), 7);
    }
}

async fn a_call_that_leaves_its_line_makes_way(fixture: Arc<Fixture>) {
    let (_server, client) = sides(&fixture, 1, 1).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    let mut hanging = pin!(side.hang().with_timeout(Duration::from_millis(50)));
    assert!(poll_once(hanging.as_mut()).is_pending());
    let mut first = Box::pin(side.ready());
    assert!(poll_once(first.as_mut()).is_pending());
    let second = tokio::spawn(side.ready());
    tokio::task::yield_now().await;
    assert!(is_late(&hanging.await.unwrap_err()));
    drop(first);
    assert_eq!(second.await.unwrap().unwrap(), 7);
}

/// Over one transport only: it waits for seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_taken_makes_way_for_others() {
    let fixture = Fixture::mmf();
    let (server, client) = sides(&fixture, 8, 8).await;
    let side = client.get_service::<SideClient>().with_timeout(GUARD);
    let answer = || side.descend(0, LARGE, Blob::default());
    // Polled until they have been sent, and not again: the first answers to arrive hold what there is for answers.
    let mut held: Vec<_> = (0..4).map(|_| Box::pin(answer())).collect();
    held.retain_mut(|call| poll_once(call.as_mut()).is_pending());
    assert_eq!(tokio::spawn(answer()).await.unwrap().unwrap().len(), LARGE);
    let mut dropped = 0;
    for call in held {
        match call.await {
            Ok(blob) => assert_eq!(blob.len(), LARGE),
            Err(error) => {
                assert!(matches!(error, Error::Limit { maybe_executed: true, .. }), "{error}");
                dropped += 1;
            }
        }
    }
    assert!(dropped > 0, "there is room for one of them at a time");
    is_free(&client).await;
    drop(side);
    drop(client);
    server.stop_waiting_for_connection().await;
}
