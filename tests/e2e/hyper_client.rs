//! Machines that are written in Rust: hyper as a client, with its pool of connections, plain and over TLS with a token.

use crate::access::draw;
use crate::certs::made;
use crate::process::{Gateway, PATIENCE, Receiver};
use crate::site::{Site, assert_rows, free_address, record};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::ext::on_informational;
use hyper::header::{AUTHORIZATION, EXPECT};
use hyper::{Method, Request, StatusCode, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// Records that one machine sends, one behind the other.
const ALONE: usize = 30;
/// Machines that send at once, over one pool.
const MACHINES: usize = 8;
const EACH: usize = 30;

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Pool = Client<HttpsConnector<HttpConnector>, Body>;

/// How a body is sent.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// With a length.
    Whole,
    /// Streamed in pieces, and so in chunks.
    Streamed,
    /// Streamed, once the gateway has asked for it.
    Asked,
}

fn pool(ca: &Path) -> Pool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    let connector = HttpsConnectorBuilder::new().with_tls_config(builder.with_no_client_auth());
    Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build())
}

/// A body that comes in pieces, none before `begin` says so.
fn streamed(data: &str, begin: Option<oneshot::Receiver<()>>) -> Body {
    let (mut pieces, body) = Channel::<Bytes, Box<dyn std::error::Error + Send + Sync>>::new(1);
    let data = Bytes::copy_from_slice(data.as_bytes());
    tokio::spawn(async move {
        if let Some(begin) = begin {
            begin.await.expect("the gateway asks for the body");
        }
        for start in (0..data.len()).step_by(5) {
            let piece = data.slice(start..data.len().min(start + 5));
            pieces.send_data(piece).await.expect("the body is read");
            tokio::task::yield_now().await;
        }
    });
    body.boxed()
}

/// One record; its answer is read whole, so that the connection goes back to the pool.
async fn post(pool: &Pool, url: &str, token: Option<&str>, way: Way, data: &str) -> (StatusCode, String) {
    let (asked, begin) = oneshot::channel();
    let body = match way {
        Way::Whole => Full::new(Bytes::copy_from_slice(data.as_bytes())).map_err(|never| match never {}).boxed(),
        Way::Streamed => streamed(data, None),
        Way::Asked => streamed(data, Some(begin)),
    };
    let mut request = Request::builder().method(Method::POST).uri(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if matches!(way, Way::Asked) {
        request = request.header(EXPECT, "100-continue");
    }
    let mut request = request.body(body).expect("a request");
    if matches!(way, Way::Asked) {
        let asked = Mutex::new(Some(asked));
        on_informational(&mut request, move |answer| {
            assert_eq!(answer.status(), StatusCode::CONTINUE);
            let asked = asked.lock().expect("nobody has panicked").take().expect("it is said once");
            asked.send(()).expect("the body waits");
        });
    }
    let answer = pool.request(request).await.unwrap_or_else(|error| panic!("{way:?} {data}: {error:?}"));
    assert_eq!(answer.version(), Version::HTTP_11);
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

/// One machine's records, one behind the other, each in the next way; all are taken.
async fn send(pool: Pool, base: String, token: Option<String>, name: String, count: usize) {
    for number in 0..count {
        let url = format!("{base}/v1/records/{name}");
        let way = [Way::Whole, Way::Streamed, Way::Asked][number % 3];
        let (status, said) = post(&pool, &url, token.as_deref(), way, &record(&name, number)).await;
        assert_eq!((status, said.as_str()), (StatusCode::CREATED, "{\"accepted\":1}"), "{name} {number}");
    }
}

#[test]
fn hyper_posts_over_a_pool_of_connections_plain_and_over_tls() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let directory = site.path("certificates");
    std::fs::create_dir(&directory).expect("a directory");
    made(&directory, &["ca", "Plant 7"]);
    made(&directory, &["server", "127.0.0.1"]);
    let tokens = site.path("tokens");
    let token = draw(&tokens, "cams", "tls-*", "never");
    let (http, https) = (free_address(), free_address());
    let [certificate, key] = ["server.pem", "server.key"].map(|name| directory.join(name));
    let keys = format!(
        "listen = \"{https}\"\ntokens_file = {tokens:?}\ntls = {{ certificate = {certificate:?}, key = {key:?} }}"
    );
    let config = site.config().http("plain", http).source("cams", "http", &keys).write(&site);
    let gateway = Gateway::start(&site, &config);
    let pool = pool(&directory.join("ca.pem"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let kinds = [("plain", format!("http://{http}"), None), ("tls", format!("https://{https}"), Some(token))];
    for (kind, base, token) in &kinds {
        let start = |name: String, count| send(pool.clone(), base.clone(), token.clone(), name, count);
        let before = gateway.status().counter("accepted_connections");
        let connections = || gateway.status().counter("accepted_connections") - before;
        let alone = start(format!("{kind}-alone"), ALONE);
        runtime.block_on(async { tokio::time::timeout(PATIENCE, alone).await.expect("answered in time") });
        // It is kept, but that the pool may open another one before it has the first one back.
        assert!(connections() <= ALONE as u64 / 6, "{kind}: {} connections", connections());
        let all = async {
            let mut all = tokio::task::JoinSet::new();
            for machine in 0..MACHINES {
                all.spawn(start(format!("{kind}-{machine}"), EACH));
            }
            while let Some(done) = all.join_next().await {
                done.expect("no machine panicked");
            }
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, all).await.expect("answered in time") });
        // The same of each.
        assert!(connections() <= 3 * MACHINES as u64, "{kind}: {} connections", connections());
    }
    let url = format!("https://{https}/v1/records/tls-0");
    let (status, said) = runtime.block_on(post(&pool, &url, Some("nobody"), Way::Whole, "x"));
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{said}");
    gateway.wait_delivered(2 * (ALONE + MACHINES * EACH) as u64);
    let names: Vec<(String, usize)> = ["plain", "tls"]
        .into_iter()
        .flat_map(|kind| {
            let machines = (0..MACHINES).map(move |machine| (format!("{kind}-{machine}"), EACH));
            machines.chain([(format!("{kind}-alone"), ALONE)])
        })
        .collect();
    let counts: Vec<(&str, usize)> = names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_rows(&site.rows(), &counts);
    gateway.stop();
    receiver.stop();
}
