//! A plug-in that turns texts round.

#[tokio::main]
async fn main() -> witrpc::Result<()> {
    plugins::serve("reverse", |text| text.chars().rev().collect()).await
}
