//! Tests of the templates.

use super::*;
use proptest::prelude::*;

fn fields(data: &[u8]) -> Fields<'_> {
    Fields {
        id: Some("41"),
        source: "aoi-\"07\"",
        source_name: "aoi",
        peer: None,
        decoding: Decoding::default(),
        flags: RecordFlags::default(),
        data,
        received_wall_ns: 1_767_323_045_123_456_789,
        key: "0123-4",
        machine_key: b"lot-\"7\"",
        headers: KeptHeaders::default(),
    }
}

fn render(text: &str, data: &[u8]) -> (String, bool) {
    let mut out = Vec::new();
    let rendered = Template::parse(text, true).unwrap().render(&fields(data), &mut out);
    (String::from_utf8(out).unwrap(), rendered.lossy)
}

#[test]
fn every_placeholder_is_filled_in() {
    let text =
        "{{id}} {{source|json}} {{source}} {{data|json}} {{data|base64}} {{data|hex}} {{data}} {{received_at}} {{key}}";
    let expected = r#"41 "aoi-\"07\"" aoi-"07" "a\n" YQo= 610a a
 2026-01-02T03:04:05.123456Z 0123-4"#;
    assert_eq!(render(text, b"a\n"), (expected.to_owned(), false));
}

#[test]
fn rendering_appends() {
    let mut out = b"before ".to_vec();
    Template::parse("{{data}}", false).unwrap().render(&fields(b"x"), &mut out);
    assert_eq!(out, b"before x");
}

