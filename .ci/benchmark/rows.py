"""The rows: what is prepared, what is run, what of it counts, and what we want of it.

Each row runs a function of (Bench) to a result: what `dipperctl bench` printed, or a dictionary with figures of its own.
"""

import collections, json, re, subprocess, time

RESTART_KEYS = 300_000
SIZES = {"--key-size": "32", "--val-size": "256", "--key-space-size": "100000"}


class Bench:
    """One round: a fresh cluster of one system, and the load program."""

    def __init__(self, program, system, cluster, seconds):
        self.program, self.system, self.cluster, self.seconds = program, system, cluster, seconds

    def command(self, *arguments, at=None, form="json"):
        return [self.program, "--endpoints", at or self.cluster.endpoints, "--command-timeout", "600s", "-w", form,
                *arguments]

    def run(self, *arguments, at=None, form="json"):
        """What it prints."""
        done = subprocess.run(self.command(*arguments, at=at, form=form), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"dipperctl {' '.join(arguments)}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def ctl(self, *arguments, at=None):
        """What it prints as JSON."""
        return json.loads(self.run(*arguments, at=at).strip().splitlines()[-1])

    def count(self, endpoint=None):
        """All keys, as one member or any says."""
        found = self.run("get", "", "--prefix", "--count-only", at=endpoint, form="fields")
        return int(re.search(r'"Count" : (\d+)', found)[1])

    def leader(self):
        """Its endpoint."""
        if self.system == "limit":
            return self.cluster.endpoints
        status = self.ctl("endpoint", "status")
        leader = status[0]["Status"]["leader"]
        return next(one["Endpoint"] for one in status if one["Status"]["header"]["member_id"] == leader)

    def load(self, *arguments, seconds=None, at=None):
        """With syncs per operation, where the kernel lets us count them."""
        pids = ",".join(map(str, self.cluster.pids()))
        length = [] if seconds == 0 else ["--seconds", str(seconds or self.seconds)]
        with self.cluster.syncs() as syncs:
            result = self.ctl("bench", *arguments, *length, "--server-pids", pids, at=at)
        if syncs.count is not None:
            result["syncs_per_op"] = round(syncs.count / max(1, result["operations"]), 4)
        return result

    def fill(self, keys, value=256, *more):
        """So many keys of 32 digits, in order."""
        if self.system == "limit":
            return
        how = ["--clients", "3000", "--conns", "1", "--stream"] if self.system == "dipper" else \
              ["--clients", "512", "--conns", "32"]
        result = self.ctl("bench", "put", *how, "--key-size", "32", "--val-size", str(value), "--key-space-size",
                          str(keys), "--sequential-keys", "--total", str(keys), *more)
        if result["errors"]:
            raise RuntimeError(f"filling failed: {result['errors']}")


def sized(*arguments):
    """With those of the usual sizes that are not given."""
    usual = [part for name, value in SIZES.items() if name not in arguments for part in (name, value)]
    return [*arguments, *usual]


PUT = sized()


def load(*arguments):
    return lambda bench: bench.load(*arguments)


def put(clients, conns, *more):
    """Spread over all members, as etcd's own clients do by themselves."""
    return load("put", "--clients", str(clients), "--conns", str(conns), *sized(*more))


def put_leader(clients, conns):
    """All to the leader, as our own client does by itself."""
    arguments = ("put", "--clients", str(clients), "--conns", str(conns), *PUT)
    return lambda bench: bench.load(*arguments, at=bench.leader())


def put_stream(bench):
    """Ours over streams; etcd has none, and gets the calls of as many clients as serve it best."""
    if bench.system == "etcd":
        return bench.load("put", "--clients", "1000", "--conns", "100", *PUT)
    return bench.load("put", "--clients", "3000", "--conns", "1", "--stream", *PUT)


def filled(keys, value, *arguments):
    def run(bench):
        bench.fill(keys, value)
        return bench.load(*arguments)
    return run


def list_all(bench):
    """And how much memory it takes beyond what was there before."""
    bench.fill(10_000, 1024)
    before = bench.cluster.reset_peak()
    result = bench.load("range", "--clients", "1", "--conns", "1", "!", "~")
    result["rss_extra_mb"] = max(0, bench.cluster.rss_mb() - before)
    return result


def list_old(bench):
    """A list of 10,000 as it was before every key was written ten times more."""
    bench.fill(10_000, 256)
    revision = bench.ctl("get", "!")["header"]["revision"]
    for _ in range(10):
        bench.fill(10_000, 256)
    return bench.load("range", "--clients", "1", "--conns", "1", "--revision", str(revision), "!", "~")


def memory(bench):
    bench.fill(1_000_000)
    # Both get to settle: Go's collector, and our flush.
    time.sleep(10)
    return {"rss_now_mb": round(bench.cluster.rss_mb("VmRSS") / 3), "errors": {}}


def idle(bench):
    """Half a minute without any request."""
    time.sleep(5)
    length = 30
    with bench.cluster.syncs() as syncs:
        before = bench.cluster.cpu_seconds()
        time.sleep(length)
        used = bench.cluster.cpu_seconds() - before
    result = {"cpu_percent": round(100 * used / length, 2), "errors": {}}
    if syncs.count is not None:
        result["syncs_per_minute"] = syncs.count * 60 / length
    return result


def catch_up(bench):
    """A thousand watches that begin at revision 1, a thousand events behind."""
    result = bench.ctl("bench", "put", "--clients", "64", "--conns", "16", "--key-size", "11", "--key-space-size", "1",
                       "--total", "1000", "--val-size", "256")
    if result["errors"]:
        raise RuntimeError(f"filling failed: {result['errors']}")
    return bench.load("watch", "00000000000", "--watchers", "1000", "--streams", "100", "--catch-up", "1000", seconds=0)


def leases(bench):
    result = bench.load("lease", "--leases", "50000", "--ttl", "60", seconds=0)
    return {"late_s": result["p50_us"] / 1e6, "server_cpu_us_per_op": result["server_cpu_us_per_op"], "errors": {}}


def move_leader(bench):
    """An open loop of 2,000 put/s while leadership moves three times: the longest that a put took."""
    arguments = ["bench", "put", "--clients", "200", "--conns", "6", "--rate", "2000", "--seconds", "7", *PUT]
    load = subprocess.Popen(bench.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for _ in range(3):
            time.sleep(1.5)
            leader = bench.leader()
            others = (one for one in bench.ctl("endpoint", "status") if one["Endpoint"] != leader)
            bench.run("move-leader", f"{next(others)['Status']['header']['member_id']:x}", at=leader)
        text, _ = load.communicate(timeout=60)
    finally:
        load.kill()
    result = json.loads(text.strip().splitlines()[-1])
    return {"max_ms": result["max_us"] / 1000, "errors": result["errors"]}


def restart(bench):
    """Every member killed and its files out of the page cache: until all are healthy again."""
    bench.fill(RESTART_KEYS, 1024)
    bench.cluster.kill()
    bench.cluster.forget_pages()
    began = time.monotonic()
    bench.cluster.start()
    took = time.monotonic() - began
    missing = RESTART_KEYS - bench.count()
    return {"serving_s": took, "errors": {"keys missing": missing} if missing else {}}


RATES = ("ops_per_second", "p50_us", "p99_us", "p999_us", "server_cpu_us_per_op")
LATE = RATES[1:]

# name; what it is; how it runs; what of it is printed, each with (floor, aim) where we have set one: how many times
# better, or ("at most", floor, aim) in its own unit; whether --quick has it; whether the null service is asked too;
# rounds at most, of rows that take minutes
Row = collections.namedtuple("Row", "name what run targets quick limit rounds", defaults=(False, False, 100))


def row(name, what, run, measures, targets=None, **more):
    return Row(name, what, run, {measure: (targets or {}).get(measure) for measure in measures}, **more)


PUT_100 = {"ops_per_second": (2.5, 5), "server_cpu_us_per_op": (3, 5)}
PUT_1000 = {"ops_per_second": (2.5, 5), "p99_us": (3, 10)}

ROWS = [
    row("put-1", "put, 1 client", put_leader(1, 1), RATES, {"p50_us": (1.6, 2.5)}, quick=True, limit=True),
    row("put-64", "put, 64 clients on 16 connections, all members", put(64, 16), RATES, quick=True, limit=True),
    row("put-100", "put, 100 clients on 10 connections", put_leader(100, 10), RATES, PUT_100, limit=True),
    row("put-100-all", "put, 100 clients on 10 connections, all members", put(100, 10), RATES, PUT_100),
    row("put-1000", "put, 1,000 clients on 100 connections", put_leader(1000, 100), RATES, PUT_1000, limit=True),
    row("put-1000-all", "put, 1,000 clients on 100 connections, all members", put(1000, 100), RATES, PUT_1000),
    row("put-stream", "put over one stream, 3,000 clients; etcd: calls of 1,000", put_stream, RATES,
        {"ops_per_second": (8, 16)}, quick=True, limit=True),
    row("put-rate", "put, open loop of 3,000/s", put(300, 30, "--rate", "3000"), LATE),
    row("put-rate-5k", "put, open loop of 5,000/s", put(300, 30, "--rate", "5000"), LATE),
    row("put-hot", "put of one key, 100 clients", put(100, 10, "--key-space-size", "1"), RATES),
    row("put-big", "put of 100 KiB, 10 clients", put(10, 10, "--val-size", "102400", "--key-space-size", "1000"), RATES),
    row("put-huge", "put of 1 MiB, 4 clients", put(4, 4, "--val-size", "1048576", "--key-space-size", "100"), RATES),
    row("txn-100", "transaction of 100 puts, 10 clients",
        load("txn", "--clients", "10", "--conns", "10", "--ops", "100", *PUT), RATES),
    row("k8s-txn", "compare and put of 1 KiB, 100 clients",
        load("txn", "--clients", "100", "--conns", "10", "--val-size", "1024", "--key-space-size", "20000"), RATES,
        {"ops_per_second": (2.5, 5)}, limit=True),
    row("mix-50", "half reads, half writes, 100 clients",
        filled(100_000, 256, "mix", "--clients", "100", "--conns", "10", "--reads", "50", *PUT), RATES),
    row("mix-95", "95 % reads, 100 clients",
        filled(100_000, 256, "mix", "--clients", "100", "--conns", "10", "--reads", "95", *PUT), RATES),
    row("range-1", "range of one key, linearizable, 1 client",
        filled(100_000, 256, "range", "--clients", "1", "--conns", "1"), RATES, limit=True),
    row("range-l", "range of one key, linearizable, 100 clients",
        filled(100_000, 256, "range", "--clients", "100", "--conns", "10"), RATES,
        {"server_cpu_us_per_op": (2, 4)}, quick=True, limit=True),
    row("range-s", "range of one key, serializable, 100 clients",
        filled(100_000, 256, "range", "--clients", "100", "--conns", "10", "--serializable"), RATES,
        {"server_cpu_us_per_op": (2, 4)}, quick=True, limit=True),
    row("page", "page of 500 in 150,000 of 1 KiB",
        filled(150_000, 1024, "range", "--clients", "4", "--conns", "4", "--limit", "500", "!", "~"), RATES,
        {"ops_per_second": (10, 50)}, quick=True),
    row("count", "count of 150,000",
        filled(150_000, 64, "range", "--clients", "4", "--conns", "4", "--count-only", "!", "~"), RATES,
        {"ops_per_second": (100, 1000)}),
    row("list-keys", "list of 10,000 of 1 KiB, keys only",
        filled(10_000, 1024, "range", "--clients", "1", "--conns", "1", "--keys-only", "!", "~"), RATES),
    row("list-10k", "list of 10,000 of 1 KiB", list_all, RATES + ("rss_extra_mb",),
        {"p50_us": (2, 5), "rss_extra_mb": (3, 10)}),
    row("list-old", "list of 10,000 of 256 B, 100,000 revisions ago", list_old, RATES),
    row("watch-fanout", "an event for 10,000 watches, 10/s",
        load("watch", "--watchers", "10000", "--streams", "100", "--conns", "10", "--rate", "10"),
        ("p50_us", "p99_us", "server_cpu_us_per_op"), {"server_cpu_us_per_op": (3, 10)}, quick=True),
    row("watch-latency", "an event for 1,000 watches, 20/s",
        load("watch", "--watchers", "1000", "--streams", "100", "--conns", "10", "--rate", "20"),
        ("p50_us", "p99_us", "server_cpu_us_per_op"), {"p99_us": (1.5, 3)}),
    row("watch-catch-up", "1,000 watches, 1,000 events behind", catch_up,
        ("ops_per_second", "p99_us", "server_cpu_us_per_op")),
    row("keep-alive", "lease keep-alive, 100 streams",
        load("keep-alive", "--clients", "100", "--conns", "10"), RATES),
    row("lease-expire", "50,000 leases that end together: the last key is gone late by", leases,
        ("late_s", "server_cpu_us_per_op"), {"late_s": (10, 50)}, rounds=2),
    row("memory", "1 M keys of 256 B", memory, ("rss_now_mb",), {"rss_now_mb": (3, 6)}, rounds=2),
    row("restart", "300,000 keys of 1 KiB, all members killed, cold: until all serve", restart, ("serving_s",), rounds=2),
    row("idle", "no request", idle, ("cpu_percent", "syncs_per_minute"),
        {"cpu_percent": (2, 10), "syncs_per_minute": (2, 10)}, rounds=2),
    row("move-leader", "leadership moves under 2,000 put/s: the longest put", move_leader, ("max_ms",),
        {"max_ms": ("at most", 100, 20)}),
]
