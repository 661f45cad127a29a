//! The word that a person most likely meant.

/// The one of `known` that is nearest to `given`, if any is near enough to be a slip of the pen.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&given, &word.to_lowercase()), word))
        .filter(|(similarity, _)| *similarity >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
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
}
