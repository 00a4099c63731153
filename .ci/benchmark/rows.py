"""The rows: what is prepared, what is run, and what of it counts.

Each row is a function of (Bench) to a result: what `dipperctl bench` printed, or a dictionary with figures of its own.
"""

import json, subprocess, time

PUT = ["--key-size", "32", "--val-size", "256", "--key-space-size", "100000"]


class Bench:
    """One round: a fresh cluster of one system, and the load program."""

    def __init__(self, program, system, cluster, seconds):
        self.program, self.system, self.cluster, self.seconds = program, system, cluster, seconds

    def ctl(self, *arguments):
        command = [self.program, "--endpoints", self.cluster.endpoints, "--command-timeout", "120s", "-w", "json",
                   *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"dipperctl {' '.join(arguments)}: {done.stderr.strip()[-400:]}")
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else {}

    def load(self, *arguments, seconds=None):
        pids = ",".join(map(str, self.cluster.pids()))
        length = [] if seconds == 0 else ["--seconds", str(seconds or self.seconds)]
        return self.ctl("bench", *arguments, *length, "--server-pids", pids)

    def fill(self, keys, value=256):
        """So many keys of 32 digits, in order."""
        result = self.ctl("bench", "put", "--clients", "64", "--conns", "16", "--key-size", "32", "--val-size",
                          str(value), "--key-space-size", str(keys), "--sequential-keys", "--total", str(keys))
        if result["errors"]:
            raise RuntimeError(f"filling failed: {result['errors']}")


def put(clients, conns, *more):
    return lambda bench: bench.load("put", "--clients", str(clients), "--conns", str(conns), *PUT, *more)


def put_stream(bench):
    """Ours over streams; etcd has none, and gets the calls of as many clients."""
    if bench.system == "dipper":
        return bench.load("put", "--clients", "3000", "--conns", "3", "--stream", *PUT)
    return bench.load("put", "--clients", "1000", "--conns", "100", *PUT)


def filled(keys, value, *arguments):
    def run(bench):
        bench.fill(keys, value)
        return bench.load(*arguments)
    return run


def memory(bench):
    bench.fill(1_000_000)
    return {"rss_now_mb": bench.cluster.rss_mb("VmRSS"), "errors": {}}


def idle(bench):
    """A minute without any request."""
    time.sleep(5)
    before = bench.cluster.cpu_seconds()
    length = max(20, bench.seconds)
    time.sleep(length)
    used = bench.cluster.cpu_seconds() - before
    return {"cpu_percent": round(100 * used / length, 2), "errors": {}}


def leases(bench):
    result = bench.load("lease", "--leases", "20000", "--ttl", "60", seconds=0)
    return {"late_s": result["p50_us"] / 1e6, "server_cpu_us_per_op": result["server_cpu_us_per_op"], "errors": {}}


def move_leader(bench):
    """An open loop of 1,000 put/s while leadership moves three times: the longest that a put took."""
    arguments = ["bench", "put", "--clients", "200", "--conns", "6", "--rate", "1000", "--seconds", "7", *PUT]
    command = [bench.program, "--endpoints", bench.cluster.endpoints, "-w", "json", *arguments]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for _ in range(3):
            time.sleep(1.5)
            status = bench.ctl("endpoint", "status")
            leader = status[0]["Status"]["leader"]
            at = [s["Endpoint"] for s in status if s["Status"]["header"]["member_id"] == leader]
            target = next(s["Status"]["header"]["member_id"] for s in status
                          if s["Status"]["header"]["member_id"] != leader)
            subprocess.run([bench.program, "--endpoints", at[0], "move-leader", f"{target:x}"], check=True,
                           stdout=subprocess.DEVNULL)
        text, _ = load.communicate(timeout=60)
    finally:
        load.kill()
    result = json.loads(text.strip().splitlines()[-1])
    return {"max_ms": result["max_us"] / 1000, "errors": result["errors"]}


RATES = ("ops_per_second", "p50_us", "p99_us", "p999_us", "server_cpu_us_per_op")
# name, what it is, how it runs, what of it is printed, whether --quick has it
ROWS = [
    ("put-1", "put, 1 client", put(1, 1), RATES, True),
    ("put-64", "put, 64 clients", put(64, 16), RATES, True),
    ("put-100", "put, 100 clients on 10 connections", put(100, 10), RATES, False),
    ("put-1000", "put, 1,000 clients on 100 connections", put(1000, 100), RATES, False),
    ("put-rate", "put, open loop of 3,000/s", put(300, 30, "--rate", "3000"), RATES[1:], False),
    ("put-hot", "put of one key, 100 clients", put(100, 10, "--key-space-size", "1"), RATES, False),
    ("put-big", "put of 100 KiB, 10 clients", put(10, 10, "--val-size", "102400"), RATES, False),
    ("put-stream", "put over streams, 3,000 clients on 3; etcd: calls", put_stream, RATES, True),
    ("k8s-txn", "compare and put of 1 KiB, 100 clients",
     lambda bench: bench.load("txn", "--clients", "100", "--conns", "10", "--val-size", "1024", "--key-space-size",
                              "20000"), RATES, False),
    ("range-l", "range of one key, linearizable, 100 clients",
     filled(100_000, 256, "range", "--clients", "100", "--conns", "10"), RATES, True),
    ("range-s", "range of one key, serializable, 100 clients",
     filled(100_000, 256, "range", "--clients", "100", "--conns", "10", "--serializable"), RATES, True),
    ("page", "page of 500 in 150,000 of 1 KiB",
     filled(150_000, 1024, "range", "--clients", "4", "--conns", "4", "--limit", "500", "!", "~"), RATES, True),
    ("count", "count of 150,000",
     filled(150_000, 64, "range", "--clients", "4", "--conns", "4", "--count-only", "!", "~"), RATES, False),
    ("list-10k", "list of 10,000 of 1 KiB",
     filled(10_000, 1024, "range", "--clients", "1", "--conns", "1", "!", "~"), RATES + ("rss_mb",), False),
    ("watch-fanout", "an event for 10,000 watches, 10/s",
     lambda bench: bench.load("watch", "--watchers", "10000", "--streams", "100", "--conns", "10", "--rate", "10"),
     ("p50_us", "p99_us", "server_cpu_us_per_op"), True),
    ("watch-latency", "an event for 1,000 watches, 20/s",
     lambda bench: bench.load("watch", "--watchers", "1000", "--streams", "100", "--conns", "10", "--rate", "20"),
     ("p50_us", "p99_us", "server_cpu_us_per_op"), False),
    ("lease-expire", "20,000 leases that end together: the last key is gone late by", leases,
     ("late_s", "server_cpu_us_per_op"), False),
    ("memory", "1 M keys of 256 B", memory, ("rss_now_mb",), False),
    ("idle", "no request", idle, ("cpu_percent",), False),
    ("move-leader", "leadership moves under 1,000 put/s: the longest put", move_leader, ("max_ms",), False),
]
