//! Bodies with several records: lines of JSON, and the elements of a JSON array. What comes out are slices of the body.

use super::answer::Part;
use super::connection::Verdict;
use super::forms::{Array, Details, Forms, essence};
use serde::de::{Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Media types whose bodies have a record a line.
const LINES: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/jsonlines",
];

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One record.
    Record,
    /// One record a line.
    Lines,
    /// One record an element of a JSON array.
    Array,
}

/// A record of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'b> {
    /// Its bytes as they were sent.
    pub bytes: &'b [u8],
    /// Where it stands.
    pub part: Part,
}

impl Form {
    /// What a body is to a source that takes `forms`.
    pub fn of(content_type: Option<&[u8]>, body: &[u8], forms: &Forms) -> Self {
        let Some(media_type) = content_type.map(essence) else { return Self::Record };
        if LINES.iter().any(|known| media_type.eq_ignore_ascii_case(known.as_bytes())) {
            return Self::Lines;
        }
        let may_be_array = forms.array == Array::Split && media_type.eq_ignore_ascii_case(b"application/json");
        let is_array = || body.iter().find(|byte| !is_blank(byte)) == Some(&b'[');
        if may_be_array && is_array() { Self::Array } else { Self::Record }
    }

    /// A body of the same bytes in another form is another one: what is hashed in front of it.
    pub fn mark(self) -> &'static [u8] {
        match self {
            Self::Record => b"",
            Self::Lines => b"\0a record a line\0",
            Self::Array => b"\0a record an element\0",
        }
    }

    /// The records of a body, at most `records_max`.
    ///
    /// # Errors
    /// What the request is answered where there is none, too many, or a part that is none.
    pub fn split(self, body: &[u8], records_max: usize) -> Result<Vec<Piece<'_>>, Verdict> {
        let pieces = match self {
            Self::Record => vec![Piece { bytes: body, part: Part::Element(1) }],
            Self::Lines => lines(body, records_max)?,
            Self::Array => elements(body, records_max)?,
        };
        if pieces.is_empty() {
            return Err(Verdict::Refused { status: 400, rule: NO_RECORD, details: &EMPTY, part: None });
        }
        Ok(pieces)
    }
}

const NO_RECORD: &str = "a body of records has one record at least";
const EMPTY: Details = Details { came: "no record", allowed: "one record or more" };
const TOO_MANY: Details = Details { came: "more records", allowed: "batch_records in [limits], 1000 by default" };

/// White space of JSON (RFC 8259 section 2).
fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn too_many(part: Part) -> Verdict {
    Verdict::Refused {
        status: 413,
        rule: "a body has no more records than the limit",
        details: &TOO_MANY,
        part: Some(part),
    }
}

/// Lines that are not empty. The last one need not end in LF; a CR before LF is no part of a record.
fn lines(body: &[u8], records_max: usize) -> Result<Vec<Piece<'_>>, Verdict> {
    let mut pieces = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(is_blank) {
            continue;
        }
        let part = Part::Line(index as u32 + 1);
        if pieces.len() == records_max {
            return Err(too_many(part));
        }
        pieces.push(Piece { bytes: line.strip_suffix(b"\r").unwrap_or(line), part });
    }
    Ok(pieces)
}

/// The elements of an array, each without the white space around it.
fn elements(body: &[u8], records_max: usize) -> Result<Vec<Piece<'_>>, Verdict> {
    const BROKEN: Details = Details { came: "a damaged array", allowed: "one JSON array in UTF-8 (RFC 8259)" };
    let broken = |at: usize| Verdict::Refused {
        status: 400,
        rule: "a body that begins with [ is a JSON array",
        details: &BROKEN,
        part: Some(Part::Element(at as u32 + 1)),
    };
    let mut found = Elements { list: Vec::new(), records_max };
    // What ignores a value does not look for UTF-8 in its strings.
    let text = std::str::from_utf8(body).map_err(|_| Verdict::Refused {
        status: 400,
        rule: "JSON is UTF-8",
        details: &BROKEN,
        part: None,
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = serde::Deserializer::deserialize_seq(&mut reader, &mut found).and_then(|()| reader.end());
    let count = found.list.len();
    if count > records_max {
        return Err(too_many(Part::Element(count as u32)));
    }
    if read.is_err() {
        return Err(broken(count));
    }
    let pieces = found.list.into_iter().enumerate();
    Ok(pieces
        .map(|(index, value)| Piece { bytes: value.get().as_bytes(), part: Part::Element(index as u32 + 1) })
        .collect())
}

struct Elements<'b> {
    list: Vec<&'b RawValue>,
    records_max: usize,
}

