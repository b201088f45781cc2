//! Streams: which items arrive, how far a writer may run ahead, and how a stream ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, Load, RetryPolicy};

use crate::fixture::{Fixture, GUARD, eventually, is_late, poll_once};

crate::instances::instantiate![
    items_arrive_in_order_and_then_the_end,
    a_client_sends_a_stream,
    streams_go_both_ways_in_one_call,
    items_of_all_sizes_keep_their_order,
    streams_are_anywhere_within_a_value,
    a_received_stream_can_be_sent_on,
    nothing_is_polled_before_the_reader_does,
    a_writer_is_as_far_ahead_as_its_window,
    the_smaller_window_holds,
    bytes_have_a_window_too,
    stalled_readers_hold_up_nobody,
    a_stalled_handler_holds_up_nobody,
    an_endless_stream_beside_thousands_of_short_ones,
    dropping_the_reader_drops_the_writer,
    dropping_the_handler_drops_the_callers_stream,
    dropping_the_call_drops_its_streams,
    a_thousand_dropped_streams_leave_nothing,
    what_nobody_reads_is_cancelled,
    an_error_ends_the_stream,
    a_panic_ends_the_stream,
    an_item_that_is_too_large_ends_the_stream,
    an_item_that_does_not_fit_ends_the_stream,
    a_stream_cannot_be_sent_twice_or_in_an_item,
    more_than_max_buffered_streams_through,
    the_end_is_told_from_the_loss_of_the_connection,
    a_disconnect_ends_streams_on_both_sides,
    a_stream_outlives_its_call_and_its_handle,
    a_deadline_is_the_calls_and_not_the_streams,
    a_stream_knows_its_caller,
    a_call_with_a_stream_is_not_repeated,
    too_many_streams_are_refused,
    streams_cross_in_calls_back,
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    number: u64,
    text: String,
    attachment: Blob,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lines {
    title: String,
    parts: Vec<Streaming<u32>>,
    rest: Option<Streaming<Line>>,
}

#[witrpc::service]
pub(crate) trait Log {
    /// Lines from this one on, as many, each with an attachment of so many bytes.
    async fn tail(&self, from: u64, count: u64, bytes: usize) -> witrpc::Result<Streaming<Line>>;
    /// Numbers without an end; counted in `polled` and `alive`.
    async fn endless(&self, window: u32) -> witrpc::Result<Streaming<u64>>;
    /// The sum of what comes.
    async fn upload(&self, rows: Streaming<u64>) -> witrpc::Result<u64>;
    /// The bytes of what comes.
    async fn store(&self, blobs: Streaming<Blob>) -> witrpc::Result<u64>;
    /// Doubles what comes.
    async fn double(&self, numbers: Streaming<u64>) -> witrpc::Result<Streaming<u64>>;
    async fn echo(&self, numbers: Streaming<u64>) -> witrpc::Result<Streaming<u64>>;
    async fn lines(&self, lines: Lines) -> witrpc::Result<Lines>;
    /// Takes one number, and then waits for the gate.
    async fn stall(&self, numbers: Streaming<Blob>) -> witrpc::Result<()>;
    /// Ignores what comes.
    async fn ignore(&self, numbers: Streaming<u64>) -> witrpc::Result<()>;
    /// Keeps what comes, and returns.
    async fn keep(&self, numbers: Streaming<u64>) -> witrpc::Result<()>;
    /// Two items, and then this.
    async fn fail(&self, how: Failure) -> witrpc::Result<Streaming<Line>>;
    /// A stream within a stream.
    async fn nested(&self) -> witrpc::Result<Streaming<Streaming<u32>>>;
    /// So many streams at once.
    async fn many(&self, count: usize) -> witrpc::Result<Vec<Streaming<u32>>>;
    /// Whether a stream has the context of its caller: the process id, whether there is a deadline.
    async fn context(&self) -> witrpc::Result<Streaming<(Option<u32>, bool)>>;
    /// Sends the caller so many numbers, reads as many from it, and sends them back to it as they come.
    async fn back(&self, count: u64) -> witrpc::Result<(u64, u64)>;
    async fn add(&self, a: u32, b: u32) -> witrpc::Result<u32>;
    /// Answers once the gate is opened.
    async fn wait(&self) -> witrpc::Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Failure {
    Error,
    Panic,
    TooLarge,
}

/// What the service lets tests see.
#[derive(Debug)]
pub(crate) struct State {
    polled: AtomicU64,
    /// Endless streams that have not been dropped.
    alive: AtomicU64,
    gate: Semaphore,
    kept: std::sync::Mutex<Vec<Streaming<u64>>>,
    calls: AtomicU64,
}

#[derive(Clone, Debug)]
pub(crate) struct Book(Arc<State>);

impl Default for Book {
    fn default() -> Self {
        Self(Arc::new(State {
            polled: AtomicU64::new(0),
            alive: AtomicU64::new(0),
            gate: Semaphore::new(0),
            kept: std::sync::Mutex::default(),
            calls: AtomicU64::new(0),
        }))
    }
}

impl Book {
    fn polled(&self) -> u64 {
        self.0.polled.load(Ordering::SeqCst)
    }

    fn alive(&self) -> u64 {
        self.0.alive.load(Ordering::SeqCst)
    }

    fn endless(&self) -> Endless {
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        Endless { state: Arc::clone(&self.0), next: 0 }
    }
}

/// Numbers without an end.
struct Endless {
    state: Arc<State>,
    next: u64,
}

impl futures_core::Stream for Endless {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<u64>> {
        self.state.polled.fetch_add(1, Ordering::SeqCst);
        self.next += 1;
        Poll::Ready(Some(self.next - 1))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.state.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn line(number: u64, bytes: usize) -> Line {
    let attachment = vec![number as u8; bytes].into();
    Line { number, text: format!("line {number}"), attachment }
}

impl Log for Book {
    async fn tail(&self, from: u64, count: u64, bytes: usize) -> witrpc::Result<Streaming<Line>> {
        Ok(Streaming::iter((from..from + count).map(move |number| line(number, bytes))))
    }

    async fn endless(&self, window: u32) -> witrpc::Result<Streaming<u64>> {
        let stream = Streaming::new(Self::endless(self));
        Ok(if window == 0 { stream } else { stream.with_window(window) })
    }

    async fn upload(&self, mut rows: Streaming<u64>) -> witrpc::Result<u64> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let mut sum = 0;
        while let Some(row) = rows.next().await {
            sum += row?;
        }
        Ok(sum)
    }

    async fn store(&self, mut blobs: Streaming<Blob>) -> witrpc::Result<u64> {
        let mut sum = 0;
        while let Some(blob) = blobs.next().await {
            sum += blob?.len() as u64;
        }
        Ok(sum)
    }

    async fn double(&self, mut numbers: Streaming<u64>) -> witrpc::Result<Streaming<u64>> {
        let (sender, doubled) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(Ok(number)) = numbers.next().await {
                if sender.send(2 * number).await.is_err() {
                    break;
                }
            }
        });
        Ok(doubled.into())
    }

    async fn echo(&self, numbers: Streaming<u64>) -> witrpc::Result<Streaming<u64>> {
        Ok(numbers)
    }

    async fn lines(&self, lines: Lines) -> witrpc::Result<Lines> {
        Ok(lines)
    }

    async fn stall(&self, mut numbers: Streaming<Blob>) -> witrpc::Result<()> {
        drop(numbers.next().await);
        self.0.polled.fetch_add(1, Ordering::SeqCst);
        self.0.gate.acquire().await.map_err(Error::fault)?.forget();
        Ok(())
    }

    async fn ignore(&self, _numbers: Streaming<u64>) -> witrpc::Result<()> {
        Ok(())
    }

    async fn keep(&self, numbers: Streaming<u64>) -> witrpc::Result<()> {
        self.0.kept.lock().unwrap().push(numbers);
        Ok(())
    }

    async fn fail(&self, how: Failure) -> witrpc::Result<Streaming<Line>> {
        let mut items = [Ok(line(1, 0)), Ok(line(2, 0)), Err(how), Ok(line(4, 0))].into_iter();
        let next = move || {
            let item = items.next()?;
            Some(match item {
                Ok(line) => Ok(line),
                Err(Failure::Error) => Err(Error::fault("the disk is full")),
                Err(Failure::Panic) => panic!("the disk is on fire"),
                Err(Failure::TooLarge) => Ok(line(3, 3 << 20)),
            })
        };
        Ok(Streaming::try_new(FromFn(next)))
    }

    async fn nested(&self) -> witrpc::Result<Streaming<Streaming<u32>>> {
        Ok(Streaming::iter([Streaming::iter([1])]))
    }

    async fn many(&self, count: usize) -> witrpc::Result<Vec<Streaming<u32>>> {
        Ok((0..count).map(|_| Streaming::iter([1, 2])).collect())
    }

    async fn context(&self) -> witrpc::Result<Streaming<(Option<u32>, bool)>> {
        let looks = (0..3).map(|_| {
            let context = CallContext::current();
            (context.peer().process_id, context.deadline().is_some())
        });
        Ok(Streaming::iter(looks))
    }

    async fn back(&self, count: u64) -> witrpc::Result<(u64, u64)> {
        let log: LogClient = CallContext::current().peer().get_service();
        let sum = log.upload(Streaming::iter(0..count)).await?;
        let doubled = log.double(Streaming::iter(0..count)).await?;
        Ok((sum, log.upload(doubled).await?))
    }

    async fn add(&self, a: u32, b: u32) -> witrpc::Result<u32> {
        Ok(a + b)
    }

    async fn wait(&self) -> witrpc::Result<()> {
        self.0.gate.acquire().await.map_err(Error::fault)?.forget();
        Ok(())
    }
}

struct FromFn<F>(F);

impl<F> Unpin for FromFn<F> {}

impl<T, F: FnMut() -> Option<T>> futures_core::Stream for FromFn<F> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Ready((self.0)())
    }
}

