"""What object stores cost: S1 (credentials), S2 (1 GiB) and S3 (2,000 small objects), on a RADOS gateway of its own."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.rgw import Gateway

GIB = 1 << 30
SMALL, SMALL_SIZE = 2000, 4096
REPEATS = min(3, int(os.environ.get("PBSDOCK_BENCH_REPEATS", "3")))
_AWS = str(Path(sys.executable).parent / "aws")


class Jobs(Protocol):
    """What of the bench's site is used here."""

    root: Path
    mom_priv: Path

    def trial(self, body: str) -> Any: ...

    def agents(self) -> list[int]: ...

    def stop_agents(self) -> None: ...


class Stores:
    """The site with a store, and the tools it is compared with."""

    def __init__(self, site: Jobs, gateway: Gateway, user: str) -> None:
        self.site = site
        self.gateway = gateway
        self.access, self.secret = gateway.user("bench")
        self.client = gateway.client(self.access, self.secret)
        self.home = Path(pwd.getpwnam(user).pw_dir)
        self.desk = self.home / "desk"
        identity = gateway.identity(gateway.root / "identity.toml", "pbsdock-node", "role")
        for bucket in ("in", "out"):
            self.client.create_bucket(Bucket=f"bench-{bucket}")
        config = site.root / "etc/pbsdock/pbsdock.toml"
        self.before = config.read_text()
        config.write_text(
            f'{self.before}[s3.ceph]\nendpoint = "{gateway.endpoint}"\nidentity = "{identity}"\nallow = ["bench-*"]\n'
        )
        self.restart()

    def restart(self) -> None:
        """Let the next hook start an agent with the configuration as it is now."""
        self.site.stop_agents()

    def clean(self) -> None:
        """An empty desk of the user's."""
        shutil.rmtree(self.desk, ignore_errors=True)
        self.desk.mkdir()
        entry = self.home.stat()
        os.chown(self.desk, entry.st_uid, entry.st_gid)

    def job(self, options: str, body: str = "true") -> Any:
        """One whole job; raises RuntimeError unless it ends with 0."""
        trial = self.site.trial(f"#DOCKER {options}\n{body}" if options else body)
        failed = trial.begin()
        done = failed or trial.finish(trial.wait())
        if done.exit_status != 0:
            raise RuntimeError(done.stderr.decode())
        return done

    def event(self, job: str, name: str) -> dict[str, Any]:
        """One event of a job."""
        deadline = time.monotonic() + 5.0
        while True:
            for line in (self.site.root / "var/log/pbsdock/events.jsonl").read_text().splitlines():
                one: dict[str, Any] = json.loads(line)
                if one.get("job") == job and one["event"] == name:
                    return one
            if time.monotonic() > deadline:
                raise RuntimeError(f"job {job} has no event {name}")
            time.sleep(0.02)

    def stage(self, options: str) -> float:
        """Seconds one staging option takes, from the order to the last file."""
        return float(self.event(self.job(options).job_id, "stage.done")["ms"]) / 1000

    def aws(self, *arguments: str) -> float:
        """``aws s3 cp``; seconds."""
        keys = {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        plain = {
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        return _timed(
            [
                sys.executable,
                _AWS,
                "--endpoint-url",
                self.gateway.endpoint,
                "s3",
                "cp",
                "--only-show-errors",
                *arguments,
            ],
            {**os.environ, **keys, **plain, "AWS_CONFIG_FILE": "/dev/null"},
        )

    def s3cmd(self, *arguments: str) -> float:
        """``s3cmd``; seconds."""
        host = self.gateway.endpoint.partition("://")[2]
        return _timed(
            [
                "s3cmd",
                "-c",
                "/dev/null",
                "-q",
                "--no-ssl",
                "--no-progress",
                f"--host={host}",
                f"--host-bucket={host}",
                f"--access_key={self.access}",
                f"--secret_key={self.secret}",
                "--force",
                *arguments,
            ],
            dict(os.environ),
        )


def _timed(argv: list[str], env: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def s1(stores: Stores, show: Callable[..., None]) -> None:
    """Prologue, and whole job, of a ``true`` job with credentials against one without; minting; 32 at once; growth."""
    options, seconds = "--s3 bench-in --s3 bench-out:rw", {}
    minted = []
    for index in range(11):
        for name, given in (("with", options), ("without", "")):
            done = stores.job(given)
            if index:  # the first one warms
                seconds.setdefault(f"prologue_{name}", []).append(done.seconds["prologue"])
                seconds.setdefault(f"job_{name}", []).append(sum(done.seconds.values()))
            if given and index:
                minted.append(stores.event(done.job_id, "credentials.minted")["ms"])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    many = {}
    for name, given in (("without", ""), ("with", options)):
        began = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda _, given=given: stores.job(given), range(32)))
        many[name] = time.monotonic() - began
    growth = _growth(stores, options)
    show(
        "S1",
        ratio=round(median["prologue_with"] / median["prologue_without"], 3),
        with_ms=round(median["prologue_with"] * 1000, 1),
        without_ms=round(median["prologue_without"] * 1000, 1),
        job_ratio=round(median["job_with"] / median["job_without"], 3),
        mint_ms=round(statistics.median(minted), 1),
        at_once_ratio=round(many["with"] / many["without"], 3),
        growth_mib_per_job=round(growth, 3),
        repeats=len(minted),
    )


def _growth(stores: Stores, options: str) -> float:
    """MiB the agent holds more for each running job that has credentials."""
    worker = stores.site.agents()[-1]
    before, trials = _rss(worker), []
    for _ in range(16):
        trial = stores.site.trial(f"#DOCKER {options}\nsleep 60")
        if trial.begin() is not None:
            raise RuntimeError("the prologue failed")
        trials.append(trial)
    deadline = time.monotonic() + 20
    while _events(stores, "job.started", trials) < len(trials) and time.monotonic() < deadline:
        time.sleep(0.1)
    grown = (_rss(worker) - before) / len(trials)
    for trial in trials:
        trial.qdel()
        trial.finish(trial.wait())
    return grown


def _events(stores: Stores, name: str, trials: list[Any]) -> int:
    jobs = {one.job_id for one in trials}
    lines = (stores.site.root / "var/log/pbsdock/events.jsonl").read_text().splitlines()
    return sum(one["event"] == name and one.get("job") in jobs for one in map(json.loads, lines))


def _rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def s2(stores: Stores, show: Callable[..., None]) -> None:
    """1 GiB in and out, in throughput of the better of ``aws s3 cp`` and ``s3cmd``."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        block = os.urandom(1 << 20)
        for _ in range(GIB >> 20):
            file.write(block)
        file.flush()
        stores.aws(file.name, "s3://bench-in/large")
    _compare("S2", stores, show, "s3://bench-in/large", "large")


def s3(stores: Stores, show: Callable[..., None]) -> None:
    """2,000 objects of 4 KiB in and out, the same way."""
    with ThreadPoolExecutor(16) as pool:
        list(
            pool.map(
                lambda one: stores.client.put_object(
                    Bucket="bench-in", Key=f"small/{one:04}", Body=os.urandom(SMALL_SIZE)
                ),
                range(SMALL),
            )
        )
    _compare("S3", stores, show, "s3://bench-in/small/", "small/")


def _compare(identifier: str, stores: Stores, show: Callable[..., None], url: str, name: str) -> None:
    many = url.endswith("/")
    recursive = ["--recursive"] if many else []
    seconds: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        stores.clean()
        seconds.setdefault("in", []).append(stores.stage(f"--stage-in {url} $HOME/desk/{name}"))
        seconds.setdefault("out", []).append(stores.stage(f"--stage-out $HOME/desk/{name} s3://bench-out/{name}"))
        here = f"{stores.desk}/{name}"
        seconds.setdefault("aws_out", []).append(stores.aws(*recursive, here, f"s3://bench-out/{name}"))
        seconds.setdefault("s3cmd_out", []).append(stores.s3cmd("put", *recursive, here, f"s3://bench-out/{name}"))
        stores.clean()
        seconds.setdefault("aws_in", []).append(stores.aws(*recursive, url, here))
        stores.clean()
        if many:
            os.mkdir(here)
        seconds.setdefault("s3cmd_in", []).append(stores.s3cmd("get", *recursive, url, here))
    median = {key: statistics.median(values) for key, values in seconds.items()}
    ratios = {way: min(median[f"aws_{way}"], median[f"s3cmd_{way}"]) / median[way] for way in ("in", "out")}
    show(
        identifier,
        ratio=round(min(ratios.values()), 3),
        in_ratio=round(ratios["in"], 3),
        out_ratio=round(ratios["out"], 3),
        **{f"{key}_s": round(value, 2) for key, value in median.items()},
        repeats=REPEATS,
    )
    stores.clean()


@contextmanager
def store(site: Jobs, user: str) -> Iterator[Stores]:
    """A gateway that is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-rgw.", dir="/var/tmp"))
    gateway = Gateway(root, memory_gib=8).start()
    try:
        stores = Stores(site, gateway, user)
        yield stores
        (site.root / "etc/pbsdock/pbsdock.toml").write_text(stores.before)
        stores.restart()
    finally:
        gateway.stop()
        shutil.rmtree(root, ignore_errors=True)


FIGURES = {"S1": s1, "S2": s2, "S3": s3}
