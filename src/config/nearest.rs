//! The word that a person most likely meant.

use crate::ground::text;

/// What other programs call it, and what it is called here.
const ELSEWHERE: [(&str, &[&str]); 9] = [
    (
        "line",
        &["baud", "baudrate", "baud_rate", "bps", "speed", "parity", "bytesize", "data_bits", "stopbits", "stop_bits"],
    ),
    ("flow", &["rtscts", "xonxoff", "flow_control", "flowcontrol", "handshake"]),
    ("path", &["port", "device", "dev", "tty"]),
    ("end", &["delimiter", "terminator", "separator", "eol"]),
    ("url", &["uri", "endpoint"]),
    ("listen", &["bind", "address", "addr"]),
    ("body", &["template", "payload"]),
    ("kind", &["type"]),
    ("state_dir", &["data_dir", "directory", "dir"]),
];

/// The one of `known` that is nearest to `given`: by another name that it has elsewhere, or if it is near enough to be a slip of the
/// pen.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = given.to_lowercase();
    let known: Vec<&str> = known.into_iter().collect();
    let here = ELSEWHERE.iter().find(|(_, names)| names.contains(&lower.as_str())).map(|(here, _)| *here);
    known.iter().find(|word| Some(**word) == here).copied().or_else(|| text::nearest(given, known))
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_finds_its_word_and_a_foreign_word_finds_none() {
        let known = ["commit_every", "segment_size", "max_size", "window"];
        assert_eq!(nearest("comit_every", known), Some("commit_every"));
        assert_eq!(nearest("Windows", known), Some("window"));
        assert_eq!(nearest("maxsize", known), Some("max_size"));
        assert_eq!(nearest("jkl", known), None);
    }

    #[test]
    fn a_word_of_other_programs_finds_the_one_of_this_where_it_is_known() {
        let known = ["name", "path", "line", "flow"];
        assert_eq!(nearest("baud", known), Some("line"));
        assert_eq!(nearest("Parity", known), Some("line"));
        assert_eq!(nearest("port", known), Some("path"));
        assert_eq!(nearest("endpoint", known), None);
    }
}