struct Pair {
    book: Book,
    server: WitServer,
    client: WitClient,
    log: LogClient,
}

impl Pair {
    async fn new(fixture: &Fixture) -> Self {
        Self::with(fixture, |builder| builder, |builder| builder).await
    }

    async fn with(
        fixture: &Fixture,
        server: impl FnOnce(WitServerBuilder) -> WitServerBuilder,
        client: impl FnOnce(WitClientBuilder) -> WitClientBuilder,
    ) -> Self {
        let book = Book::default();
        let builder = fixture.bare_server_builder().with_service(LogServer::new(book.clone()));
        let server = server(builder).build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = client(fixture.client_builder()).build().unwrap();
        client.connect(GUARD).await.unwrap();
        let log = client.get_service();
        Self { book, server, client, log }
    }

    async fn nothing_is_left(&self) {
        eventually("the client holds nothing", || self.client.load() == Load::default()).await;
        let idle = || self.server.load().iter().all(|load| *load == Load::default());
        eventually("the server holds nothing", idle).await;
        eventually("every stream was dropped", || self.book.alive() == 0).await;
    }
}

async fn collect<T: Send + 'static>(stream: &mut Streaming<T>) -> Vec<T> {
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item.unwrap());
    }
    items
}

/// Waits until a number is this, and looks whether it stays so while calls come and go.
async fn settles(pair: &Pair, at: u64, number: impl Fn() -> u64) {
    eventually("it gets so far", || number() >= at).await;
    for _ in 0..50 {
        assert_eq!(pair.log.add(1, 1).await.unwrap(), 2);
        tokio::task::yield_now().await;
    }
    assert_eq!(number(), at);
}

