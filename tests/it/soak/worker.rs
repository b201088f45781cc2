//! The clients of the soak test: random operations, each with its result checked.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use witrpc::prelude::*;
use witrpc::{ClientState, CloseReason, Error, Load};

use super::service::{Beat, Bottom, GroundServer, SoakClient, filler, pattern};
use super::{CLIENTS, Command, Counts, Plan, Vitals};
use crate::fixture::{GUARD, eventually, is_late};
use crate::peer::{Stage, sum};
use crate::system::descriptors;

/// Tasks that call, for each client.
const TASKS: u32 = 3;
/// The longest pause between two operations of a task.
const PAUSE_MILLIS: u64 = 25;
/// No operation takes this long on any machine.
const HANGS: Duration = Duration::from_secs(30);

/// Why an operation gave no result.
enum Trouble {
    /// Its connection was ended, by us or by a restart of the server.
    Interrupted,
    /// What may not be.
    Odd(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if is_interruption(&error) { Self::Interrupted } else { Self::Odd(error.to_string()) }
    }
}

fn is_interruption(error: &Error) -> bool {
    match error {
        Error::NotConnected { .. } => true,
        Error::Closed { reason, .. } => is_deliberate(reason),
        _ => false,
    }
}

fn is_deliberate(reason: &CloseReason) -> bool {
    match reason {
        CloseReason::Local => true,
        CloseReason::Peer(farewell) => farewell.starts_with("the server "),
        _ => false,
    }
}

/// What all tasks of a process share.
struct Shared {
    counts: Mutex<Counts>,
    worker: u32,
    /// Sums that were answered, and those that may have been executed and were not.
    answered: AtomicU64,
    uncertain: AtomicU64,
    stopped: watch::Receiver<bool>,
}

impl Shared {
    fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.counts.lock().unwrap());
    }

    fn odd(&self, text: String) {
        eprintln!("soak: worker {}: {text}", self.worker);
        self.count(|counts| counts.anomalies.push(text));
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        drop(stopped.wait_for(|stopped| *stopped).await);
    }
}

/// A child with clients.
pub(crate) async fn work(mut stage: Stage) {
    let plan: Plan = stage.hear().await.unwrap();
    let mut rng = fastrand::Rng::with_seed(plan.seed ^ u64::from(plan.worker + 1) << 32);
    let before = descriptors();
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared {
        counts: Mutex::default(),
        worker: plan.worker,
        answered: AtomicU64::new(0),
        uncertain: AtomicU64::new(0),
        stopped,
    });
    let mut tasks = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = client(&plan, &shared);
        connected(&client, &shared).await;
        for _ in 0..TASKS {
            tasks.spawn(Caller::new(&client, &shared, &mut rng).run());
        }
        tasks.spawn(listen(client.get_service(), Arc::clone(&shared), rng.fork()));
        tasks.spawn(reconnect(client.clone(), Arc::clone(&shared), rng.fork()));
        clients.push(client);
    }
    let vitals = |held| Vitals::measure(held, shared.counts.lock().unwrap().clone());
    stage.tell(&vitals(0));
    while let Some(command) = stage.hear().await {
        if matches!(command, Command::Stop) {
            stop.send_replace(true);
            while let Some(ended) = timeout(GUARD, tasks.join_next()).await.expect("a task hangs") {
                ended.unwrap();
            }
            let soak: SoakClient = clients[0].get_service();
            sums_add_up(&soak, &shared).await;
            for client in clients.drain(..) {
                eventually("nothing is held", || client.load() == Load::default()).await;
                client.disconnect().await;
            }
            drop(soak);
            eventually("all descriptors are closed", || descriptors() == before).await;
        }
        stage.tell(&vitals(clients.iter().map(|client| sum(&client.load())).sum()));
    }
}

fn client(plan: &Plan, shared: &Arc<Shared>) -> WitClient {
    let builder = WitClientBuilder::new();
    let builder = if plan.encrypted { builder.with_encryption() } else { builder };
    let shared = Arc::clone(shared);
    builder
        .with_memory_mapped_file(plan.file(&plan.directory))
        .with_service(GroundServer::new(Bottom))
        .with_auto_reconnect(|options| {
            options
                .with_initial_delay(Duration::from_millis(1))
                .with_max_delay(Duration::from_millis(50))
                .with_callback(move |state| {
                    if state == (ClientState::Reconnecting { attempt: 1 }) {
                        shared.count(|counts| counts.lost += 1);
                    }
                })
        })
        .build()
        .unwrap()
}

