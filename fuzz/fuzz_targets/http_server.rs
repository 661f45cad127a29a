#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{http_server, input::Seen};

fuzz_target!(|data: &[u8]| http_server::run(data, &mut Seen::default()));
