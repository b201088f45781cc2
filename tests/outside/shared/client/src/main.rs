//! The client's program.
use contract::{Plane, PlaneClient, PlaneError, Point};
use witrpc::prelude::*;

/// Takes a plane of this process, or of another.
async fn circumference(plane: &impl Plane, corners: &[Point]) -> Result<f64, PlaneError> {
    let mut sum = 0.0;
    for (at, corner) in corners.iter().enumerate() {
        sum += plane.distance(*corner, corners[(at + 1) % corners.len()]).await?;
    }
    Ok(sum)
}

#[tokio::main]
async fn main() -> Result<(), PlaneError> {
    let client =
        WitClientBuilder::new().with_memory_mapped_file("MySharedMap").with_json().build()?;
    client.connect(Duration::from_secs(5)).await?;
    let plane = client.get_service::<PlaneClient>();
    let corners = [(0.0, 0.0), (3.0, 0.0), (3.0, 4.0)].map(|(x, y)| Point { x, y });
    let spawned = tokio::spawn(plane.origin());
    assert_eq!(circumference(&plane, &corners).await?, 12.0);
    assert_eq!(spawned.await.expect("no panic")?, corners[0]);
    println!("12 all around");
    client.disconnect().await;
    Ok(())
}
