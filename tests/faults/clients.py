"""HTTP clients as machines have them, over plain TCP and TLS, with kept connections and chunked bodies: each record is answered 201 and
delivered once."""

import json
import os
import re
import subprocess

from e2e.child import Failure

from .cases import case
from .crowds import certificates
from .speed import Load

LIBRARIES = ("requests==2.32.5", "aiohttp==3.13.2", "httpx==0.28.1")
# Records that a library sends with a length, on one connection, and chunked.
KEPT, CHUNKED = 5, 2

REQUESTS = """
import requests, sys
url, ca = sys.argv[1], sys.argv[2]
with requests.Session() as session:
    session.verify, session.trust_env = ca, False
    for number in range(5):
        assert session.post(url, data=f"kept {number}").status_code == 201
    for number in range(2):
        answer = session.post(url, data=iter([b"chunked ", b"%d" % number]))
        assert answer.status_code == 201 and answer.request.headers["Transfer-Encoding"] == "chunked"
"""
AIOHTTP = """
import aiohttp, asyncio, ssl, sys
url, ca = sys.argv[1], sys.argv[2]
async def pieces(number):
    yield b"chunked "
    yield b"%d" % number
async def main():
    context = ssl.create_default_context(cafile=ca)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=1)) as session:
        bodies = [b"kept %d" % number for number in range(5)] + [pieces(number) for number in range(2)]
        for body in bodies:
            async with session.post(url, data=body) as answer:
                assert answer.status == 201, answer.status
asyncio.run(main())
"""
HTTPX = """
import httpx, ssl, sys
url, ca = sys.argv[1], sys.argv[2]
with httpx.Client(verify=ssl.create_default_context(cafile=ca)) as client:
    for number in range(5):
        assert client.post(url, content=b"kept %d" % number).status_code == 201
    for number in range(2):
        assert client.post(url, content=iter([b"chunked ", b"%d" % number])).status_code == 201
"""
NODE = """
const url = process.argv[2];
for (let number = 0; number < 5; number += 1) {
  const answer = await fetch(url, { method: "POST", body: `kept ${number}` });
  if (answer.status !== 201) throw new Error(`${answer.status}`);
  await answer.text();
}
for (let number = 0; number < 2; number += 1) {
  const body = new ReadableStream({ start(stream) {
    stream.enqueue(new TextEncoder().encode("chunked "));
    stream.enqueue(new TextEncoder().encode(`${number}`));
    stream.close();
  } });
  const answer = await fetch(url, { method: "POST", body, duplex: "half" });
  if (answer.status !== 201) throw new Error(`${answer.status}`);
  await answer.text();
}
"""
JAVA = """
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.*;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var pem = Files.newInputStream(Path.of(arguments[1]))) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).sslContext(context).build();
        for (int number = 0; number < 7; number += 1) {
            var body = BodyPublishers.ofString("record " + number);
            // Without a length it is chunked.
            var sent = number < 5 ? body : BodyPublishers.fromPublisher(body);
            var request = HttpRequest.newBuilder(URI.create(arguments[0])).POST(sent).build();
            int status = client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode();
            if (status != 201) throw new IllegalStateException("" + status);
        }
    }
}
"""
WRK = """
wrk.method = "POST"
wrk.body = "a record"
"""


