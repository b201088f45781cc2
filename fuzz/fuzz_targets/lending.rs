//! Target `lending`: a server whose client lends and borrows as it likes. What it does is in `witrpc_runtime::fuzz_support`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| witrpc_runtime::fuzz_support::lending(data));
