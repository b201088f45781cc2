//! The output of `WITRPC_TRACE` in a program without a subscriber. Each test runs a process of its own with the variable set.

use std::process::Command;
use std::time::Duration;

use witrpc::prelude::*;

use crate::contract::{CalcClient, MathError};
use crate::fixture::{Fixture, Flavor, GUARD, Security, alone, eventually, is_late, run};

/// A text that is in no trace.
const CONTENT: &str = "what is said between the two";

#[witrpc::service]
trait Letters {
    /// Raises `spoken`, and answers with a stream of the text's letters.
    async fn speak(&self, text: String) -> witrpc::Result<Streaming<String>>;
    #[event]
    fn spoken(&self) -> &Event<String>;
}

#[derive(Default)]
struct Speaker {
    spoken: Event<String>,
}

impl Letters for Speaker {
    async fn speak(&self, text: String) -> witrpc::Result<Streaming<String>> {
        self.spoken.raise(text.clone())?;
        let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        Ok(Streaming::iter(words))
    }

    fn spoken(&self) -> &Event<String> {
        &self.spoken
    }
}

/// Calls that end in several ways, a long one, an event and a stream.
fn traffic(security: Security) {
    run(Flavor::MultiThread, Fixture::mmf().secured(security), |fixture| async move {
        let builder = fixture.server_builder().with_service(LettersServer::new(Speaker::default()));
        let server = builder.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        let calc: CalcClient = client.get_service();
        assert_eq!(calc.echo(CONTENT.to_owned()).await.unwrap(), CONTENT);
        let error = calc.divide(1, 0).await.unwrap_err();
        assert_eq!(error, MathError::DivisionByZero { dividend: 1 });
        // It has passed when the server reads the request.
        let late = calc.with_timeout(Duration::from_nanos(1)).add(1, 2).await.unwrap_err();
        assert!(is_late(&late), "{late}");
        assert_eq!(calc.make(300_000).await.unwrap().len(), 300_000);
        let letters: LettersClient = client.get_service();
        let mut spoken = letters.spoken().subscribe();
        let mut words = letters.speak(CONTENT.to_owned()).await.unwrap();
        assert_eq!(spoken.next().await.unwrap().unwrap(), CONTENT);
        while let Some(word) = words.next().await {
            word.unwrap();
        }
        drop(spoken);
        client.ping().await.unwrap();
        client.disconnect().await;
        // Or it may say its own goodbye before it has read the client's.
        eventually("the client has left", || server.client_count() == 0).await;
        server.shutdown(GUARD).await;
    });
}

/// The lines of a trace of `traffic`, in a process of this test's that has the variable set; in that process, nothing.
fn traced(level: &str, security: Security) -> Vec<String> {
    const INNER: &str = "WITRPC_TEST_TRAFFIC";
    if std::env::var_os(INNER).is_some() {
        traffic(security);
        return Vec::new();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let name = std::thread::current().name().unwrap().to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name]).env(INNER, "1");
    command.env("WITRPC_TRACE", format!("{level}:{}", file.display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Whether the lines have these parts, in this order.
fn assert_in_order(lines: &[String], wanted: &[&str]) {
    let mut rest = lines.iter();
    for part in wanted {
        assert!(rest.any(|line| line.contains(part)), "{part:?} is missing in {lines:#?}");
    }
}

#[test]
fn calls_events_and_streams_are_shown_by_name_and_size() {
    let lines = traced("calls", Security::None);
    if lines.is_empty() {
        return;
    }
    let of = |side: &str| -> Vec<_> {
        lines.iter().filter(|line| line.contains(&format!("] test {side} "))).cloned().collect()
    };
    let echo = CONTENT.len() + 4; // As a JSON text in a list; as a result, without the list.
    assert_in_order(
        &of("client"),
        &[
            "-> hello",
            "<- accept",
            "-> confirm",
            "<- welcome",
            &format!("Calc.echo, {echo} bytes"),
            &format!("Calc.echo: ok, {} bytes, after ", echo - 2),
            "Calc.divide, 5 bytes",
            "Calc.divide: the method returned an error, ",
            "Calc.make, 8 bytes",
            "Calc.make: ok, 300002 bytes, after ",
            "Letters.spoken",
            "Letters.speak, ",
            "Letters.speak: ok, ",
            "stream item",
            "stream end",
            "-> unsubscribe",
            "-> goodbye",
        ],
    );
    assert_in_order(&of("client"), &["-> subscribe", "<- event "]);
    assert_in_order(
        &of("server"),
        &[
            "<- hello",
            "-> welcome",
            "<- request",
            "Calc.echo: ok",
            "Calc.add: refused, as it would have been late, 16 bytes",
            "<- goodbye",
        ],
    );
    // What only keeps the connection going is for those who ask for frames.
    for part in ["ping", "credit", "part of", "between"] {
        assert!(!lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
    }
    for line in lines {
        let (time, _) = line.strip_prefix('[').unwrap().split_once(']').unwrap();
        let (seconds, micros) = time.split_once('.').unwrap();
        assert!(seconds.parse::<u64>().is_ok() && micros.len() == 6, "{line}");
    }
}

#[test]
fn frames_are_shown_one_by_one() {
    let lines = traced("frames", Security::None);
    if lines.is_empty() {
        return;
    }
    assert_in_order(&lines, &["-> ping", "<- ping", "-> pong", "<- pong"]);
    assert_in_order(
        &lines,
        &["part of response", "part of response", "Calc.make: ok, 300002 bytes"],
    );
    assert!(!lines.iter().any(|line| line.contains("between")), "{lines:#?}");
}

#[test]
fn of_an_encrypted_connection_kinds_are_shown_and_no_more() {
    let lines = traced("frames", Security::Encrypted);
    if lines.is_empty() {
        return;
    }
    assert_in_order(&lines, &["-> request (encrypted)", "<- response (encrypted)"]);
    for line in &lines {
        let (_, text) = line.split_once("> ").or_else(|| line.split_once("<- ")).unwrap();
        let is_plain = ["hello", "accept"].contains(&text);
        assert!(is_plain || text.ends_with(" (encrypted)"), "{line}");
        assert!(!text.chars().any(|c| c.is_ascii_digit()), "{line}");
    }
}

#[test]
fn it_goes_to_the_standard_error_output_unless_told_otherwise() {
    if !alone() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "crossing::calls_events_and_streams_are_shown_by_name_and_size",
        "--nocapture",
    ]);
    command.env("WITRPC_TEST_TRAFFIC", "1");
    for (value, shown) in [("1", true), ("0", false), ("/no/such/directory/trace", true)] {
        let output = command.env("WITRPC_TRACE", value).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        assert_eq!(text.contains("Calc.echo: ok"), shown, "{value}: {text}");
        assert_eq!(text.contains("/no/such/directory/trace: "), value.starts_with('/'), "{text}");
    }
}
