//! Memory that is lent: what crosses as a reference, who sees which bytes, and that all of it comes back.
//!
//! Each test runs over transports whose receivers read in place, whose receivers copy, and over an encrypted connection, where nothing is lent and
//! the same program runs.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use witrpc::transport::memory::MemoryTransport;
use witrpc::{
    Blob, CallContext, CloseReason, Error, Event, Load, Loan, Streaming, WitClient, WitServer,
};

use crate::fixture::{
    Fixture, Flavor, GUARD, Security, SerializerKind, block_on, eventually, poll_once,
};
use crate::lifetimes::outside;

/// How loans cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    InPlace,
    Copied,
    Encrypted,
}

/// What each side can lend.
const ARENA: usize = 1 << 20;

impl Mode {
    const ALL: [Self; 3] = [Self::InPlace, Self::Copied, Self::Encrypted];

    fn fixture(self) -> Fixture {
        let transport = MemoryTransport::new().with_lending(ARENA as u64);
        let security = if self == Self::Encrypted { Security::Encrypted } else { Security::None };
        let transport =
            if self == Self::Copied { transport.with_copied_loans() } else { transport };
        Fixture::over(transport).secured(security)
    }

    /// Whether what was read is where it was written. What is not lent may have been freed there before.
    fn is_where_expected(self, is_same: bool) {
        assert!(self == Self::Encrypted || is_same == (self == Self::InPlace), "{self:?}");
    }

    fn lends(self) -> bool {
        self != Self::Encrypted
    }
}

/// Runs a test in each mode, with each serializer.
fn in_each_mode(test: impl AsyncFn(Mode, &Fixture)) {
    for mode in Mode::ALL {
        for serializer in
            [SerializerKind::Json, SerializerKind::MessagePack, SerializerKind::Postcard]
        {
            let fixture = mode.fixture().with(serializer);
            block_on(Flavor::MultiThread, test(mode, &fixture));
        }
    }
}

/// A value that a format must read twice, if it tries its variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Picture {
    Empty,
    Pixels { width: u32, pixels: Blob, mask: Option<Blob> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Torn {
    Left(Blob),
    Witrpc(String),
}

impl From<Error> for Torn {
    fn from(error: Error) -> Self {
        Self::Witrpc(error.to_string())
    }
}

/// The address and the sum of the bytes that a side saw.
pub(crate) type Seen = (u64, u64);

#[witrpc::service]
pub(crate) trait Studio {
    /// What it saw of each.
    async fn look(&self, blobs: Vec<Blob>) -> witrpc::Result<Vec<Seen>>;
    async fn look_at_picture(&self, picture: Picture) -> witrpc::Result<Seen>;
    async fn echo(&self, blob: Blob) -> witrpc::Result<Blob>;
    /// Of memory that the server has lent: the bytes, and what it saw of them.
    async fn render(&self, len: usize, with: u8) -> witrpc::Result<(Blob, Seen)>;
    async fn tear(&self, len: usize) -> Result<(), Torn>;
    async fn frames(&self, count: u8, len: usize) -> witrpc::Result<Streaming<Blob>>;
    async fn raise(&self, len: usize, with: u8) -> witrpc::Result<Seen>;
    #[event]
    fn raised(&self) -> &Event<Blob>;
    async fn keep(&self, blob: Blob) -> witrpc::Result<()>;
    /// Never answers, and holds the blob meanwhile.
    async fn hang(&self, blob: Blob) -> witrpc::Result<()>;
}

#[derive(Clone, Default)]
pub(crate) struct Painter {
    kept: Arc<Mutex<VecDeque<Blob>>>,
    raised: Event<Blob>,
}

pub(crate) fn seen(bytes: &[u8]) -> Seen {
    (bytes.as_ptr().addr() as u64, bytes.iter().map(|byte| u64::from(*byte)).sum())
}

impl Painter {
    /// How many blobs it has kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    /// Drops what it has kept; its bytes.
    pub(crate) fn let_go(&self) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap().drain(..).map(|blob| blob.to_vec()).collect()
    }

    async fn paint(len: usize, with: u8) -> witrpc::Result<Blob> {
        let mut loan = CallContext::current().lend(len).await?;
        loan.fill(with);
        Ok(loan.freeze())
    }
}

impl Studio for Painter {
    async fn look(&self, blobs: Vec<Blob>) -> witrpc::Result<Vec<Seen>> {
        Ok(blobs.iter().map(|blob| seen(blob)).collect())
    }

