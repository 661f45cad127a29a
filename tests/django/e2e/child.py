"""Children: started in groups of their own, ended by their process id, never outliving this process."""

import ctypes
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

PR_SET_PDEATHSIG = 1
# Loaded before the fork; nothing may be loaded between fork and exec.
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    """Something that this run needs did not come about; in words for the person who started it."""


class Child:
    """A process with its output in a file."""

    def __init__(self, name, command, log, *, user=None, stop=signal.SIGTERM, environment=None, stdout=None, cwd=None):
        self.name, self.log, self.stop_signal, self.is_gone = name, log, stop, False
        identity = {} if user is None else {"user": user, "group": user_group(user), "extra_groups": []}
        # stdout may be an open file; the log takes what is not given one.
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout or file, stderr=file, cwd=cwd, start_new_session=True,
                env={**os.environ, **(environment or {})}, preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, stop), **identity,
            )

    def is_running(self):
        return self.process.poll() is None

    def expect_running(self):
        if not self.is_running():
            raise Failure(f"{self.name} ended with {self.process.returncode}; it said:\n{tail(self.log)}")

    def wait(self, seconds):
        """Its exit status, once it has ended of itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} has not ended within {seconds} s; it said:\n{tail(self.log)}") from None

    def end(self, number=None, seconds=15):
        """Sends its stop signal, or `number`, waits, and returns its exit status. What is left of its group then is killed."""
        if self.is_running():
            self.process.send_signal(self.stop_signal if number is None else number)
        try:
            return self.wait(seconds)
        finally:
            self.kill()

    def kill(self):
        """Ends it and its group at once, and waits until nothing of the group runs: workers may outlive their master for a moment."""
        if self.is_gone:
            return
        until = time.monotonic() + 5
        while True:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                break
            self.process.wait()
            if not runs_in_group(self.process.pid) or time.monotonic() > until:
                break
            time.sleep(0.02)
        self.process.wait()
        # From here on its number may belong to another process.
        self.is_gone = True


def runs_in_group(group):
    """Whether a process of the group is more than a zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    state, _parent, its_group = file.read().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state not in "ZX":
                return True
    return False


class Children:
    """All that were started, ended in the reverse order."""

    def __init__(self):
        self.all = []

    def start(self, *arguments, **options):
        child = Child(*arguments, **options)
        self.all.append(child)
        return child

    def end_all(self):
        """Whatever happened before, nothing goes on running."""
        for child in reversed(self.all):
            if child.is_running():
                try:
                    child.end(seconds=5)
                except Failure:
                    pass
            child.kill()


def user_group(user):
    import pwd

    return pwd.getpwnam(user).pw_gid


def tail(path, lines=15):
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(f"    {line}" for line in file.readlines()[-lines:]).rstrip()


def run(name, command, log, seconds, *, user=None, environment=None, stdout=None, cwd=None):
    """Runs a command to its end; its output goes to the log."""
    child = Child(name, command, log, user=user, environment=environment, stdout=stdout, cwd=cwd)
    try:
        status = child.wait(seconds)
    finally:
        child.kill()
    if status != 0:
        raise Failure(f"{name} failed with {status}; it said:\n{tail(log)}")


def wait_until(what, is_so, seconds, *children):
    """Waits for a condition while the children live; its last value that is true."""
    until = time.monotonic() + seconds
    while True:
        if value := is_so():
            return value
        for child in children:
            child.expect_running()
        if time.monotonic() > until:
            raise Failure(f"{what}: not within {seconds} s" + "".join(f"; {c.name} said:\n{tail(c.log)}" for c in children))
        time.sleep(0.05)


def fetch(url, seconds=5):
    """The body of an answer 200, or None."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.read() if answer.status == 200 else None
    except (urllib.error.URLError, OSError):
        return None
