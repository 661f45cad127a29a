"""Text of machines in seven encodings, from ptys through ringest and the service into PostgreSQL, text for text."""

import json
import os
import pty
import time
import tty

from .child import Failure, fetch, tail, wait_until
from .service import PATIENCE_S, free_port

# The label in the configuration, the codec here, and what the machine sends: text with second bytes that are ASCII letters,
# backslashes and digits, and what JSON must escape.
TEXTS = {
    "big5": ("big5", ["許功蓋,溫度過高,NG", "膜厚 \"12.5\" um\\", "機台七"]),
    "gbk": ("gbk", ["膜,温度过高", "镕\\\"朱\"", "乗 12.5"]),
    "gb18030": ("gb18030", ["膜,温度过高", "㐀𠀀,12.5", "¥ \"€\""]),
    "shift_jis": ("shift_jis", ["ソ表示,温度", "能\\力 \"十\"", "ﾃｽﾄ"]),
    "euc-kr": ("euc_kr", ["온도 초과,NG", "두께 \"12.5\"", "가\\나"]),
    "windows-1252": ("cp1252", ["12.5 °C € \"ok\"", "Größe\\µm", "naïve – “x”"]),
    "utf-16le": ("utf-16-le", ["溫度過高,NG", "a\u010a\u0d61\u0100€ \"b\"", "𠀀\\"]),
}
SOURCE = """[[source]]
name = "{label}"
kind = "serial"
path = {path}
line = "115200 8N1"
encoding = "{label}"
framing = "{framing}"
first = "keep"

"""
CONFIGURATION = """[gateway]
name = "e2e-encodings"
state_dir = {state}
admin = "127.0.0.1:{admin}"

[journal]
durability = "process"

[framing.lines]
end = "\\r"

[framing.wide]
end = "0x0D00"
trim = false

{sources}[sequence]
url = "{url}/seq/"
id_at = "/id"

[deliver]
url = "{url}/films/"
body = '{{"id": {{{{id}}}}, "machine": {{{{source|json}}}}, "data": {{{{data|json}}}}}}'
retry = {{ first = "200ms", max = "2s" }}
"""


def check(children, ringest, directory, url, films):
    """Sends all texts, half of them while the service is not told of, with a kill in between; `films()` are the rows then."""
    masters, sources = {}, []
    for label in TEXTS:
        master, slave = pty.openpty()
        tty.setraw(slave)
        masters[label] = (master, slave)
        sources.append(SOURCE.format(
            label=label, path=json.dumps(os.ttyname(slave)), framing="wide" if label.startswith("utf-16") else "lines",
        ))
    configuration, admin = directory / "ringest.toml", free_port()

    def configure(url):
        configuration.write_text(CONFIGURATION.format(
            state=json.dumps(str(directory / "state")), admin=admin, sources="".join(sources), url=url,
        ), encoding="utf-8")

    def start(number):
        ready = directory / f"ready-{number}"
        child = children.start("ringest", [ringest, "run", configuration, "--ready-file", ready], directory / "ringest.log")
        wait_until("ringest is ready", ready.exists, PATIENCE_S, child)
        return child

    def terms():
        body = fetch(f"http://127.0.0.1:{admin}/api/status")
        return json.loads(body)["terms"] if body else None

    def received(count):
        found = terms()
        return found and found["received"] == count

    def send(place):
        for label, (codec, texts) in TEXTS.items():
            os.write(masters[label][0], (texts[place] + "\r").encode(codec))

    # The first two wait in the journal through a kill: the service is nowhere.
    configure(f"http://127.0.0.1:{free_port()}")
    child = start(1)
    send(0)
    send(1)
    wait_until("ringest has what waits", lambda: received(2 * len(TEXTS)), PATIENCE_S, child)
    child.kill()
    configure(url)
    child = start(2)
    send(2)
    wait_until(
        "all is delivered", lambda: received(len(TEXTS)) and terms()["pending"] == 0, PATIENCE_S, child,
    )
    time.sleep(0.1)
    code = child.end()
    for pair in masters.values():
        for descriptor in pair:
            os.close(descriptor)
    if code != 0:
        raise Failure(f"ringest ended with {code} after SIGTERM; it said:\n{tail(child.log)}")
    stored = {}
    for _, machine, data in films():
        stored.setdefault(machine, []).append(data.decode("utf-8"))
    expected = {label: texts for label, (_, texts) in TEXTS.items()}
    if stored != expected:
        wrong = {label: (stored.get(label), texts) for label, texts in expected.items() if stored.get(label) != texts}
        raise Failure(f"what is stored is not what was sent: {wrong}")
    return sum(len(texts) for texts in expected.values())