    async fn look_at_picture(&self, picture: Picture) -> witrpc::Result<Seen> {
        match picture {
            Picture::Empty => Ok((0, 0)),
            Picture::Pixels { pixels, .. } => Ok(seen(&pixels)),
        }
    }

    async fn echo(&self, blob: Blob) -> witrpc::Result<Blob> {
        Ok(blob)
    }

    async fn render(&self, len: usize, with: u8) -> witrpc::Result<(Blob, Seen)> {
        let blob = Self::paint(len, with).await?;
        let seen = seen(&blob);
        Ok((blob, seen))
    }

    async fn tear(&self, len: usize) -> Result<(), Torn> {
        Err(Torn::Left(Self::paint(len, 3).await?))
    }

    async fn frames(&self, count: u8, len: usize) -> witrpc::Result<Streaming<Blob>> {
        let mut frames = Vec::new();
        for number in 0..count {
            frames.push(Self::paint(len, number).await?);
        }
        Ok(Streaming::iter(frames))
    }

    async fn raise(&self, len: usize, with: u8) -> witrpc::Result<Seen> {
        let blob = Self::paint(len, with).await?;
        let seen = seen(&blob);
        self.raised.raise(blob)?;
        Ok(seen)
    }

    fn raised(&self) -> &Event<Blob> {
        &self.raised
    }

    async fn keep(&self, blob: Blob) -> witrpc::Result<()> {
        self.kept.lock().unwrap().push_back(blob);
        Ok(())
    }

    async fn hang(&self, _blob: Blob) -> witrpc::Result<()> {
        std::future::pending().await
    }
}

struct Studios {
    server: WitServer,
    client: WitClient,
    studio: StudioClient,
    painter: Painter,
}

impl Studios {
    async fn open(fixture: &Fixture) -> Self {
        let painter = Painter::default();
        let server = fixture.server_builder().with_service(StudioServer::new(painter.clone()));
        let server = server.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        let studio = client.get_service::<StudioClient>().with_timeout(GUARD);
        Self { server, client, studio, painter }
    }

    /// All memory has come back, on both sides.
    async fn is_back(&self) {
        let idle = |load: Load| load.memory.lent == 0 && load.memory.borrowed == 0;
        eventually("the client's memory comes back", || idle(self.client.load())).await;
        eventually("the server's comes back", || self.server.load().into_iter().all(idle)).await;
        // All of it, in one piece.
        drop(self.client.try_lend(ARENA).unwrap());
    }

    async fn painted(&self, len: usize, with: u8) -> Blob {
        let mut loan: Loan = self.client.lend(len).await.unwrap();
        assert_eq!((loan.len(), loan.as_ptr().align_offset(64)), (len, 0));
        loan.fill(with);
        loan.freeze()
    }
}

#[test]
fn what_is_lent_is_read_where_it_was_written_or_copied_once() {
    in_each_mode(async |mode, fixture| {
        let studios = Studios::open(fixture).await;
        let studio = &studios.studio;
        // In arguments, beside blobs that are not lent.
        let lent = [studios.painted(1000, 1).await, studios.painted(70_000, 2).await];
        let plain = Blob::from(vec![3; 5]);
        let blobs = vec![lent[0].clone(), plain, Blob::new(), lent[1].slice(10..60_010)];
        let at: Vec<_> = blobs.iter().map(|blob| seen(blob)).collect();
        let there = studio.look(blobs).await.unwrap();
        assert_eq!(there.iter().map(|seen| seen.1).collect::<Vec<_>>(), [1000, 15, 0, 120_000]);
        for index in [0, 3] {
            assert_eq!(there[index].0 == at[index].0, mode == Mode::InPlace, "{index}");
        }
        let [pixels, mask] = lent;
        let at = seen(&pixels);
        let picture = Picture::Pixels { width: 1, pixels, mask: Some(mask) };
        let there = studio.look_at_picture(picture).await.unwrap();
        assert_eq!((there.1, there == at), (1000, mode == Mode::InPlace));
        // In results, errors, events and streams.
        let (blob, at) = studio.render(50_000, 2).await.unwrap();
        assert_eq!(seen(&blob).1, 100_000);
        mode.is_where_expected(seen(&blob) == at);
        drop(blob);
        let Err(Torn::Left(left)) = studio.tear(5000).await else { panic!("it was not torn") };
        assert_eq!(seen(&left).1, 15_000);
        drop(left);
        let mut raised = studio.raised().subscribe();
        let at = studio.raise(40_000, 4).await.unwrap();
        let blob = raised.next().await.unwrap().unwrap();
        assert_eq!(seen(&blob).1, 160_000);
        mode.is_where_expected(seen(&blob) == at);
        drop((blob, raised));
        let mut frames = studio.frames(10, 30_000).await.unwrap();
        for number in 0..10 {
            assert_eq!(seen(&frames.next().await.unwrap().unwrap()).1, 30_000 * number);
        }
        assert!(frames.next().await.is_none());
        studios.is_back().await;
    });
}

