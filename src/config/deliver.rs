//! `[sequence]` and `[deliver]`: where records go.

use super::answers::answers;
use super::batch::{BatchForm, batch};
use super::problem::Refusal;
use super::settings::{DataIs, Deliver, DeliverKey, Sequence, Source, Url};
use super::units::show_duration;
use super::url::parse_url;
use super::walk::{Entry, Section};
use crate::delivery::template::Template;
use crate::ground::secrets::scope;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The body unless the file has one, with and without `[sequence]`.
const BODY_WITH_ID: &str = r#"{"id": {{id}}, "machine": {{source|json}}, "data": {{data|json}}}"#;
const BODY: &str = r#"{"machine": {{source|json}}, "data": {{data|json}}}"#;
/// Headers that ringest writes itself, or that would change how a message is cut.
const HEADERS_OWN: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "idempotency-key",
];
/// Headers whose values are secrets.
const HEADERS_SECRET: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"];
/// In `success`: all statuses from 200 to 299.
const ALL_2XX: &str = "2xx";
/// Longest header value.
const HEADER_BYTES_MAX: usize = 8_000;

fn url(section: &Section<'_, '_>, remedy: &str) -> Option<Url> {
    if section.get("url").is_none() {
        section.missing("url", remedy);
    }
    section.parsed("url", remedy, parse_url)
}

/// `None` also if the section is there but has no good URL; the problem is noted then.
pub(super) fn sequence(section: Section<'_, '_>) -> Option<Sequence> {
    if !section.is_present() {
        section.get("url");
        section.get("id_at");
        section.get("lease");
        section.get("count_at");
        return None;
    }
    let url = url(&section, "where ids are fetched, such as \"http://127.0.0.1:8000/seq/\"");
    let id_at = section.parsed("id_at", "a JSON pointer such as \"/id\"", json_pointer);
    let lease = section.integer("lease", 1, 1..=1_000_000) as u32;
    let count_at = section.parsed("count_at", "a JSON pointer such as \"/count\"", json_pointer);
    section.finish();
    Some(Sequence {
        url: url?,
        id_at: id_at.unwrap_or_else(|| "/id".to_owned()),
        lease,
        count_at: count_at.unwrap_or_else(|| "/count".to_owned()),
    })
}

pub(super) fn json_pointer(text: &str) -> Result<String, Refusal> {
    let remedy = "a JSON pointer (RFC 6901) into the answer, such as \"/id\" for {\"id\": 1}";
    if !text.is_empty() && !text.starts_with('/') {
        return Err(Refusal::new("a JSON pointer begins with /", remedy).with_nearest(Some(&format!("/{text}"))));
    }
    let escapes_good = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if !escapes_good {
        return Err(Refusal::new("a ~ in a JSON pointer is written ~0", remedy));
    }
    Ok(text.to_owned())
}

fn media_type(text: &str) -> Result<String, Refusal> {
    check_header_value(text)?;
    if !text.contains('/') {
        return Err(Refusal::new("this is no media type", "a media type such as \"application/json\""));
    }
    Ok(text.to_owned())
}

