//! What bytes cost before and after the ring: frame headers, message heads, and JSON.
//!
//! `header` encodes and decodes the header of one frame. `message` serializes the arguments of a call behind the head
//! of its message and reads them back: two numbers, and a text of 64 KiB; `json` is the serializer alone on the same
//! values, so the difference is what the message adds.
//!
//! It does not show chunks and reassembly, which happen in a session, nor anything of a ring. Everything is in the
//! cache of one CPU, and the allocator has its free blocks at hand.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc_core::bench_support::{decode_header, decode_message, encode_header, encode_message};

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

criterion_group!(benches, header, values);
criterion_main!(benches);
