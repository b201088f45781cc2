//! What a client does when its connection is lost: nothing, or connect again as often and as patiently as it was told.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::client::ClientCore;

/// The least time that one attempt may take: a server that is starting needs a moment.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// What a client's connection is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientState {
    /// Connected.
    Connected,
    /// Not connected, and nothing is being done about it.
    #[default]
    Disconnected,
    /// All attempts to connect again have failed.
    GaveUp,
    /// The connection was lost; this attempt to connect again, counted from 1, is next or under way.
    Reconnecting {
        /// The attempt.
        attempt: u32,
    },
}

type Callback = Arc<dyn Fn(ClientState) + Send + Sync>;

/// How a client connects again by itself; see `with_auto_reconnect` on the builder.
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
    /// Gives up after so many attempts; 0, the default, never does.
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

    /// Waits so many times as long before each further attempt; at least 1. Default 2.
    pub const fn with_factor(mut self, factor: f32) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// Adds a random part to every delay, so that many clients do not come back all at once. Default `true`.
    pub const fn with_jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// Calls `callback` with every change of state: reconnecting, connected again, given up. It must not block.
    pub fn with_callback(mut self, callback: impl Fn(ClientState) + Send + Sync + 'static) -> Self {
        self.callback = Some(Arc::new(callback));
        self
    }

    pub(crate) fn notify(&self, state: ClientState) {
        if let Some(callback) = &self.callback {
            callback(state);
        }
    }

    fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial_delay)
            .with_max_delay(self.max_delay)
            .with_factor(self.factor);
        let builder = if self.jitter { builder.with_jitter() } else { builder };
        match usize::try_from(self.attempts) {
            Ok(attempts) if attempts > 0 => builder.with_max_times(attempts).build(),
            _ => builder.without_max_times().build(),
        }
    }
}

/// Connects again; ends when that has succeeded, when the attempts are used up, or with the client.
pub(crate) async fn run(client: Weak<ClientCore>, options: ReconnectOptions) {
    for (delay, attempt) in options.delays().zip(1..) {
        let state = ClientState::Reconnecting { attempt };
        match client.upgrade() {
            Some(client) => client.set_state(state),
            None => return,
        }
        options.notify(state);
        tokio::time::sleep(delay).await;
        let Some(client) = client.upgrade() else { return };
        match client.connect(delay.max(MIN_ATTEMPT)).await {
            Ok(()) => {
                options.notify(ClientState::Connected);
                return;
            }
            Err(error) => tracing::debug!(attempt, %error, "could not connect again"),
        }
    }
    if let Some(client) = client.upgrade() {
        tracing::warn!(endpoint = client.endpoint(), "gave up connecting again");
        client.give_up();
        options.notify(ClientState::GaveUp);
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, ReconnectOptions};

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