#[test]
fn what_comes_back_is_the_lenders_own_memory() {
    in_each_mode(async |mode, fixture| {
        let studios = Studios::open(fixture).await;
        let blob = studios.painted(100_000, 7).await;
        let back = studios.studio.echo(blob.slice(1000..)).await.unwrap();
        assert_eq!(back, blob.slice(1000..));
        let same = back.as_ptr() == blob[1000..].as_ptr();
        assert_eq!(same, mode == Mode::InPlace, "a receiver that copies sends its copy");
        drop(blob);
        assert_eq!(seen(&back).1, 7 * 99_000);
        if mode == Mode::InPlace {
            let still_lent = studios.client.try_lend(ARENA).unwrap_err();
            assert!(still_lent.to_string().contains("are out"), "{still_lent}");
        }
        drop(back);
        studios.is_back().await;
        // The other way round: a blob of the server's that comes back to it.
        let (blob, at) = studios.studio.render(100_000, 1).await.unwrap();
        let there = studios.studio.look(vec![blob.clone(), blob]).await.unwrap();
        assert_eq!(there.iter().map(|seen| seen.1).collect::<Vec<_>>(), [100_000; 2]);
        assert_eq!(there.iter().all(|seen| *seen == at), mode == Mode::InPlace);
        studios.is_back().await;
    });
}

#[test]
fn lent_bytes_do_not_count_as_bytes_of_a_message() {
    const MOST: u64 = 64 << 10;
    for mode in Mode::ALL {
        let fixture = mode.fixture();
        block_on(Flavor::MultiThread, async {
            let server = fixture.server_builder();
            let server = server.with_service(StudioServer::new(Painter::default()));
            let server = server.with_max_message_size(MOST).with_max_buffered(2 * MOST);
            let server = server.build().unwrap();
            server.start_waiting_for_connection().await.unwrap();
            let client = fixture.client_builder().with_max_message_size(MOST);
            let client = client.with_max_buffered(2 * MOST).build().unwrap();
            client.connect(GUARD).await.unwrap();
            let studio = client.get_service::<StudioClient>().with_timeout(GUARD);
            for len in [ARENA, ARENA / 2, 100_000] {
                let blob = client.lend(len).await.unwrap().freeze();
                let looked = studio.look(vec![blob]).await;
                let rendered = studio.render(len, 1).await;
                if mode.lends() {
                    assert_eq!(looked.unwrap().len(), 1);
                    let (blob, _) = rendered.unwrap();
                    assert_eq!(blob.len(), len);
                    drop(blob);
                    let mut raised = studio.raised().subscribe();
                    studio.raise(len, 1).await.unwrap();
                    assert_eq!(raised.next().await.unwrap().unwrap().len(), len);
                    let mut frames = studio.frames(1, len).await.unwrap();
                    assert_eq!(frames.next().await.unwrap().unwrap().len(), len);
                } else {
                    assert!(matches!(looked, Err(Error::TooLarge { .. })), "{looked:?}");
                    assert!(matches!(rendered, Err(Error::TooLarge { .. })), "{rendered:?}");
                }
            }
        });
    }
}

