#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{http_client, input::Seen};

fuzz_target!(|data: &[u8]| http_client::run(data, &mut Seen::default()));
