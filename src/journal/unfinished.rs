//! What a block file holds of an earlier start: blocks that may not be whole on disk, and the epochs that they are of.
//!
//! ```text
//! block file   0 stamp, magic "RINGBLK1"   32 file id u128   48 earlier epochs u32   52 zero [u8; 12]   64 epoch id u128 …
//!              3072 owner   4096 slots …
//! owner        0 crc u32, over what follows   4 path bytes u32   8 device u64   16 inode u64   24 mount namespace u64   32 path
//! ```
//!
//! The owner is the directory whose journal writes the file, so that one that nobody needs any more can be told from one that a
//! next start will read. Before format 3 there is none.
//!
//!
//! In format 1 the magic stands alone in front: 0 magic, 8 file id, 24 earlier epochs, 28 zero, 32 epoch id …
//!
//! The file is zero when it is made, and its slots hold blocks of its own epoch; and of earlier ones, where a start could not
//! finish their writes and took them over. Those epochs are named in front.

use super::BlockMemory;
use super::epoch::Epoch;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Entries, Entry, Position, Seal, round_up, u32_at, u64_at, u128_at,
};
use super::stamp::{self, STAMP_BYTES, Stamp};
use crate::ground::{RecordNumber, SegmentNumber};
use std::collections::BTreeMap;

/// Bytes before the first slot of a block file.
pub(super) const BLOCK_FILE_HEADER_BYTES: usize = 4096;
const BLOCK_FILE_MAGIC: [u8; 8] = *b"RINGBLK1";
const EPOCHS_AT: usize = 64;
/// The same in format 1.
const EPOCHS_1_AT: usize = 32;
const OWNER_AT: usize = 3072;
const OWNER_PREFIX_BYTES: usize = 32;
/// Earlier epochs of which a block file can hold blocks.
pub(super) const EPOCHS_MAX: usize = (OWNER_AT - EPOCHS_AT) / 16;

/// Whose block file it is: a journal's directory, as its process saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOwner {
    /// Its absolute path.
    pub directory: Vec<u8>,
    /// The device that it lies on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// The mount namespace in which the path holds.
    pub namespace: u64,
}

impl BlockOwner {
    /// `None` where the path is too long for its place.
    fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![0; 4];
        out.extend_from_slice(&(self.directory.len() as u32).to_le_bytes());
        for number in [self.device, self.inode, self.namespace] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.directory);
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        (out.len() <= BLOCK_FILE_HEADER_BYTES - OWNER_AT).then_some(out)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let path_bytes = u32_at(bytes.get(..OWNER_PREFIX_BYTES)?, 4) as usize;
        let whole = bytes.get(..OWNER_PREFIX_BYTES.checked_add(path_bytes)?)?;
        let is_whole = path_bytes > 0 && u32_at(whole, 0) == crc32c::crc32c(&whole[4..]);
        is_whole.then(|| Self {
            directory: whole[OWNER_PREFIX_BYTES..].to_vec(),
            device: u64_at(whole, 8),
            inode: u64_at(whole, 16),
            namespace: u64_at(whole, 24),
        })
    }
}

/// What the first bytes of a block file say of its owner.
pub fn block_file_owner(head: &[u8]) -> Option<BlockOwner> {
    stamp::readable(BLOCK_FILE_MAGIC, head).is_some().then(|| BlockOwner::decode(head.get(OWNER_AT..)?)).flatten()
}

/// A block file's format, where this program does not read it.
pub(super) fn unreadable(head: &[u8]) -> Option<Stamp> {
    stamp::unreadable(BLOCK_FILE_MAGIC, head)
}

/// The front of a block file.
pub(super) fn head(file_id: u128, epochs: &[u128], owner: Option<&BlockOwner>) -> Vec<u8> {
    assert!(epochs.len() <= EPOCHS_MAX, "looked at by the caller");
    let mut head = vec![0; STAMP_BYTES];
    stamp::write(BLOCK_FILE_MAGIC, &mut head);
    head.extend_from_slice(&file_id.to_le_bytes());
    head.extend_from_slice(&(epochs.len() as u32).to_le_bytes());
    head.resize(EPOCHS_AT, 0);
    for epoch in epochs {
        head.extend_from_slice(&epoch.to_le_bytes());
    }
    if let Some(owner) = owner.and_then(BlockOwner::encode) {
        head.resize(OWNER_AT, 0);
        head.extend_from_slice(&owner);
    }
    head
}

