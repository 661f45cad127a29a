//! The disk's part in a dense rewrite: the new file lies beside the segments until it takes the name of one, and that name is
//! durable only with the directory.

use super::context::Context;
use super::disk::{Disk, Segment};
use ringest::ground::SegmentNumber;
use ringest::journal::Rewrite;

impl Disk {
    /// Whether a step keeps to the contract.
    ///
    /// # Errors
    /// In words.
    pub fn check_rewrite(&self, segment: SegmentNumber, work: &Rewrite) -> Result<(), String> {
        let aligned = |number: usize| number.is_multiple_of(self.physical as usize);
        if self.rewrites_in_flight().next().is_some() {
            return Err(format!("two steps of a rewrite at once: {work:?}"));
        }
        self.exists(segment)?;
        match work {
            Rewrite::Begin { bytes } => match self.dense.is_some() || !aligned(*bytes as usize) {
                true => Err(format!("a rewrite of {segment} with {bytes} B, one under way: {}", self.dense.is_some())),
                false => Ok(()),
            },
            Rewrite::Read { from, offset, buffer } => self.read_range(*from, *offset, buffer.len()),
            Rewrite::Write { offset, bytes } => {
                let file = self.dense.as_ref().ok_or("a write to a file that was not begun")?;
                let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                match from == 0 || bytes.is_empty() || !aligned(from) || !aligned(to) || to > file.data.len() {
                    true => Err(format!("a rewrite of {segment}: {from}..{to} of {} B", file.data.len())),
                    false => Ok(()),
                }
            }
            Rewrite::Replace { header } => match self.is_used(segment) || header.len() != self.physical as usize {
                true => Err(format!("segment {segment} is replaced while it is in use")),
                false => Ok(()),
            },
            Rewrite::SyncDirectory | Rewrite::GiveUp => Ok(()),
        }
    }

    /// Carries out a step.
    pub fn rewrite(&mut self, cx: &mut Context, segment: SegmentNumber, work: &mut Rewrite) {
        match work {
            Rewrite::Begin { bytes } => {
                let (inode, data) = self.take_spare(*bytes as usize);
                self.dense = Some(Segment { inode, data, ..Segment::default() });
            }
            Rewrite::Read { from, offset, buffer } => {
                let (start, length) = (*offset as usize, buffer.len());
                buffer.copy_from_slice(&self.segments[from].data[start..start + length]);
            }
            Rewrite::Write { offset, bytes } => {
                let file = self.dense.as_mut().expect("checked when it was asked for");
                file.data[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
            }
            Rewrite::Replace { header } => {
                let mut file = self.dense.take().expect("checked when it was asked for");
                file.data[..header.len()].copy_from_slice(header);
                let old = self.segments.get_mut(&segment).expect("checked when it was asked for");
                file.replaced = Some(Box::new(std::mem::take(old)));
                *old = file;
                cx.stats.count("run of segments rewritten");
            }
            Rewrite::SyncDirectory => self.sync_directory(),
            Rewrite::GiveUp => self.dense = None,
        }
    }

    /// All names are durable.
    pub fn sync_directory(&mut self) {
        self.segments.values_mut().for_each(|file| file.replaced = None);
        self.spares.iter_mut().for_each(|(_, file)| file.is_aside_for_good = true);
    }

    /// A loss of power: what has a name that is not durable may have lost it again.
    pub fn undo_replaced(&mut self, cx: &mut Context) {
        for file in self.segments.values_mut() {
            if let Some(old) = file.replaced.take()
                && cx.rng.bool()
            {
                cx.stats.count("rewrite undone by a power cut");
                *file = *old;
            }
        }
    }
}
