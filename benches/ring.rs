//! One ring without events: nanoseconds per record, and bytes per second.
//!
//! `same_thread` pushes, publishes, peeks, copies out, consumes and releases one record after the other. It shows the cost of the
//! instructions for a record, with all lines in the cache of one CPU. `two_threads` has one thread at each end; both poll. It adds the
//! cost of moving cache lines between two cores. `round_trip` is one small record there and one back.
//!
//! It does not show the cost of a call (no frames, no futures), nor of waking a sleeper, nor two processes: both ends are in one
//! process, though each has a mapping of its own, as two processes would have. On a machine with fewer than two free CPUs the figures
//! of `two_threads` and `round_trip` mean nothing.

use std::{
    hint::{black_box, spin_loop},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use witrpc_core::transport::{RecordReceiver, RecordSender};
use witrpc_mmf::bench_support::pair;

type Ends = (Box<dyn RecordSender>, Box<dyn RecordReceiver>);

/// The default size of a region.
const REGION: u64 = 1 << 20;
/// A small call; a page; the chunk that bulk is cut into.
const SIZES: [usize; 3] = [64, 4096, 65_536];

fn ring() -> Ends {
    let memory = PathBuf::from("/dev/shm");
    let directory = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let name = format!("witrpc-bench-{}-{:?}", std::process::id(), thread::current().id());
    pair(&directory.join(name), REGION).expect("a region for the bench")
}

fn push(sender: &mut dyn RecordSender, body: &[u8]) {
    while !sender.try_push(&[0; 24], body, 0).expect("an honest peer") {
        spin_loop();
    }
    sender.publish().expect("nothing to ring");
}

fn pop(receiver: &mut dyn RecordReceiver, out: &mut Vec<u8>) {
    let mut head = [0; 24];
    let len = loop {
        match receiver.peek(&mut head).expect("an honest peer") {
            Some(len) => break len,
            None => spin_loop(),
        }
    };
    out.clear();
    receiver.append_to(head.len(), len - head.len(), out);
    receiver.consume();
    receiver.release().expect("nothing to ring");
    black_box(out.as_slice());
}

fn same_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/same_thread");
    for size in SIZES {
        let ((mut sender, mut receiver), body, mut out) = (ring(), vec![7; size], Vec::new());
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                push(&mut *sender, black_box(&body));
                pop(&mut *receiver, &mut out);
            });
        });
    }
}

fn two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/two_threads");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|records| stream(size, records));
        });
    }
}

fn stream(size: usize, records: u64) -> Duration {
    let (mut sender, mut receiver) = ring();
    let body = vec![7; size];
    let writer = thread::spawn(move || {
        for _ in 0..records {
            push(&mut *sender, &body);
        }
    });
    let (start, mut out) = (Instant::now(), Vec::new());
    for _ in 0..records {
        pop(&mut *receiver, &mut out);
    }
    let taken = start.elapsed();
    writer.join().expect("the writer ran");
    taken
}

fn round_trip(criterion: &mut Criterion) {
    criterion.bench_function("ring/round_trip/64", |bencher| {
        bencher.iter_custom(|trips| {
            let ((mut ask, mut asked), (mut answer, mut answered)) = (ring(), ring());
            let server = thread::spawn(move || {
                let mut out = Vec::new();
                for _ in 0..trips {
                    pop(&mut *asked, &mut out);
                    push(&mut *answer, &out);
                }
            });
            let (start, body, mut out) = (Instant::now(), [7; 64], Vec::new());
            for _ in 0..trips {
                push(&mut *ask, &body);
                pop(&mut *answered, &mut out);
            }
            let taken = start.elapsed();
            server.join().expect("the server ran");
            taken
        });
    });
}

criterion_group!(benches, same_thread, two_threads, round_trip);
criterion_main!(benches);
