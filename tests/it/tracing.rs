//! Which events are traced, and at which level.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::contract::CalcClient;
use crate::fixture::{Fixture, alone};

/// Everything that was traced, a line each: level, text, fields.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, _id: &Id, _context: Context<'_, S>) {
        let mut text = Text(format!("span {}", attributes.metadata().name()));
        attributes.record(&mut text);
        self.0.lock().unwrap().push((*attributes.metadata().level(), text.0));
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push((*event.metadata().level(), text.0));
    }
}

impl Lines {
    /// Whether there is a line of this level with all these parts.
    #[cfg(target_os = "linux")]
    pub(crate) fn has(&self, level: Level, parts: &[&str]) -> bool {
        has(&self.0.lock().unwrap(), level, parts)
    }

    fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn has(lines: &[(Level, String)], level: Level, parts: &[&str]) -> bool {
    lines.iter().any(|(at, text)| *at == level && parts.iter().all(|part| text.contains(part)))
}

/// On one thread, so that a subscriber of this thread sees server and client.
#[test]
fn start_connect_call_error_and_end_are_traced() {
    if !alone() {
        return;
    }
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::mmf();
        let server = fixture.server().await;
        assert!(has(&lines.take(), Level::INFO, &["waiting for clients", "test"]));

        let client = fixture.client().await;
        let calc: CalcClient = client.get_service();
        calc.unit().await.unwrap();
        let connected = lines.take();
        let process = format!("process={}", std::process::id());
        assert!(has(&connected, Level::INFO, &["span client", &process]), "{connected:#?}");
        assert!(has(&connected, Level::INFO, &["a client connected"]), "{connected:#?}");
        assert!(has(&connected, Level::INFO, &["message=connected", "test"]), "{connected:#?}");

        calc.add(1, 2).await.unwrap();
        let called = lines.take();
        let call = ["span call", "\"Calc\"", "\"add\""];
        assert!(has(&called, Level::DEBUG, &call), "{called:#?}");
        assert!(called.iter().all(|(level, _)| *level > Level::INFO), "{called:#?}");

        calc.panics("on purpose".to_owned()).await.unwrap_err();
        let panicked = lines.take();
        assert!(has(&panicked, Level::ERROR, &["panicked", "Calc", "on purpose"]), "{panicked:#?}");
        assert!(has(&panicked, Level::DEBUG, &["the call failed", "Calc.panics"]), "{panicked:#?}");

        client.disconnect().await;
        while server.client_count() > 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let ended = lines.take();
        assert!(
            has(&ended, Level::INFO, &["a client disconnected", "reason=the peer closed it"]),
            "{ended:#?}"
        );
        server.stop_waiting_for_connection().await;
        assert!(has(&lines.take(), Level::INFO, &["no longer waiting"]));
    });
}
