//! The targets, in the order of the library's own list.
//!
//! witrpc is measured with tokio's `multi_thread` unless a row says otherwise. A row for a new setting of the library
//! is a system in `systems.rs`, and a line here.

use anyhow::Result;

use crate::cpu::Placement::{self, OneCore, TwoCores};
use crate::probe::crowd::Found;
use crate::sample::Sample;
use crate::scenario::Scenario;
use crate::system::REGION;
use crate::targets::round::{Round, Row};

const POSTCARD: &str = "witrpc-postcard-mt";
const JSON: &str = "witrpc-json-mt";
const POSTCARD_THREAD: &str = "witrpc-postcard-thread-mt";
const JSON_THREAD: &str = "witrpc-json-thread-mt";
const MESSAGE_PACK: &str = "witrpc-msgpack-mt";
const ENCRYPTED: &str = "witrpc-encrypted-mt";
const SOCKET: &str = "socket-mt";
const RING: &str = "ring-spin";

/// What a small call's frame has besides, about.
const SMALL_FRAME: usize = 32;
/// The part of a large message that is sealed at a time.
const CHUNK: usize = 48 << 10;
const MEBIBYTE: usize = 1 << 20;

pub(super) fn all() -> Vec<Row> {
    let groups = [null(), paced_and_idle(), in_flight(), bulk(), encryption(), clients()];
    groups.into_iter().flatten().collect()
}

/// A figure of one system divided by the same of another.
fn ratio(
    placement: Placement,
    scenario: Scenario,
    ours: &'static str,
    other: &'static str,
    figure: fn(&Sample) -> f64,
) -> impl Fn(&mut Round) -> Result<f64> {
    move |round| {
        let ours = round.sample(placement, scenario, ours)?;
        Ok(figure(&ours) / figure(&round.sample(placement, scenario, other)?))
    }
}

fn p50(sample: &Sample) -> f64 {
    sample.p50
}

fn tail(sample: &Sample) -> Result<f64> {
    Ok(sample.p99 / sample.p50)
}

fn null() -> Vec<Row> {
    let small = |placement, ours, other| ratio(placement, Scenario::Small, ours, other, p50);
    let vs_ring = "p50 / that of the spinning ring, two cores";
    let vs_socket = "p50 / that of the raw tokio Unix socket, one core";
    vec![
        Row::at_most(2.2, "null_ring_postcard", vs_ring, small(TwoCores, POSTCARD, RING)),
        Row::at_most(3.0, "null_ring_json", vs_ring, small(TwoCores, JSON, RING)),
        Row::at_most(
            1.7,
            "null_thread_postcard",
            "the same, the server with dedicated threads",
            small(TwoCores, POSTCARD_THREAD, RING),
        ),
        Row::at_most(
            2.5,
            "null_thread_json",
            "the same, the server with dedicated threads",
            small(TwoCores, JSON_THREAD, RING),
        ),
        Row::at_most(
            0.5,
            "null_iceoryx2",
            "p50 with postcard / that of iceoryx2 polling, two cores",
            small(TwoCores, POSTCARD, "iceoryx2-poll"),
        ),
        Row::at_least(
            25.0,
            "null_tarpc",
            "p50 of tarpc (bincode, mt) / that with postcard, two cores",
            small(TwoCores, "tarpc-bincode-mt", POSTCARD),
        ),
        Row::at_most(0.55, "null_socket_postcard", vs_socket, small(OneCore, POSTCARD, SOCKET)),
        Row::at_most(0.7, "null_socket_json", vs_socket, small(OneCore, JSON, SOCKET)),
        Row::at_most(4.0, "null_p99", "p99 / p50 with postcard, two cores", |round| {
            tail(&round.sample(TwoCores, Scenario::Small, POSTCARD)?)
        }),
        Row::at_most(2.0, "null_p99_thread", "the same, with dedicated threads", |round| {
            tail(&round.sample(TwoCores, Scenario::Small, POSTCARD_THREAD)?)
        }),
        Row::at_most(4.0, "allocations", "allocations of both sides per call", |round| {
            Ok(round.sample(TwoCores, Scenario::Allocations, POSTCARD)?.allocations_per_call)
        }),
    ]
}

fn paced_and_idle() -> Vec<Row> {
    let mut rows = Vec::new();
    for placement in [TwoCores, OneCore] {
        let paced = |figure| ratio(placement, Scenario::Paced, POSTCARD, SOCKET, figure);
        let cpu: fn(&Sample) -> f64 = |sample| sample.cpu_per_call;
        let than = format!("/ that of the raw tokio Unix socket, {placement}");
        rows.push(Row::at_most(
            1.0,
            format!("paced_p50_{placement}"),
            format!("p50 {than}"),
            paced(p50),
        ));
        rows.push(Row::at_most(
            1.0,
            format!("paced_cpu_{placement}"),
            format!("CPU {than}"),
            paced(cpu),
        ));
    }
    rows.push(Row::at_most(200.0, "idle_cpu", "µs of CPU per second, both sides", |round| {
        Ok(round.sample(TwoCores, Scenario::Idle, POSTCARD)?.cpu_per_second)
    }));
    // The measurement's own sleep is some of them, at both.
    rows.push(Row::at_most(
        1.0,
        "idle_switches",
        "switches per second / those of the raw tokio Unix socket",
        ratio(TwoCores, Scenario::Idle, POSTCARD, SOCKET, |sample| sample.switches_per_second),
    ));
    rows
}

