#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{input::Seen, proxy};

fuzz_target!(|data: &[u8]| proxy::run(data, &mut Seen::default()));