/// Whether a file is the block file of this id.
pub(super) fn is_block_file(file: &BlockMemory, file_id: u128) -> bool {
    if file.len() <= BLOCK_FILE_HEADER_BYTES {
        return false;
    }
    let head = file.bytes(0..BLOCK_FILE_HEADER_BYTES);
    let is_of_format_1 = head.starts_with(&BLOCK_FILE_MAGIC) && u128_at(head, 8) == file_id;
    is_of_format_1 || stamp::readable(BLOCK_FILE_MAGIC, head).is_some() && u128_at(head, 32) == file_id
}

/// Whether a file of a block file's size has nothing in front.
pub(super) fn is_blank(file: &BlockMemory) -> bool {
    file.len() > BLOCK_FILE_HEADER_BYTES && file.bytes(0..STAMP_BYTES).iter().all(|byte| *byte == 0)
}

/// The epochs that a block file's front names.
fn earlier_epochs(head: &[u8]) -> Vec<u128> {
    let is_stamped = stamp::readable(BLOCK_FILE_MAGIC, head).is_some();
    let (count_at, at) = if is_stamped { (48, EPOCHS_AT) } else { (24, EPOCHS_1_AT) };
    let count = (u32_at(head, count_at) as usize).min((BLOCK_FILE_HEADER_BYTES - at) / 16);
    (0..count).map(|index| u128_at(head, at + index * 16)).collect()
}

/// A block as its process left it in the block file: up to the first entry that is not whole.
#[derive(Debug)]
pub(super) struct Left {
    pub header: BlockHeader,
    entries: u32,
    bytes: Vec<u8>,
}

impl Left {
    /// The number behind its last whole entry.
    pub fn end_number(&self) -> RecordNumber {
        self.header.first_number.plus(u64::from(self.entries))
    }

    /// Bytes up to the end of its last whole entry.
    pub fn used(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// The block, sealed and padded. `on_disk` begins where it belongs: where a write has landed in part and a byte of the block
    /// file has gone bad, the disk can have more whole entries.
    pub fn finish(&self, on_disk: &[u8], physical: u32) -> Vec<u8> {
        let mut block = self.bytes.clone();
        let mut entries = self.entries;
        while let Some(entry) = Entry::decode(on_disk, block.len(), self.header.nonce, self.header.at.offset) {
            block.extend_from_slice(&on_disk[entry.offset..(entry.offset + entry.bytes()).min(on_disk.len())]);
            entries += 1;
        }
        let seal = Seal { used: block.len() as u32, entries };
        block[..BLOCK_HEADER_BYTES].copy_from_slice(&self.header.encode_sealed(seal));
        block.resize(round_up(seal.used, physical) as usize, 0);
        block
    }
}

/// A whole block.
#[derive(Debug)]
pub(super) struct Sealed {
    pub header: BlockHeader,
    pub seal: Seal,
    /// With its padding.
    pub bytes: Vec<u8>,
}

impl Sealed {
    /// The block at the front of a segment's bytes.
    pub fn at(bytes: &[u8], physical: u32) -> Option<Self> {
        let (header, seal) = BlockHeader::decode(bytes)?;
        let seal = seal?;
        let bytes = bytes.get(..round_up(seal.used, physical) as usize)?.to_vec();
        Some(Self { header, seal, bytes })
    }

