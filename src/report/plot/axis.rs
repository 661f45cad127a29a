//! Frames and axes.

use super::{Anchor, Size, Svg};
use crate::report::{PLOTTED_MIN_NS, unit};

/// No value below has a place on an axis.
pub const LATENCY_MIN_NS: f64 = PLOTTED_MIN_NS as f64;

/// The part of a plot that data are drawn in.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Left edge.
    pub left: f64,
    /// Right edge.
    pub right: f64,
    /// Upper edge.
    pub top: f64,
    /// Lower edge.
    pub bottom: f64,
}

impl Frame {
    /// With room for a title above, ticks at the left and below, and so much for labels.
    pub fn new(size: Size, right: f64, below: f64) -> Self {
        let left = if size.is_narrow { 54.0 } else { 66.0 };
        Self { left, right: size.width - right, top: 50.0, bottom: size.height - 44.0 - below }
    }

    /// Draws both axes' lines, and the titles: of the plot, of the horizontal axis below, of the vertical one above it.
    pub fn draw(&self, svg: &mut Svg, title: &str, x_title: &str, y_title: &str) {
        svg.line("axis", &[(self.left, self.bottom), (self.right, self.bottom)]);
        svg.text("title", 8.0, 16.0, Anchor::Start, title);
        svg.text("", 8.0, 38.0, Anchor::Start, y_title);
        svg.text("", self.right, self.bottom + 36.0, Anchor::End, x_title);
    }

    /// A tick below, with a line through the frame.
    pub fn tick_x(&self, svg: &mut Svg, x: f64, text: &str) {
        svg.line("grid", &[(x, self.top), (x, self.bottom)]);
        svg.text("", x, self.bottom + 18.0, Anchor::Middle, text);
    }

    /// A tick at the left, with a line through the frame.
    pub fn tick_y(&self, svg: &mut Svg, y: f64, text: &str) {
        svg.line("grid", &[(self.left, y), (self.right, y)]);
        svg.text("", self.left - 8.0, y + 4.5, Anchor::End, text);
    }
}

/// A logarithmic axis of latencies, upwards.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    low: f64,
    high: f64,
    top: f64,
    bottom: f64,
}

impl Latency {
    /// From the least to the largest of all values, in nanoseconds, each to the next 1, 2 or 5.
    pub fn new(frame: &Frame, least_ns: f64, largest_ns: f64) -> Self {
        let low = step_below(least_ns.max(LATENCY_MIN_NS));
        let high = step_above(largest_ns).max(step_above(low * 1.01));
        Self { low, high, top: frame.top, bottom: frame.bottom }
    }

    /// Its lower end, in nanoseconds.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Its upper end, in nanoseconds.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// Where a value stands; one beyond the ends, at the end.
    pub fn y(&self, ns: f64) -> f64 {
        let share = (ns.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        self.bottom - share * (self.bottom - self.top)
    }

    /// Draws ticks: of each power of ten, and 2 and 5 times it where there is room.
    pub fn draw(&self, svg: &mut Svg, frame: &Frame) {
        let decade = (self.bottom - self.top) / (self.high / self.low).log10();
        let factors: &[f64] = if decade > 110.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut power = 10_f64.powf((self.low * 1.0001).log10().floor());
        while power <= self.high * 1.0001 {
            for factor in factors {
                let ns = power * factor;
                if ns >= self.low * 0.999 && ns <= self.high * 1.001 {
                    frame.tick_y(svg, self.y(ns), &unit::tick(ns));
                }
            }
            power *= 10.0;
        }
    }
}

fn step_below(value: f64) -> f64 {
    let power = 10_f64.powf((value * 1.0001).log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|factor| power * factor).find(|step| *step <= value * 1.001).unwrap_or(power)
}

/// The next 1, 2 or 5 times a power of ten that is not below.
pub fn step_above(value: f64) -> f64 {
    let power = 10_f64.powf((value * 1.0001).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| power * factor).find(|step| *step >= value * 0.999).unwrap_or(power * 10.0)
}

/// An axis of time since the start.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    from_s: f64,
    to_s: f64,
    left: f64,
    right: f64,
}

impl Time {
    /// Between two times, in seconds since the start.
    pub fn new(frame: &Frame, from_s: f64, to_s: f64) -> Self {
        Self { from_s, to_s: to_s.max(from_s + 1e-3), left: frame.left, right: frame.right }
    }

    /// Where a moment stands.
    pub fn x(&self, seconds: f64) -> f64 {
        self.left + (seconds - self.from_s) / (self.to_s - self.from_s) * (self.right - self.left)
    }

    /// Its unit in seconds, and what the axis is called.
    fn unit(&self) -> (f64, &'static str) {
        match self.to_s - self.from_s {
            length if length <= 600.0 => (1.0, "seconds since the start"),
            length if length <= 5.0 * 3_600.0 => (60.0, "minutes since the start"),
            _ => (3_600.0, "hours since the start"),
        }
    }

    /// What the axis is called, its unit included.
    pub fn title(&self) -> &'static str {
        self.unit().1
    }

    /// Draws ticks.
    pub fn draw(&self, svg: &mut Svg, frame: &Frame) {
        let (unit_s, _) = self.unit();
        let length = (self.to_s - self.from_s) / unit_s;
        let step = step_above(length * 64.0 / (self.right - self.left));
        let mut tick = (self.from_s.max(0.0) / unit_s / step - 1e-6).ceil() * step;
        while tick <= self.to_s / unit_s * 1.000_01 {
            let decimals = usize::from(step < 0.99);
            frame.tick_x(svg, self.x(tick * unit_s), &format!("{:.decimals$}", tick.max(0.0)));
            tick += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_begin_and_end_at_1_2_or_5() {
        assert_eq!(
            [1.0, 1.5, 2.0, 7.0, 5e5, 4.9e5].map(|value| step_below(value).round()),
            [1.0, 1.0, 2.0, 5.0, 5e5, 2e5]
        );
        assert_eq!(
            [1.0, 1.5, 2.0, 7.0, 5e5, 5.1e5].map(|value| step_above(value).round()),
            [1.0, 2.0, 2.0, 10.0, 5e5, 1e6]
        );
        let frame = Frame { left: 0.0, right: 100.0, top: 0.0, bottom: 100.0 };
        let axis = Latency::new(&frame, 1.0, 9e6);
        assert!((axis.low() - 1e3).abs() < 1.0 && (axis.high() - 1e7).abs() < 1e3, "{axis:?}");
        assert!((axis.y(1e5) - 50.0).abs() < 1e-6 && axis.y(1.0) == 100.0 && axis.y(1e9) == 0.0);
    }
}
