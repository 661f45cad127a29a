//! What a core dump of a process would hold, without making one: the bytes of all its mappings that are not left out of dumps
//! (proc_pid_smaps(5), `dd` in VmFlags).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;

/// Bytes that are looked at at once.
const PIECE_BYTES: usize = 4 << 20;
/// What stands across two pieces is seen, up to so many bytes.
const OVERLAP_BYTES: usize = 4 << 10;

/// Shows all that would be dumped, piece by piece.
pub fn dumped(pid: u32, mut show: impl FnMut(&[u8])) {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the memory of a process of ours");
    let mut piece = vec![0; PIECE_BYTES];
    for (start, end) in mappings(pid) {
        let mut at = start;
        while at < end {
            let count = (end - at).min(PIECE_BYTES);
            // A mapping may have gone meanwhile, or may be of no memory ([vvar]).
            let Ok(count) = memory.read_at(&mut piece[..count], at as u64) else { break };
            show(&piece[..count]);
            at += count;
            if at < end {
                at -= OVERLAP_BYTES.min(count / 2);
            }
        }
    }
    // It is memory of this process, which may be the one that is looked at.
    std::hint::black_box(&mut piece).fill(0);
    std::hint::black_box(&piece);
}

/// Where mappings are that can be read and are dumped.
fn mappings(pid: u32) -> Vec<(usize, usize)> {
    let smaps = File::open(format!("/proc/{pid}/smaps")).expect("its mappings");
    let (mut found, mut last) = (Vec::new(), None);
    for line in BufReader::new(smaps).lines().map(|line| line.expect("text")) {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let (range, is_read) = last.take().expect("a mapping comes before its flags");
            if is_read && !flags.split_whitespace().any(|flag| flag == "dd") {
                found.push(range);
            }
        } else if let Some((range, rest)) = line.split_once(' ')
            && let Some((start, end)) = range.split_once('-')
        {
            let address = |text| usize::from_str_radix(text, 16).expect("an address");
            last = Some(((address(start), address(end)), rest.starts_with('r')));
        }
    }
    found
}