#[test]
fn whatever_becomes_of_a_message_its_memory_comes_back() {
    in_each_mode(async |mode, fixture| {
        let studios = Studios::open(fixture).await;
        let studio = &studios.studio;
        // A loan that is dropped, a blob that is not sent, a call that is not polled.
        drop(studios.client.lend(ARENA).await.unwrap());
        drop(studios.painted(ARENA, 1).await);
        drop(studio.look(vec![studios.painted(ARENA, 1).await]));
        studios.is_back().await;
        // A call that is cancelled after it has left.
        for _ in 0..3 {
            let mut hanging = pin!(studio.hang(studios.painted(10_000, 1).await));
            assert!(poll_once(hanging.as_mut()).is_pending());
            let busy = || studios.server.load().iter().any(|load| load.handlers == 1);
            eventually("the handler has it", busy).await;
            // Also if that has a copy, as there are no more copies than can be lent.
            let borrowed = studios.server.load()[0].memory.borrowed;
            assert_eq!(borrowed, if mode.lends() { 10_000 } else { 0 });
        }
        studios.is_back().await;
        // Responses, events and items that nobody takes.
        let mut render = Box::pin(studio.render(10_000, 1));
        drop(poll_once(render.as_mut()));
        drop(render);
        drop(studio.raised().subscribe());
        let raised = studio.raised().subscribe();
        studio.raise(10_000, 1).await.unwrap();
        drop(raised);
        let mut frames = studio.frames(20, 10_000).await.unwrap();
        drop(frames.next().await.unwrap().unwrap());
        drop(frames);
        // An argument that is not read, and a call that is refused.
        let error = studio.with_timeout(Duration::from_nanos(1)).hang(studios.painted(9, 1).await);
        error.await.unwrap_err();
        studios.is_back().await;
    });
}

