//! Plots as SVG, drawn by hand: what they need is a few lines, texts and paths, and a page that works offline can take them in as they are.
//!
//! Colours are classes of [`STYLE`], for light and dark; the page has it once, a file of its own has it inside.

pub mod axis;
pub mod heat;
pub mod percentiles;
pub mod throughput;

use std::fmt::Write;

/// The size of a plot.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// In pixels.
    pub width: f64,
    /// In pixels.
    pub height: f64,
    /// For a narrow screen: fewer ticks, the names of series below instead of beside.
    pub is_narrow: bool,
}

/// For a page or a file.
pub const WIDE: Size = Size { width: 920.0, height: 380.0, is_narrow: false };
/// For a phone.
pub const NARROW: Size = Size { width: 350.0, height: 320.0, is_narrow: true };

/// Series are told apart by so many colours; then they begin again.
pub const SERIES: usize = 8;
/// Steps of a heat map's colour.
pub const HEATS: usize = 7;

/// Colours and type of all plots.
pub const STYLE: &str = "\
.plot{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-variant-numeric:tabular-nums}
.plot .paper{fill:#fff}.plot text{fill:#5c5f66}.plot .ink{fill:#1b1d21}.plot .title{fill:#1b1d21;font-weight:600}
.plot .grid{stroke:#e7e8eb;fill:none}.plot .minor{stroke:#f3f4f5;fill:none}.plot .axis{stroke:#a9adb5;fill:none}
.plot .halo{paint-order:stroke;stroke:#fff;stroke-width:3.5px;stroke-linejoin:round}
.plot .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.plot .lead{fill:none;stroke-width:1;opacity:.45}
.plot .over{fill:none;stroke:#1b1d21;stroke-width:1.6;stroke-linejoin:round}.plot .under{fill:none;stroke:#fff;stroke-width:4;stroke-linejoin:round;opacity:.75}
.plot .s0{stroke:#2467b3}.plot .s1{stroke:#d2601f}.plot .s2{stroke:#178a6c}.plot .s3{stroke:#8b4fb8}.plot .s4{stroke:#b58410}.plot .s5{stroke:#c4386b}.plot .s6{stroke:#3d8ba3}.plot .s7{stroke:#6b6f77}
.plot .h0{fill:#e3edf7}.plot .h1{fill:#c5d9ee}.plot .h2{fill:#9cc1e3}.plot .h3{fill:#6da3d4}.plot .h4{fill:#4081bf}.plot .h5{fill:#225f9f}.plot .h6{fill:#103f74}
@media (prefers-color-scheme:dark){
.plot .paper{fill:#16181c}.plot text{fill:#a3a8b1}.plot .ink{fill:#e9ebee}.plot .title{fill:#e9ebee}
.plot .grid{stroke:#2b2e34}.plot .minor{stroke:#202328}.plot .axis{stroke:#5e636c}
.plot .halo{stroke:#16181c}.plot .over{stroke:#f2f3f5}.plot .under{stroke:#16181c}
.plot .s0{stroke:#6cabef}.plot .s1{stroke:#f08d57}.plot .s2{stroke:#4fc4a0}.plot .s3{stroke:#bd8de3}.plot .s4{stroke:#dfb648}.plot .s5{stroke:#ee7ca6}.plot .s6{stroke:#79c5d9}.plot .s7{stroke:#a6aab2}
.plot .h0{fill:#172a3f}.plot .h1{fill:#1a3a59}.plot .h2{fill:#1f4f7c}.plot .h3{fill:#2a6ba5}.plot .h4{fill:#478fcc}.plot .h5{fill:#7db6e6}.plot .h6{fill:#c2e0f8}
}
";

/// A plot as a file of its own.
pub fn alone(svg: &str) -> String {
    let (head, rest) = svg.split_once('>').expect("an element");
    let paper = "<rect class=\"paper\" width=\"100%\" height=\"100%\"/>";
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{head}><style>\n{STYLE}</style>{paper}{rest}")
}

/// For text and attributes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Neither XML nor HTML can hold them.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Where a text stands to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A drawing that grows.
#[derive(Debug)]
pub struct Svg(String);

impl Svg {
    /// An empty one; `title` is what a screen reader says.
    pub fn new(size: Size, title: &str) -> Self {
        let Size { width, height, .. } = size;
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\"><title>{}</title>",
            escaped(title)
        ))
    }

    /// A text.
    pub fn text(&mut self, class: &str, x: f64, y: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let _ = write!(self.0, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{anchor}>{}</text>", escaped(text));
    }

    /// A path of straight lines through points.
    pub fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
        }
        self.path(class, &path);
    }

    /// As [`Svg::line`], with dashes.
    pub fn dashed(&mut self, class: &str, points: &[(f64, f64)]) {
        self.0.push_str("<g stroke-dasharray=\"6 4\">");
        self.line(class, points);
        self.0.push_str("</g>");
    }

    /// A path.
    pub fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            let _ = write!(self.0, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    /// The whole element.
    pub fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// About how wide a text is, in pixels.
pub fn text_width(text: &str) -> f64 {
    7.3 * text.chars().count() as f64
}

/// Places for texts that are wanted at `wanted`, at least `apart` from each other, between `top`
/// and `bottom`; in the same order of heights.
pub fn spread(wanted: &[f64], apart: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = wanted.to_vec();
    let mut least = top;
    for &index in &order {
        places[index] = places[index].max(least);
        least = places[index] + apart;
    }
    let mut most = bottom;
    for &index in order.iter().rev() {
        places[index] = places[index].min(most);
        most = places[index] - apart;
    }
    places
}

/// A series' name, beside or below its line.
#[derive(Debug)]
pub struct Label<'a> {
    /// Index of its colour.
    pub series: usize,
    /// What it is called.
    pub name: &'a str,
    /// Where its line ends.
    pub end: (f64, f64),
}

/// Height that a narrow plot needs below for the names of its series, which stand in rows there.
pub fn legend_height(size: Size, names: &[&str]) -> f64 {
    if size.is_narrow { 20.0 * legend_rows(size, names).len() as f64 + 6.0 } else { 0.0 }
}

fn legend_rows(size: Size, names: &[&str]) -> Vec<Vec<(f64, usize)>> {
    let (mut rows, mut x) = (vec![Vec::new()], 8.0);
    for (index, name) in names.iter().enumerate() {
        let width = text_width(name) + 36.0;
        if x > 8.0 && x + width > size.width {
            rows.push(Vec::new());
            x = 8.0;
        }
        rows.last_mut().expect("there is one").push((x, index));
        x += width;
    }
    rows
}

/// Names the series: right of the frame, joined to the line's end by a thin line, or in a narrow plot below it.
pub fn label(svg: &mut Svg, size: Size, frame: &axis::Frame, labels: &[Label<'_>]) {
    let class = |series: usize| format!("s{}", series % SERIES);
    if size.is_narrow {
        let names: Vec<&str> = labels.iter().map(|label| label.name).collect();
        let rows = legend_rows(size, &names);
        let first = size.height - legend_height(size, &names) + 14.0;
        for (row, entries) in rows.iter().enumerate() {
            let y = first + 20.0 * row as f64;
            for &(x, index) in entries {
                svg.line(&format!("line {}", class(labels[index].series)), &[(x, y - 4.5), (x + 16.0, y - 4.5)]);
                svg.text("ink", x + 21.0, y, Anchor::Start, labels[index].name);
            }
        }
        return;
    }
    let wanted: Vec<f64> = labels.iter().map(|label| label.end.1).collect();
    let places = spread(&wanted, 17.0, frame.top + 4.0, frame.bottom - 4.0);
    for (label, y) in labels.iter().zip(places) {
        let x = frame.right + 20.0;
        svg.line(&format!("lead {}", class(label.series)), &[label.end, (frame.right + 6.0, y), (x - 4.0, y)]);
        svg.text("ink", x, y + 4.5, Anchor::Start, label.name);
    }
}

/// Room that [`label`] needs right of the frame.
pub fn label_width(size: Size, names: &[&str]) -> f64 {
    let widest = names.iter().map(|name| text_width(name)).fold(0.0, f64::max);
    if size.is_narrow { 12.0 } else { (widest + 30.0).min(size.width / 3.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_apart_and_inside() {
        let places = spread(&[100.0, 101.0, 100.5, 195.0, 199.0], 17.0, 10.0, 200.0);
        let mut sorted = places.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 16.999), "{places:?}");
        assert!(sorted[0] >= 10.0 && sorted[4] <= 200.0, "{places:?}");
        assert!(places[0] < places[2] && places[2] < places[1], "{places:?}");
    }

    #[test]
    fn names_cannot_break_out_of_the_drawing() {
        let mut svg = Svg::new(WIDE, "a<b");
        svg.text("ink", 0.0, 0.0, Anchor::Start, "\"<script>&\u{1}");
        let text = svg.finish();
        assert!(
            text.contains("<title>a&lt;b</title>") && text.contains(">&quot;&lt;script&gt;&amp;\u{fffd}</text>"),
            "{text}"
        );
    }
}
