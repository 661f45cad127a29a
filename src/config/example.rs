//! The complete example, held to the code by tests.

/// A file in which every key appears, with its default where it has one. Optional keys are lines that begin with `#` and
/// a key.
pub const EXAMPLE: &str = include_str!("example.toml");

#[cfg(test)]
mod tests {
    use super::EXAMPLE;
    use crate::config::walk::Reader;
    use crate::config::{Journal, Limits, SourceKind, parse_on, walk_document};
    use crate::framing::Framing;

    /// Files such as the example names, which are read when it is checked.
    fn tls_files() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["api.example".to_owned()]).unwrap();
        for (name, text) in [
            ("api-ca.pem", made.cert.pem()),
            ("client.pem", made.cert.pem()),
            ("client.key", made.signing_key.serialize_pem()),
            ("tokens", String::new()),
            ("server.pem", made.cert.pem()),
            ("server.key", made.signing_key.serialize_pem()),
            ("machines-ca.pem", made.cert.pem()),
            ("machines.crl", revoked()),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    /// A list of what a CA has revoked: nothing.
    fn revoked() -> String {
        let mut params = rcgen::CertificateParams::new(["machines.example".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap());
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2025, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().pem().unwrap()
    }

    /// The example with its optional keys made active: lines with `#` and no blank after it. `files`: where those of TLS are.
    fn with_optional_keys(files: &std::path::Path) -> String {
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
            Some(active) if !active.is_empty() && !active.starts_with(' ') => active,
            _ => line,
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        const FILES: [&str; 8] = [
            "api-ca.pem",
            "client.pem",
            "client.key",
            "server.pem",
            "server.key",
            "machines-ca.pem",
            "machines.crl",
            "tokens",
        ];
        FILES.iter().fold(text, |text, name| {
            text.replace(&format!("/etc/ringest/{name}"), &files.join(name).display().to_string())
        })
    }

    /// The one key that does not go with another section: the answer to a batch has no id of one record.
    fn without_id_of_answer(text: &str) -> String {
        text.lines().filter(|line| !line.starts_with("answer_id_at")).collect::<Vec<_>>().join("\n")
    }

    fn without_comments(text: &str) -> String {
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_valid_with_and_without_its_comments_and_optional_keys() {
        let whole = parse_on(EXAMPLE, "example", &[0, 1]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(parse_on(&without_comments(EXAMPLE), "example", &[0, 1]).as_ref(), Ok(&whole));
        let files = tls_files();
        let optional = without_id_of_answer(&with_optional_keys(files.path()));
        let settings = parse_on(&optional, "example", &[0, 1]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(settings.sources.len(), 4, "one of each kind");
        assert_eq!(parse_on(&without_comments(&optional), "example", &[0, 1]), Ok(settings));
    }

    #[test]
    fn every_key_that_the_code_asks_for_is_in_the_example() {
        let files = tls_files();
        let text = with_optional_keys(files.path());
        let document = toml_edit::Document::parse(text.as_str()).unwrap();
        let reader = Reader::new(&text);
        assert!(walk_document(&reader, document.as_table(), &[0], &crate::config::look_at_nothing).is_some());
        // A key need not be in each section that could have it.
        let (absent, present) = (reader.absent.borrow(), reader.present.borrow());
        let absent: Vec<&String> = absent.difference(&present).collect();
        assert!(absent.is_empty(), "missing in the example: {absent:?}");
        // That this test would notice: without its optional keys some are missing.
        let document = toml_edit::Document::parse(EXAMPLE).unwrap();
        let reader = Reader::new(EXAMPLE);
        walk_document(&reader, document.as_table(), &[0], &crate::config::look_at_nothing);
        assert!(reader.absent.borrow().contains("source[serial].silence_alarm"));
    }

    #[test]
    fn the_values_in_the_example_are_the_defaults() {
        let minimal = r#"
            [[source]]
            name = "gauge-1"
            kind = "serial"
            path = "/dev/serial/by-id/usb-FTDI_FT232R_A10K2-if00-port0"
            [sequence]
            url = "http://127.0.0.1:8000/seq/"
            [deliver]
            url = "http://127.0.0.1:8000/films/"
        "#;
        let minimal = parse_on(minimal, "example", &[0, 1]).unwrap();
        assert_eq!(parse_on(EXAMPLE, "example", &[0, 1]), Ok(minimal.clone()));
        assert_eq!(minimal.journal, Journal::default());
        assert_eq!(minimal.limits, Limits::default());
        // The optional sources too: only what they must have is given here.
        let required = r#"
            source = [
                { name = "gauge-1", kind = "serial", path = "/dev/serial/by-id/usb-FTDI_FT232R_A10K2-if00-port0" },
                { name = "device-servers", kind = "tcp_listen", listen = "0.0.0.0:4001", allow_remote = "plain" },
                { name = "press-4", kind = "tcp_connect", connect = "10.0.4.20:4001" },
                { name = "machines", kind = "http", listen = "127.0.0.1:8080" },
            ]
            deliver.url = "http://127.0.0.1:8000/films/"
        "#;
        let required = parse_on(required, "required", &[0, 1]).unwrap();
        let mut all =
            parse_on(&without_id_of_answer(&with_optional_keys(tls_files().path())), "example", &[0, 1]).unwrap();
        for source in &mut all.sources {
            assert!(source.silence_alarm.take().is_some());
            let may_be_idle = matches!(source.kind, SourceKind::TcpListen { .. } | SourceKind::TcpConnect { .. });
            assert_eq!(source.tcp.idle.take().is_some(), may_be_idle);
            let keeps = source.forms.keeps.take();
            assert_eq!(keeps.is_some(), matches!(source.kind, SourceKind::Http { .. }));
            let access = std::mem::take(&mut source.access);
            if matches!(source.kind, SourceKind::TcpListen { .. } | SourceKind::Http { .. }) {
                assert!(!access.networks.allow.is_empty() && !access.networks.deny.is_empty());
                assert!(!access.proxies.is_empty());
            }
            let connects = matches!(source.kind, SourceKind::TcpConnect { .. });
            assert_eq!(source.connect_tls.take().is_some(), connects);
            let listens = matches!(source.kind, SourceKind::TcpListen { .. } | SourceKind::Http { .. });
            assert_eq!(source.tls.take().is_some_and(|tls| tls.asks_for_certificates()), listens);
            if let SourceKind::TcpListen { names, .. } = &mut source.kind {
                assert!(!std::mem::take(names).is_empty());
            }
            if !matches!(source.kind, SourceKind::Http { .. }) {
                assert!(source.framing.idle.is_some());
                let framing = std::mem::take(&mut source.framing);
                assert!(!framing.starts.is_empty() && framing.keep.start && !framing.ignore.is_empty());
                assert!(framing.matching.is_some() && framing.restart);
                let Framing { kind, escape, checksum, strip_bit7, trim, max_bytes, oversized, .. } = framing;
                source.framing =
                    Framing { kind, escape, checksum, strip_bit7, trim, max_bytes, oversized, ..Framing::default() };
            }
        }
        assert_eq!(all.sources, required.sources);
    }
}
