"""Where the microseconds go: sampled stacks put into the bins that a person would name."""

import collections
import subprocess

# The first bin of which one function is on the stack takes the sample.
KERNEL = (
    ("waking the other side", ("try_to_wake_up", "wake_up_process", "ttwu_queue_wakelist")),
    ("recv", ("io_recv",)),
    ("tty read", ("tty_read", "n_tty_read", "io_read_mshot")),
    ("journal", ("ext4_file_write_iter", "io_write", "blk_mq_submit_bio", "vfs_write")),
    ("send: the peer's half of loopback", ("net_rx_action",)),
    ("send", ("io_send",)),
    ("accept, connect, close", ("io_accept", "io_connect", "__x64_sys_close", "io_close")),
    ("sleep", ("schedule", "io_cqring_wait", "do_epoll_wait", "epoll_wait", "ep_poll")),
    ("io_uring itself", ("__do_sys_io_uring_enter", "io_submit_sqes", "io_handle_tw_list", "tctx_task_work")),
)

# User code by the module whose function is innermost on the stack.
USER = (
    ("user: journal", ("journal::", "crc32c")),
    ("user: delivery, template, request", ("delivery::", "http::client", "shard::deliver", "Utf8Chunks", "LowerHex")),
    ("user: HTTP in", ("http::server",)),
    ("user: framing and intake", ("framing::", "shard::intake", "memchr")),
    ("user: histograms", ("hdrhistogram",)),
    ("user: the rest of the shard", ("shard::",)),
    ("user: ring and driver", ("engine::", "io_uring::")),
)


def bin_of(frames: list[tuple[str, str]]) -> str:
    """The bin of a stack, innermost frame first: (function, object)."""
    names = {name for name, _ in frames}
    if frames[0][1].startswith("[kernel"):
        if {"io_recv", "__tcp_transmit_skb"} <= names:
            return "ACKs that recv sends"
        return next((label for label, marks in KERNEL if not names.isdisjoint(marks)), "the rest of the kernel")
    for name, _ in frames:
        for label, marks in USER:
            if any(mark in name for mark in marks):
                return label
    return "user: other"


def stacks(path):
    """The stacks of a recording."""
    command = ["perf", "script", "-i", str(path), "-F", "ip,sym,dso"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for block in text.split("\n\n"):
        frames = []
        for line in block.strip().splitlines():
            _, _, rest = line.strip().partition(" ")
            name, _, where = rest.rpartition(" (")
            frames.append((name.split("+0x")[0], where.rstrip(")")))
        if frames:
            yield frames


def shares(path) -> dict[str, float]:
    """The share of each bin."""
    found = collections.Counter(bin_of(frames) for frames in stacks(path))
    total = sum(found.values())
    return {label: count / total for label, count in found.most_common()} if total else {}