class Clients:
    """The commands of all clients for one URL; each says how many records it sends, or finds out from what it says."""

    def __init__(self, site, directory, url):
        self.site, self.directory, self.url, self.ca = site, directory, url, str(directory / "ca.pem")
        self.work = site.directory / "clients"
        self.work.mkdir(exist_ok=True)

    def file(self, name, text):
        path = self.work / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def run(self, name, command, environment=None):
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env={**os.environ, **(environment or {})})
        if done.returncode != 0:
            raise Failure(f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
        return done.stdout + done.stderr

    def all(self):
        """The clients by name; each is called and gives the number of its records."""
        return {
            "curl": self.curl, "curl, HTTP/1.0": self.curl_1_0, "wget": self.wget, "wrk": self.wrk, "h2load --h1": self.h2load, "ab": self.ab,
            "requests": lambda: self.python("requests", REQUESTS), "aiohttp": lambda: self.python("aiohttp", AIOHTTP),
            "httpx": lambda: self.python("httpx", HTTPX), "Node undici": self.node, "Java HttpClient": self.java,
        }

    def curl(self):
        said = self.run("curl", ["curl", "-sS", "--cacert", self.ca, "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n",
                                 "-H", "Content-Type: text/plain", "-d", "kept", f"{self.url}-[1-5]", "--next", "-sS", "--cacert", self.ca, "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n",
                                 "-H", "Transfer-Encoding: chunked", "-H", "Content-Type: text/plain", "-d", "chunked", f"{self.url}-[1-2]"])
        if said.split() != ["201", "1"] + ["201", "0"] * 6:
            raise Failure(f"curl was answered {said.split()}")
        return 7

    def curl_1_0(self):
        said = self.run("curl", ["curl", "-sS", "--http1.0", "--cacert", self.ca, "-o", "/dev/null", "-w", "%{http_code}\n",
                                 "-H", "Content-Type: text/plain", "-d", "old", f"{self.url}-[1-3]"])
        if said.split() != ["201"] * 3:
            raise Failure(f"curl was answered {said.split()}")
        return 3

    def wget(self):
        urls = [f"{self.url}-{number}" for number in range(3)]
        said = self.run("wget", ["wget", "-nv", "-S", "-O", "/dev/null", f"--ca-certificate={self.ca}", "--header=Content-Type: text/plain",
                                 "--post-data=a record", *urls])
        if said.count("201 Created") != 3:
            raise Failure(f"wget was answered {said[-800:]}")
        return 3

    def wrk(self):
        script = self.file("post.lua", WRK)
        said = self.run("wrk", ["wrk", "-t", "1", "-c", "8", "-d", "1s", "-s", script, self.url])
        if "Non-2xx" in said or "Socket errors" in said:
            raise Failure(f"wrk says {said}")
        # Its last requests may be answered after it has counted.
        return range(int(re.search(r"(\d+) requests in", said)[1]), 1 << 30)

    def h2load(self):
        body = self.file("body", "a record")
        said = self.run("h2load", ["h2load", "--h1", "-n", "200", "-c", "4", "-d", body, self.url])
        if "200 succeeded, 0 failed" not in said or "200 2xx" not in said:
            raise Failure(f"h2load says {said}")
        return 200

    def ab(self):
        body = self.file("body", "a record")
        said = self.run("ab", ["ab", "-q", "-n", "200", "-c", "4", "-k", "-p", body, "-T", "text/plain", self.url])
        if not re.search(r"Complete requests: +200\n", said) or not re.search(r"Failed requests: +0\n", said) or "Non-2xx" in said:
            raise Failure(f"ab says {said}")
        if not re.search(r"Keep-Alive requests: +200\n", said):
            raise Failure(f"ab's connections were not kept: {said}")
        return 200

    def python(self, name, text):
        environment = self.site.options.programs.parent / "clients-venv"
        if not (environment / "ready").exists():
            self.run("virtualenv", ["virtualenv", "-q", str(environment)])
            self.run("pip", [str(environment / "bin" / "pip"), "install", "-q", *LIBRARIES])
            (environment / "ready").touch()
        self.run(name, [str(environment / "bin" / "python"), self.file(f"of_{name}.py", text), self.url, self.ca])
        return KEPT + CHUNKED

    def node(self):
        self.run("node", ["node", "--no-warnings", self.file("client.mjs", NODE), self.url], {"NODE_EXTRA_CA_CERTS": self.ca})
        return KEPT + CHUNKED

    def java(self):
        self.run("java", ["java", self.file("Client.java", JAVA), self.url, self.ca])
        return KEPT + CHUNKED


@case("clients", "curl, wget, wrk, h2load, ab, requests, aiohttp, httpx, undici, Java's HttpClient, plain and over TLS: 201 for each, delivered once",
      tools=("curl", "wget", "wrk", "h2load", "ab", "node", "java", "virtualenv"), needs_bench=True, limit_s=600)
def clients(site):
    directory, _ = certificates(site)
    counted = {}
    for scheme in ("http", "https"):
        wire = site.receiver()
        gateway = site.gateway(wire, f"gateway-{scheme}", durability="process")
        if scheme == "https":
            gateway.listener = f'tls = {{ certificate = "{directory}/server.pem", key = "{directory}/server.key" }}'
        null = Load(site, 1, scheme)
        null.receive(gateway.api)
        gateway.start()
        for name, send in Clients(site, directory, f"{scheme}://127.0.0.1:{gateway.http}/v1/records/client").all().items():
            before = gateway.wait_settled().received
            sent = send()
            received = gateway.wait_settled().received - before
            if not (received in sent if isinstance(sent, range) else received == sent):
                raise Failure(f"{name} over {scheme} has sent {sent} records, {received} were received")
            counted[f"{name} ({scheme})"] = received
        refused = {source["name"]: source["refused"] for source in gateway.status()["sources"]}
        if any(refused.values()):
            raise Failure(f"refused: {json.dumps(refused)}")
        gateway.stop()
        null.end()
    return ", ".join(f"{name} {count}" for name, count in counted.items())
