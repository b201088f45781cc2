//! The corpus of each target, replayed.

use std::cell::Cell;
use std::path::Path;
use std::sync::Once;

thread_local! {
    /// A panic in a task is caught by the runtime; a fuzzer sees it all the same, and so must this.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Runs a target over its corpus.
///
/// # Panics
///
/// If the target does, or there is no corpus.
pub fn replay(target: &str, run: fn(&[u8])) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&place).expect("the corpus of the workspace") {
        let path = entry.expect("a file of the corpus").path();
        let before = PANICS.get();
        run(&std::fs::read(&path).expect("a file of the corpus"));
        assert_eq!(PANICS.get(), before, "{}", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", place.display());
}

#[cfg(test)]
mod tests {
    use super::replay;

    #[test]
    fn frame() {
        replay("frame", crate::fuzz_support::frame);
    }

    #[test]
    fn reassembly() {
        replay("reassembly", crate::fuzz_support::reassembly);
    }
}
