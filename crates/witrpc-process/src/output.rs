//! What a worker prints: where it goes, and the last lines of it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use witrpc_core::text::{Escaped, escaped};

/// What subscribers filter by.
const TARGET: &str = "witrpc_process::output";
/// A longer line is taken for several.
const LONGEST_LINE: u64 = 4096;
/// The last lines that an error shows.
const LAST_LINES: usize = 20;
/// Far more than reading lines takes, subscribers of `tracing` included.
const STACK: usize = 256 << 10;

/// Where a stream of a worker goes, its standard output or standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Each line is logged by `tracing`, target `witrpc_process::output`, with the worker's name and process id. The default.
    #[default]
    Tracing,
    /// It goes where the [`Command`](std::process::Command) says; if that says nothing, where the host's own goes.
    Inherited,
    /// It is a pipe, which the host reads: see `take_stdout` and `take_stderr` of [`Worker`](crate::Worker).
    Piped,
}

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The last lines of a stream that a thread reads.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Closed at the end of the stream.
    ended: mpsc::Receiver<()>,
}

impl Tail {
    /// The last lines, escaped, once the stream has ended; or what there is if it does not end within this time: a program that the worker
    /// has started may go on with it.
    pub(crate) fn take(self, patience: Duration) -> String {
        // Nothing is ever sent: it is an error in either case.
        let _closed_or_late = self.ended.recv_timeout(patience);
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Logs each line of a stream, on a thread of its own, which ends with the stream. `None` if no thread can be started; then nobody reads it.
pub(crate) fn log(
    pipe: impl Read + Send + 'static,
    stream: Stream,
    worker: String,
    process_id: u32,
) -> Option<Tail> {
    let lines = Arc::new(Mutex::new(VecDeque::with_capacity(LAST_LINES)));
    let (end, ended) = mpsc::channel();
    let last = Arc::clone(&lines);
    let read = move || {
        let _end = end;
        each_line(BufReader::new(pipe), |line| {
            match stream {
                Stream::Stdout => tracing::info!(
                    target: TARGET,
                    worker,
                    process_id,
                    stream = "stdout",
                    line = %Escaped(line)
                ),
                Stream::Stderr => tracing::warn!(
                    target: TARGET,
                    worker,
                    process_id,
                    stream = "stderr",
                    line = %Escaped(line)
                ),
            }
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(escaped(line));
        });
    };
    let thread = thread::Builder::new().name("witrpc-output".to_owned()).stack_size(STACK);
    match thread.spawn(read) {
        Ok(_) => Some(Tail { lines, ended }),
        Err(error) => {
            tracing::error!(error = %Escaped(&error), "could not start a thread that reads what a worker prints");
            None
        }
    }
}

/// Calls `f` with each line, without its end. Stops at the end of the stream, or when it cannot be read.
fn each_line(mut reader: impl BufRead, mut f: impl FnMut(&str)) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                f(text.trim_end_matches(['\r', '\n']));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        each_line(BufReader::with_capacity(7, text), |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        assert_eq!(lines(b""), [""; 0]);
        assert_eq!(lines(b"one\r\n\ntwo"), ["one", "", "two"]);
        assert_eq!(lines(b"\xff\n"), ["\u{fffd}"]);
        let long = vec![b'x'; 10_000];
        assert_eq!(lines(&long).iter().map(String::len).collect::<Vec<_>>(), [4096, 4096, 1808]);
    }

    #[test]
    fn the_last_lines_are_kept_and_escaped() {
        let text: String = (0..50).map(|number| format!("line {number}\x1b[2J\n")).collect();
        let reader = std::io::Cursor::new(text.into_bytes());
        let tail = log(reader, Stream::Stderr, "worker".to_owned(), 1).unwrap();
        let last = tail.take(Duration::from_secs(30));
        let lines: Vec<_> = last.lines().collect();
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[0], "line 30\\u{1b}[2J");
        assert_eq!(lines[LAST_LINES - 1], "line 49\\u{1b}[2J");
    }
}
