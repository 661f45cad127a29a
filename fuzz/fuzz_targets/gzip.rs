#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{gzip, input::Seen};

fuzz_target!(|data: &[u8]| gzip::run(data, &mut Seen::default()));
