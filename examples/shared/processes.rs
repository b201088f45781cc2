//! Two processes from one program: it starts itself a second time as the server, and both end cleanly, at Ctrl-C too.

use std::io::Read;
use std::process::{ExitCode, Stdio};

use tokio::process::Command;
use witrpc::WitServer;

#[path = "signals.rs"]
mod signals;

use signals::Signals;

/// What an example comes to.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Tells the second process that it is the server, and on which endpoint.
const SERVER: &str = "WITRPC_EXAMPLE_SERVER";
/// Tells it the token. Its environment can be read by processes of the same user only.
const TOKEN: &str = "WITRPC_EXAMPLE_TOKEN";

/// `CREATE_NEW_PROCESS_GROUP`
#[cfg(windows)]
const NEW_PROCESS_GROUP: u32 = 0x200;

/// What the two processes have to know of each other.
#[derive(Clone, Debug)]
pub(crate) struct Meeting {
    /// The endpoint's name, which nobody else knows.
    pub(crate) endpoint: String,
    /// A token for examples that want one.
    pub(crate) token: String,
}

/// Runs `client` in this process, and `server` in another that ends with it.
pub(crate) async fn run(
    name: &str,
    server: impl FnOnce(Meeting) -> witrpc::Result<WitServer>,
    client: impl AsyncFnOnce(Meeting) -> Outcome,
) -> Outcome<ExitCode> {
    if let (Ok(endpoint), Ok(token)) = (std::env::var(SERVER), std::env::var(TOKEN)) {
        serve(&server(Meeting { endpoint, token })?).await?;
        return Ok(ExitCode::SUCCESS);
    }
    // From here on a signal ends this process by way of the code below, which cleans up.
    let mut signals = Signals::new()?;
    let (endpoint, token) = (witrpc::unique_name(name)?, witrpc::unique_name("token")?);
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.env(SERVER, &endpoint).env(TOKEN, &token);
    // In a group of its own, so that Ctrl-C reaches this process only.
    #[cfg(unix)]
    command.process_group(0);
    #[cfg(windows)]
    command.creation_flags(NEW_PROCESS_GROUP);
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let called = tokio::select! {
        called = client(Meeting { endpoint, token }) => Some(called),
        () = signals.wait() => None,
    };
    // The server ends when its standard input does, so it never outlives this process.
    drop(child.stdin.take());
    let status = child.wait().await?;
    match called {
        None => Ok(ExitCode::from(130)),
        Some(Ok(())) if !status.success() => Err(format!("the server failed: {status}").into()),
        Some(called) => called.map(|()| ExitCode::SUCCESS),
    }
}

async fn serve(server: &WitServer) -> Outcome {
    server.start_waiting_for_connection().await?;
    let end_of_input = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    end_of_input.await??;
    server.stop_waiting_for_connection().await;
    Ok(())
}
