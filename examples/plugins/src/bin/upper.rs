//! A plug-in that makes all letters large.

#[tokio::main]
async fn main() -> witrpc::Result<()> {
    plugins::serve("upper", str::to_uppercase).await
}