/// Connects, however often the server is restarted meanwhile.
async fn connected(client: &WitClient, shared: &Shared) {
    let deadline = Instant::now() + HANGS;
    while let Err(error) = client.connect(HANGS).await {
        if Instant::now() > deadline {
            return shared.odd(format!("never connected: {error}"));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Every sum that was answered was executed, and none twice.
async fn sums_add_up(soak: &SoakClient, shared: &Shared) {
    let deadline = Instant::now() + HANGS;
    let executed = loop {
        match soak.executed(shared.worker).await {
            Ok(executed) => break executed,
            // The server may have been restarted just now.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(5)).await;
    };
    let answered = shared.answered.load(Ordering::SeqCst);
    let most = answered + shared.uncertain.load(Ordering::SeqCst);
    if !(answered..=most).contains(&executed) {
        shared.odd(format!("{executed} sums were executed, not {answered} to {most}"));
    }
}

/// One task that calls.
struct Caller {
    client: WitClient,
    soak: SoakClient,
    shared: Arc<Shared>,
    rng: fastrand::Rng,
}

impl Caller {
    fn new(client: &WitClient, shared: &Arc<Shared>, rng: &mut fastrand::Rng) -> Self {
        let soak = client.get_service();
        Self { client: client.clone(), soak, shared: Arc::clone(shared), rng: rng.fork() }
    }

    async fn run(mut self) {
        while !self.shared.is_stopped() {
            match timeout(HANGS, self.operate()).await {
                Ok(Ok(())) => self.shared.count(|counts| counts.calls += 1),
                Ok(Err(Trouble::Interrupted)) => {
                    self.shared.count(|counts| counts.interrupted += 1);
                    let mut state = self.client.state();
                    let connected = state.wait_for(|state| *state == ClientState::Connected);
                    if timeout(HANGS, connected).await.is_err() {
                        self.shared.odd("it does not connect again".to_owned());
                    }
                }
                Ok(Err(Trouble::Odd(text))) => self.shared.odd(text),
                Err(_) => self.shared.odd("an operation hangs".to_owned()),
            }
            sleep(Duration::from_millis(self.rng.u64(0..PAUSE_MILLIS))).await;
        }
    }

    async fn operate(&mut self) -> Result<(), Trouble> {
        match self.rng.u32(0..100) {
            0..42 => self.sum().await,
            42..46 => self.mirror().await,
            46..52 => self.nap().await,
            52..59 => self.download().await,
            59..66 => self.upload().await,
            66..72 => self.descend().await,
            72..88 => self.cancel().await,
            88..96 => self.deadline().await,
            _ => self.fault().await,
        }
    }

    async fn sum(&mut self) -> Result<(), Trouble> {
        // Now and then more than a chunk.
        let most = if self.rng.u32(0..20) == 0 { 20_000 } else { 50 };
        let values: Vec<_> = (0..self.rng.usize(0..most)).map(|_| self.rng.u64(..)).collect();
        let expected = values.iter().copied().fold(0, u64::wrapping_add);
        let patience = if self.rng.u32(0..8) == 0 { self.rng.u64(0..1500) } else { u64::MAX / 4 };
        let soak = self.soak.with_timeout(HANGS);
        let answer = within_micros(patience, soak.sum(self.shared.worker, values)).await;
        match answer {
            Some(Ok(sum)) => {
                self.shared.answered.fetch_add(1, Ordering::SeqCst);
                is(&sum, &expected)
            }
            Some(Err(error)) => {
                self.shared.uncertain.fetch_add(1, Ordering::SeqCst);
                Err(error.into())
            }
            None => {
                self.shared.uncertain.fetch_add(1, Ordering::SeqCst);
                self.shared.count(|counts| counts.cancels += 1);
                Ok(())
            }
        }
    }

    async fn mirror(&mut self) -> Result<(), Trouble> {
        let len = 1 << self.rng.u32(10..22);
        let (len, seed) = (self.rng.usize(len / 2..len), self.rng.u64(..));
        let answer = self.soak.mirror(pattern(seed, len).into(), seed).await?;
        self.shared.count(|counts| counts.blob_bytes += 2 * len as u64);
        if *answer == pattern(seed.wrapping_add(1), len)[..] {
            return Ok(());
        }
        Err(Trouble::Odd("a blob was damaged on its way back".to_owned()))
    }

    async fn nap(&mut self) -> Result<(), Trouble> {
        let token = self.rng.u64(..);
        let answer = self.soak.nap(self.rng.u64(0..20), token).await?;
        is(&answer, &token)
    }

    /// A stream of the server's, of which it may read a part only.
    async fn download(&mut self) -> Result<(), Trouble> {
        let (first, count) = (self.rng.u64(0..1 << 40), self.rng.u64(0..600));
        let read = if self.rng.bool() { count } else { self.rng.u64(0..=count) };
        let mut beats = self.soak.download(first, count).await?;
        for number in first..first + read {
            match beats.next().await {
                Some(Ok(beat)) if beat.is(number) => self.shared.count(|counts| counts.items += 1),
                Some(Ok(beat)) => {
                    return Err(Trouble::Odd(format!("item {}, not {number}", beat.number)));
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Trouble::Odd(format!("no item {number}"))),
            }
        }
        if read == count && beats.next().await.is_some() {
            return Err(Trouble::Odd("more items than there are".to_owned()));
        }
        Ok(())
    }

    /// A stream of its own, which it may give up.
    async fn upload(&mut self) -> Result<(), Trouble> {
        let (first, count) = (self.rng.u64(0..1 << 40), self.rng.u64(0..600));
        let patience = if self.rng.u32(0..3) == 0 { self.rng.u64(0..5000) } else { u64::MAX / 4 };
        let beats = Streaming::iter((first..first + count).map(Beat::new));
        match within_micros(patience, self.soak.upload(first, beats)).await {
            Some(uploaded) => {
                is(&uploaded?, &count)?;
                self.shared.count(|counts| counts.items += count);
            }
            None => self.shared.count(|counts| counts.cancels += 1),
        }
        Ok(())
    }

    /// A call within a call, and so on.
    async fn descend(&mut self) -> Result<(), Trouble> {
        let (depth, token) = (self.rng.u32(1..8), self.rng.u64(..));
        match self.soak.descend(depth, token).await {
            Ok(answer) => {
                is(&answer, &token.wrapping_add(u64::from(depth)))?;
                self.shared.count(|counts| counts.nested += u64::from(depth));
                Ok(())
            }
            // A call that it is made of was interrupted, and that was answered before the connection had ended.
            Err(Error::Fault { message }) if message.contains("the connection is closed") => {
                Err(Trouble::Interrupted)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A call that is dropped: while it is sent, while it runs, or while its answer is on its way.
    async fn cancel(&mut self) -> Result<(), Trouble> {
        let patience = self.rng.u64(0..5000);
        let len = self.rng.usize(..4 << 20);
        let answered = match self.rng.u32(0..8) {
            0 => within_micros(patience, self.soak.mirror(vec![0; len].into(), 0)).await.map(drop),
            1..4 => within_micros(patience, self.soak.nap(patience / 1000, 0)).await.map(drop),
            _ => within_micros(patience, self.soak.rest()).await.map(drop),
        };
        if answered.is_none() {
            self.shared.count(|counts| counts.cancels += 1);
        }
        Ok(())
    }

    async fn deadline(&mut self) -> Result<(), Trouble> {
        let soak = self.soak.with_timeout(Duration::from_millis(self.rng.u64(1..30)));
        match soak.rest().await {
            Err(error) if is_late(&error) => {
                self.shared.count(|counts| counts.deadlines += 1);
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => Err(Trouble::Odd("an answer of what never answers".to_owned())),
        }
    }

    async fn fault(&mut self) -> Result<(), Trouble> {
        let text = format!("fault {}", self.rng.u64(..));
        match self.soak.fails(text.clone()).await {
            Err(Error::Fault { message }) => is(&message, &text),
            Err(error) => Err(error.into()),
            Ok(()) => Err(Trouble::Odd("a fault was lost".to_owned())),
        }
    }
}

fn is<T: PartialEq + std::fmt::Debug>(answer: &T, expected: &T) -> Result<(), Trouble> {
    if answer == expected {
        return Ok(());
    }
    Err(Trouble::Odd(format!("{answer:?}, not {expected:?}")))
}

/// `None` if it was dropped before its answer came.
async fn within_micros<T>(patience: u64, call: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_micros(patience), call).await.ok()
}

/// Subscribes, and checks that no value is missing that was not told of; now and then anew.
async fn listen(soak: SoakClient, shared: Arc<Shared>, mut rng: fastrand::Rng) {
    while !shared.is_stopped() {
        let mut beats = soak.beat().subscribe();
        let mut expected = None;
        for _ in 0..rng.u32(1..5000) {
            let next = tokio::select! {
                biased;
                () = shared.stopped() => return,
                next = timeout(HANGS, beats.next()) => next,
            };
            let Ok(next) = next else { return shared.odd("no more events".to_owned()) };
            match next {
                Some(Ok(beat)) => {
                    if expected.is_some_and(|expected| expected != beat.number) {
                        shared.odd(format!("event {}, not {expected:?}", beat.number));
                    }
                    if *beat.filler != filler(beat.number)[..] {
                        shared.odd(format!("event {} was damaged", beat.number));
                    }
                    expected = Some(beat.number + 1);
                    shared.count(|counts| counts.events += 1);
                }
                Some(Err(EventError::Lagged(lost))) => {
                    expected = expected.map(|expected| expected + lost);
                    shared.count(|counts| counts.lagged += lost);
                }
                Some(Err(EventError::Reconnected)) => expected = None,
                Some(Err(EventError::Closed(reason))) if is_deliberate(&reason) => break,
                Some(Err(error)) => shared.odd(format!("a subscription: {error}")),
                None => break,
            }
            if rng.u32(0..2000) == 0 {
                // Slow for once, so that its window and backlog fill.
                sleep(Duration::from_millis(rng.u64(0..2000))).await;
            }
        }
    }
}

/// Ends the connection now and then, in one way or the other, and connects anew.
async fn reconnect(client: WitClient, shared: Arc<Shared>, mut rng: fastrand::Rng) {
    // Short runs are to have some, too.
    let mut longest = 1000;
    loop {
        tokio::select! {
            biased;
            () = shared.stopped() => break,
            () = sleep(Duration::from_millis(rng.u64(200..longest))) => {}
        }
        longest = 4000;
        if rng.bool() {
            client.disconnect().await;
        } else {
            // What it may say is said below.
            drop(client.reconnect(HANGS).await);
        }
        connected(&client, &shared).await;
        shared.count(|counts| counts.reconnects += 1);
    }
}
