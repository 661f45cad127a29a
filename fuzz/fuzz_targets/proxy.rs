#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{proxy, input::Seen};

fuzz_target!(|data: &[u8]| proxy::run(data, &mut Seen::default()));
