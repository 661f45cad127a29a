"""The web service: PostgreSQL, gunicorn with the film API, nginx; each private to this run."""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess

from .child import Failure, fetch, run, wait_until

PROJECT = pathlib.Path(__file__).resolve().parents[1]
WORKERS, THREADS = 2, 8
# For something to start; on a quiet machine all of it takes 2 s and less.
PATIENCE_S = 60

NGINX = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream films {{
        server 127.0.0.1:{upstream};
        keepalive 16;
        keepalive_timeout 1500ms;    # gunicorn closes after 2 s
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://films;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def free_port():
    """A port that nothing else takes while its server is down: not one of those that connections get."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = map(int, file.read().split())
    candidates = [port for port in range(10000, 65000) if not low <= port <= high]
    for port in random.sample(candidates, min(len(candidates), 200)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failure(f"no free port outside of the range {low} to {high} that the kernel gives to connections")


def unprivileged():
    """PostgreSQL refuses to run as root: its own user then, else nobody. None where this process is not root."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Failure("there is neither a user postgres nor a user nobody")


def owned_directory(path, user):
    """A directory that only `user` may enter."""
    path.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(path, user)
    return path


def postgresql_programs():
    """Where the newest PostgreSQL of this machine has its programs (Debian keeps them out of PATH), or None."""
    places = sorted(pathlib.Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    if on_path:
        places.insert(0, pathlib.Path(os.path.realpath(on_path)).parent)
    whole = [place for place in places if all((place / name).exists() for name in ("initdb", "postgres", "psql"))]
    return whole[-1] if whole else None


class PostgreSQL:
    """A cluster in `directory`, reached by a socket in it alone."""

    def __init__(self, children, directory, logs):
        self.children, self.logs, self.user = children, logs, unprivileged()
        self.programs = postgresql_programs()
        self.home = owned_directory(directory / "postgresql", self.user)
        self.port, self.child = free_port(), None
        if len(str(self.home)) > 80:
            raise Failure(f"{self.home} is too long for the path of a socket: set TMPDIR to a shorter directory")
        run("initdb", [
            self.programs / "initdb", "--pgdata", self.home / "data", "--username", "films", "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C", "--no-sync",
        ], logs / "initdb.log", 120, user=self.user, cwd=self.home)

    def environment(self, database):
        """What the service needs to find `database`."""
        return {"FILMS_POSTGRESQL": database, "PGHOST": str(self.home), "PGPORT": str(self.port), "PGUSER": "films"}

    def start(self):
        # Processes are killed here, never the machine: what PostgreSQL gave to the kernel is kept. Without fsync a start after a
        # crash does not wait for a disk that others use, too. That a commit is answered only after its log is written stays.
        self.child = self.children.start("PostgreSQL", [
            self.programs / "postgres", "-D", self.home / "data", "-k", self.home, "-p", str(self.port),
            "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700", "-c", "fsync=off", "-c", "synchronous_commit=on",
        ], self.logs / "postgresql.log", user=self.user, stop=signal.SIGINT, cwd=self.home)
        wait_until("PostgreSQL answers", lambda: self.try_query("postgres", "SELECT 1") == "1", PATIENCE_S, self.child)

    def stop(self, crash):
        """`crash`: as if it were killed (it recovers from its log at the next start); else every connection is ended properly."""
        self.child.end(signal.SIGQUIT if crash else signal.SIGINT, PATIENCE_S)

    def psql(self, database, query):
        command = [
            self.programs / "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1",
            "--host", self.home, "--port", str(self.port), "--username", "films", "--dbname", database, "--command", query,
        ]
        # As root, through the permissions of the socket.
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd="/", check=False)

    def try_query(self, database, query):
        answer = self.psql(database, query)
        return answer.stdout.strip() if answer.returncode == 0 else None

    def query(self, database, query):
        answer = self.psql(database, query)
        if answer.returncode != 0:
            raise Failure(f"PostgreSQL refuses a query: {answer.stderr.strip()}")
        return answer.stdout

    def settings(self):
        names = ("server_version", "fsync", "synchronous_commit")
        return ", ".join(f"{name} {self.query('postgres', f'SHOW {name}').strip()}" for name in names)

    def films(self, database):
        """[(id, machine, data)] in the order of arrival."""
        rows = self.query(
            database,
            "SELECT id, machine, encode(convert_to(data, 'UTF8'), 'hex') FROM films_film ORDER BY position",
        )
        split = (row.split("|") for row in rows.splitlines())
        return [(int(row_id), machine, bytes.fromhex(data)) for row_id, machine, data in split]


class Gunicorn:
    """The film API on a database of PostgreSQL."""

    def __init__(self, children, python, environment, log):
        self.children, self.python, self.log, self.port, self.child = children, python, log, free_port(), None
        self.environment = environment

    def manage(self, *arguments, seconds=PATIENCE_S):
        run(f"manage.py {arguments[0]}", [self.python, PROJECT / "manage.py", *arguments], self.log, seconds,
            environment=self.environment)

    def start(self):
        self.child = self.children.start("gunicorn", [
            self.python, "-m", "gunicorn", "filmapi.wsgi", "--chdir", PROJECT, "--bind", f"127.0.0.1:{self.port}",
            "--workers", str(WORKERS), "--threads", str(THREADS), "--graceful-timeout", "5", "--no-control-socket",
        ], self.log, environment=self.environment)
        wait_until("gunicorn answers", lambda: fetch(f"http://127.0.0.1:{self.port}/films/?limit=1"), PATIENCE_S, self.child)

    def stop(self, crash):
        """`crash`: killed with all its workers, whatever they are doing; else as at a new version: open requests are finished."""
        if crash:
            self.child.kill()
        else:
            self.child.end(seconds=PATIENCE_S)


class Nginx:
    """A reverse proxy in front of it."""

    def __init__(self, children, program, upstream, directory, log):
        self.port = free_port()
        user = unprivileged()
        home = owned_directory(directory / "nginx", user)
        configuration = directory / "nginx.conf"
        configuration.write_text(NGINX.format(directory=home, upstream=upstream, port=self.port), encoding="utf-8")
        command = [program, "-e", "stderr", "-p", home, "-c", configuration]
        self.child = children.start("nginx", command, log, user=user, cwd=home)
        wait_until("nginx answers", lambda: fetch(f"http://127.0.0.1:{self.port}/films/?limit=1"), PATIENCE_S, self.child)