impl<'b> Visitor<'b> for &mut Elements<'b> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&'b RawValue>()? {
            self.list.push(element);
            if self.list.len() > self.records_max {
                return Err(A::Error::custom("more than the limit"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(form: Form, body: &str) -> Vec<&str> {
        let pieces = form.split(body.as_bytes(), 10).unwrap_or_else(|verdict| panic!("{body:?}: {verdict:?}"));
        pieces.iter().map(|piece| std::str::from_utf8(piece.bytes).unwrap()).collect()
    }

    fn refused(form: Form, body: &[u8]) -> (u16, Option<Part>) {
        match form.split(body, 3) {
            Err(Verdict::Refused { status, part, .. }) => (status, part),
            other => panic!("{body:?}: {other:?}"),
        }
    }

    #[test]
    fn the_content_type_tells_the_form_and_an_array_counts_where_the_source_says_so() {
        let split = Forms { array: Array::Split, ..Forms::default() };
        for (content_type, body, forms, form) in [
            ("application/x-ndjson", "{}", Forms::default(), Form::Lines),
            ("Application/JSONL; charset=utf-8", "{}", Forms::default(), Form::Lines),
            ("application/json", "[1]", Forms::default(), Form::Record),
            ("application/json", " \r\n[1]", split.clone(), Form::Array),
            ("application/json; charset=utf-8", "[1]", split.clone(), Form::Array),
            ("application/json", "{\"a\":[1]}", split.clone(), Form::Record),
            ("text/plain", "[1]", split.clone(), Form::Record),
            ("application/json-seq", "[1]", split.clone(), Form::Record),
        ] {
            assert_eq!(Form::of(Some(content_type.as_bytes()), body.as_bytes(), &forms), form, "{content_type} {body}");
        }
        assert_eq!(Form::of(None, b"[1]", &split), Form::Record);
    }

    #[test]
    fn each_line_that_is_not_empty_is_a_record() {
        assert_eq!(texts(Form::Lines, "{\"a\":1}\n{\"a\":2}\n"), ["{\"a\":1}", "{\"a\":2}"]);
        assert_eq!(texts(Form::Lines, "\n\r\n a \r\n\t\n\nb"), [" a ", "b"]);
        let pieces = Form::Lines.split(b"\n\nc\nd", 10).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.part).collect::<Vec<_>>(), [Part::Line(3), Part::Line(4)]);
        for empty in ["", "\n", "\r\n \n\n"] {
            assert_eq!(refused(Form::Lines, empty.as_bytes()), (400, None));
        }
        assert_eq!(texts(Form::Lines, "a\nb\nc").len(), 3);
        assert_eq!(refused(Form::Lines, b"a\n\nb\nc\nd\n"), (413, Some(Part::Line(5))));
    }

    #[test]
    fn each_element_is_a_record_as_it_was_sent() {
        let body = " [ {\"a\" : 1.50, \"a\":\"],[\"} ,[1, 2],\n\"\u{e9}\\u00e9\", null ] \n";
        assert_eq!(texts(Form::Array, body), ["{\"a\" : 1.50, \"a\":\"],[\"}", "[1, 2]", "\"\u{e9}\\u00e9\"", "null"]);
        assert_eq!(refused(Form::Array, b"[ ]"), (400, None));
        assert_eq!(refused(Form::Array, b"[1,2,3,4,5]"), (413, Some(Part::Element(4))));
        for (wrong, at) in [
            ("[", 1),
            ("[1", 2),
            ("[1,]", 2),
            ("[1 2]", 2),
            ("[1,{\"a\"}]", 2),
            ("[1]x", 2),
            ("[1][2]", 2),
            ("[1,2,\"]", 3),
        ] {
            assert_eq!(refused(Form::Array, wrong.as_bytes()), (400, Some(Part::Element(at))), "{wrong}");
        }
        assert_eq!(refused(Form::Array, b"[\"\xFF\"]"), (400, None));
        let deep = format!("[{}{}]", "[".repeat(20_000), "]".repeat(20_000));
        assert_eq!(Form::Array.split(deep.as_bytes(), 3).map(|pieces| pieces.len()), Ok(1));
    }
}