async fn items_arrive_in_order_and_then_the_end(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    for count in [0, 1, 2, 255, 256, 257, 5000] {
        let mut lines = pair.log.tail(7, count, 0).await.unwrap();
        let all = collect(&mut lines).await;
        assert!(all.iter().cloned().eq((7..7 + count).map(|n| line(n, 0))), "{count}");
        assert!(lines.next().await.is_none() && lines.next().await.is_none());
        drop(lines);
    }
    pair.nothing_is_left().await;
}

async fn a_client_sends_a_stream(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    for count in [0, 1, 300, 5000] {
        let sum = pair.log.upload(Streaming::iter(0..count)).await.unwrap();
        assert_eq!(sum, (0..count).sum::<u64>());
    }
    let (sender, numbers) = mpsc::channel(1);
    let upload = tokio::spawn(pair.log.upload(numbers.into()));
    for number in 0..100 {
        sender.send(number).await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(sender);
    assert_eq!(upload.await.unwrap().unwrap(), 4950);
    pair.nothing_is_left().await;
}

async fn streams_go_both_ways_in_one_call(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut doubled = pair.log.double(Streaming::iter(0..3000)).await.unwrap();
    assert!(collect(&mut doubled).await.into_iter().eq((0..3000).map(|n| 2 * n)));
    // One at a time, each answered before the next is sent.
    let (sender, numbers) = mpsc::channel(1);
    let mut doubled = pair.log.double(numbers.into()).await.unwrap();
    for number in 0..50 {
        sender.send(number).await.unwrap();
        assert_eq!(doubled.next().await.unwrap().unwrap(), 2 * number);
    }
    drop(sender);
    assert!(doubled.next().await.is_none());
    pair.nothing_is_left().await;
}

async fn items_of_all_sizes_keep_their_order(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let sizes = [0, 1, 100_000, 0, 3, 40_000, 1 << 20, 2, 300_000, 0, 1 << 21, 1];
    let blobs = sizes.map(|size| Blob::from(vec![size as u8; size]));
    let sum: usize = sizes.iter().sum();
    assert_eq!(pair.log.store(Streaming::iter(blobs)).await.unwrap(), sum as u64);
    let mut streams = Vec::new();
    for bytes in [0, 10_000, 100_000, 1 << 20] {
        streams.push((bytes, pair.log.tail(0, 8, bytes).await.unwrap()));
    }
    // In turn, so that all of them are under way together.
    for number in 0..8 {
        for (bytes, stream) in &mut streams {
            assert_eq!(stream.next().await.unwrap().unwrap(), line(number, *bytes));
        }
    }
    for (_, stream) in &mut streams {
        assert!(stream.next().await.is_none());
    }
    pair.nothing_is_left().await;
}

async fn streams_are_anywhere_within_a_value(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let lines = Lines {
        title: "three".to_owned(),
        parts: vec![Streaming::iter([1, 2]), Streaming::iter([]), Streaming::iter([3])],
        rest: Some(Streaming::iter([line(9, 2)])),
    };
    let mut lines = pair.log.lines(lines).await.unwrap();
    assert_eq!(lines.title, "three");
    assert_eq!(collect(&mut lines.rest.take().unwrap()).await, [line(9, 2)]);
    // Backwards, and the first not at all.
    assert_eq!(collect(&mut lines.parts[2]).await, [3]);
    assert_eq!(collect(&mut lines.parts[1]).await, [0; 0]);
    drop(lines);
    pair.nothing_is_left().await;
}

async fn a_received_stream_can_be_sent_on(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut there_and_back = pair.log.echo(Streaming::iter(0..1000)).await.unwrap();
    assert_eq!(there_and_back.next().await.unwrap().unwrap(), 0);
    // And once more, from where it is.
    let again = pair.log.echo(there_and_back).await.unwrap();
    assert_eq!(pair.log.upload(again).await.unwrap(), 499_500);
    pair.nothing_is_left().await;
}

async fn nothing_is_polled_before_the_reader_does(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut numbers = pair.log.endless(0).await.unwrap();
    for _ in 0..50 {
        pair.log.add(1, 1).await.unwrap();
    }
    assert_eq!((pair.book.polled(), pair.book.alive()), (0, 1));
    assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
    assert!(pair.book.polled() > 0);
    drop(numbers);
    pair.nothing_is_left().await;
}

async fn a_writer_is_as_far_ahead_as_its_window(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut numbers = pair.log.endless(0).await.unwrap().with_window(10);
    assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
    // One was taken, of ten; half a window is given back at a time.
    settles(&pair, 10, || pair.book.polled()).await;
    for number in 1..5 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), number);
    }
    settles(&pair, 15, || pair.book.polled()).await;
    for number in 5..1000 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), number);
    }
    drop(numbers);
    pair.nothing_is_left().await;
}

