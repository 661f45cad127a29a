//! Any bytes as a tty's stream under PARMRK: any chunks decode to what the rules of termios(3) say of the whole.

use super::input::{Input, Seen, pieces};
use ringest::source::serial::{Mark, Parmrk};

/// All that a stream says: its bytes, and after how many of them each mark stands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    bytes: Vec<u8>,
    marks: Vec<(usize, Mark)>,
}

/// The slow, obvious way, on the whole stream.
fn reference(mut stream: &[u8]) -> Line {
    let mut line = Line::default();
    loop {
        let (taken, byte, mark) = match *stream {
            [] | [0xFF] | [0xFF, 0] => return line, // a mark that is not whole says nothing yet
            [0xFF, 0xFF, ..] => (2, Some(0xFF), None),
            [0xFF, 0, 0, ..] => (3, None, Some(Mark::Break)),
            [0xFF, 0, byte, ..] => (3, Some(byte), Some(Mark::Error)),
            [0xFF, byte, ..] => (2, Some(byte), Some(Mark::Error)),
            [byte, ..] => (1, Some(byte), None),
        };
        line.bytes.extend(byte);
        line.marks.extend(mark.map(|mark| (line.bytes.len(), mark)));
        stream = &stream[taken..];
    }
}

fn by_runs(chunks: &[&[u8]]) -> Line {
    let mut parmrk = Parmrk::new();
    let mut line = Line::default();
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let mut at = 0;
        loop {
            let before = chunk[at..].to_vec();
            let run = parmrk.decode_run(&mut chunk[at..]);
            assert!(run.len <= run.taken && run.taken <= before.len());
            assert_eq!(chunk[at + run.taken..], before[run.taken..], "the rest is as it came");
            line.bytes.extend(&chunk[at..at + run.len]);
            at += run.taken;
            let Some(mark) = run.mark else { break };
            line.marks.push((line.bytes.len(), mark));
        }
        assert_eq!(at, chunk.len(), "all is taken");
    }
    line
}

fn by_chunks(chunks: &[&[u8]]) -> (Vec<u8>, [usize; 2]) {
    let mut parmrk = Parmrk::new();
    let (mut bytes, mut marks) = (Vec::new(), [0; 2]);
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let decoded = parmrk.decode(&mut chunk);
        bytes.extend(&chunk[..decoded.len]);
        marks[0] += decoded.breaks as usize;
        marks[1] += decoded.errors as usize;
    }
    (bytes, marks)
}

/// Cuts, and the stream behind them.
pub fn run(data: &[u8], seen: &mut Seen) {
    let mut input = Input::new(data);
    let cuts = input.cuts();
    let stream = input.stream(false);
    let expected = reference(&stream);
    let count = |mark| expected.marks.iter().filter(|(_, it)| *it == mark).count();
    let marks = [count(Mark::Break), count(Mark::Error)];
    let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
    for chunks in [vec![&stream[..]], bytewise, pieces(&stream, cuts)] {
        assert_eq!(by_runs(&chunks), expected, "{chunks:x?}");
        assert_eq!(by_chunks(&chunks), (expected.bytes.clone(), marks), "{chunks:x?}");
    }
    seen.count("break", marks[0]);
    seen.count("error", marks[1]);
    seen.count("ff", expected.bytes.iter().filter(|byte| **byte == 0xFF).count());
}
