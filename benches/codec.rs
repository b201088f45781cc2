//! What a message costs before and after the ring: frame headers, message heads, JSON, and sealing.
//!
//! `header` encodes and decodes the header of one frame. `message` serializes the arguments of a call behind the head of its message
//! and reads them back: two numbers, and a text of 64 KiB. `json` is the serializer alone on the same values, so the difference is
//! the cost of the message. `seal` copies and seals one frame of so many bytes. `open` opens one frame and is timed alone, so at
//! 64 bytes it includes the cost of the clock.
//!
//! It does not show chunks and reassembly, which happen in a session, nor anything of a ring. All data is in the cache of one CPU,
//! and the allocator has its free blocks at hand.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc_core::bench_support::{
    cipher_pairs, decode_header, decode_message, encode_header, encode_message,
};

const LARGE: usize = 64 << 10;

fn header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/header");
    group.bench_function("encode", |bencher| {
        bencher.iter(|| encode_header(black_box(7), black_box(64)));
    });
    let bytes = encode_header(7, 64);
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decode_header(black_box(&bytes)).expect("a header"));
    });
}

fn values(criterion: &mut Criterion) {
    value(criterion, "small", &(20, 22));
    value(criterion, "64_kib", &("t".repeat(LARGE),));
}

fn value<T: Serialize + DeserializeOwned + 'static>(
    criterion: &mut Criterion,
    name: &str,
    value: &T,
) {
    let section = encode_message(value).expect("JSON takes it");
    let json = serde_json::to_vec(value).expect("JSON takes it");
    let mut group = criterion.benchmark_group(format!("codec/{name}"));
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("message/encode", |bencher| {
        bencher.iter(|| encode_message(black_box(value)).expect("JSON takes it"));
    });
    group.bench_function("message/decode", |bencher| {
        bencher.iter_batched(
            || section.clone(),
            |section| decode_message::<T>(section).expect("it was encoded"),
            criterion::BatchSize::SmallInput,
        );
    });
    group.bench_function("json/serialize", |bencher| {
        let mut out = Vec::with_capacity(json.len());
        bencher.iter(|| {
            out.clear();
            serde_json::to_writer(&mut out, black_box(value)).expect("JSON takes it");
        });
    });
    group.bench_function("json/deserialize", |bencher| {
        bencher.iter(|| serde_json::from_slice::<T>(black_box(&json)).expect("it was serialized"));
    });
}

const SEALED: [usize; 4] = [64, 4 << 10, 64 << 10, 1 << 20];

fn sealing(criterion: &mut Criterion) {
    for size in SEALED {
        let header = encode_header(7, 64);
        let payload = vec![7; size];
        let mut group = criterion.benchmark_group(format!("codec/sealed/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("seal", |bencher| {
            let [mut client, _] = cipher_pairs().expect("randomness");
            let mut frame = Vec::with_capacity(size + client.sealer.overhead());
            bencher.iter(|| {
                frame.clear();
                frame.extend_from_slice(black_box(&payload));
                client.sealer.seal(&header, &mut frame).expect("numbers are left");
            });
        });
        // A frame opens once: so each iteration opens one that was sealed for it, and only opening is timed.
        group.bench_function("open", |bencher| {
            let [mut client, mut server] = cipher_pairs().expect("randomness");
            let mut frame = Vec::with_capacity(size + client.sealer.overhead());
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    frame.clear();
                    frame.extend_from_slice(&payload);
                    client.sealer.seal(&header, &mut frame).expect("numbers are left");
                    let began = Instant::now();
                    server.opener.open(&header, &mut frame, 0).expect("it was sealed");
                    time += began.elapsed();
                }
                time
            });
        });
    }
}

criterion_group!(benches, header, values, sealing);
criterion_main!(benches);