fn in_flight() -> Vec<Row> {
    let scenario = Scenario::InFlight(64);
    let rate: fn(&Sample) -> f64 = |sample| sample.calls_per_second;
    let mut rows = Vec::new();
    for placement in [TwoCores, OneCore] {
        rows.push(Row::at_least(
            5.0,
            format!("in_flight_tarpc_{placement}"),
            format!("calls/s / those of tarpc (bincode, mt), {placement}"),
            ratio(placement, scenario, POSTCARD, "tarpc-bincode-mt", rate),
        ));
        rows.push(Row::at_least(
            1.0,
            format!("in_flight_rivals_{placement}"),
            format!("calls/s / those of the best rival of any flavour, {placement}"),
            move |round| {
                let best = round.rivals(placement, scenario, rate)?.into_iter().fold(0.0, f64::max);
                Ok(rate(&round.sample(placement, scenario, POSTCARD)?) / best)
            },
        ));
    }
    rows
}

fn bulk() -> Vec<Row> {
    let scenario = Scenario::Echo(MEBIBYTE);
    let mut rows = Vec::new();
    for (serializer, ours) in [("postcard", POSTCARD), ("msgpack", MESSAGE_PACK), ("json", JSON)] {
        rows.push(Row::at_most(
            1.15,
            format!("bulk_ring_{serializer}"),
            "p50 of an echo of 1 MiB / that of the spinning ring, two cores",
            ratio(TwoCores, scenario, ours, RING, p50),
        ));
    }
    for placement in [TwoCores, OneCore] {
        rows.push(Row::at_most(
            1.0,
            format!("bulk_rivals_{placement}"),
            format!("p50 of an echo of 1 MiB / that of the best rival, {placement}"),
            move |round| {
                let all = round.rivals(placement, scenario, p50)?;
                let best = all.into_iter().fold(f64::INFINITY, f64::min);
                Ok(round.sample(placement, scenario, POSTCARD)?.p50 / best)
            },
        ));
    }
    rows.push(Row::at_most(
        1.0,
        "beside_bulk",
        "p99 of 64 B beside 1 MiB / (p99 alone + 2 × time to drain what lies ahead), two cores",
        beside_bulk,
    ));
    rows
}

/// A ring is half of a region, and large messages take at most half of a ring. An echo of 1 MiB moves it twice.
fn beside_bulk(round: &mut Round) -> Result<f64> {
    let ahead = REGION as f64 / 4.0;
    let echo = round.sample(TwoCores, Scenario::Echo(MEBIBYTE), POSTCARD)?.p50;
    let drain = ahead / (2.0 * MEBIBYTE as f64 / echo);
    let alone = round.sample(TwoCores, Scenario::Echo(64), POSTCARD)?.p99;
    let beside = round.sample(TwoCores, Scenario::BesideBulk, POSTCARD)?.p99;
    Ok(beside / (alone + 2.0 * drain))
}

fn encryption() -> Vec<Row> {
    let mut rows = Vec::new();
    for placement in [TwoCores, OneCore] {
        rows.push(Row::at_most(
            1.5,
            format!("encryption_null_{placement}"),
            format!("what it adds to p50 / two seal-and-open pairs of a small frame, {placement}"),
            move |round| {
                let sealed = round.sample(placement, Scenario::Small, ENCRYPTED)?.p50;
                let clear = round.sample(placement, Scenario::Small, POSTCARD)?.p50;
                Ok((sealed - clear) / (2.0 * round.pair(SMALL_FRAME)?))
            },
        ));
        rows.push(Row::at_least(
            0.7,
            format!("encryption_bulk_{placement}"),
            format!("bytes/s both ways of an echo of 1 MiB / those sealed and opened, {placement}"),
            move |round| {
                let echo = round.sample(placement, Scenario::Echo(MEBIBYTE), ENCRYPTED)?.p50;
                let rate = 2.0 * MEBIBYTE as f64 / echo;
                Ok(rate / (CHUNK as f64 / round.pair(CHUNK)?))
            },
        ));
    }
    rows
}

fn clients() -> Vec<Row> {
    vec![
        Row::at_most(1.1, "clients_500", "p50 with 500 connected / that with one", |round| {
            let [one, many] = round.crowd()?;
            Ok(many.p50 / one.p50)
        }),
        Row::at_most(
            16.0,
            "memory",
            "KiB per idle connection, both sides, region aside",
            |round| {
                let [one, many] = round.crowd()?;
                let grown = |of: fn(&Found) -> u64| of(&many).saturating_sub(of(&one)) as f64;
                let more = f64::from(many.clients - one.clients);
                Ok((grown(|f| f.server) + grown(|f| f.silent)) / more / 1024.0)
            },
        ),
    ]
}