/// `has_sequence` is whether the file has `[sequence]`, good or not; `id_url` is its URL. `sources` are the good ones.
pub(super) fn deliver(
    section: Section<'_, '_>,
    has_sequence: bool,
    id_url: Option<&Url>,
    sources: &[Source],
) -> Option<Deliver> {
    let ms = Duration::from_millis;
    let url = url(&section, "where records are posted, such as \"http://127.0.0.1:8000/films/\"");
    let given_type = section.parsed("content_type", "a media type such as \"application/json\"", media_type);
    let content_type = given_type.clone().unwrap_or_else(|| "application/json".to_owned());
    let body = body(&section, &content_type, has_sequence, sources);
    let shows_text = Template::parse(&body, has_sequence).is_ok_and(|template| template.uses_text());
    let batch = batch(section.section("batch"), &body, has_sequence);
    let is_lines = batch.as_ref().is_some_and(|batch| batch.form == BatchForm::Ndjson);
    let content_type =
        given_type.unwrap_or(if is_lines { "application/x-ndjson" } else { content_type.as_str() }.to_owned());
    let (headers, header_files) = headers(section.section("headers"));
    let secure = url.iter().chain(id_url).any(|url| url.secure);
    let tls = super::tls::tls(section.section("tls"), secure);
    let success = success(&section);
    let answers = answers(section.section("answers"), section.section("confirm"), &success, (&body, has_sequence));
    let answer_type = section.parsed("answer_type", "a media type such as \"application/json\"", |text| {
        let name = media_type(text)?;
        if name.contains(';') {
            return Err(Refusal::new(
                "parameters are not compared",
                "the media type alone, such as \"application/json\"",
            ));
        }
        Ok(name)
    });
    let answer_id_at = section.parsed("answer_id_at", "a JSON pointer such as \"/id\"", |text| {
        if !has_sequence {
            return Err(Refusal::new(
                "without [sequence] a record has no id that the answer could show",
                "leave it out",
            ));
        }
        if batch.is_some() {
            return Err(Refusal::new("the answer to a batch has no place for one record's id", "leave it out"));
        }
        json_pointer(text)
    });
    let key =
        section.choice("key", &[("record", DeliverKey::Record), ("machine", DeliverKey::Machine)], DeliverKey::Record);
    if key == DeliverKey::Machine && batch.is_some() {
        section.refuse("key", Refusal::new("a batch has a key of its own", "leave out key, or [deliver.batch]"));
    }
    let connections = section.integer("connections", 8, 1..=1_024);
    let pipeline = section.integer("pipeline", 1, 1..=64);
    let timeout = section.duration("timeout", ms(15_000), ms(100)..=ms(600_000));
    let connect_timeout = section.duration("connect_timeout", ms(5_000), ms(100)..=ms(120_000));
    let idle = section.duration("idle", ms(1_500), ms(100)..=ms(3_600_000));
    let max_connection_age = section.duration("max_connection_age", ms(300_000), ms(100)..=ms(86_400_000));
    let (retry_first, retry_max) = retry(section.section("retry"));
    let retry_after_max = section.duration("retry_after_max", ms(300_000), ms(0)..=ms(86_400_000));
    if !section.choice("order", &[("lane", true), ("none", false)], true) {
        section.refuse(
            "order",
            Refusal::new(
                "delivering the records of one machine in any order is not supported by this version",
                "\"lane\": the records of one port or connection arrive in their order",
            ),
        );
    }
    let drain = section.duration("drain", ms(10_000), ms(0)..=ms(600_000));
    section.finish();
    Some(Deliver {
        url: url?,
        body,
        shows_text,
        content_type,
        tls,
        headers,
        header_files,
        success,
        answer_type,
        answer_id_at,
        answers,
        key,
        batch,
        connections,
        pipeline,
        timeout,
        connect_timeout,
        idle,
        max_connection_age,
        retry_first,
        retry_max,
        retry_after_max,
        drain,
    })
}

fn body(section: &Section<'_, '_>, content_type: &str, has_sequence: bool, sources: &[Source]) -> String {
    let given = section.parsed("body", "a template in quotes", |text| {
        let template = Template::parse(text, has_sequence).map_err(|error| {
            let names = Template::placeholders().chain(["header.NAME|json", "header.NAME"]);
            let known: Vec<String> = names.map(|name| format!("{{{{{name}}}}}")).collect();
            let near = error.nearest().map(|name| format!("{{{{{name}}}}}"));
            Refusal { nearest: near, ..Refusal::new(error.to_string(), format!("known: {}", known.join(" "))) }
        })?;
        if !template.uses_data() {
            return Err(Refusal::new(
                "the record's bytes do not occur in this body and would be lost",
                "{{data|json}}, {{data|base64}}, {{data|hex}} or {{data}} where they belong",
            ));
        }
        let is_json = content_type.split(';').next().is_some_and(|kind| kind.trim().ends_with("json"));
        if is_json && !template.is_json() {
            return Err(Refusal::new(
                "this body is not JSON when it is filled in",
                "{{source|json}}, {{data|json}} and the others with |json bring their quotes, and a raw {{data}} that is JSON \
                 needs none; {{data|hex}}, {{data|base64}}, {{received_at}} and {{key}} need quotes around them; or give \
                 another content_type",
            ));
        }
        // One that is not JSON would make the whole body none, or change what it says.
        if is_json
            && template.uses_raw_data()
            && let Some(other) = sources.iter().find(|source| source.data_is != DataIs::Json)
        {
            return Err(Refusal::new(
                format!("{{{{data}}}} stands raw in JSON, and the records of source {:?} may be anything", other.name),
                "{{data|json}} in the body; or data_is = \"json\" in each [[source]] whose machines send JSON",
            ));
        }
        check_headers(&template, sources)?;
        if has_sequence && !template.uses_id() {
            section.note("body", "the ids of [sequence] are fetched but not sent", "{{id}} in the body, or no [sequence]");
        }
        Ok(text.to_owned())
    });
    given.unwrap_or_else(|| if has_sequence { BODY_WITH_ID } else { BODY }.to_owned())
}

/// A header that no source keeps would be empty for all records.
fn check_headers(template: &Template, sources: &[Source]) -> Result<(), Refusal> {
    let is_kept =
        |name: &str| sources.iter().filter_map(|source| source.forms.keeps.as_ref()).any(|keeps| keeps.has(name));
    match template.headers().find(|name| !is_kept(name)) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(
            format!("no source keeps the header {name}, so that {{{{header.{name}}}}} would always be empty"),
            format!("keep_headers = [{name:?}] in the [[source]] of kind \"http\" whose machines send it"),
        )),
    }
}

