"""Machines behind a real haproxy: PROXY headers of both versions, X-Forwarded-For, and its health checks."""

import socket

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
