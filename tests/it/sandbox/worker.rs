//! The worker of the tests of sandboxes, and of the soak of pools, a program of its own with a plain `main`; and hosts in surroundings that a test cannot have itself.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod captive;
#[cfg(target_os = "linux")]
mod contract;
#[cfg(target_os = "linux")]
mod escapes;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
mod toil;
#[cfg(target_os = "linux")]
mod toiler;

#[cfg(target_os = "linux")]
fn main() -> witrpc::Result<()> {
    captive::main()
}
