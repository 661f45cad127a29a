"""Machines behind a real haproxy: PROXY headers of both versions, X-Forwarded-For, and its health checks. And behind nginx and haproxy
that carry the requests of all machines on a few connections, or each on one of its own."""

import http.client
import http.server
import json
import socket
import threading

from e2e.child import Failure

from .cases import case
from .space import finish

RATE = 400
DENIED = "127.0.0.66"
# haproxy connects from 127.0.0.5; machines come from 127.0.0.1. `check` sends a header of version 2 with LOCAL.
HAPROXY = """global
  maxconn 1000
defaults
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  source 127.0.0.5
listen tcp-v1
  mode tcp
  bind 127.0.0.1:{tcp_v1}
  server gateway 127.0.0.1:{tcp} send-proxy
listen tcp-v2
  mode tcp
  bind 127.0.0.1:{tcp_v2}
  server gateway 127.0.0.1:{tcp} send-proxy-v2 check check-send-proxy inter 200ms
listen http-v2
  mode tcp
  bind 127.0.0.1:{http_v2}
  server gateway 127.0.0.1:{http} send-proxy-v2 check check-send-proxy inter 200ms
listen http-forwarded
  mode http
  option forwardfor
  bind 127.0.0.1:{http_forwarded}
  server gateway 127.0.0.1:{http}
listen http-unkept
  mode http
  option forwardfor
  option http-server-close
  bind 127.0.0.1:{http_unkept}
  server gateway 127.0.0.1:{http}
"""


def answer_to_denied(port):
    """What a machine at a denied address reads that POSTs a record; empty where the connection ends before."""
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(DENIED, 0)) as machine:
        machine.sendall(b"POST /v1/records/denied HTTP/1.1\r\nHost: ringest\r\nContent-Length: 2\r\n\r\nhi")
        try:
            return machine.recv(4096)
        except ConnectionResetError:
            return b""


@case("haproxy", "machines behind haproxy: PROXY v1 and v2, X-Forwarded-For, health checks; each has its own address", tools=("haproxy",))
def haproxy(site):
    wire = site.receiver()
    wire.receive("up")
    gateway = site.gateway(wire)
    gateway.listener = f'proxies = ["127.0.0.5"]\ndeny = ["{DENIED}"]'
    gateway.start()
    names = ("tcp_v1", "tcp_v2", "http_v2", "http_forwarded", "http_unkept")
    ports = {name: site.port() for name in names}
    configuration = site.directory / "haproxy.cfg"
    configuration.write_text(HAPROXY.format(tcp=gateway.tcp, http=gateway.http, **ports), encoding="utf-8")
    site.children.start("haproxy", ["haproxy", "-db", "-f", configuration], site.directory / "haproxy.log")

    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", ports["http_unkept"])) == 0

    gateway.wait_for("haproxy to listen", listens)
    # The ledger refuses a TCP record that is not of 127.0.0.1.
    for index, name in enumerate(names):
        kind = name.split("_")[0]
        wire.start_machines(f"p{index}", **{kind: 4, f"{kind}_port": ports[name]}, rate=RATE)
    gateway.wait_for("records", lambda: gateway.terms().delivered > 4000)
    for name in names[2:]:
        said = answer_to_denied(ports[name])
        if (b" 403 " in said) != (name != "http_v2"):
            raise Failure(f"a machine at {DENIED} behind {name} reads {said!r}")
    denied = {found["name"]: found["denied"] for found in gateway.status()["sources"]}
    expected = {"network": 3}
    told = {why: count for why, count in denied["http"].items() if count}
    if told != expected or any(denied["tcp"].values()):
        raise Failure(f"turned away: {denied}; health checks are silent, and {DENIED} came three times")
    terms = finish(site, gateway, wire)
    if "second connection" in gateway.words() or "PROXY header" in gateway.words():
        raise Failure(f"health checks are no machines: {gateway.words()}")
    return f"{terms.delivered} records of 20 machines, each under its own address; health checks are silent"


