//! Basic (RFC 7617) by curl, over TLS: whose secret is right is let in, and nobody else; without TLS it is not to be had.

use crate::certs::made;
use crate::process::{Gateway, Receiver, ringest};
use crate::site::{Site, assert_rows, free_address, record};
use crate::typed::typed;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Draws a token for SOURCEs `cam-*`.
fn draw(file: &Path, name: &str) -> String {
    let mut command = ringest();
    command.args(["token", name, "--sources", "cam-*", "--until", "2099-12-31", "--add"]).arg(file);
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A listener's answer to a record of curl with these credentials, head and body.
fn curl(ca: &Path, scheme: &str, to: SocketAddr, credentials: &[&str], data: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "20", "-H", "Content-Type: text/plain", "-d", data, "--cacert"]).arg(ca);
    let output =
        command.args(credentials).arg(format!("{scheme}://{to}/v1/records/cam-1")).output().expect("curl runs");
    assert!(output.status.success(), "{credentials:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn basic_over_tls_lets_in_who_has_the_name_and_the_secret_and_nobody_else() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let directory = site.path("certificates");
    std::fs::create_dir(&directory).expect("a directory");
    made(&directory, &["ca", "Plant 7"]);
    made(&directory, &["server", "127.0.0.1"]);
    let (with_basic, without, plain) = (free_address(), free_address(), free_address());
    let path = |name: &str| directory.join(name).display().to_string();
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}", path("server.pem"), path("server.key"));
    let tokens = site.path("tokens");
    let (token, other) = (draw(&tokens, "cams"), draw(&tokens, "other"));
    assert_eq!(typed(&tokens, "gate", "cam-*", "the west door").0, Some(0));
    let file = format!("tokens_file = {tokens:?}");
    let config = site
        .config()
        .source("basic", "http", &format!("listen = \"{with_basic}\"\n{file}\n{tls}\nbasic = true"))
        .source("bearer", "http", &format!("listen = \"{without}\"\n{file}\n{tls}"))
        .source("plain", "http", &format!("listen = \"{plain}\"\n{file}"))
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    let ca = directory.join("ca.pem");
    let user = |name: &str, secret: &str| format!("{name}:{secret}");
    let right = user("cams", &token);
    let bearer = format!("Authorization: Bearer {token}");
    let (data, mut said) = (|number| record("cam", number), String::new());
    let both = "Www-Authenticate: Bearer realm=\"ringest\", Basic realm=\"ringest\", charset=\"UTF-8\"";
    for (what, to, credentials, status) in [
        ("the right one", with_basic, ["-u", &right], 201),
        ("Bearer beside it", with_basic, ["-H", &bearer], 201),
        ("another's secret", with_basic, ["-u", &user("cams", &other)], 401),
        ("another's name", with_basic, ["-u", &user("other", &token)], 401),
        ("no name", with_basic, ["-u", &user("", &token)], 401),
        ("a wrong secret", with_basic, ["-u", &user("cams", &token.replace(['0', '1'], "2"))], 401),
        ("a short secret", with_basic, ["-u", "cams:correct-horse"], 401),
        ("no secret", with_basic, ["-u", "cams:"], 401),
        ("a typed secret", with_basic, ["-u", "gate:the west door"], 201),
        ("a typed secret of another's", with_basic, ["-u", "gate:the east door"], 401),
        ("no credentials", with_basic, ["-H", "X-None: 1"], 401),
        ("without basic = true", without, ["-u", &right], 401),
        ("Bearer without basic = true", without, ["-H", &bearer], 201),
        ("without TLS", plain, ["-u", &right], 401),
    ] {
        let number = match what {
            "a typed secret" => 2,
            "Bearer without basic = true" => 3,
            _ => usize::from(what.starts_with("Bearer")),
        };
        let scheme = if to == plain { "http" } else { "https" };
        let answer = curl(&ca, scheme, to, &credentials, &data(number));
        assert_eq!(answer.get(9..12), Some(status.to_string().as_str()), "{what}: {answer}");
        let told = answer.to_lowercase().contains(&both.to_lowercase());
        assert_eq!(told, status == 401 && to == with_basic, "{what}: {answer}");
        if status == 401 {
            assert!(answer.contains("{\"") && answer.contains("tokens_file"), "{what}: {answer}");
        }
        said += &answer;
    }
    gateway.wait_delivered(4);
    assert_rows(&site.rows(), &[("cam", 4)]);
    let status = gateway.status();
    let denied = |source: &str| status.source(source)["denied"]["wrong_token"].as_u64();
    assert_eq!((denied("basic"), denied("bearer"), denied("plain")), (Some(7), Some(1), Some(1)));
    said += &(status.0.to_string() + &gateway.stop());
    for secret in [token.as_str(), other.as_str(), "correct-horse", "west door"] {
        assert!(!said.contains(secret), "{secret} is shown: {said}");
    }
}

#[test]
fn basic_without_tls_is_refused_with_the_configuration() {
    let site = Site::new();
    let tokens = site.path("tokens");
    draw(&tokens, "cams");
    let keys = format!("listen = \"{}\"\ntokens_file = {tokens:?}\nbasic = true", free_address());
    let config = site.config().source("plain", "http", &keys).write(&site);
    let output = ringest().arg("check").arg(&config).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("basic") && said.contains("has no TLS that would hide it"), "{said}");
}