/// Also those of which only a part was sent.
#[test]
fn calls_that_are_dropped_half_way_give_their_memory_back() {
    for mode in Mode::ALL {
        let fixture = mode.fixture();
        block_on(Flavor::CurrentThread, async {
            let studios = Studios::open(&fixture).await;
            let studio = &studios.studio;
            for round in 0..60 {
                let blobs = vec![
                    studios.painted(5000, 1).await,
                    Blob::from(vec![2; 1_000_000]),
                    studios.painted(5000, 3).await,
                ];
                let mut look = Box::pin(studio.look(blobs));
                // So far as it comes.
                for _ in 0..round % 20 {
                    if poll_once(look.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(look);
                if round % 20 == 0 {
                    studios.is_back().await;
                }
            }
            studios.is_back().await;
            assert_eq!(studio.look(vec![studios.painted(10, 1).await]).await.unwrap()[0].1, 10);
        });
    }
}

#[test]
fn lending_waits_in_line_until_memory_comes_back() {
    for mode in [Mode::InPlace, Mode::Encrypted] {
        let fixture = mode.fixture();
        block_on(Flavor::MultiThread, async {
            let studios = Studios::open(&fixture).await;
            let client = &studios.client;
            let first = client.lend(ARENA).await.unwrap();
            let error = client.try_lend(1).unwrap_err();
            let Error::Limit { maybe_executed: false, .. } = &error else { panic!("{error}") };
            assert!(error.to_string().contains("with_lending"), "{error}");
            assert!(client.load().memory.lent >= ARENA as u64);
            let too_much = client.lend(ARENA + 1).await.unwrap_err();
            assert!(matches!(too_much, Error::Limit { .. }), "it would wait for ever: {too_much}");
            let (mut large, mut small) = (pin!(client.lend(ARENA)), pin!(client.lend(10)));
            assert!(poll_once(large.as_mut()).is_pending());
            assert!(poll_once(small.as_mut()).is_pending());
            drop(first);
            let large = large.await.unwrap();
            assert!(poll_once(small.as_mut()).is_pending(), "it is behind");
            drop(large);
            drop(small.await.unwrap());
            // One that gives up makes way.
            let held = client.lend(ARENA).await.unwrap();
            let mut gives_up = Box::pin(client.lend(ARENA));
            assert!(poll_once(gives_up.as_mut()).is_pending());
            drop((gives_up, held));
            assert_eq!(client.lend(ARENA).await.unwrap().len(), ARENA);
            assert_eq!(client.lend(0).await.unwrap().freeze(), Blob::new());
        });
    }
    // What the peer keeps is out, too.
    let fixture = Mode::InPlace.fixture();
    block_on(Flavor::MultiThread, async {
        let studios = Studios::open(&fixture).await;
        studios.studio.keep(studios.painted(ARENA, 1).await).await.unwrap();
        let mut waits = pin!(studios.client.lend(1));
        assert!(poll_once(waits.as_mut()).is_pending());
        assert_eq!(studios.server.load()[0].memory.borrowed, ARENA as u64);
        studios.painter.kept.lock().unwrap().clear();
        drop(waits.await.unwrap());
        studios.is_back().await;
    });
}

#[test]
fn lending_waits_also_where_there_is_no_runtime() {
    let fixture = Mode::InPlace.fixture();
    block_on(Flavor::MultiThread, async {
        let studios = Studios::open(&fixture).await;
        let held = studios.client.lend(ARENA).await.unwrap();
        let (client, (waits, waiting)) = (studios.client.clone(), tokio::sync::oneshot::channel());
        let waiter = std::thread::spawn(move || {
            outside(async {
                let mut lending = pin!(client.lend(ARENA));
                assert!(poll_once(lending.as_mut()).is_pending());
                waits.send(()).unwrap();
                lending.await.unwrap().len()
            })
        });
        waiting.await.unwrap();
        drop(held);
        let joined = tokio::task::spawn_blocking(|| waiter.join().unwrap());
        assert_eq!(joined.await.unwrap(), ARENA);
    });
}

#[test]
fn what_was_borrowed_outlives_its_connection() {
    in_each_mode(async |_, fixture| {
        let studios = Studios::open(fixture).await;
        studios.studio.keep(studios.painted(100_000, 5).await).await.unwrap();
        let mine = studios.painted(1000, 6).await;
        let (rendered, _) = studios.studio.render(1000, 7).await.unwrap();
        let loan = studios.client.lend(10).await.unwrap();
        let held = studios.client.lend(ARENA - 200_000).await.unwrap();
        let mut waiting = pin!(studios.client.lend(ARENA));
        assert!(poll_once(waiting.as_mut()).is_pending());
        studios.client.disconnect().await;
        let error = waiting.await.unwrap_err();
        let Error::Closed { reason: CloseReason::Local, .. } = &error else { panic!("{error}") };
        drop(held);
        let error = studios.client.lend(1).await.unwrap_err();
        assert!(matches!(error, Error::NotConnected { .. }), "{error}");
        eventually("it has ended", || studios.server.load().is_empty()).await;
        assert_eq!(seen(&studios.painter.kept.lock().unwrap()[0]).1, 500_000);
        assert_eq!((seen(&mine).1, seen(&rendered).1), (6000, 7000));
        // On another connection they are copied.
        studios.client.connect(GUARD).await.unwrap();
        let loan = loan.freeze();
        let there = studios.studio.look(vec![mine, rendered, loan]).await.unwrap();
        assert_eq!([there[0].1, there[1].1], [6000, 7000]);
        let kept = studios.painter.kept.lock().unwrap().pop_front().unwrap();
        assert_eq!(studios.studio.echo(kept.clone()).await.unwrap(), kept);
        drop(kept);
        studios.is_back().await;
    });
}

/// More references than a message has room for, and more bytes than may be out: the rest is copied.
#[test]
fn what_cannot_be_lent_any_more_is_copied() {
    in_each_mode(async |mode, fixture| {
        let studios = Studios::open(fixture).await;
        let blob = studios.painted(5000, 1).await;
        let there = studios.studio.look(vec![blob.clone(); 3000]).await.unwrap();
        assert!(there.iter().all(|seen| seen.1 == 5000));
        let in_place = there.iter().filter(|seen| seen.0 == blob.as_ptr().addr() as u64).count();
        let most = if mode == Mode::InPlace { ARENA / 5000 } else { 0 };
        assert_eq!(in_place, most);
        drop(blob);
        studios.is_back().await;
    });
}

#[test]
fn a_call_that_may_be_retried_lends_too() {
    for mode in Mode::ALL {
        let fixture = mode.fixture();
        block_on(Flavor::MultiThread, async {
            let painter = Painter::default();
            let server = fixture.server_builder().with_service(StudioServer::new(painter));
            let server = server.with_max_message_size(64 << 10).build().unwrap();
            server.start_waiting_for_connection().await.unwrap();
            let client = fixture.client_builder().with_retry_policy(|policy| policy);
            let client = client.build().unwrap();
            client.connect(GUARD).await.unwrap();
            let studio = client.get_service::<StudioClient>().with_timeout(GUARD);
            let mut loan = client.lend(100_000).await.unwrap();
            loan.fill(1);
            let blob = loan.freeze();
            let looked = studio.look(vec![blob.clone()]).await;
            if mode.lends() {
                let there = looked.unwrap();
                assert_eq!(there[0].1, 100_000);
                assert_eq!(there[0] == seen(&blob), mode == Mode::InPlace);
            } else {
                assert!(matches!(looked, Err(Error::TooLarge { .. })));
            }
        });
    }
}

#[test]
fn a_transport_that_lends_nothing_says_what_to_do() {
    let fixture = Fixture::memory();
    block_on(Flavor::MultiThread, async {
        let studios = Studios::open(&fixture).await;
        let error = studios.client.lend(1).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("with_lending"), "{error}");
        let there = studios.studio.render(1, 1).await.unwrap_err();
        assert!(there.to_string().contains("with_lending"), "{there}");
    });
}