MACHINES, RECORDS, FAILS = 10, 36, "m0"
NGINX = """daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream gateway {{ server 127.0.0.1:{http}; keepalive 2; }}
  server {{
    listen 127.0.0.1:{nginx_kept};
    location / {{ proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
  server {{
    listen 127.0.0.1:{nginx_unkept};
    location / {{ proxy_pass http://127.0.0.1:{http}; }}
  }}
}}
"""
POOLED = """global
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen kept
  bind 127.0.0.1:{haproxy_kept}
  http-reuse always
  server gateway 127.0.0.1:{http} pool-max-conn 2
listen unkept
  bind 127.0.0.1:{haproxy_unkept}
  option http-server-close
  server gateway 127.0.0.1:{http}
"""


class Films:
    """A service that keeps what it is sent, in order, and refuses one machine's records until it relents."""

    def __init__(self, port):
        self.lock, self.films, self.relents = threading.Lock(), {}, False
        films = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802 - the name that the library calls
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with films.lock:
                    fails = body["machine"].endswith(FAILS) and not films.relents
                    if not fails:
                        films.films.setdefault(body["machine"], []).append(body["data"])
                self.send_response(500 if fails else 201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def lacks(self, machines):
        """What of these machines' records is not there, or out of order."""
        with self.lock:
            found = {machine: list(self.films.get(machine, [])) for machine in machines}
        expected = [f"record {number:06}" for number in range(RECORDS)]
        return {machine: len(records) for machine, records in found.items() if records != expected}


def send_all(port, machine):
    """A machine that sends one record after the other, over one connection as long as its proxy keeps it."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in range(RECORDS):
        link.request("POST", f"/v1/records/{machine}", f"record {number:06}", {"Content-Type": "text/plain"})
        answer = link.getresponse()
        answer.read()
        if answer.status != 201:
            raise Failure(f"{machine} was answered {answer.status}")
    link.close()


@case("pooled", "ten machines behind nginx and haproxy, with and without kept connections: each in its order, one that fails stops no other",
      tools=("haproxy", "nginx"))
def pooled(site):
    films = Films(site.port())
    wire = site.receiver()
    gateway = site.gateway(wire)
    gateway.api = films.server.server_address[1]
    gateway.start()
    names = ("nginx_kept", "nginx_unkept", "haproxy_kept", "haproxy_unkept")
    ports = {name: site.port() for name in names}
    for name, text, command in (("nginx.conf", NGINX, ["nginx", "-c"]), ("haproxy.cfg", POOLED, ["haproxy", "-db", "-f"])):
        path = site.directory / name
        path.write_text(text.format(directory=site.directory, http=gateway.http, **ports), encoding="utf-8")
        site.children.start(command[0], [*command, path], site.directory / f"{command[0]}.log")

    def listens(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    for port in ports.values():
        gateway.wait_for("the proxies to listen", lambda port=port: listens(port))
    failures = []

    def run(name, machine):
        try:
            send_all(ports[name], machine)
        except Exception as failure:  # noqa: BLE001 - told below
            failures.append(f"{machine}: {failure}")

    of = {name: [f"{name}-m{index}" for index in range(MACHINES)] for name in names}
    threads = [threading.Thread(target=run, args=(name, machine)) for name in names for machine in of[name]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failure("; ".join(failures[:5]))
    others = [machine for name in names for machine in of[name] if not machine.endswith(FAILS)]
    try:
        gateway.wait_for("the others' records", lambda: not films.lacks(others))
    except Failure as failure:
        raise Failure(f"not there, or out of order: {films.lacks(others)}") from failure
    with films.lock:
        films.relents = True
    failing = [machine for name in names for machine in of[name] if machine.endswith(FAILS)]
    try:
        gateway.wait_for("those of the ones that failed", lambda: not films.lacks(failing))
    except Failure as failure:
        raise Failure(f"not there, or out of order: {films.lacks(failing)}") from failure
    gateway.stop()
    site.wires.clear()
    wire.end()
    films.server.shutdown()
    return f"{len(others) * RECORDS} records of {len(others)} machines in their order while {len(failing)} failed; then {len(failing) * RECORDS} of these"
