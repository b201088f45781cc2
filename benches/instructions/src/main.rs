//! So many calls of `add(i32, i32)`, one at a time, client and server in one process on one thread, over the transport in memory.
//!
//! Run under callgrind by `benches/instructions/count`, with two numbers of calls: the difference has nothing of start-up
//! in it. Arguments: `json`, `postcard`, `encrypted` or `pool` (both postcard, too; a pool of one client), and the number.

#![forbid(unsafe_code)]

use witrpc::prelude::*;
use witrpc::transport::memory::MemoryTransport;

#[witrpc::service]
trait Calc {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
}

struct Adder;

impl Calc for Adder {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        Ok(a.wrapping_add(b))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(kind), Some(calls)) = (args.next(), args.next()) else {
        return Err("give json, postcard, encrypted or pool, and a number of calls".into());
    };
    let calls: i32 = calls.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&kind, calls))
}

async fn run(kind: &str, calls: i32) -> Result<(), Box<dyn std::error::Error>> {
    let transport = MemoryTransport::new();
    let server = WitServerBuilder::new()
        .with_service(CalcServer::new(Adder))
        .with_transport(transport.clone());
    let client = WitClientBuilder::new().with_transport(transport);
    let (server, client) = match kind {
        "json" => (server, client),
        "postcard" | "pool" => (server.with_postcard(), client.with_postcard()),
        "encrypted" => {
            (server.with_postcard().with_encryption(), client.with_postcard().with_encryption())
        }
        other => {
            return Err(format!("{other:?} is none of json, postcard, encrypted and pool").into());
        }
    };
    let server = server.build()?;
    server.start_waiting_for_connection().await?;
    let client = client.build()?;
    client.connect(Duration::from_secs(5)).await?;
    let pool = Pool::of_clients([client.clone()])?;
    let calc: CalcClient = if kind == "pool" { pool.get_service() } else { client.get_service() };
    for n in 0..calls {
        assert_eq!(calc.add(n, 1).await?, n.wrapping_add(1));
    }
    client.disconnect().await;
    server.shutdown(Duration::ZERO).await;
    Ok(())
}
