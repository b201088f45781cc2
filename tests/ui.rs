//! What the macro refuses, and how. The expected texts are our own messages; rustc's wording changes.
//! It needs the compiler, so it is run where that runs.
//!
//! What the macro accepts is in `ui/pass`: each file there is a test target of its own in `Cargo.toml`. If trybuild had such programs to
//! run, it would build all dependencies once more, instead of checking them.

#![cfg(not(windows))]

#[test]
fn the_macro_says_what_is_wrong() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/fail/*.rs");
}