async fn the_smaller_window_holds(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut polled = 0;
    for (writers, readers, ahead) in [(7, 10, 7), (7, 3, 3), (1, 1, 1), (0, 0, 256), (1000, 0, 256)]
    {
        let mut numbers = pair.log.endless(writers).await.unwrap();
        if readers != 0 {
            numbers = numbers.with_window(readers);
        }
        assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
        let ahead = if ahead / 2 <= 1 { ahead + 1 } else { ahead };
        settles(&pair, polled + ahead, || pair.book.polled()).await;
        for number in 1..600 {
            assert_eq!(numbers.next().await.unwrap().unwrap(), number);
        }
        drop(numbers);
        pair.nothing_is_left().await;
        polled = pair.book.polled();
    }
}

async fn bytes_have_a_window_too(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let yielded = Arc::new(AtomicU64::new(0));
    let blob = Blob::from(vec![1; 100_000]);
    let blobs = Streaming::iter(std::iter::repeat_with({
        let yielded = Arc::clone(&yielded);
        move || {
            yielded.fetch_add(1, Ordering::SeqCst);
            blob.clone()
        }
    }));
    let stalled = tokio::spawn(pair.log.stall(blobs));
    // The eleventh uses up a mebibyte; the one that has been taken is no half of it.
    settles(&pair, 11, || yielded.load(Ordering::SeqCst)).await;
    pair.book.0.gate.add_permits(1);
    stalled.await.unwrap().unwrap();
    pair.nothing_is_left().await;
}

