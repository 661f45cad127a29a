//! Entries become the blocks of a densely rewritten segment. Pure: what is sealed is handed over,
//! to be written.

use crate::ground::RecordNumber;
use crate::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Dense, EntryHeader, Position, Seal, entry_bytes, round_up,
};

/// What was to be kept does not fit into one segment, or an entry not into a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct NoRoom;

/// The dense segment that is being built.
#[derive(Debug)]
pub(in crate::journal) struct DenseBlocks {
    /// Of the open block, or of the last one.
    header: BlockHeader,
    covers: u32,
    /// Of the run's first entry: the first block says it, so that nothing seems to be missing
    /// before it.
    first_number: Option<RecordNumber>,
    /// How far the watermark of the epoch had come. Its first block says where that began: what
    /// older epochs have left behind is judged by it.
    watermark: Option<Position>,
    physical: u32,
    block_bytes: u32,
    segment_bytes: u32,
    /// The open block with room for its header; empty where none is open.
    open: Vec<u8>,
    entries: u32,
    sealed: Vec<u8>,
    /// Where `sealed` begins.
    sealed_at: u32,
}

impl DenseBlocks {
    /// `header` names nonce, segment, the run's first number, and the oldest segment.
    pub fn new(header: BlockHeader, covers: u32, physical: u32, block_bytes: u32, segment_bytes: u32) -> Self {
        Self {
            header,
            covers,
            first_number: Some(header.first_number),
            watermark: None,
            physical,
            block_bytes,
            segment_bytes,
            open: Vec::new(),
            entries: 0,
            sealed: Vec::new(),
            sealed_at: physical,
        }
    }

    /// Entries to come are of this epoch, whose watermark had come so far: a block holds entries of
    /// one epoch.
    pub fn enter(&mut self, epoch_id: u128, watermark: Position) {
        match &mut self.watermark {
            Some(highest) if self.header.epoch_id == epoch_id => *highest = watermark.max(*highest),
            _ => {
                self.seal(false);
                (self.header.epoch_id, self.header.watermark) = (epoch_id, watermark);
                self.watermark = Some(watermark);
            }
        }
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: EntryHeader, parts: &[&[u8]]) -> Result<(), NoRoom> {
        let bytes = entry_bytes(parts.iter().map(|part| part.len()).sum());
        if self.open.len() + bytes > self.block_bytes as usize {
            self.seal(false);
        }
        if self.open.is_empty() {
            self.header.at.offset = self.end();
            self.header.first_number = self.first_number.take().unwrap_or(entry.number);
            self.open.resize(BLOCK_HEADER_BYTES, 0);
        }
        let used = self.open.len() + bytes;
        if used > self.block_bytes as usize
            || self.header.at.offset + round_up(used as u32, self.physical) > self.segment_bytes
        {
            return Err(NoRoom);
        }
        let offset = self.header.at.offset + self.open.len() as u32;
        self.open.extend_from_slice(&entry.encode(self.header.nonce, offset, parts));
        for part in parts {
            self.open.extend_from_slice(part);
        }
        self.open.resize(used, 0);
        self.entries += 1;
        Ok(())
    }

    fn seal(&mut self, last: bool) {
        if self.entries == 0 {
            return;
        }
        self.header.dense = Some(Dense { covers: self.covers, last });
        let seal = Seal { used: self.open.len() as u32, entries: std::mem::take(&mut self.entries) };
        self.open[..BLOCK_HEADER_BYTES].copy_from_slice(&self.header.encode_sealed(seal));
        self.sealed.extend_from_slice(&self.open);
        self.sealed.resize(round_up(self.sealed.len() as u32, self.physical) as usize, 0);
        self.open.clear();
        self.header.watermark = self.watermark.unwrap_or(self.header.watermark);
    }

    /// Seals the last block. The last entry is in it.
    pub fn finish(&mut self) {
        self.seal(true);
    }

    /// Behind the last sealed block.
    pub fn end(&self) -> u32 {
        self.sealed_at + self.sealed.len() as u32
    }

    /// Sealed bytes that were not handed over.
    pub fn sealed_bytes(&self) -> u32 {
        self.sealed.len() as u32
    }

    /// Hands over what is sealed, and where it belongs, in exchange for a buffer to go on with.
    pub fn take_sealed(&mut self, mut buffer: Vec<u8>) -> (u32, Vec<u8>) {
        buffer.clear();
        let at = self.sealed_at;
        self.sealed_at = self.end();
        (at, std::mem::replace(&mut self.sealed, buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::{LaneNumber, RecordNumber, SegmentNumber};
    use crate::journal::format::{Entries, Kind};

    const HEADER: BlockHeader = BlockHeader {
        nonce: 77,
        at: Position { segment: SegmentNumber(9), offset: 0 },
        first_number: RecordNumber(100),
        epoch_id: 1,
        watermark: Position { segment: SegmentNumber(2), offset: 512 },
        oldest_segment: SegmentNumber(4),
        dense: None,
    };

    fn entry(number: RecordNumber) -> EntryHeader {
        EntryHeader { kind: Kind::Record, flags: 1, lane: LaneNumber(2), number: RecordNumber(number.0) }
    }

    #[test]
    fn blocks_follow_each_other_and_hold_one_epoch_each() {
        let mut blocks = DenseBlocks::new(HEADER, 3, 512, 1024, 8192);
        let data = [0; 300]; // no key: its length stands in it
        for number in [101, 105, 106, 300] {
            blocks.push(entry(RecordNumber(number)), &[&data[..100], &data[100..]]).expect("room");
        }
        let (at, mut bytes) = blocks.take_sealed(vec![9; 40]);
        blocks.enter(2, Position { segment: SegmentNumber(5), offset: 512 });
        blocks.enter(2, Position { segment: SegmentNumber(4), offset: 512 });
        blocks.push(entry(RecordNumber(400)), &[&[0; 24]]).expect("room");
        blocks.finish();
        let (next, rest) = blocks.take_sealed(Vec::new());
        assert_eq!((at, next), (512, 512 + bytes.len() as u32));
        bytes.extend_from_slice(&rest);
        assert_eq!(blocks.end() as usize, 512 + bytes.len());
        let mut found = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            let (header, seal) = BlockHeader::decode(&bytes[offset..]).expect("a block");
            let seal = seal.expect("sealed");
            assert_eq!(header.at, Position { segment: SegmentNumber(9), offset: 512 + offset as u32 });
            let block = &bytes[offset..offset + seal.used as usize];
            let entries: Vec<u64> = Entries::new(block, 77, header.at.offset).map(|e| e.header.number.0).collect();
            assert_eq!(entries.len(), seal.entries as usize);
            offset += round_up(seal.used, 512) as usize;
            let last = offset == bytes.len();
            assert_eq!(header.dense, Some(Dense { covers: 3, last }));
            found.push((header.epoch_id, header.first_number.0, header.watermark.segment.0, entries));
        }
        let expected = [(1, 100, 2, vec![101, 105]), (1, 106, 2, vec![106, 300]), (2, 400, 5, vec![400])];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut blocks = DenseBlocks::new(HEADER, 0, 512, 1024, 2048);
        assert_eq!(blocks.push(entry(RecordNumber(1)), &[&[0; 1000]]), Err(NoRoom), "larger than a block");
        let mut blocks = DenseBlocks::new(HEADER, 0, 512, 1024, 2048);
        let fitting =
            (0..).take_while(|number| blocks.push(entry(RecordNumber(*number)), &[&[0; 376]]).is_ok()).count();
        assert_eq!(fitting, 3, "two of 400 bytes in a block of 1,024, one in the last 512");
    }
}
