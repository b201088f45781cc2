//! The process that is killed: a client or a server, in a child that is a second instance of this test binary.
//!
//! [`End`] says where it dies: at a step that the library names (`witrpc_core::fail_point`), at any moment by a signal from outside, or
//! never. It appends its output to a file line by line, because it may die at any instruction.

use std::fs::{File, read_to_string};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, Semaphore};
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, Event, EventError, Subscription};
use witrpc_core::fail_point;

use crate::fixture::{Flavor, private_directory, runtime};
use crate::system::{self, now};

/// Tells a child its part.
const PART: &str = "WITRPC_KILL_PART";
/// In front of the line that a child writes last of all.
const KILLED: &str = "killed ";
/// Nothing that is promised takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Small, so that messages are many chunks, and the rings fill.
const REGION: u64 = 64 << 10;
/// The bits of a number that count within a [`Book`].
const NUMBERS: u32 = 20;
/// Values that a call of `tick` raises.
const TICKS: u64 = 5;

/// What the dying and the surviving have in common.
#[witrpc::service]
pub(super) trait Mortal {
    /// Notes that it runs, in a file where there is one, and answers its argument.
    async fn note(&self, number: u64) -> witrpc::Result<u64>;
    async fn echo(&self, text: String) -> witrpc::Result<String>;
    /// Raises so many values from here on.
    async fn tick(&self, from: u64, times: u64) -> witrpc::Result<()>;
    /// Never answers.
    async fn wait(&self) -> witrpc::Result<()>;
    /// Asks the server to end in good order.
    async fn leave(&self) -> witrpc::Result<()>;
    #[event]
    fn ticked(&self) -> &Event<u64>;
}

/// The implementation.
#[derive(Clone, Debug)]
pub(super) struct Life {
    notes: Option<Arc<Mutex<File>>>,
    ticked: Event<u64>,
    leave: Arc<Notify>,
}

impl Life {
    pub(super) fn new(notes: Option<File>) -> Self {
        Self {
            notes: notes.map(|notes| Arc::new(Mutex::new(notes))),
            ticked: Event::new(),
            leave: Arc::default(),
        }
    }
}

impl Life {
    /// Waits until somebody asks it to end.
    #[cfg(target_os = "linux")]
    pub(super) async fn leaves(&self) {
        self.leave.notified().await;
    }
}

impl Mortal for Life {
    async fn note(&self, number: u64) -> witrpc::Result<u64> {
        if let Some(notes) = &self.notes {
            notes.lock().unwrap().write_all(&number.to_le_bytes()).map_err(Error::fault)?;
        }
        Ok(number)
    }

    async fn echo(&self, text: String) -> witrpc::Result<String> {
        Ok(text)
    }

    async fn tick(&self, from: u64, times: u64) -> witrpc::Result<()> {
        (from..from + times).try_for_each(|value| self.ticked.raise(value))
    }

    async fn wait(&self) -> witrpc::Result<()> {
        drop(Semaphore::new(0).acquire().await);
        Ok(())
    }

    async fn leave(&self) -> witrpc::Result<()> {
        self.leave.notify_one();
        Ok(())
    }

    fn ticked(&self) -> &Event<u64> {
        &self.ticked
    }
}

/// How a victim ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum End {
    /// In good order; it tells every step that it reaches.
    InGoodOrder,
    /// Killed when it reaches this step for this time, from 0.
    Step { step: String, nth: u64 },
    /// Killed at this step of all that it reaches, from 0.
    Hit(u64),
    /// Stopped, not killed, when it first reaches this step.
    Stopped { step: String },
    /// Goes on until it is killed by its parent.
    Outside,
}

/// Which side it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Client,
    Server,
    /// A client whose server is killed as well: it just tries again.
    Mourner,
    /// A client that may be too late for the handshake: it is told so.
    Late,
}

/// A child's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) end: End,
    pub(super) meeting: Meeting,
    pub(super) flavor: Flavor,
    /// A directory for what it has to say.
    pub(super) report: PathBuf,
}

/// Where and how the two sides meet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Meeting {
    pub(super) directory: PathBuf,
    pub(super) encrypted: bool,
}

impl Meeting {
    pub(super) fn file(&self) -> MemoryMappedFile {
        MemoryMappedFile::new("test")
            .with_directory(&self.directory)
            .with_max_clients(8)
            .with_size(REGION)
    }

    pub(super) fn client_builder(&self) -> WitClientBuilder {
        let builder = WitClientBuilder::new().with_memory_mapped_file(self.file());
        if self.encrypted { builder.with_encryption() } else { builder }
    }

    pub(super) fn client(&self) -> WitClient {
        self.client_builder().build().unwrap()
    }

    pub(super) fn server(&self, life: &Life) -> WitServer {
        let builder = WitServerBuilder::new().with_memory_mapped_file(self.file());
        let builder = if self.encrypted { builder.with_encryption() } else { builder };
        builder.with_service(MortalServer::new(life.clone())).build().unwrap()
    }
}