async fn stalled_readers_hold_up_nobody(fixture: Arc<Fixture>) {
    // Twice what may be buffered, if each had as much as it liked.
    let small = |builder: WitClientBuilder| {
        builder.with_max_message_size(1 << 20).with_max_buffered(2 << 20)
    };
    let pair = Pair::with(&fixture, |builder| builder, small).await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut lines = pair.log.tail(0, 1000, 20_000).await.unwrap();
        lines.next().await.unwrap().unwrap();
        stalled.push(lines);
    }
    for _ in 0..50 {
        assert_eq!(pair.log.add(1, 2).await.unwrap(), 3);
    }
    let mut lines = pair.log.tail(0, 100, 50_000).await.unwrap();
    assert_eq!(collect(&mut lines).await.len(), 100);
    // And they go on when they are read.
    for lines in stalled.iter_mut().skip(38) {
        assert_eq!(collect(lines).await.len(), 999);
    }
    drop((lines, stalled));
    pair.nothing_is_left().await;
}

async fn a_stalled_handler_holds_up_nobody(fixture: Arc<Fixture>) {
    let small = |builder: WitServerBuilder| {
        builder.with_max_message_size(1 << 20).with_max_buffered(2 << 20)
    };
    let pair = Pair::with(&fixture, small, |builder| builder).await;
    let blob = Blob::from(vec![1; 30_000]);
    let stalled: Vec<_> = (0..40)
        .map(|_| {
            let blobs = std::iter::repeat_n(blob.clone(), 1000);
            tokio::spawn(pair.log.stall(Streaming::iter(blobs)))
        })
        .collect();
    eventually("all have stalled", || pair.book.polled() == 40).await;
    for _ in 0..50 {
        assert_eq!(pair.log.add(1, 2).await.unwrap(), 3);
    }
    let blobs = std::iter::repeat_n(blob, 100);
    assert_eq!(pair.log.store(Streaming::iter(blobs)).await.unwrap(), 3_000_000);
    pair.book.0.gate.add_permits(40);
    for call in stalled {
        call.await.unwrap().unwrap();
    }
    pair.nothing_is_left().await;
}

