//! An endpoint for each test, over one of the transports.

use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::task::coop::unconstrained;
use witrpc::prelude::*;
use witrpc::transport::memory::MemoryTransport;
use witrpc::transport::{ClientTransport, ServerTransport};
use witrpc::{MmfClientTransport, MmfServerTransport, NamedEvent};

use crate::contract::{CalcServer, Calculator, WordsServer};
use crate::spy::{Found, Spy};
use crate::system::started;
pub(crate) use crate::system::{files, private_directory};
use crate::witness;

/// Nothing in these tests takes this long, on any machine.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// The access token, where there is one.
pub(crate) const TOKEN: &str = "correct horse battery staple";

/// Where server and clients of one test meet.
pub(crate) struct Fixture {
    transport: Transport,
    pub(crate) calculator: Calculator,
    pub(crate) serializer: SerializerKind,
    pub(crate) security: Security,
    dedicated_threads: bool,
}

/// What the two sides agree on beside the serializer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    None,
    Encrypted,
    EncryptedWithToken,
    Token,
}

/// The serializers that everything must work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SerializerKind {
    Json,
    MessagePack,
    Postcard,
}

impl SerializerKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "\"json\"",
            Self::MessagePack => "\"message-pack\"",
            Self::Postcard => "\"postcard\"",
        }
    }
}

enum Transport {
    Memory(MemoryTransport),
    Mmf {
        directory: TempDir,
        file: MemoryMappedFile,
    },
    #[cfg(unix)]
    Inherited(crate::inherited::Pairs),
}

/// A builder of either side, with what both sides must have in common.
macro_rules! agreed {
    ($fixture:expr, $builder:expr) => {{
        let builder = match $fixture.security {
            Security::None => $builder,
            Security::Encrypted => $builder.with_encryption(),
            Security::EncryptedWithToken => $builder.with_encryption().with_access_token(TOKEN),
            Security::Token => $builder.with_access_token(TOKEN),
        };
        match $fixture.serializer {
            SerializerKind::Json => builder.with_json(),
            SerializerKind::MessagePack => builder.with_message_pack(),
            SerializerKind::Postcard => builder.with_postcard(),
        }
    }};
}

impl Fixture {
    pub(crate) fn memory() -> Self {
        Self {
            transport: Transport::Memory(MemoryTransport::new()),
            calculator: Calculator::default(),
            serializer: SerializerKind::Json,
            security: Security::None,
            dedicated_threads: false,
        }
    }

    /// The same with a transport that has settings.
    pub(crate) fn over(transport: MemoryTransport) -> Self {
        let mut fixture = Self::memory();
        fixture.transport = Transport::Memory(transport);
        fixture
    }

    /// An endpoint in a directory of its own.
    pub(crate) fn mmf() -> Self {
        Self::mmf_with(|file| file.with_max_clients(8))
    }

    /// The smallest region there is.
    pub(crate) fn mmf_smallest() -> Self {
        Self::mmf_with(|file| file.with_max_clients(8).with_size(12_288))
    }

    /// An endpoint whose server has a thread for each client.
    pub(crate) fn mmf_dedicated_threads() -> Self {
        let mut fixture = Self::mmf();
        fixture.dedicated_threads = true;
        fixture
    }

    /// With the named events of raw_sync, which are the system's own on Windows.
    pub(crate) fn mmf_raw_sync() -> Self {
        Self::mmf_with(|file| file.with_max_clients(8).with_named_event(NamedEvent::RawSync))
    }

    /// Regions without a name, both of whose sides are in this process.
    #[cfg(unix)]
    pub(crate) fn inherited() -> Self {
        let mut fixture = Self::memory();
        fixture.transport = Transport::Inherited(crate::inherited::Pairs::default());
        fixture
    }

    /// The same, with settings.
    pub(crate) fn mmf_with(set: impl FnOnce(MemoryMappedFile) -> MemoryMappedFile) -> Self {
        let directory = private_directory();
        let file = MemoryMappedFile::new("test").with_directory(directory.path());
        let transport = Transport::Mmf { file: set(file), directory };
        Self {
            transport,
            calculator: Calculator::default(),
            serializer: SerializerKind::Json,
            security: Security::None,
            dedicated_threads: false,
        }
    }

    /// A server builder with both services.
    pub(crate) fn server_builder(&self) -> WitServerBuilder {
        self.bare_server_builder()
            .with_service(CalcServer::new(self.calculator.clone()))
            .with_service(WordsServer::new(self.calculator.clone()))
    }

