//! How the service of a test answers over TLS.

use rustls::ServerConnection;
use std::io::Write;

/// How the service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// With a length, on a connection that stays.
    Kept,
    /// The same, then close_notify and FIN.
    Closing,
    /// Until the close, by close_notify and FIN.
    UntilClose,
    /// The same, by FIN alone.
    UntilCut,
    /// A whole header and half of a body, then FIN alone.
    Half,
    /// As `Kept`, behind new keys.
    NewKeys,
}

/// Target and body of a whole request.
pub fn take_request(heard: &mut Vec<u8>) -> Option<(String, String)> {
    let text = String::from_utf8(heard.clone()).expect("text");
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let length =
        head.split_once("Content-Length: ").map_or("0", |(_, rest)| rest.split("\r\n").next().expect("a line"));
    let length: usize = length.parse().expect("a number");
    let body = rest.get(..length)?.to_owned();
    let target = head.split(' ').nth(1).expect("a target").to_owned();
    heard.drain(..head.len() + 4 + length);
    Some((target, body))
}

/// Answers with 201; whether FIN follows.
pub fn answer_by(answers: Answers, tls: &mut ServerConnection, body: &str) -> bool {
    const HEAD: &str = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n";
    let length = format!("Content-Length: {}\r\n", body.len());
    if answers == Answers::NewKeys {
        tls.refresh_traffic_keys().expect("TLS 1.3");
    }
    let text = match answers {
        Answers::Kept | Answers::Closing | Answers::NewKeys => format!("{HEAD}{length}\r\n{body}"),
        Answers::UntilClose | Answers::UntilCut => format!("{HEAD}\r\n{body}"),
        Answers::Half => format!("{HEAD}{length}\r\n{}", &body[..body.len() / 2]),
    };
    tls.writer().write_all(text.as_bytes()).expect("memory");
    if matches!(answers, Answers::Closing | Answers::UntilClose) {
        tls.send_close_notify();
    }
    !matches!(answers, Answers::Kept | Answers::NewKeys)
}
