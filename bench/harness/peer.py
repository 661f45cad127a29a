"""Peers: what people would use instead, each at its fair best. Their configurations are in bench/peers/.

All run on the gateway's CPU. What they cost is that of all their threads and children."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from .process import Process
from .subject import ROOT, TARGET, Subject

PEERS = ROOT / "bench" / "peers"
VENV = TARGET.parent / "bench" / "peers-venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = PEERS / "requirements.txt"
PACKAGES = ("nginx-light", "haproxy", "syslog-ng-core", "syslog-ng-mod-http", "python3-venv")
# Where Debian puts daemons; not everyone has it in the PATH.
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def listens(port: int) -> bool:
    """Whether anybody listens on a port of IPv4. It is looked up, since a peer would take a try to connect for a machine."""
    wanted = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[3] == "0A":
            return True
    return False


class Peer(Subject):
    """A program that is given its ports by a command line, a configuration, or both."""

    is_peer = True

    def values(self, trial) -> dict[str, str]:
        """What stands for the names in braces of a command or a configuration."""
        return {
            "machines": str(trial.machines_at), "receiver": str(trial.receiver_at), "directory": str(trial.directory),
            "url": f"http://127.0.0.1:{trial.receiver_at}/films/", "ports": str(trial.ports), "peers": str(PEERS),
        }

    def wait_ready(self, trial, process: Process) -> None:
        if trial.case.source != "ports":
            process.wait_for(lambda: listens(trial.machines_at), "listening")

    def tls(self, trial) -> dict[str, str]:
        """What its configuration says where machines speak TLS."""
        return {}

    def configured(self, trial, template: str, **more: str) -> str:
        """Writes a configuration of bench/peers with its values, written as @name@, and gives the path."""
        text = (PEERS / template).read_text()
        more = {**self.tls(trial), **more}
        for name, value in {**self.values(trial), **more}.items():
            text = text.replace(f"@{name}@", value)
        path = trial.directory / template
        path.write_text(text)
        return str(path)


class CommandPeer(Peer):
    """Any other program, by a command with {machines}, {receiver} (ports), {url}, {ports} and {directory} to be filled in."""

    def __init__(self, name: str, template: str):
        self.name, self.template = name, template

    def command(self, trial) -> list[str]:
        return [part.format(**self.values(trial)) for part in shlex.split(self.template)]


class PythonGateway(Peer):
    """bench/peers/gateway.py."""

    def __init__(self, consumers: int, ids: bool = False):
        self.name, self.consumers, self.ids = f"Python, {consumers} consumer{'s' * (consumers > 1)}", consumers, ids

    def missing(self) -> str:
        return "" if PYTHON.exists() else "bench/run --install-peers (uvloop and aiohttp into a virtual environment)"

    def command(self, trial) -> list[str]:
        values = self.values(trial)
        command = [str(PYTHON), "-B", str(PEERS / "gateway.py"), "--listen", f"127.0.0.1:{trial.machines_at}"]
        command += ["--films", values["url"], "--consumers", str(self.consumers)]
        return command + (["--seq", f"http://127.0.0.1:{trial.receiver_at}/seq/"] if self.ids else [])


class Packaged(Peer):
    """A daemon of a Debian package."""

    program, package = "", ""

    def missing(self) -> str:
        return "" if shutil.which(self.program, path=SEARCH) else f"apt-get install {self.package}"

    def path(self) -> str:
        return shutil.which(self.program, path=SEARCH) or self.program


class Nginx(Packaged):
    name, program, package = "nginx", "nginx", "nginx-light"

    def tls(self, trial) -> dict[str, str]:
        if trial.case.source != "https":
            return {"ssl": "", "certificate": ""}
        pki = trial.pki
        return {
            "ssl": " ssl",
            "certificate": f"ssl_certificate {pki}/server.pem; ssl_certificate_key {pki}/server.key; ssl_protocols TLSv1.3;",
        }

    def command(self, trial) -> list[str]:
        # The worker is pinned as its parent is.
        return [self.path(), "-p", str(trial.directory), "-e", "nginx.log", "-c", self.configured(trial, "nginx.conf")]


class Haproxy(Packaged):
    name, program, package = "haproxy", "haproxy", "haproxy"

    def tls(self, trial) -> dict[str, str]:
        return {"ssl": f" ssl crt {trial.pki}/both.pem ssl-min-ver TLSv1.3" if trial.case.source == "https" else ""}

    def command(self, trial) -> list[str]:
        return [self.path(), "-db", "-f", self.configured(trial, "haproxy.cfg")]


class SyslogNg(Packaged):
    """TCP in, HTTP destination out."""

    program, package, line_feed = "syslog-ng", "syslog-ng-core syslog-ng-mod-http", True

    def __init__(self, batch: int, disk: bool = False, workers: int = 8):
        self.name = f"syslog-ng{f', batch {batch}' if batch > 1 else ''}{', disk buffer' if disk else ''}"
        self.batch, self.disk, self.workers = batch, disk, workers

    def missing(self) -> str:
        has_http = any(Path(root).glob("**/syslog-ng/libhttp.so") for root in ("/usr/lib", "/usr/local/lib"))
        return super().missing() or ("" if has_http else f"apt-get install {self.package}")

    def command(self, trial) -> list[str]:
        disk = trial.directory / "disk"
        disk.mkdir()
        buffer = (
            f'disk-buffer(reliable(yes) disk-buf-size(268435456) mem-buf-size(33554432) dir("{disk}"))'
            if self.disk else "log-fifo-size(200000)"
        )
        config = self.configured(
            trial, "syslog-ng.conf", version=self.config_version(), buffer=buffer, batch=str(self.batch), workers=str(self.workers)
        )
        files = [f"--{what}={trial.directory}/syslog-ng.{what}" for what in ("persist-file", "pidfile", "control")]
        return [self.path(), "--foreground", "--no-caps", f"--cfgfile={config}", *files]

    def config_version(self) -> str:
        said = subprocess.run([self.path(), "--version"], capture_output=True, text=True, check=True).stdout
        return next(line.split(":")[1].strip() for line in said.splitlines() if line.startswith("Config version"))


def missing_peers(cases) -> dict[str, str]:
    """What the peers of these cases lack, by peer."""
    return {peer.name: peer.missing() for case in cases for peer in case.peers if peer.missing()}


def install() -> None:
    """Installs what the peers need, and says each command before it is run."""
    commands = [["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", *PACKAGES]]
    if all(shutil.which(program, path=SEARCH) for program in ("nginx", "haproxy")) and not SyslogNg(1).missing():
        commands = []
    VENV.parent.mkdir(parents=True, exist_ok=True)
    commands += [[sys.executable, "-m", "venv", str(VENV)], [str(PYTHON), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]]
    print("Debian starts the daemons that it installs; `systemctl disable --now nginx haproxy syslog-ng` ends that.")
    for command in commands:
        print("$", shlex.join(command), flush=True)
        subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
