#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| magic_link_fuzz::properties::link(data));
