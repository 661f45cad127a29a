//! What serial drivers count on their lines.

use serde::Serialize;

/// A driver's counts of one port. They start with the driver, not with the open, and wrap at 2^32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Bytes received.
    pub received_bytes: u32,
    /// Bytes sent.
    pub sent_bytes: u32,
    /// Characters without a stop bit, such as at a wrong rate.
    pub framing_errors: u32,
    /// Characters with wrong parity.
    pub parity_errors: u32,
    /// Characters lost in the chip, since nobody fetched them in time.
    pub overruns: u32,
    /// Characters lost in the kernel, since nobody read them in time.
    pub buffer_overruns: u32,
    /// Breaks.
    pub breaks: u32,
}

/// What drivers counted while a port was open, added up over all of its opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Characters without a stop bit, such as at a wrong rate.
    pub framing_errors: u64,
    /// Characters with wrong parity.
    pub parity_errors: u64,
    /// Characters lost in the chip, since nobody fetched them in time.
    pub overruns: u64,
    /// Characters lost in the kernel, since nobody read them in time.
    pub buffer_overruns: u64,
    /// Breaks.
    pub breaks: u64,
}

impl LineCounts {
    /// Adds what happened between two looks at a driver.
    pub fn add(&mut self, before: &DriverCounts, after: &DriverCounts) {
        let since = |before: u32, after: u32| u64::from(after.wrapping_sub(before));
        self.received_bytes += since(before.received_bytes, after.received_bytes);
        self.sent_bytes += since(before.sent_bytes, after.sent_bytes);
        self.framing_errors += since(before.framing_errors, after.framing_errors);
        self.parity_errors += since(before.parity_errors, after.parity_errors);
        self.overruns += since(before.overruns, after.overruns);
        self.buffer_overruns += since(before.buffer_overruns, after.buffer_overruns);
        self.breaks += since(before.breaks, after.breaks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_opens_and_past_the_wrap() {
        let mut sum = LineCounts::default();
        let at = |received_bytes, breaks| DriverCounts { received_bytes, breaks, ..DriverCounts::default() };
        sum.add(&at(u32::MAX - 1, 7), &at(3, 8));
        sum.add(&at(0, 0), &at(10, 1));
        assert_eq!(sum, LineCounts { received_bytes: 15, breaks: 2, ..LineCounts::default() });
    }
}