/// A child that will be killed; also when this is dropped.
pub(super) struct Victim {
    child: Child,
    report: PathBuf,
    /// When it was killed by us.
    killed: Option<u64>,
}

/// How a victim ended.
#[derive(Debug)]
pub(super) enum Fate {
    /// At this time of [`now`], at this step if it was one.
    Killed { at: u64, step: Option<String> },
    /// In good order: it never reached its step.
    Left,
}

impl Victim {
    pub(super) fn start(part: &Part) -> Self {
        let part_as_json = serde_json::to_string(part).unwrap();
        Self::start_by("kill::victim::a_victim_plays_its_part", PART, &part_as_json, &part.report)
    }

    /// Starts the test of this name in a process of its own, which finds its part in this variable.
    pub(super) fn start_by(test: &str, variable: &str, part: &str, report: &Path) -> Self {
        drop(std::fs::remove_file(report.join("report")));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(variable, part)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let child = system::started(|| command.spawn());
        Self { child, report: report.join("report"), killed: None }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(super) fn kill(&mut self) {
        // It may be dead already, at its step.
        self.killed = Some(now());
        self.child.start_kill().unwrap();
    }

    /// Whether a signal has stopped it.
    #[cfg(unix)]
    pub(super) fn is_stopped(&self) -> bool {
        system::is_stopped(self.id())
    }

    /// Goes on.
    #[cfg(unix)]
    pub(super) fn go_on(&self) {
        system::go_on(self.id());
    }

    /// Waits for its end, which is one of those that there may be.
    pub(super) async fn ends(&mut self) -> Fate {
        let status = tokio::time::timeout(PATIENCE * 2, self.child.wait()).await;
        let status = status.expect("the child hangs").unwrap();
        if status.success() {
            return Fate::Left;
        }
        assert!(system::was_killed(status), "the child failed: {status}");
        let killed = self.said().iter().find_map(|line| killed(line));
        let line = killed.map(|(at, step)| Fate::Killed { at, step: Some(step) });
        line.unwrap_or_else(|| Fate::Killed { at: self.killed.unwrap(), step: None })
    }

    /// The lines of its report.
    pub(super) fn said(&self) -> Vec<String> {
        read_to_string(&self.report).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// When, and at which step, a line of a report says that its process was killed.
pub(super) fn killed(line: &str) -> Option<(u64, String)> {
    let (at, step) = line.strip_prefix(KILLED)?.split_once(' ')?;
    Some((at.parse().unwrap(), step.to_owned()))
}

/// To be locked for each write: Wine lets threads that append at once overwrite each other.
pub(super) fn append(path: &Path) -> File {
    File::options().append(true).create(true).open(path).unwrap()
}

/// What the hook needs to know.
struct Fatal {
    end: End,
    report: Mutex<File>,
    hits: AtomicU64,
    /// Of the step that it dies at.
    passed: AtomicU64,
}

static FATAL: OnceLock<Fatal> = OnceLock::new();

/// Called at every step.
fn reached(step: &'static str) {
    let Some(fatal) = FATAL.get() else { return };
    let hit = fatal.hits.fetch_add(1, Ordering::SeqCst);
    let dies = match &fatal.end {
        End::InGoodOrder => {
            fatal.report.lock().unwrap().write_all(format!("{step}\n").as_bytes()).unwrap();
            false
        }
        End::Step { step: fatal_step, nth } => {
            step == fatal_step && fatal.passed.fetch_add(1, Ordering::SeqCst) == *nth
        }
        End::Stopped { step: fatal_step } => {
            if step == fatal_step && fatal.passed.fetch_add(1, Ordering::SeqCst) == 0 {
                #[cfg(unix)]
                system::stop_self();
                // The signal takes a thread of its choice; this one is not to get on before it has taken all.
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        }
        End::Hit(nth) => hit == *nth,
        End::Outside => false,
    };
    if dies {
        let line = format!("{KILLED}{} {step}\n", now());
        fatal.report.lock().unwrap().write_all(line.as_bytes()).unwrap();
        system::kill_self();
    }
}

/// A child begins here. In the parent it is the least of all parts: a server that nobody ever calls.
#[test]
fn a_victim_plays_its_part() {
    if let Ok(part) = std::env::var(PART) {
        return perform(&serde_json::from_str(&part).unwrap());
    }
    let (directory, report) = (private_directory(), private_directory());
    let meeting = Meeting { directory: directory.path().to_owned(), encrypted: false };
    let flavor = Flavor::CurrentThread;
    let report = report.path().to_owned();
    let end = End::Step { step: "door.opened".to_owned(), nth: 0 };
    let part = Part { role: Role::Server, end, meeting, flavor, report };
    let fate = runtime(flavor).block_on(async { Victim::start(&part).ends().await });
    assert!(matches!(&fate, Fate::Killed { step: Some(step), .. } if step == "door.opened"));
}

/// From now on this process dies as it is to, and reports.
pub(super) fn install(end: &End, report: &Path) {
    let fatal = Fatal {
        end: end.clone(),
        report: Mutex::new(append(&report.join("report"))),
        hits: AtomicU64::new(0),
        passed: AtomicU64::new(0),
    };
    assert!(FATAL.set(fatal).is_ok(), "a process has one part");
    fail_point::install(reached);
}

fn perform(part: &Part) {
    install(&part.end, &part.report);
    let forever = matches!(part.end, End::Outside);
    runtime(part.flavor).block_on(async {
        match part.role {
            Role::Client => loop {
                client(&part.meeting).await.unwrap();
                if !forever {
                    break;
                }
            },
            Role::Mourner => while client(&part.meeting).await.is_err() || forever {},
            Role::Late => match client(&part.meeting).await {
                Ok(()) => {}
                Err(Error::Closed { reason: CloseReason::Peer(reason), .. }) => {
                    assert!(reason.contains("with_handshake_timeout"), "{reason}");
                }
                Err(error) => panic!("{error}"),
            },
            Role::Server => server(part).await,
        }
    });
}

async fn server(part: &Part) {
    let life = Life::new(Some(append(&part.report.join("notes"))));
    let server = part.meeting.server(&life);
    server.start_waiting_for_connection().await.unwrap();
    life.leave.notified().await;
    server.shutdown(Duration::from_millis(1)).await;
}

/// Two lives of a client.
async fn client(meeting: &Meeting) -> witrpc::Result<()> {
    let client = meeting.client();
    let mut book = Book::default();
    for _ in 0..2 {
        client.connect(PATIENCE).await?;
        let mortal: MortalClient = client.get_service();
        let mut ticked = mortal.ticked().subscribe();
        exercise(&mortal, &mut ticked, &mut book).await?;
        drop(ticked);
        client.disconnect().await;
    }
    Ok(())
}

/// What a client knows of the calls it made.
#[derive(Debug)]
pub(super) struct Book {
    next: u64,
    /// Numbers noted: answered; certainly not executed; perhaps.
    pub(super) answered: Vec<u64>,
    pub(super) unsent: Vec<u64>,
    pub(super) perhaps: Vec<u64>,
}

impl Default for Book {
    fn default() -> Self {
        static BOOKS: AtomicU64 = AtomicU64::new(0);
        let book = BOOKS.fetch_add(1, Ordering::SeqCst);
        let next = u64::from(std::process::id()) << 40 | book << NUMBERS;
        Self { next, answered: Vec::new(), unsent: Vec::new(), perhaps: Vec::new() }
    }
}

impl Book {
    /// The first of so many numbers that nobody else uses.
    pub(super) fn number(&mut self, many: u64) -> u64 {
        self.next += many;
        self.next - many
    }

    pub(super) fn note(&mut self, number: u64, result: witrpc::Result<u64>) -> witrpc::Result<()> {
        match &result {
            Ok(answer) => {
                assert_eq!(*answer, number);
                self.answered.push(number);
            }
            Err(error) if error.is_surely_not_executed() => self.unsent.push(number),
            Err(_) => self.perhaps.push(number),
        }
        result.map(|_| ())
    }
}

/// Calls of every kind, each answer of which is checked. One of them raises so many events; returns the value of the first.
pub(super) async fn call(
    mortal: &MortalClient,
    book: &mut Book,
    ticks: u64,
) -> witrpc::Result<u64> {
    let [one, two, three] = [(); 3].map(|()| book.number(1));
    let from = book.number(ticks);
    let text = format!("{one:032}").repeat(4096);
    let (a, b, echo, tick, c) = tokio::join!(
        mortal.note(one),
        mortal.note(two),
        mortal.echo(text.clone()),
        mortal.tick(from, ticks),
        mortal.note(three),
    );
    let notes = [(one, a), (two, b), (three, c)].map(|(number, note)| book.note(number, note));
    notes.into_iter().collect::<witrpc::Result<()>>()?;
    assert!(echo? == text, "another text came back");
    tick?;
    Ok(from)
}

/// The same, and the events.
pub(super) async fn exercise(
    mortal: &MortalClient,
    ticked: &mut Subscription<u64>,
    book: &mut Book,
) -> witrpc::Result<()> {
    let from = call(mortal, book, TICKS).await?;
    let mut due = from;
    while due < from + TICKS {
        match ticked.next().await {
            Some(Ok(value)) if value >> NUMBERS != from >> NUMBERS => {} // Somebody else's.
            Some(Ok(value)) => {
                assert_eq!(value, due);
                due += 1;
            }
            Some(Err(EventError::Closed(reason))) => {
                return Err(Error::Closed { reason, maybe_executed: true });
            }
            other => panic!("{other:?} instead of {due}"),
        }
    }
    Ok(())
}
