#[witrpc::service]
trait Members {
    type Item;
    const LIMIT: u32;
    methods!();
    pub async fn public(&self) -> witrpc::Result<()>;
    async fn body(&self) -> witrpc::Result<()> {
        Ok(())
    }
    #[witrpc(blokcing, idempotent = true)]
    async fn options(&self) -> witrpc::Result<()>;
    #[witrpc]
    async fn no_option(&self) -> witrpc::Result<()>;
    #[cfg(all())]
    async fn configured(&self) -> witrpc::Result<()>;
}

fn main() {}