async fn an_endless_stream_beside_thousands_of_short_ones(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut endless = pair.log.endless(0).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut expected = 0;
        while expected < 20_000 {
            assert_eq!(endless.next().await.unwrap().unwrap(), expected);
            expected += 1;
        }
        endless
    });
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let log = pair.log.clone();
            tokio::spawn(async move {
                for call in 0..250 {
                    let from = task * 1000 + call;
                    let mut lines = log.tail(from, call % 4, 0).await.unwrap();
                    let numbers: Vec<_> =
                        collect(&mut lines).await.iter().map(|line| line.number).collect();
                    assert!(numbers.into_iter().eq(from..from + call % 4));
                    assert_eq!(
                        log.upload(Streaming::iter(0..call % 5)).await.unwrap(),
                        (0..call % 5).sum::<u64>()
                    );
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let endless = reading.await.unwrap();
    assert_eq!(pair.book.alive(), 1);
    drop(endless);
    pair.nothing_is_left().await;
}

async fn dropping_the_reader_drops_the_writer(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    // Unread, read, and while the writer has nothing to say.
    drop(pair.log.endless(0).await.unwrap());
    pair.nothing_is_left().await;
    for read in [1, 2, 300] {
        let mut numbers = pair.log.endless(0).await.unwrap();
        for _ in 0..read {
            numbers.next().await.unwrap().unwrap();
        }
        drop(numbers);
        pair.nothing_is_left().await;
    }
    let (sender, numbers) = mpsc::channel::<u64>(1);
    let mut silent = pair.log.echo(numbers.into()).await.unwrap();
    sender.send(1).await.unwrap();
    assert_eq!(silent.next().await.unwrap().unwrap(), 1);
    drop(silent);
    timeout(GUARD, sender.closed()).await.unwrap();
    pair.nothing_is_left().await;
}

async fn dropping_the_handler_drops_the_callers_stream(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let (sender, numbers) = mpsc::channel::<u64>(1);
    pair.log.ignore(numbers.into()).await.unwrap();
    timeout(GUARD, sender.closed()).await.unwrap();
    pair.nothing_is_left().await;
}

async fn dropping_the_call_drops_its_streams(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    // Before it is sent, just sent, and under way.
    let (sender, numbers) = mpsc::channel::<u64>(1);
    drop(pair.log.upload(numbers.into()));
    timeout(GUARD, sender.closed()).await.unwrap();
    let (sender, numbers) = mpsc::channel::<u64>(1);
    let mut call = Box::pin(pair.log.upload(numbers.into()));
    assert!(poll_once(call.as_mut()).is_pending());
    drop(call);
    timeout(GUARD, sender.closed()).await.unwrap();
    let (sender, numbers) = mpsc::channel::<u64>(1);
    let call = tokio::spawn(pair.log.upload(numbers.into()));
    for number in 0..10 {
        sender.send(number).await.unwrap();
    }
    call.abort();
    timeout(GUARD, sender.closed()).await.unwrap();
    // An answer with a stream that crosses the cancel, or does not.
    for _ in 0..200 {
        let mut call = Box::pin(pair.log.endless(0));
        let answered = poll_once(call.as_mut());
        tokio::task::yield_now().await;
        drop((call, answered));
    }
    pair.nothing_is_left().await;
}

async fn a_thousand_dropped_streams_leave_nothing(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut streams = Vec::new();
    for number in 0..1000 {
        let mut stream = pair.log.endless(0).await.unwrap();
        match number % 3 {
            0 => {}
            1 => drop(poll_once(std::pin::pin!(stream.next()))),
            _ => drop(stream.next().await),
        }
        streams.push(stream);
    }
    assert_eq!(pair.client.load().streams, 1000);
    drop(streams);
    pair.nothing_is_left().await;
}

async fn what_nobody_reads_is_cancelled(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    drop(pair.log.many(500).await.unwrap());
    pair.nothing_is_left().await;
    if fixture.serializer == crate::fixture::SerializerKind::Json {
        // A call by name has no way to read a stream.
        let error = pair.client.call_dynamic("Log.many", vec![3].into()).await.unwrap_err();
        assert!(error.to_string().contains("a blob or a stream"), "{error}");
        // Nor to send one.
        let error = pair.client.call_dynamic("Log.upload", vec![0].into()).await.unwrap_err();
        assert!(matches!(error, Error::Deserialize { .. }), "{error}");
        pair.nothing_is_left().await;
    }
}

async fn an_error_ends_the_stream(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut lines = pair.log.fail(Failure::Error).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().number, 1);
    assert_eq!(lines.next().await.unwrap().unwrap().number, 2);
    let error = lines.next().await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Fault { message } if message == "the disk is full"), "{error}");
    assert!(lines.next().await.is_none());
    // The same where nothing crosses.
    let mut lines = pair.book.fail(Failure::Error).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().number, 1);
    assert_eq!(lines.next().await.unwrap().unwrap().number, 2);
    assert!(lines.next().await.unwrap().is_err());
    assert!(lines.next().await.is_none());
    // And the other way.
    let items = [Ok(1), Err(Error::fault("no more")), Ok(2)];
    let rows = Streaming::try_new(FromFn({
        let mut items = items.into_iter();
        move || items.next()
    }));
    let error = pair.log.upload(rows).await.unwrap_err();
    assert!(error.to_string().contains("no more"), "{error}");
    pair.nothing_is_left().await;
}

async fn a_panic_ends_the_stream(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut lines = pair.log.fail(Failure::Panic).await.unwrap();
    lines.next().await.unwrap().unwrap();
    lines.next().await.unwrap().unwrap();
    let error = lines.next().await.unwrap().unwrap_err();
    let Error::Panicked { message, .. } = &error else { panic!("{error}") };
    assert_eq!(message, "the disk is on fire");
    assert!(lines.next().await.is_none());
    assert_eq!(pair.log.add(1, 1).await.unwrap(), 2);
    pair.nothing_is_left().await;
}

