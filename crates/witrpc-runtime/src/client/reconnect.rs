//! Automatic reconnection: its settings, and the task that reconnects.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use witrpc_core::text::Escaped;
use witrpc_core::user_code::catch;
use witrpc_core::{CloseReason, Error};

use crate::link::timers::FAR;

/// The minimum time for one attempt: a server that is starting needs a moment.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// The state of a client's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientState {
    /// Connected.
    Connected,
    /// Not connected, and not trying to connect.
    #[default]
    Disconnected,
    /// All attempts to reconnect have failed, and no more are made.
    GaveUp,
    /// The connection was lost, and the client is reconnecting.
    Reconnecting {
        /// The attempt that is next or in progress, counted from 1.
        attempt: u32,
    },
}

type Callback = Arc<dyn Fn(ClientState) + Send + Sync>;

/// How a client reconnects automatically; see `with_auto_reconnect` on the builder.
#[derive(Clone)]
#[must_use]
pub struct ReconnectOptions {
    attempts: u32,
    initial_delay: Duration,
    max_delay: Duration,
    factor: f32,
    jitter: bool,
    callback: Option<Callback>,
}

impl fmt::Debug for ReconnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconnectOptions")
            .field("attempts", &self.attempts)
            .field("initial_delay", &self.initial_delay)
            .field("max_delay", &self.max_delay)
            .field("factor", &self.factor)
            .field("jitter", &self.jitter)
            .finish_non_exhaustive()
    }
}

impl Default for ReconnectOptions {
    fn default() -> Self {
        Self {
            attempts: 0,
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            factor: 2.0,
            jitter: true,
            callback: None,
        }
    }
}

impl ReconnectOptions {
    /// Gives up after this many attempts. 0, the default, means no limit.
    pub const fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Waits this long before the first attempt. Default 100 ms.
    pub const fn with_initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// Waits no longer than this between two attempts. Default 10 s.
    pub const fn with_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Multiplies the delay by this factor before each further attempt. A factor below 1 counts as 1. Default 2.
    pub const fn with_factor(mut self, factor: f32) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// Adds a random part to every delay, so that many clients do not reconnect at the same time. Default `true`.
    pub const fn with_jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// Calls `callback` at every change of the state: reconnecting, connected again, given up, or disconnected (if the runtime on which
    /// the client reconnects has ended). `callback` must not block. A panic in it is logged and has no other effect.
    pub fn with_callback(mut self, callback: impl Fn(ClientState) + Send + Sync + 'static) -> Self {
        self.callback = Some(Arc::new(callback));
        self
    }

    pub(crate) fn notify(&self, state: ClientState) {
        if let Some(callback) = &self.callback {
            if let Err(message) = catch(|| callback(state)) {
                tracing::error!(panic = %Escaped(message), ?state, "the callback of with_auto_reconnect panicked");
            }
        }
    }

    fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial_delay.min(self.max_delay).min(FAR))
            .with_max_delay(self.max_delay.min(FAR))
            .with_factor(self.factor);
        let builder = if self.jitter { builder.with_jitter() } else { builder };
        match usize::try_from(self.attempts) {
            Ok(attempts) if attempts > 0 => builder.with_max_times(attempts).build(),
            _ => builder.without_max_times().build(),
        }
    }
}

/// What the reconnecting task needs of its client. `task` is the number of that task.
pub(crate) trait Reconnects: Send + Sync + 'static {
    fn endpoint(&self) -> &str;

    /// Whether the task is to make this attempt.
    fn goes_on(&self, task: u64, attempt: u32) -> bool;

    /// Makes one attempt, on behalf of a connection of this epoch.
    fn connect_again(
        &self,
        epoch: u64,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The task has succeeded. Returns whether it was still wanted.
    fn leave_task(&self, task: u64) -> bool;

    /// The task has given up, for this reason. Returns whether it was still wanted.
    fn give_up(&self, task: u64, state: ClientState, reason: &CloseReason) -> bool;
}

/// The task that reconnects. It ends when it has succeeded, when the attempts are used up, or with the client. If it is dropped before,
/// with its runtime, the client's state says so.
pub(crate) struct Reconnecting<C: Reconnects> {
    client: Weak<C>,
    /// The epoch of the connection that was lost.
    epoch: u64,
    number: u64,
    options: ReconnectOptions,
}

impl<C: Reconnects> Reconnecting<C> {
    pub(crate) const fn new(
        client: Weak<C>,
        epoch: u64,
        number: u64,
        options: ReconnectOptions,
    ) -> Self {
        Self { client, epoch, number, options }
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) async fn run(self) {
        for (delay, attempt) in self.options.delays().zip(1..) {
            match self.client.upgrade() {
                Some(client) if client.goes_on(self.number, attempt) => {}
                _ => return,
            }
            self.options.notify(ClientState::Reconnecting { attempt });
            tokio::time::sleep(delay).await;
            let Some(client) = self.client.upgrade() else { return };
            match client.connect_again(self.epoch, delay.max(MIN_ATTEMPT)).await {
                Ok(()) => {
                    if client.leave_task(self.number) {
                        self.options.notify(ClientState::Connected);
                    }
                    return;
                }
                Err(error) => {
                    tracing::debug!(attempt, error = %Escaped(error), "an attempt to reconnect failed");
                }
            }
        }
        let Some(client) = self.client.upgrade() else { return };
        let reason = CloseReason::Failed("the client gave up reconnecting".to_owned());
        if client.give_up(self.number, ClientState::GaveUp, &reason) {
            tracing::warn!(endpoint = client.endpoint(), "gave up reconnecting");
            self.options.notify(ClientState::GaveUp);
        }
    }
}

impl<C: Reconnects> Drop for Reconnecting<C> {
    fn drop(&mut self) {
        // No effect unless the task is dropped before its end, and not because of a disconnect.
        let Some(client) = self.client.upgrade() else { return };
        let state = ClientState::Disconnected;
        if client.give_up(self.number, state, &CloseReason::RuntimeGone) {
            self.options.notify(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Duration;
    use super::ReconnectOptions;

    #[test]
    fn delays_grow_to_their_maximum_and_end_if_they_are_to() {
        let millis = Duration::from_millis;
        let options = ReconnectOptions::default()
            .with_initial_delay(millis(10))
            .with_max_delay(millis(50))
            .with_jitter(false);
        let delays = options.clone().with_attempts(5).delays();
        // The library computes in floating point.
        let delays: Vec<_> = delays.map(|delay| (delay.as_secs_f64() * 1e3).round()).collect();
        assert_eq!(delays, [10.0, 20.0, 40.0, 50.0, 50.0]);
        assert_eq!(options.delays().take(1000).count(), 1000);
    }
}
