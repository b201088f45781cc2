#[witrpc::service]
pub struct Calc;

#[witrpc::service]
impl Calc {
    async fn add(&self) {}
}

/// Documented.
#[witrpc::service]
#[allow(dead_code)]
pub(crate) async fn add() {}

#[witrpc::service]
enum Empty {}

fn main() {}
