#[witrpc::service]
unsafe trait Unsafe {}

#[witrpc::service]
auto trait Auto {}

#[witrpc::service]
trait Super: Send + std::fmt::Debug + 'static + ?Sized {}

#[witrpc::service]
trait WhereSelf
where
    Self: Clone,
{
}

#[witrpc::service]
trait Borrowing<'a> {}

fn main() {}
