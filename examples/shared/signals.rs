//! The wish that this process end, as the system tells it: Ctrl-C, and on Unix `SIGTERM`.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlC, ctrl_c};

/// From the moment that this is made, a signal does not end the process by itself.
pub(crate) struct Signals {
    #[cfg(unix)]
    each: [Signal; 2],
    #[cfg(windows)]
    each: CtrlC,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        #[cfg(unix)]
        let each = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        #[cfg(windows)]
        let each = ctrl_c()?;
        Ok(Self { each })
    }

    /// Waits for one.
    pub(crate) async fn wait(&mut self) {
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.each;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        #[cfg(windows)]
        let _: Option<()> = self.each.recv().await;
    }
}
