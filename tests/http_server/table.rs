//! The table of right and wrong requests: each with the answers that it gets, what is taken of it, and whether the connection ends.
//! What is to be seen of a connection alone, such as its deadlines, stands with the tests.

/// Start of a good request.
pub const P: &str = "POST /v1/records/a HTTP/1.1\r\nHost: a\r\n";
/// A good request, whose body no other one has.
pub const GOOD: &str = "POST /v1/records/good HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ngood";
pub fn post(fields: &str, body: &str) -> String {
    format!("{P}{fields}\r\n{body}")
}

pub fn with_length(value: &str) -> String {
    post(&format!("Content-Length: {value}\r\n"), "hello")
}

pub fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

pub const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";

/// A request and what must come of it.
#[derive(Clone)]
pub struct Case {
    pub row: &'static str,
    pub bytes: Vec<u8>,
    /// In turn, all without the good request's.
    pub statuses: Vec<u16>,
    pub bodies: Vec<Vec<u8>>,
    pub closes: bool,
}

pub fn taken(row: &'static str, bytes: impl AsRef<[u8]>, body: &str) -> Case {
    let bodies = vec![body.as_bytes().to_vec()];
    Case { row, bytes: bytes.as_ref().to_vec(), statuses: vec![201], bodies, closes: false }
}

/// Refused, and the connection goes on.
pub fn refused(row: &'static str, bytes: impl AsRef<[u8]>, status: u16) -> Case {
    Case { row, bytes: bytes.as_ref().to_vec(), statuses: vec![status], bodies: Vec::new(), closes: false }
}

/// Refused, and nothing behind it is looked at.
pub fn closed(row: &'static str, bytes: impl AsRef<[u8]>, status: u16) -> Case {
    Case { closes: true, ..refused(row, bytes, status) }
}

/// All of them.
#[allow(dead_code)] // one of the programs that share this file asks for each alone
pub fn all() -> Vec<Case> {
    [
        rows_1_to_3(),
        rows_4_to_12(),
        rows_13_to_20(),
        rows_21_to_30(),
        rows_33_to_39(),
        rows_40_to_47(),
        rows_49_to_51(),
        rows_52_to_56(),
        rows_57_to_60(),
        row_64(),
        row_65(),
    ]
    .concat()
}

fn with_coding(value: &str) -> String {
    post(&format!("Transfer-Encoding: {value}\r\n"), HELLO)
}

/// Records that are taken.
pub fn rows_1_to_3() -> Vec<Case> {
    vec![
        taken("1", with_length("5"), "hello"),
        Case {
            statuses: vec![201, 201],
            bodies: vec![b"hello".to_vec(); 2],
            ..taken("2", with_length("5").repeat(2), "")
        },
        taken("3", chunked(HELLO), "hello"),
        taken("3", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), "hello"),
    ]
}

/// Content-Length.
pub fn rows_4_to_12() -> Vec<Case> {
    let both = "Transfer-Encoding: chunked\r\n";
    let mut cases = vec![
        closed("4", post(&format!("Content-Length: 15\r\n{both}"), HELLO), 400),
        closed("4", post(&format!("{both}Content-Length: 15\r\n"), HELLO), 400),
        closed("5", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), 400),
        closed("6", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("6", with_length("5, 5"), 400),
        closed("8", with_length("18446744073709551616"), 400),
        taken("9", with_length("005"), "hello"),
        closed("10", with_length("65537"), 413),
        closed("10", with_length("18446744073709551615"), 413),
        refused("11", post("", ""), 411),
        refused("12", post("Content-Length: 0\r\n", ""), 400),
    ];
    for value in ["+5", "-5", "0x5", "5_0", "5 5", ""] {
        cases.push(closed("7", with_length(value), 400));
    }
    cases
}

/// Transfer-Encoding.
pub fn rows_13_to_20() -> Vec<Case> {
    let mut cases = vec![
        closed("13", with_coding("gzip, chunked"), 501),
        closed("13", post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", HELLO), 501),
        closed("14", with_coding("chunked, gzip"), 400),
        closed("15", with_coding("chunked, chunked"), 400),
        closed("15", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HELLO), 400),
        closed("16", with_coding("xchunked"), 501),
        closed("16", with_coding("identity"), 501),
        closed("16", with_coding(""), 400),
        closed("16", with_coding(", chunked"), 400),
        closed("16", with_coding("chunked;q=1"), 501),
        closed("17", post("Transfer-Encoding : chunked\r\n", HELLO), 400),
        taken("19", with_coding("CHUNKED"), "hello"),
        closed("20", with_coding("chunked").replace("HTTP/1.1", "HTTP/1.0"), 400),
    ];
    for control in ["\x0b", "\x0c", "\0"] {
        cases.push(closed("18", with_coding(&format!("{control}chunked")), 400));
        cases.push(closed("18", with_coding(&format!("chunked{control}")), 400));
        cases.push(closed("18", with_coding(&format!("chun{control}ked")), 400));
    }
    cases
}