fn success(section: &Section<'_, '_>) -> Vec<u16> {
    const REMEDY: &str = "a list of HTTP statuses from 200 to 599 that mean the record has arrived, such as [201], or [\"2xx\"] for \
                          all from 200 to 299";
    let Some(entry) = section.get("success") else { return vec![201] };
    let Some(elements) = entry.elements(REMEDY) else { return vec![201] };
    if elements.is_empty() {
        entry.refuse(Refusal::new("with no status in this list nothing would ever be delivered", REMEDY));
    }
    let mut statuses: Vec<u16> = Vec::new();
    for (value, span) in elements {
        let meant = match (value.as_integer(), value.as_str()) {
            (Some(status @ 200..600), _) => status as u16..=status as u16,
            (_, Some(ALL_2XX)) => 200..=299,
            _ => {
                let refusal = Refusal::new("this is no status of a final answer", REMEDY);
                let is_class = value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(ALL_2XX));
                entry.refuse_element(&span, refusal.with_nearest(is_class.then_some(ALL_2XX)));
                continue;
            }
        };
        if statuses.iter().any(|status| meant.contains(status)) {
            entry.refuse_element(&span, Refusal::new("this stands in the list twice", REMEDY));
        } else {
            statuses.extend(meant);
        }
    }
    statuses
}

/// Statuses as the file has them.
pub(super) fn show_statuses(statuses: &[u16]) -> String {
    let is_all = (200..300).all(|status| statuses.contains(&status));
    let each = statuses.iter().filter(|status| !is_all || !(200..300).contains(*status)).map(u16::to_string);
    let all = is_all.then(|| format!("\"{ALL_2XX}\""));
    format!("[{}]", all.into_iter().chain(each).collect::<Vec<_>>().join(", "))
}

fn retry(section: Section<'_, '_>) -> (Duration, Duration) {
    let (first_default, max_default) = (Duration::from_millis(500), Duration::from_secs(10));
    let range = Duration::from_millis(1)..=Duration::from_secs(3_600);
    let first = section.duration("first", first_default, range.clone());
    let max = section.duration("max", max_default.max(first), range);
    if max < first {
        let remedy = format!("at least first, which is \"{}\"", show_duration(first));
        section.refuse("max", Refusal::new("the longest delay is shorter than the first", remedy));
    }
    section.finish();
    (first, max)
}

/// One a header.
type Named<T> = Vec<(String, T)>;

/// Names and values, and the files from which some were read.
fn headers(section: Section<'_, '_>) -> (Named<Arc<str>>, Named<PathBuf>) {
    let mut headers: Named<Arc<str>> = Vec::new();
    let mut files = Vec::new();
    for (name, entry) in section.entries() {
        let lower = name.to_ascii_lowercase();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            let remedy = "letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.1)";
            entry.refuse_key(Refusal::new("this is no header name", remedy));
        } else if HEADERS_OWN.contains(&lower.as_str()) {
            let remedy = if lower == "content-type" { "content_type = \"…\" in [deliver]" } else { "leave it out" };
            entry.refuse_key(Refusal::new("ringest writes this header itself", remedy));
        } else if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            entry.refuse_key(Refusal::new("this header stands here twice; case does not count", "each header once"));
        } else if let Some((value, file)) = header_value(&entry, HEADERS_SECRET.contains(&lower.as_str())) {
            files.extend(file.map(|path| (name.to_owned(), path)));
            headers.push((name.to_owned(), value));
        }
    }
    (headers, files)
}

/// Names and values.
pub(super) type Headers = Vec<(String, Arc<str>)>;

/// The headers with what the files of secrets hold now, if that is other than before.
///
/// # Errors
/// In words, if one of the files cannot be read or holds no header value; none of it is shown.
pub(super) fn read_headers(deliver: &Deliver) -> Result<Option<Headers>, String> {
    let mut headers = deliver.headers.clone();
    for (name, path) in &deliver.header_files {
        let value = read_secret(path).map_err(|refusal| format!("{name}: {}", refusal.what))?;
        for (_, old) in headers.iter_mut().filter(|(other, _)| other == name) {
            *old = Arc::clone(&value);
        }
    }
    Ok((headers != deliver.headers).then_some(headers))
}