    /// The same endpoint with another serializer.
    pub(crate) fn with(mut self, serializer: SerializerKind) -> Self {
        self.serializer = serializer;
        self
    }

    /// The same endpoint, secured.
    pub(crate) fn secured(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// The directory of the endpoint's files, where it has any.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.transport {
            Transport::Memory(_) => None,
            #[cfg(unix)]
            Transport::Inherited(_) => None,
            Transport::Mmf { directory, .. } => Some(directory.path()),
        }
    }

    /// Whether clients tell which process they are.
    pub(crate) fn has_processes(&self) -> bool {
        !matches!(self.transport, Transport::Memory(_))
    }

    /// What a text of some hundred bytes takes beyond itself, as the only argument and as a result.
    pub(crate) fn text_overheads(&self) -> (usize, usize) {
        match self.serializer {
            SerializerKind::Json => (4, 2),
            SerializerKind::MessagePack => (4, 3),
            SerializerKind::Postcard => (2, 2),
        }
    }

    /// A server builder without services.
    pub(crate) fn bare_server_builder(&self) -> WitServerBuilder {
        let builder = agreed!(self, self.server_on_transport());
        if self.dedicated_threads { builder.with_dedicated_threads() } else { builder }
    }

    pub(crate) fn client_builder(&self) -> WitClientBuilder {
        self.client_over(self.client_on_transport())
    }

    /// A builder of a client whose records and region can be seen.
    pub(crate) fn spied_client_builder(&self) -> (WitClientBuilder, Found) {
        let directory = self.directory().map(Path::to_owned);
        let (spy, found) = Spy::new(self.client_transport(), directory);
        (self.client_over(WitClientBuilder::new().with_transport(spy)), found)
    }

    /// A client whose records and region can be seen, not connected.
    pub(crate) fn spied_client(&self) -> (WitClient, Found) {
        let (builder, found) = self.spied_client_builder();
        (builder.build().unwrap(), found)
    }

    fn client_over(&self, builder: WitClientBuilder) -> WitClientBuilder {
        agreed!(self, builder)
    }

    fn server_on_transport(&self) -> WitServerBuilder {
        match &self.transport {
            Transport::Memory(memory) => WitServerBuilder::new().with_transport(memory.clone()),
            #[cfg(unix)]
            Transport::Inherited(pairs) => WitServerBuilder::new().with_transport(pairs.clone()),
            Transport::Mmf { file, .. } => {
                WitServerBuilder::new().with_memory_mapped_file(file.clone())
            }
        }
    }

    fn client_on_transport(&self) -> WitClientBuilder {
        match &self.transport {
            Transport::Memory(memory) => WitClientBuilder::new().with_transport(memory.clone()),
            #[cfg(unix)]
            Transport::Inherited(pairs) => WitClientBuilder::new().with_transport(pairs.clone()),
            Transport::Mmf { file, .. } => {
                WitClientBuilder::new().with_memory_mapped_file(file.clone())
            }
        }
    }

    /// The client's end of the transport, by itself.
    pub(crate) fn client_transport(&self) -> Box<dyn ClientTransport> {
        match &self.transport {
            Transport::Memory(memory) => Box::new(memory.clone()),
            #[cfg(unix)]
            Transport::Inherited(pairs) => Box::new(pairs.clone()),
            Transport::Mmf { file, .. } => Box::new(MmfClientTransport::new(file.clone())),
        }
    }

    /// The server's end of the transport, by itself.
    pub(crate) fn server_transport(&self) -> Box<dyn ServerTransport> {
        match &self.transport {
            Transport::Memory(memory) => Box::new(memory.clone()),
            #[cfg(unix)]
            Transport::Inherited(pairs) => Box::new(pairs.clone()),
            Transport::Mmf { file, .. } => Box::new(MmfServerTransport::new(file.clone())),
        }
    }

    /// A server that is waiting for clients.
    pub(crate) async fn server(&self) -> WitServer {
        let server = self.server_builder().build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        server
    }

    /// A client that is connected.
    pub(crate) async fn client(&self) -> WitClient {
        let client = self.client_builder().build().unwrap();
        client.connect(GUARD).await.unwrap();
        client
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Transport::Mmf { directory, .. } = &self.transport {
            // A runtime that is dropped does not wait for them, and where files with a mapping stay, that shows.
            let deadline = std::time::Instant::now() + GUARD;
            while self.dedicated_threads
                && !files(directory.path()).is_empty()
                && std::time::Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(files(directory.path()), Vec::<String>::new(), "left behind");
        }
    }
}

