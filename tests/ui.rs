//! What the macro takes and how it refuses the rest. The expected texts are our own messages; rustc's wording changes.

#[test]
fn the_macro_takes_what_it_should_and_says_what_is_wrong() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
