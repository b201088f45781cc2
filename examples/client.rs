//! A client of the `server` example. Start that first, or within five seconds:
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example client
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use witrpc::prelude::*;

#[path = "shared/contract.rs"]
mod contract;

use contract::WorkerClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client =
        WitClientBuilder::new().with_memory_mapped_file("MySharedMap").with_json().build()?;
    client.connect(Duration::from_secs(5)).await?;
    let worker = client.get_service::<WorkerClient>();

    println!("add(2, 3)            = {}", worker.add(2, 3).await?);
    println!("divide(1, 0)         = {:?}", worker.divide(1, 0).await);
    let text = "the quick brown fox".to_owned();
    println!("count_words({text:?}) = {}", worker.count_words(text.clone()).await?);
    println!("count_primes(100000) = {}", worker.count_primes(100_000).await?);
    println!("ping                 = {:?}", client.ping().await?);

    client.disconnect().await;
    Ok(())
}
