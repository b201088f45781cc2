//! The server's program.
use contract::{Plane, PlaneError, PlaneServer, Point};
use witrpc_mmf_server::{MemoryMappedFile, WitServerBuilder, WithMemoryMappedFile as _};

struct Flat;

impl Plane for Flat {
    async fn distance(&self, a: Point, b: Point) -> Result<f64, PlaneError> {
        let distance = (a.x - b.x).hypot(a.y - b.y);
        if distance.is_nan() { Err(PlaneError::NoNumber) } else { Ok(distance) }
    }

    async fn origin(&self) -> witrpc_mmf_server::Result<Point> {
        Ok(Point { x: 0.0, y: 0.0 })
    }
}

#[tokio::main]
async fn main() -> witrpc_mmf_server::Result<()> {
    let server = WitServerBuilder::new()
        .with_service(PlaneServer::new(Flat))
        .with_memory_mapped_file(MemoryMappedFile::new("MySharedMap").with_size(1_000_000))
        .with_json()
        .build()?;
    server.start_waiting_for_connection().await?;
    tokio::signal::ctrl_c().await.expect("a signal handler");
    server.stop_waiting_for_connection().await;
    Ok(())
}