/// Chunks and trailers.
pub fn rows_21_to_30() -> Vec<Case> {
    let mut cases = vec![
        closed("22", chunked("00000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
        closed("23", chunked("5\r\nhello0\r\n\r\n"), 400),
        closed("23", chunked("5\r\nhello\n0\r\n\r\n"), 400),
        closed("23", chunked("5\r\nhello\rx0\r\n\r\n"), 400),
        closed("24", chunked("5\nhello\r\n0\r\n\r\n"), 400),
        taken("25", chunked("5;a=b\r\nhello\r\n0;c\r\n\r\n"), "hello"),
        taken("26", chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(4095))), "hello"),
        closed("26", chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(4096))), 400),
        closed("26", chunked(&format!("1;{0}\r\nh\r\n1;{0}\r\ni\r\n0\r\n\r\n", "e".repeat(2048))), 400),
        closed("27", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
        closed("27", chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
        closed("27", chunked("5;a\n"), 400),
        taken("28", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n"), "hello"),
        closed("28", chunked("5\r\nhello\r\n0\r\nno colon\r\n\r\n"), 400),
        closed("28", chunked("5\r\nhello\r\n0\r\nX: 1\n\r\n"), 400),
        taken("29", chunked("5\r\nhello\r\n0\r\nContent-Length: 90\r\n\r\n"), "hello"),
        taken("29", chunked("5\r\nhello\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n"), "hello"),
        taken("29", chunked("5\r\nhello\r\n0\r\nHost: b,c\r\nHost: d\r\n\r\n"), "hello"),
        taken("30", chunked(&format!("5\r\nhello\r\n0\r\nT:{}\r\n\r\n", "t".repeat(8192 - 4))), "hello"),
        closed("30", chunked(&format!("5\r\nhello\r\n0\r\nT:{}\r\n\r\n", "t".repeat(8192 - 3))), 431),
        refused("12", chunked("0\r\n\r\n"), 400),
    ];
    for size in ["", "5_0", "0x5", "+5", "-5", " 5", "5 ", "g", ";a"] {
        cases.push(closed("21", chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")), 400));
    }
    cases
}

/// Lines and fields.
pub fn rows_33_to_39() -> Vec<Case> {
    let length = "Content-Length: 5\r\n";
    let mut cases = vec![
        closed("33", with_length("5").replace("\r\n", "\n"), 400),
        closed("33", "POST /v1/records/a HTTP/1.1\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        closed("33", post("Content-Length: 5\n", "hello"), 400),
        closed("33", format!("{P}{length}\nhello"), 400),
        closed("34", with_length("5").replace("\r\n", "\r"), 400),
        closed("34", post("X: a\rb\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("34", format!("{P}{length}\rhello"), 400),
        closed("35", post("X: a\r\n b\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("35", post("X: a\r\n\tb\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("36", "POST /v1/records/a HTTP/1.1\r\n Host: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        closed("36", "POST /v1/records/a HTTP/1.1\r\n \r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        closed("37", post("X\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("37", post(": x\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("37", post("X@Y: x\r\nContent-Length: 5\r\n", "hello"), 400),
        closed("37", post("X\u{e9}: x\r\nContent-Length: 5\r\n", "hello"), 400),
        taken("39", post("X: \u{e9}\u{10ffff}\r\nContent-Length: 5\r\n", "hello"), "hello"),
        taken("39", [P.as_bytes(), b"X: \x80\xff\r\nContent-Length: 5\r\n\r\nhello"].concat(), "hello"),
    ];
    for control in ["\0", "\x01", "\x0b", "\x1f", "\x7f"] {
        cases.push(closed("38", post(&format!("X: a{control}b\r\nContent-Length: 5\r\n"), "hello"), 400));
    }
    cases
}

/// Request lines and hosts.
pub fn rows_40_to_47() -> Vec<Case> {
    let request = with_length("5");
    let line = |line: &str| format!("{line}\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let hosts = |hosts: &str| format!("POST /v1/records/a HTTP/1.1\r\n{hosts}Content-Length: 5\r\n\r\nhello");
    let old = "POST /v1/records/a HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello";
    let mut cases = vec![
        taken("40", format!("\r\n{request}"), "hello"),
        closed("40", format!("\r\n\r\n{request}"), 400),
        closed("40", format!("\n{request}"), 400),
        closed("40", format!("\r{request}"), 400),
        closed("41", line("POST  /v1/records/a HTTP/1.1"), 400),
        closed("41", line("POST /v1/records/a  HTTP/1.1"), 400),
        closed("41", line("POST\t/v1/records/a HTTP/1.1"), 400),
        closed("41", line("POST /v1/records/a\tHTTP/1.1"), 400),
        closed("41", line("POST /v1/records/a HTTP/1.1 "), 400),
        closed("41", line(" POST /v1/records/a HTTP/1.1"), 400),
        closed("42", hosts(""), 400),
        closed("42", hosts("Host: a\r\nHost: a\r\n"), 400),
        closed("42", hosts("Host: u@a\r\n"), 400),
        closed("42", hosts("Host: u:p@a\r\n"), 400),
        closed("42", hosts("Host: a, b\r\n"), 400),
        closed("42", hosts("Host: a,b\r\n"), 400),
        closed("42", hosts("Host: a b\r\n"), 400),
        taken("42", hosts("Host: [::1]:8443\r\n"), "hello"),
        Case { closes: true, ..taken("43", old, "hello") },
        taken("43", old.replace("\r\n\r\n", "\r\nConnection: Keep-Alive\r\n\r\n"), "hello"),
        Case {
            closes: true,
            ..taken("43", old.replace("\r\n\r\n", "\r\nConnection: keep-alive, close\r\n\r\n"), "hello")
        },
        closed("43", old.replace("\r\n\r\n", "\r\nHost: a\r\nHost: b\r\n\r\n"), 400),
        taken("44", line("POST http://a/v1/records/a HTTP/1.1"), "hello"),
        taken("44", line("POST HTTP://[::1]:80/v1/records/a HTTP/1.1"), "hello"),
        closed("44", line("POST http://u@a/v1/records/a HTTP/1.1"), 400),
        closed("44", line("POST http:///v1/records/a HTTP/1.1"), 400),
        closed("44", line("POST v1/records/a HTTP/1.1"), 400),
        taken("45", line("POST /v1/records/a HTTP/1.2"), "hello"),
        closed("46", line("POST /v1/records/a HTTP/2.0"), 505),
        closed("46", line("POST /v1/records/a HTTP/3.0"), 505),
        closed("46", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        closed("47", "GET /\r\n", 400),
        closed("47", "GET /v1/records/a\r\n", 400),
    ];
    for version in ["http/1.1", "HTTP/1", "HTTP/01.1", "HTTP/1.10", "HTTP/0.9", "HTTP/1.", "HTTP/", ""] {
        cases.push(closed("47", line(&format!("POST /v1/records/a {version}")), 400));
    }
    cases
}

/// Targets, and sizes of heads.
pub fn rows_49_to_51() -> Vec<Case> {
    let target = |bytes: usize| format!("http://{}/v1/records/a", "h".repeat(bytes - 20));
    let line = |target: &str| format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let rest = "Content-Length: 5\r\n";
    let filler = |bytes: usize| format!("X: {}\r\n", "x".repeat(bytes - 5));
    let fixed = P.len() + rest.len() + 2;
    let many = |count: usize| "X: x\r\n".repeat(count);
    vec![
        taken("49", line(&target(8000)), "hello"),
        closed("49", line(&target(8001)), 414),
        closed("49", format!("POST {}", target(9000)), 414),
        closed("49", "M".repeat(40), 400),
        taken("50", post(&format!("{}{rest}", filler(16_384 - fixed)), "hello"), "hello"),
        closed("50", post(&format!("{}{rest}", filler(16_385 - fixed)), "hello"), 431),
        closed("50", format!("{P}X: {}", "x".repeat(17_000)), 431),
        taken("50", post(&format!("{}{rest}", many(98)), "hello"), "hello"),
        closed("50", post(&format!("{}{rest}", many(99)), "hello"), 431),
        closed("51", line("/v1/records/a#f"), 400),
        closed("51", line("/v1/records/\0"), 400),
        closed("51", line("/v1/records/a b"), 400),
        closed("51", line("/v1/records/\u{e9}"), 400),
    ]
}

/// Other methods and paths.
pub fn rows_52_to_56() -> Vec<Case> {
    let line = |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let body = |method: &str, target: &str, bytes: usize| {
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{}", "b".repeat(bytes))
    };
    let smuggled = format!("GET /v1/records/a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    let in_chunks = |bytes: usize| {
        let data = "b".repeat(bytes);
        format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n{data}\r\n0\r\n\r\n")
    };
    let mut cases = vec![
        refused("53", line("OPTIONS", "*"), 204),
        refused("53", line("OPTIONS", "/v1/records/a"), 204),
        refused("53", line("OPTIONS", "http://a"), 204),
        refused("54", line("TRACE", "/v1/records/a"), 405),
        closed("54", line("CONNECT", "a:80"), 405),
        refused("54", line("FOO", "/v1/records/a"), 501),
        refused("54", body("post", "/v1/records/a", 5), 501),
        refused("55", body("POST", "/", 5), 404),
        refused("55", body("POST", "/v1/records", 5), 404),
        refused("55", body("POST", "/v1/records/", 5), 404),
        refused("55", body("POST", "/v1/records/a/b", 5), 404),
        refused("55", body("POST", "/v1/records/a%20b", 5), 404),
        refused("55", body("POST", &format!("/v1/records/{}", "s".repeat(65)), 5), 404),
        taken("55", body("POST", &format!("/v1/records/{}", "s".repeat(64)), 2), "bb"),
        refused("55", body("POST", "/x", 65_536), 404),
        closed("55", body("POST", "/x", 65_537), 404),
        refused("55", in_chunks(65_536), 404),
        closed("55", in_chunks(65_537), 404),
        refused("56", smuggled, 405),
        closed("56", body("GET", "/x", 5).replace("HTTP/1.1", "HTTP/1.0"), 404),
    ];
    for method in ["GET", "DELETE", "PATCH"] {
        cases.push(refused("52", line(method, "/v1/records/a"), 405));
    }
    cases.push(taken("52", body("PUT", "/v1/records/a", 3), "bbb"));
    cases.push(refused("52", line("PUT", "/v1/records/a"), 411));
    cases.push(refused("55", body("PUT", "/v1/records", 3), 404));
    cases
}

/// What a record may be.
pub fn rows_57_to_60() -> Vec<Case> {
    let with = |field: &str| post(&format!("{field}\r\nContent-Length: 5\r\n"), "hello");
    vec![
        taken("57", with("Content-Type: text"), "hello"),
        taken("57", with("Content-Type: "), "hello"),
        refused("57", with("Content-Type: a/b\r\nContent-Type: a/b"), 415),
        refused("57", with("Content-Type: multipart/form-data; boundary=b"), 415),
        refused("57", with("Content-Type: Multipart/Mixed"), 415),
        refused("57", with("Content-Type: application/x-www-form-urlencoded"), 415),
        refused("57", with("Content-Type: Application/X-WWW-Form-Urlencoded ; charset=utf-8"), 415),
        taken("57", with("Content-Type: application/x-www-form-urlencoded, a"), "hello"),
        taken("57", with("Content-Type: a/b; c=d"), "hello"),
        taken("58", with("Content-Encoding: identity"), "hello"),
        taken("58", with("Content-Encoding: "), "hello"),
        taken("58", with("Content-Encoding: ,identity, ,"), "hello"),
        refused("58", with("Content-Encoding: br"), 415),
        refused("58", with("Content-Encoding: gzip, br"), 415),
        refused("58", with("Content-Encoding: gzip\r\nContent-Encoding: x-gzip"), 415),
        taken("59", with("Upgrade: h2c\r\nConnection: Upgrade\r\nRange: bytes=0-1"), "hello"),
        refused("60", with("Idempotency-Key: a\r\nIdempotency-Key: a"), 400),
        refused("60", with("Idempotency-Key: "), 400),
        refused("60", with(&format!("Idempotency-Key: {}", "k".repeat(256))), 400),
    ]
}

/// Connection: close.
pub fn row_65() -> Vec<Case> {
    vec![
        Case { closes: true, ..taken("65", post("Connection: close\r\nContent-Length: 5\r\n", "hello"), "hello") },
        Case { closes: true, ..taken("65", post("Connection: x, Close\r\nContent-Length: 5\r\n", "hello"), "hello") },
        Case { closes: true, ..refused("65", post("Connection: close\r\n", ""), 411) },
    ]
}

/// Expectations that nobody knows.
pub fn row_64() -> Vec<Case> {
    vec![
        refused("64", post("Expect: x\r\nContent-Length: 5\r\n", "hello"), 417),
        refused("64", post("Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n", "hello"), 417),
    ]
}
