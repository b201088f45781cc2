//! What the macro takes and how it refuses the rest. The expected texts are our own messages; rustc's wording changes.
//! It needs the compiler, so it is run where that runs.

#![cfg(not(windows))]

#[test]
fn the_macro_takes_what_it_should_and_says_what_is_wrong() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/fail/*.rs");
}
