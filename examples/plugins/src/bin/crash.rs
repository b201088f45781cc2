//! A plug-in that cannot stand some texts.

#[tokio::main]
async fn main() -> witrpc::Result<()> {
    plugins::serve("crash", |text| match text {
        "boom" => std::process::abort(),
        _ => text.to_owned(),
    })
    .await
}
