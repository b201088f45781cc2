//! What only the user can promise about the other process, as no system enforces it.

use witrpc_mmf::TrustedPeer;

use crate::agent::Agent;
use crate::worker::WorkerBuilder;

impl WorkerBuilder {
    /// Trusts the worker with the memory that it shares with this process: what it lends is read where it is, and is not copied. Also, where the system
    /// cannot keep the worker from writing to what this process lends (before Linux 5.1, and on macOS), this process lends all the same.
    ///
    /// ```no_run
    /// use witrpc::Worker;
    ///
    /// # async fn host() -> witrpc::Result<()> {
    /// let worker = Worker::this_program().with_lending(64 << 20);
    /// // SAFETY: the worker is this program, and nothing in it writes to what it has lent or was lent.
    /// let worker = unsafe { worker.with_trusted_peer() }.spawn().await?;
    /// # drop(worker);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Safety
    ///
    /// You promise that no process that can connect writes to memory while it is lent to or by this one. That is the worker, each of those that replace
    /// it, and whoever they give their connection to. Safe code that uses this library keeps the promise; other code of the worker may break it, and so does
    /// a worker that was taken over. If it is broken, bytes change while this process has a `&[u8]` of them, which is undefined behavior. It is the
    /// promise that mapping a file takes.
    #[must_use = "call spawn()"]
    pub unsafe fn with_trusted_peer(mut self) -> Self {
        // SAFETY: the caller promises it.
        self.connection.trusted = Some(unsafe { TrustedPeer::promised() });
        self
    }
}

impl Agent {
    /// Trusts the host with the memory that it shares with this process: what it lends is read where it is, and is not copied.
    ///
    /// # Safety
    ///
    /// You promise that no process that can connect writes to memory while it is lent to or by this one: here that is the host. It is the promise of
    /// [`WorkerBuilder::with_trusted_peer`], made by the other side.
    #[must_use = "call run()"]
    pub unsafe fn with_trusted_peer(mut self) -> Self {
        // SAFETY: the caller promises it.
        self.trusted = Some(unsafe { TrustedPeer::promised() });
        self
    }
}
