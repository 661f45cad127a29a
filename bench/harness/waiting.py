"""A trial of records that wait: machines come and leave while the receiver is away, then it comes. Memory is looked at before the
first record and while all wait, CPU from the receiver's start until all have arrived."""

import dataclasses
import time

from .board import ARRIVED
from .process import Process, Sample, between, cpu_times
from .subject import TARGET
from .trial import Trial, per_record

# Records come in at some 10,000 a second, and leave faster.
VISITS_PATIENCE_S = 300
ARRIVED_PATIENCE_S = 300
# What came last is in its block, and the block on disk.
SETTLE_S = 2


class WaitingTrial(Trial):
    """One filling and emptying of a gateway's journal."""

    def __init__(self, case, subject, options, repeat: int = 0):
        records = options.waiting or case.waiting
        self.machines = min(subject.waiting.machines, records)
        self.each = records // self.machines
        super().__init__(dataclasses.replace(case, waiting=self.each * self.machines, machines=self.machines), subject, options, repeat)

    def _run(self) -> dict:
        gateway = self._start(self.subject.start(self))
        self.subject.wait_ready(self, gateway)
        time.sleep(self.options.warm_up)
        empty = gateway.sample()
        self._fill(gateway)
        if self.subject.waiting.restarted:
            gateway.stop()
            self._processes.remove(gateway)
            gateway = self._start(self.subject.start(self))
            self.subject.wait_ready(self, gateway)
        time.sleep(SETTLE_S)
        row = self._memory(empty, gateway.sample()) | self._empty(gateway)
        row["load"], row["receiver"] = {}, {}
        stayed = self._stop_subject(row, gateway)
        row["receiver"] = self._processes[-1].stop()
        row["failed"], row["remarks"] = self._wrong(row["receiver"]) + stayed, []
        return row

    def _fill(self, gateway: Process) -> None:
        command = [str(TARGET / "bench-visits"), "--tcp", f"127.0.0.1:{self.machines_at}", "--connections", str(self.machines)]
        visits = self._start(Process("visits", [*command, "--records", str(self.each)], self.other_cpus, self.directory, self.options.nice))
        gateway.wait_for(visits.has_ended, "the end of all connections", VISITS_PATIENCE_S)
        visits.stop()
        received = lambda: self.subject.status(self)["terms"].get("received", 0)
        gateway.wait_for(lambda: received() >= self.case.waiting, "the journaling of all records")
        self._processes.remove(visits)

    def _memory(self, empty: Sample, full: Sample) -> dict:
        own = full.anonymous_bytes - empty.anonymous_bytes
        shared = (full.rss_bytes - full.anonymous_bytes) - (empty.rss_bytes - empty.anonymous_bytes)
        return {"bytes_per_waiting": own / self.case.waiting, "shared_per_waiting": shared / self.case.waiting, "rss_bytes": full.rss_bytes}

    def _empty(self, gateway: Process) -> dict:
        counters = self.subject.counters(self)
        cpus_before, first = cpu_times(), gateway.sample()
        null = self._start_receiver()
        null_before = null.sample()
        gateway.wait_for(lambda: self.board[ARRIVED] >= self.case.waiting, "the arrival of all records", ARRIVED_PATIENCE_S)
        cost, others, cpus_after = between(first, gateway.sample()), between(null_before, null.sample()), cpu_times()
        records = self.board[ARRIVED]
        gateway.wait_for(lambda: self.subject.status(self)["terms"].get("pending", 1) == 0, "the last answer")
        return {
            "records": records, "seconds": round(cost.seconds, 4), "records_per_s": records / cost.seconds,
            "busy": cost.cpu_us / 1e6 / cost.seconds, "others_busy": others.cpu_us / 1e6 / others.seconds,
            "cpu_busy": {cpu: round((cpus_after[cpu][0] - b) / max(1, cpus_after[cpu][1] - t), 3) for cpu, (b, t) in cpus_before.items()},
            "cpu_us": cost.cpu_us / records, "user_us": cost.user_us / records, "system_us": cost.system_us / records,
            "switches": (cost.voluntary + cost.involuntary) / records, "receiver_us": others.cpu_us / records,
            **per_record(counters, self.subject.counters(self)),
        }

    def _wrong(self, receiver: dict) -> list[str]:
        faults = [f"{receiver[what]} {what}" for what in ("doubled", "corrupt", "missing", "malformed") if receiver[what]]
        faults += [f"{receiver['disordered']} out of order"] if receiver["disordered"] else []
        missing = self.case.waiting - receiver["distinct"]
        return faults + ([f"{missing} records did not arrive"] if missing else [])