#[test]
fn blanks_in_braces_do_not_count_and_closing_braces_of_json_are_text() {
    assert_eq!(render(r#"{"a":{"b":{{ data | json }}}}"#, b"x").0, r#"{"a":{"b":"x"}}"#);
    assert_eq!(render("}} {{key}}}}", b"").0, "}} 0123-4}}");
}

#[test]
fn a_text_without_placeholders_is_itself() {
    assert_eq!(render("{ } plain ü", b"x").0, "{ } plain ü");
    assert_eq!(render("", b"x").0, "");
}

#[test]
fn invalid_utf_8_is_replaced_and_reported_for_json_only() {
    assert_eq!(render("{{data|json}}", b"a\xff\xc3z"), ("\"a\u{fffd}\u{fffd}z\"".to_owned(), true));
    assert_eq!(render("{{data|hex}}", b"a\xff"), ("61ff".to_owned(), false));
}

#[test]
fn an_unknown_placeholder_names_the_nearest() {
    assert_eq!(
        Template::parse("{ {{sorce}}", true),
        Err(TemplateError::UnknownPlaceholder { offset: 2, given: "sorce".to_owned(), nearest: Some("source") })
    );
    let error = Template::parse("{{wxyz}}", true).unwrap_err();
    assert_eq!(error.nearest(), None);
    assert_eq!(error.to_string(), "there is no placeholder {{wxyz}} (byte 0)");
}

#[test]
fn an_unknown_filter_names_the_nearest_form_of_the_same_placeholder() {
    let nearest = |text| Template::parse(text, true).unwrap_err().nearest();
    assert_eq!(nearest("{{data|jsn}}"), Some("data|json"));
    assert_eq!(nearest("{{data|base46}}"), Some("data|base64"));
    assert_eq!(nearest("{{key|json}}"), Some("key"));
    assert_eq!(
        Template::parse("{{key|json}}", true).unwrap_err().to_string(),
        "{{key}} has no filter \"json\" (byte 0)"
    );
}

#[test]
fn an_unclosed_placeholder_and_an_id_without_a_sequence_are_errors() {
    assert_eq!(Template::parse("ab{{data", true), Err(TemplateError::Unclosed { offset: 2 }));
    assert_eq!(Template::parse("a{{id}}", false), Err(TemplateError::NoSequence { offset: 1 }));
}

#[test]
fn a_template_knows_whether_it_can_be_json() {
    let is_json = |text| Template::parse(text, true).unwrap().is_json();
    assert!(is_json(r#"{"id": {{id}}, "machine": {{source|json}}, "data": {{data|json}}}"#));
    assert!(is_json(r#"{"d": {{data}}, "h": "{{data|hex}}", "at": "{{received_at}}", "s": "{{source}}-1"}"#));
    assert!(!is_json(r#"{"h": {{data|hex}}}"#), "hexadecimal digits need quotes");
    assert!(!is_json(r#"{"d": "{{data|json}}"}"#), "a JSON string brings its own quotes");
    assert!(!is_json(r#"{"d": {{data|json}},}"#));
}

#[test]
fn base64_agrees_with_the_vectors_of_rfc_4648() {
    for (data, expected) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(render("{{data|base64}}", data.as_bytes()).0, expected);
    }
}

/// An independent decoder: bits are collected one digit at a time.
fn decode_base64(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64: {digit}"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn json_parses_back_to_the_lossy_text_of_any_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (json, lossy) = render("{{data|json}}", &data);
        let text: String = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&text, &String::from_utf8_lossy(&data));
        prop_assert_eq!(lossy, std::str::from_utf8(&data).is_err());
    }

    #[test]
    fn json_parses_back_to_any_text(data in "(?s).{0,80}", quotes in "[ -~\"\\\\\n\r\t\u{0}-\u{1f}]{0,80}") {
        for text in [&data, &quotes] {
            let (json, lossy) = render("{{data|json}}", text.as_bytes());
            prop_assert_eq!(&serde_json::from_str::<String>(&json).unwrap(), text);
            prop_assert!(!lossy);
        }
    }

    #[test]
    fn base64_and_hex_decode_to_the_same_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(&decode_base64(&render("{{data|base64}}", &data).0), &data);
        let hex = render("{{data|hex}}", &data).0;
        let decoded: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        prop_assert_eq!(&decoded, &data);
    }

    #[test]
    fn raw_data_passes_every_byte(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut out = Vec::new();
        Template::parse("<{{data}}>", false).unwrap().render(&fields(&data), &mut out);
        prop_assert_eq!(&out[1..out.len() - 1], &data[..]);
    }
}

#[test]
fn where_a_record_came_from_and_what_is_to_be_known_about_it_is_filled_in() {
    let text = "{{source_name}} {{source_name|json}} [{{address}}] {{address|json}} {{port}} {{flags|json}}";
    let template = Template::parse(text, true).unwrap();
    let rendered = |fields: &Fields<'_>| {
        let mut out = Vec::new();
        template.render(fields, &mut out);
        String::from_utf8(out).unwrap()
    };
    let plain = fields(b"x");
    assert_eq!(rendered(&plain), r#"aoi "aoi" [] null null []"#);
    let flags = RecordFlags::CUT | RecordFlags::LINE_ERROR | RecordFlags::UNENDED;
    let flagged = Fields { peer: Some("[::ffff:10.0.4.21]:4001".parse().unwrap()), flags, ..plain };
    assert_eq!(rendered(&flagged), r#"aoi "aoi" [10.0.4.21] "10.0.4.21" 4001 ["cut","line-error","unended"]"#);
}

#[test]
fn text_is_read_in_its_encoding_and_what_is_none_is_told_by_policy() {
    let render = |label: &str, on_undecodable, data: &[u8]| {
        let decoding = Decoding { encoding: Decoding::encoding_of(label).unwrap(), on_undecodable };
        let mut out = Vec::new();
        let rendered =
            Template::parse("{{data|json}}", true).unwrap().render(&Fields { decoding, ..fields(data) }, &mut out);
        (String::from_utf8(out).unwrap(), rendered.lossy)
    };
    let replace = OnUndecodable::Replace;
    assert_eq!(
        render("big5", replace, b"\xb3\x5c\xa5\x5c\xbb\x5c,\xb7\xc5\xab\xd7\xb9L\xb0\xaa,\"NG\""),
        (r#""許功蓋,溫度過高,\"NG\"""#.to_owned(), false)
    );
    assert_eq!(render("gbk", replace, b"\xc4\xa4"), (r#""膜""#.to_owned(), false));
    assert_eq!(render("shift_jis", replace, b"\x83\x5c"), (r#""ソ""#.to_owned(), false));
    assert_eq!(render("big5", replace, b"a\xff"), ("\"a\u{fffd}\"".to_owned(), true));
    for label in ["utf-8", "big5"] {
        assert_eq!(render(label, OnUndecodable::Hex, b"a\xff"), (r#""61ff""#.to_owned(), true));
        assert_eq!(render(label, OnUndecodable::Hex, b"a"), (r#""a""#.to_owned(), false));
    }
}

/// Renders with kept headers.
fn with_headers(text: &str, decoding: Decoding, headers: &[(&str, &[u8])]) -> Vec<u8> {
    let encoded = KeptHeaders::encode(headers.iter().copied());
    let fields = Fields { headers: KeptHeaders::of(&encoded), decoding, ..fields(b"x") };
    let mut out = b"before ".to_vec();
    assert!(!Template::parse(text, true).unwrap().render(&fields, &mut out).lossy, "that is said of the record's data");
    out.split_off(7)
}

#[test]
fn a_header_that_was_kept_is_filled_in_and_an_absent_one_is_an_empty_string() {
    let headers: [(&str, &[u8]); 2] = [("X-Lot", b"L-7"), ("X-Shift", b"2")];
    let render = |text| String::from_utf8(with_headers(text, Decoding::default(), &headers)).unwrap();
    assert_eq!(render("{{header.X-Lot}}/{{ header.x-shift }}/{{header.X-Other}}/"), "L-7/2//");
    assert_eq!(render("{{header.x-LOT|json}} {{ header.X-Other | json }}"), r#""L-7" """#);
    assert_eq!(render(r#"{"a":"{{header.X-Lot}}-{{header.X-Other}}"}"#), r#"{"a":"L-7-"}"#);
}

#[test]
fn no_header_ends_a_string_of_a_body_that_is_json() {
    let nasty: [(&str, &[u8]); 1] = [("X-Lot", b"a\",\"id\":\"1\\\t\xe9")];
    let render = |text| String::from_utf8(with_headers(text, Decoding::default(), &nasty)).unwrap();
    for text in [r#"{"lot":"{{header.X-Lot}}"}"#, r#"{"lot":{{header.X-Lot|json}}}"#] {
        let body: serde_json::Value = serde_json::from_str(&render(text)).unwrap();
        assert_eq!(body, serde_json::json!({ "lot": "a\",\"id\":\"1\\\t\u{fffd}" }), "{text}");
    }
    // Elsewhere it is what came.
    assert_eq!(with_headers("<{{header.X-Lot}}>", Decoding::default(), &nasty), b"<a\",\"id\":\"1\\\t\xe9>");
}

#[test]
fn a_header_is_text_in_the_encoding_of_its_source_as_far_as_that_has_ascii() {
    let render = |label, on_undecodable, value: &[u8]| {
        let decoding = Decoding { encoding: Decoding::encoding_of(label).unwrap(), on_undecodable };
        String::from_utf8(with_headers("{{header.X-Lot|json}}", decoding, &[("X-Lot", value)])).unwrap()
    };
    let replace = OnUndecodable::Replace;
    assert_eq!(render("big5", replace, b"\xb3\x5c,7"), r#""許,7""#);
    assert_eq!(render("windows-1252", replace, b"caf\xe9"), r#""café""#);
    assert_eq!(render("utf-16le", replace, b"L-7"), r#""L-7""#);
    assert_eq!(render("utf-8", OnUndecodable::Hex, b"a\xff"), r#""61ff""#);
    assert_eq!(render("utf-8", OnUndecodable::Reject, b"a\xff"), "\"a\u{fffd}\"");
}

#[test]
fn a_template_tells_its_headers_and_what_is_none_is_an_error() {
    let template = Template::parse("{{header.X-Lot}}{{data}}{{header.x-shift|json}}", false).unwrap();
    assert_eq!(template.headers().collect::<Vec<_>>(), ["X-Lot", "x-shift"]);
    let error = |text| Template::parse(text, false).unwrap_err().to_string();
    assert_eq!(error("{{header.X-Lot|hex}}"), "{{header.X-Lot}} has no filter \"hex\" (byte 0)");
    assert_eq!(error("a{{header.}}"), "there is no placeholder {{header.}} (byte 1)");
    assert_eq!(error("{{header}}"), "there is no placeholder {{header}} (byte 0)");
    assert!(Template::parse(r#"{"lot":{{header.X-Lot|json}}}"#, false).unwrap().is_json());
    assert!(!Template::parse(r#"{"lot":{{header.X-Lot}}}"#, false).unwrap().is_json(), "it needs quotes");
}

#[test]
fn the_key_of_a_machine_and_its_address_are_filled_in_or_empty() {
    let template = Template::parse("{{machine_key}} {{machine_key|json}} {{address}}|{{address|json}}", false).unwrap();
    let rendered = |fields: &Fields<'_>| {
        let mut out = Vec::new();
        template.render(fields, &mut out);
        String::from_utf8(out).unwrap()
    };
    let peer = Some("10.0.4.21:4001".parse().unwrap());
    assert_eq!(rendered(&Fields { peer, ..fields(b"x") }), r#"lot-"7" "lot-\"7\"" 10.0.4.21|"10.0.4.21""#);
    assert_eq!(rendered(&Fields { machine_key: b"", ..fields(b"x") }), r#" "" |null"#);
}