    /// Behind it.
    pub fn end_position(&self) -> Position {
        Position { offset: self.header.at.offset + self.bytes.len() as u32, ..self.header.at }
    }
}

/// The blocks of a block file by segment, in order of their offsets.
pub(super) fn unwritten_blocks(memory: &BlockMemory, epoch: Epoch) -> BTreeMap<SegmentNumber, Vec<Left>> {
    let mut epochs = earlier_epochs(memory.bytes(0..BLOCK_FILE_HEADER_BYTES));
    epochs.push(epoch.id);
    // A block that moved to another slot can be found in both: it is the same.
    let mut found: BTreeMap<Position, Left> = BTreeMap::new();
    let slots = (memory.len() - BLOCK_FILE_HEADER_BYTES) / epoch.block_bytes as usize;
    for slot in 0..slots {
        let start = BLOCK_FILE_HEADER_BYTES + slot * epoch.block_bytes as usize;
        let bytes = memory.bytes(start..start + epoch.block_bytes as usize);
        for offset in (0..bytes.len()).step_by(epoch.physical as usize) {
            let Some((header, seal)) = BlockHeader::decode(&bytes[offset..]) else { continue };
            if !epochs.contains(&header.epoch_id) {
                continue;
            }
            let limit = seal.map_or(bytes.len(), |seal| (offset + seal.used as usize).min(bytes.len()));
            let mut entries = Entries::new(&bytes[offset..limit], header.nonce, header.at.offset);
            let count = entries.by_ref().count() as u32;
            if count == 0 {
                continue;
            }
            if found.get(&header.at).is_none_or(|other| other.entries < count) {
                let block = bytes[offset..offset + entries.offset()].to_vec();
                found.insert(header.at, Left { header, entries: count, bytes: block });
            }
        }
    }
    let mut by_segment: BTreeMap<SegmentNumber, Vec<Left>> = BTreeMap::new();
    for (at, left) in found {
        by_segment.entry(at.segment).or_default().push(left);
    }
    for blocks in by_segment.values_mut() {
        blocks.sort_by_key(|block| block.header.at.offset);
    }
    by_segment
}

/// Whether the disk has a block whole: that block, and not one that a write brought to the wrong place.
pub(super) fn is_whole(segment: &[u8], expected: &BlockHeader) -> bool {
    let Some(block) = segment.get(expected.at.offset as usize..) else { return false };
    let Some((header, Some(seal))) = BlockHeader::decode(block) else { return false };
    let Some(block) = block.get(..seal.used as usize) else { return false };
    let mut entries = Entries::new(block, header.nonce, header.at.offset);
    let of_same_life = (header.nonce, header.at) == (expected.nonce, expected.at);
    of_same_life && entries.by_ref().count() == seal.entries as usize && entries.offset() == seal.used as usize
}

/// Blocks as they fit into slots: consecutive ones of one segment and epoch, at most `slot_bytes` together.
pub(super) fn pack(blocks: Vec<Sealed>, slot_bytes: u32) -> Vec<Vec<Sealed>> {
    let mut packed: Vec<Vec<Sealed>> = Vec::new();
    for block in blocks {
        let fits = packed.last().is_some_and(|slot| {
            let (first, last) = (&slot[0], slot.last().expect("never empty"));
            block.header.at == last.end_position()
                && block.header.epoch_id == first.header.epoch_id
                && block.end_position().offset - first.header.at.offset <= slot_bytes
        });
        match packed.last_mut() {
            Some(slot) if fits => slot.push(block),
            _ => packed.push(vec![block]),
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_file_says_whose_it_is_and_a_flipped_bit_of_that_says_nothing() {
        let owner = BlockOwner { directory: b"/var/lib/ringest/core-0".to_vec(), device: 7, inode: 8, namespace: 9 };
        let mut file = head(1, &[2, 3], Some(&owner));
        file.resize(BLOCK_FILE_HEADER_BYTES, 0);
        assert_eq!(block_file_owner(&file), Some(owner.clone()));
        assert_eq!(earlier_epochs(&file), [2, 3]);
        let bytes = OWNER_PREFIX_BYTES + owner.directory.len();
        for bit in OWNER_AT * 8..(OWNER_AT + bytes) * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(block_file_owner(&flipped), None, "bit {bit}");
        }
        for length in 0..file.len() - (BLOCK_FILE_HEADER_BYTES - OWNER_AT - bytes) {
            assert_eq!(block_file_owner(&file[..length]), None, "{length} bytes");
        }
        let mut nobody = head(1, &[], None);
        nobody.resize(BLOCK_FILE_HEADER_BYTES, 0);
        assert_eq!(block_file_owner(&nobody), None);
        let too_long = BlockOwner { directory: vec![b'a'; 1000], ..owner };
        assert_eq!(head(1, &[], Some(&too_long)).len(), EPOCHS_AT, "the file is as good without");
    }
}
