#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidemark_postgres::fuzzing::text(bytes));