async fn an_item_that_is_too_large_ends_the_stream(fixture: Arc<Fixture>) {
    let small = |builder: WitClientBuilder| builder.with_max_message_size(1 << 20);
    let pair = Pair::with(&fixture, |builder| builder, small).await;
    let mut lines = pair.log.fail(Failure::TooLarge).await.unwrap();
    lines.next().await.unwrap().unwrap();
    lines.next().await.unwrap().unwrap();
    let error = lines.next().await.unwrap().unwrap_err();
    let Error::TooLarge { size, limit, .. } = &error else { panic!("{error}") };
    assert!(*size > 3 << 20 && *limit == 1 << 20, "{error}");
    assert!(lines.next().await.is_none());
    pair.nothing_is_left().await;
}

/// The same contract, as somebody else remembers it.
mod other {
    use witrpc::prelude::*;

    pub(super) type Line = String;

    #[witrpc::service]
    pub(super) trait Log {
        async fn tail(
            &self,
            from: u64,
            count: u64,
            bytes: usize,
        ) -> witrpc::Result<Streaming<Line>>;
    }
}

async fn an_item_that_does_not_fit_ends_the_stream(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let log: other::LogClient = pair.client.get_service();
    let mut lines = log.tail(1 << 40, 10, 0).await.unwrap();
    let error = lines.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Deserialize { .. }), "{error}");
    assert!(lines.next().await.is_none());
    // It is over, though it has not been dropped.
    pair.nothing_is_left().await;
}

async fn a_stream_cannot_be_sent_twice_or_in_an_item(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut outer = pair.log.nested().await.unwrap();
    let error = outer.next().await.unwrap().unwrap_err();
    let Error::Serialize { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("a stream's item"), "{reason}");
    let stream = Streaming::iter([1_u32]);
    let error = serde_json::to_string(&stream).unwrap_err();
    assert!(error.to_string().contains("witrpc"), "{error}");
    assert!(serde_json::from_str::<Streaming<u32>>("0").is_err());
    pair.nothing_is_left().await;
}

async fn more_than_max_buffered_streams_through(fixture: Arc<Fixture>) {
    let small = |builder: WitServerBuilder| {
        builder.with_max_message_size(100_000).with_max_buffered(100_000)
    };
    let pair = Pair::with(&fixture, small, |builder| {
        builder.with_max_message_size(100_000).with_max_buffered(100_000)
    })
    .await;
    let blobs = (0..200).map(|n| Blob::from(vec![0; n * 450]));
    let sum = (0..200).map(|n| n * 450).sum::<u64>();
    assert_eq!(pair.log.store(Streaming::iter(blobs)).await.unwrap(), sum);
    let mut lines = pair.log.tail(0, 100, 90_000).await.unwrap();
    assert_eq!(collect(&mut lines).await.len(), 100);
    pair.nothing_is_left().await;
}

async fn the_end_is_told_from_the_loss_of_the_connection(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut numbers = pair.log.endless(10).await.unwrap();
    assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
    settles(&pair, 10, || pair.book.polled()).await;
    let (sender, rows) = mpsc::channel::<u64>(1);
    pair.log.keep(rows.into()).await.unwrap();
    let Pair { book, server, client, log } = pair;
    drop(server);
    eventually("the client knows", || !client.is_connected()).await;
    // What has come is read; then there is an error; then nothing.
    for number in 1..10 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), number);
    }
    let error = numbers.next().await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Closed { maybe_executed: true, .. }), "{error}");
    assert!(numbers.next().await.is_none());
    // The other side is told the same, and the streams of both are dropped.
    let mut kept = book.0.kept.lock().unwrap().pop().unwrap();
    let error = kept.next().await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Closed { .. }), "{error}");
    timeout(GUARD, sender.closed()).await.unwrap();
    eventually("the writer is dropped", || book.alive() == 0).await;
    assert!(log.add(1, 1).await.is_err());
    assert_eq!(client.load(), Load::default());
}

async fn a_disconnect_ends_streams_on_both_sides(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let mut numbers = pair.log.endless(1).await.unwrap();
    numbers.next().await.unwrap().unwrap();
    pair.client.disconnect().await;
    let mut last = None;
    while let Some(item) = numbers.next().await {
        last = Some(item);
    }
    let closed = |last| matches!(last, Some(Err(Error::Closed { reason: CloseReason::Local, .. })));
    assert!(closed(last));
    eventually("the writer is dropped", || pair.book.alive() == 0).await;
    // The next connection knows nothing of it.
    pair.client.connect(GUARD).await.unwrap();
    assert_eq!(collect(&mut pair.log.tail(0, 3, 0).await.unwrap()).await.len(), 3);
    assert!(numbers.next().await.is_none());
    drop(numbers);
    pair.nothing_is_left().await;
}