/// The runtimes that everything must work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flavor {
    CurrentThread,
    MultiThread,
}

/// Runs a test, which may not hang, and which leaves nothing.
pub(crate) fn run<F: Future<Output = ()>>(
    flavor: Flavor,
    fixture: Fixture,
    test: impl FnOnce(Arc<Fixture>) -> F,
) {
    let fixture = Arc::new(fixture);
    block_on(flavor, test(Arc::clone(&fixture)));
    // Tasks that are still there have ended with the runtime; now nothing may be left.
    drop(fixture);
}

/// How often every sleeping connection of a test looks for work that no wake-up announced.
const LOOK: Duration = Duration::from_millis(250);

/// Has the connections of this process look, from now on.
pub(crate) fn watch() {
    witrpc_runtime::rescue::look_every(LOOK);
    witness::install();
}

/// No wake-up was lost in this process, by this test or another.
pub(crate) fn no_rescues() {
    assert_eq!(witrpc_runtime::rescue::count(), 0, "connections were rescued: wake-ups were lost");
    witness::saw_nothing();
}

/// A runtime of this kind.
pub(crate) fn runtime(flavor: Flavor) -> tokio::runtime::Runtime {
    let mut builder = match flavor {
        Flavor::CurrentThread => tokio::runtime::Builder::new_current_thread(),
        Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build().unwrap()
}

/// Runs a future, which may not hang, on a runtime of its own.
pub(crate) fn block_on<T>(flavor: Flavor, future: impl Future<Output = T>) -> T {
    let mut output = None;
    let stores = Box::pin(async { output = Some(future.await) });
    block_on_boxed(flavor, stores);
    output.unwrap()
}

/// Apart from [`block_on`], so that the runtime is compiled once, and not for each test.
fn block_on_boxed(flavor: Flavor, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
    watch();
    runtime(flavor)
        .block_on(async { tokio::time::timeout(GUARD, future).await.expect("the test hangs") });
    no_rescues();
}

/// Polls a future once, with a waker that does nothing, and whatever is left of the task's budget.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    pin!(unconstrained(future)).poll(&mut Context::from_waker(Waker::noop()))
}

/// Whether a call failed because of its deadline. On a busy machine, a short one may have passed when the server reads the request, or
/// be shorter than calls wait there.
pub(crate) fn is_late(error: &witrpc::Error) -> bool {
    matches!(error, witrpc::Error::TimedOut { .. } | witrpc::Error::Overloaded { .. })
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + GUARD / 2;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Set in a process that was started for one test.
const ALONE: &str = "WITRPC_TEST_ALONE";

/// Whether the calling test has this process for itself; if not, it is run once more in one, and must pass there. What it prints
/// there is printed here as it comes, and shown or kept as the harness was told.
///
/// For what looks at the log: subscribers of other threads' tests make tracing forget for a moment who is interested.
pub(crate) fn alone() -> bool {
    let thread = std::thread::current();
    // The harness names a test's thread after the test; where it has none, there is nobody else.
    let Some(test) = thread.name().filter(|name| name.contains("::")) else { return true };
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    // What the harness of that process would keep from us, it says only of tests that fail.
    command.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = started(|| command.spawn());
    let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    // Either pipe may fill up while the other one is read. A thread prints to where the thread prints that started it.
    let errors = std::thread::spawn(move || pass_on(errors));
    let text = pass_on(output);
    errors.join().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() && text.contains("1 passed"), "alone, it fails: {status}");
    false
}

/// Prints each line as it comes; returns all of them.
#[expect(clippy::print_stdout, reason = "what a test has printed")]
fn pass_on(pipe: impl Read) -> String {
    let mut text = String::new();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    text
}

mod tests {
    use super::{ALONE, Command, alone};

    const WORDS: &str = "these words come from a process of their own";

    #[test]
    fn a_test_that_runs_alone_prints() {
        if alone() {
            println!("{WORDS}");
        }
    }

    #[test]
    fn what_a_test_prints_that_runs_alone_is_seen_if_that_of_others_is() {
        let test = ["--exact", "fixture::tests::a_test_that_runs_alone_prints"];
        for (arguments, seen) in [(&["--nocapture"][..], true), (&[], false)] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(test).args(arguments).env_remove(ALONE);
            let output = super::started(|| command.output());
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}");
            assert_eq!(text.contains(WORDS), seen, "{arguments:?}: {text}");
        }
    }
}