/// The value itself, or what a file or a systemd credential holds. A value that may be secret is never shown.
fn header_value(entry: &Entry<'_, '_>, secret: bool) -> Option<(Arc<str>, Option<PathBuf>)> {
    const FROM_FILE: &str =
        "{ file = \"/etc/ringest/NAME\" }, or { credential = \"NAME\" } for LoadCredential= of systemd";
    let value = if let Some(text) = entry.item.as_str() {
        if secret {
            let what = "a secret does not belong into a configuration file, which is copied and shown";
            entry.refuse_key(Refusal::new(what, FROM_FILE));
            return None;
        }
        check_header_value(text).and_then(|()| check_not_filled_in(text)).map(|()| (text.into(), None))
    } else if entry.item.is_table_like() {
        let section = entry.section(FROM_FILE)?;
        let file = section.parsed("file", "a path in quotes", super::gateway::parse_path);
        let credential = section.parsed("credential", "a name in quotes", |name| {
            super::gateway::check_name(name)?;
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                Refusal::new("CREDENTIALS_DIRECTORY is not set", "start ringest by systemd, with LoadCredential=")
            })?;
            Ok(Path::new(&directory).join(name))
        });
        let given = section.entries().len();
        section.finish();
        let path = match (file, credential) {
            (Some(path), None) | (None, Some(path)) if given == 1 => path,
            (None, None) if given > 0 => return None, // noted above
            _ => {
                entry.refuse_key(Refusal::new("one of file and credential is needed", FROM_FILE));
                return None;
            }
        };
        read_secret(&path).map(|value| (value, Some(path)))
    } else {
        entry.refuse_key(Refusal::new("this is no header value", format!("a string, or {FROM_FILE}")));
        return None;
    };
    value.map_err(|refusal| entry.refuse_key(refusal)).ok()
}

/// The one line of a secret's file.
fn read_secret(path: &Path) -> Result<Arc<str>, Refusal> {
    scope(|| read_line(path))
}

fn read_line(path: &Path) -> Result<Arc<str>, Refusal> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Refusal::new(format!("{} cannot be read: {error}", path.display()), "a file of one line that ringest may read")
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    check_header_value(line)
        .map_err(|refusal| Refusal { what: format!("{}: {}", path.display(), refusal.what), ..refusal })?;
    Ok(line.into())
}

/// Whoever writes a placeholder or a variable of the environment means what would stand there, and the service would get these signs.
fn check_not_filled_in(value: &str) -> Result<(), Refusal> {
    match ["{{", "${"].into_iter().find(|sign| value.contains(sign)) {
        Some("{{") => Err(Refusal::new(
            "{{ in a header value: headers are the same for all records, and no placeholder is filled in",
            "the value itself; what differs from record to record belongs into body",
        )),
        Some(_) => Err(Refusal::new(
            "${ in a header value: no variable of the environment is filled in",
            "the value itself, or { file = \"/etc/ringest/NAME\" }",
        )),
        None => Ok(()),
    }
}

/// A field value of RFC 9110 section 5.5, ASCII only. Says what is wrong without showing the value.
fn check_header_value(value: &str) -> Result<(), Refusal> {
    let remedy = format!("1 to {HEADER_BYTES_MAX} printable ASCII characters, no blank at either end");
    let what = if value.contains(['\r', '\n']) {
        "a line break in a header value would end the header"
    } else if value.is_empty() {
        "a header value is empty"
    } else if value.len() > HEADER_BYTES_MAX {
        "this header value is too long"
    } else if value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']) {
        "a blank at the end of a header value"
    } else if !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        "a character in a header value that is not printable ASCII"
    } else {
        return Ok(());
    };
    Err(Refusal::new(what, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_bodies_are_json_and_carry_the_data() {
        for (body, has_id) in [(BODY_WITH_ID, true), (BODY, false)] {
            let template = Template::parse(body, has_id).unwrap();
            assert!(template.is_json() && template.uses_data());
            assert_eq!(template.uses_id(), has_id);
        }
    }

    #[test]
    fn a_header_value_cannot_end_its_line() {
        for wrong in ["", "a\r\nB: c", "a\nb", " a", "a\t", "ü", "a\0", "\u{7f}"] {
            assert!(check_header_value(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(check_header_value("Token a b"), Ok(()));
    }

    #[test]
    fn a_header_value_that_should_be_filled_in_is_refused() {
        for (value, words) in
            [("{{source}}", "no placeholder"), ("plant-{{id}}", "no placeholder"), ("Bearer ${TOKEN}", "no variable")]
        {
            let refusal = check_not_filled_in(value).expect_err(value);
            assert!(refusal.what.contains(words), "{}", refusal.what);
        }
        for value in ["plant {3}", "100$", "{\"a\": {}}", "$TOKEN"] {
            assert_eq!(check_not_filled_in(value), Ok(()), "{value}");
        }
    }

    #[test]
    fn a_secret_is_the_one_line_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (content, expected) in
            [("Token x\n", Some("Token x")), ("Token x", Some("Token x")), ("a\nb\n", None), ("\n", None)]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read_secret(&path).ok().as_deref(), expected, "{content:?}");
        }
        assert!(read_secret(&directory.path().join("missing")).is_err());
    }
}