async fn a_stream_outlives_its_call_and_its_handle(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let (sender, rows) = mpsc::channel::<u64>(1);
    pair.log.keep(rows.into()).await.unwrap();
    let mut kept = pair.book.0.kept.lock().unwrap().pop().unwrap();
    for number in 0..20 {
        sender.send(number).await.unwrap();
        assert_eq!(kept.next().await.unwrap().unwrap(), number);
    }
    drop((sender, kept));
    // Who reads keeps the connection, as a subscription does.
    let mut lines = pair.log.tail(0, 1000, 0).await.unwrap();
    let Pair { book, server, client, log } = pair;
    drop((client, log));
    assert_eq!(collect(&mut lines).await.len(), 1000);
    drop(lines);
    eventually("the client is gone", || server.client_count() == 0).await;
    assert_eq!(book.alive(), 0);
}

async fn a_deadline_is_the_calls_and_not_the_streams(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let (sender, rows) = mpsc::channel::<u64>(1);
    let hasty = pair.log.with_timeout(Duration::from_millis(300));
    let mut echoed = hasty.echo(rows.into()).await.unwrap();
    let late = hasty.wait().await.unwrap_err();
    assert!(is_late(&late), "{late}");
    sender.send(7).await.unwrap();
    assert_eq!(echoed.next().await.unwrap().unwrap(), 7);
    drop(echoed);
    // But a handler that is late is dropped, and what it reads with it.
    let (sender, rows) = mpsc::channel::<u64>(1);
    let late = hasty.upload(rows.into()).await.unwrap_err();
    assert!(is_late(&late), "{late}");
    timeout(GUARD, sender.closed()).await.unwrap();
    pair.nothing_is_left().await;
}

async fn a_stream_knows_its_caller(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let process = fixture.has_processes().then(std::process::id);
    let log = pair.log.with_timeout(GUARD);
    let looks = collect(&mut log.context().await.unwrap()).await;
    assert_eq!(looks, [(process, false); 3]);
    // A caller's own stream answers no call.
    let rows = Streaming::iter((0..3).map(|_| u64::from(CallContext::try_current().is_some())));
    assert_eq!(pair.log.upload(rows).await.unwrap(), 0);
}

async fn a_call_with_a_stream_is_not_repeated(fixture: Arc<Fixture>) {
    let policy =
        |policy: RetryPolicy| policy.with_attempts(5).with_fixed_delay(Duration::from_millis(1));
    let set = |builder: WitClientBuilder| builder.with_retry_policy(policy);
    let pair = Pair::with(&fixture, |builder| builder, set).await;
    pair.client.disconnect().await;
    let (sender, rows) = mpsc::channel::<u64>(1);
    let error = pair.log.upload(rows.into()).await.unwrap_err();
    assert!(matches!(error, Error::NotConnected { .. }), "{error}");
    assert!(sender.is_closed());
    assert_eq!(pair.book.0.calls.load(Ordering::SeqCst), 0);
}

async fn too_many_streams_are_refused(fixture: Arc<Fixture>) {
    let pair = Pair::new(&fixture).await;
    let kept = pair.log.many(60_000).await.unwrap();
    let error = pair.log.many(6000).await.unwrap_err();
    assert!(error.to_string().contains("65535 streams"), "{error}");
    let mut more = pair.log.many(5535).await.unwrap();
    assert_eq!(collect(&mut more[5534]).await, [1, 2]);
    drop((kept, more));
    pair.nothing_is_left().await;
    let streams = || (0..65_536).map(|_| Streaming::iter([1])).collect();
    let lines = Lines { title: String::new(), parts: streams(), rest: None };
    let error = pair.log.lines(lines).await.unwrap_err();
    assert!(
        matches!(&error, Error::Serialize { reason, .. } if reason.contains("65535")),
        "{error}"
    );
    assert_eq!(pair.log.add(1, 1).await.unwrap(), 2);
    pair.nothing_is_left().await;
}

async fn streams_cross_in_calls_back(fixture: Arc<Fixture>) {
    let serve = |builder: WitClientBuilder| builder.with_service(LogServer::new(Book::default()));
    let pair = Pair::with(&fixture, |builder| builder, serve).await;
    assert_eq!(pair.log.back(1000).await.unwrap(), (499_500, 999_000));
    pair.nothing_is_left().await;
}
