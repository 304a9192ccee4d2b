"""Staging when something breaks: what is told, what is kept, what goes on, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import USERS, wait_until
from tests.s3.site import Site, config
from tests.s3.test_staging import desk
from tests.support.agents import running

__all__ = ["desk"]
pytestmark = pytest.mark.engine
PATIENCE = "[staging]\npatience_s = 2\n"


@pytest.fixture
def frozen(site: Site) -> Iterator[Site]:
    """The site with little patience; whatever a test did to the gateway is undone."""
    site.instance.configure(config(site.store, head=PATIENCE))
    yield site
    if "rgw" in site.store.gateway.processes:
        site.store.gateway.thaw()
    else:
        site.store.gateway.start_radosgw()


def _workers(user: str = USERS[0]) -> list[int]:
    """Pids of the user's staging workers: they carry the spawner's command line."""
    uid = int(subprocess.check_output(["id", "-u", user]))
    found = []
    for pid in running("pbsdock.staging.spawner"):
        with suppress(OSError):  # it has ended
            if f"\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in Path(f"/proc/{pid}/status").read_text():
                found.append(pid)
    return found


def _begin(site: Site, options: str, body: str = "true") -> Trial:
    """A job whose prologue is over and whose run hook waits."""
    trial = Trial(site.instance.request(site.script(options, body)))
    site.instance.trials.append(trial)
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.start()
    return trial


def _large(site: Site, key: str = "large/slow", megabytes: int = 200) -> str:
    """An object that takes some time."""
    site.store.alice.put_object(Bucket="alice-in", Key=key, Body=os.urandom(1 << 20) * megabytes)
    return f"s3://alice-in/{key}"


def test_the_worker_is_the_user(site: Site, desk: Path) -> None:
    """Never root, no way back to it, its groups the user's, and neither to be traced nor to be read by the user."""
    url = _large(site)
    trial = _begin(site, f"--stage-in {url} $HOME/desk/", "cmp -n 1 $HOME/desk/slow $HOME/desk/slow")
    wait_until("a worker works", lambda: bool(_workers()))
    pid = _workers()[0]
    os.kill(pid, signal.SIGSTOP)
    status = Path(f"/proc/{pid}/status").read_text()
    groups = sorted(subprocess.check_output(["id", "-G", USERS[0]]).split())
    seen = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(seen["Groups"].split()) | set(seen["Gid"].split()) == {one.decode() for one in groups}
    assert (seen["NoNewPrivs"], int(seen["CapPrm"], 16), int(seen["CapEff"], 16)) == ("1", 0, 0)
    for name in ("environ", "mem", "maps", "fd"):
        read = subprocess.run(
            ["ls" if name == "fd" else "cat", f"/proc/{pid}/{name}"], user=USERS[0], capture_output=True
        )
        assert b"Permission denied" in read.stderr
    attach = "import ctypes,sys; c=ctypes.CDLL(None,use_errno=True); print(c.ptrace(16,int(sys.argv[1]),0,0),ctypes.get_errno())"
    traced = subprocess.run(
        ["/usr/bin/python3", "-c", attach, str(pid)], user=USERS[0], capture_output=True, check=True
    )
    assert traced.stdout == b"-1 1\n"
    assert b"AWS" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(pid, signal.SIGCONT)
    done = trial.finish(trial.wait())
    assert done.exit_status == 0, done.stderr
    assert _workers() == []


def test_the_user_ends_the_worker(site: Site, desk: Path) -> None:
    """Their own job is refused with a sentence, and the next one runs."""
    trial = _begin(site, f"--stage-in {_large(site)} $HOME/desk/")
    wait_until("a worker works", lambda: bool(_workers()))
    subprocess.run(["kill", "-9", str(_workers()[0])], user=USERS[0], check=True)
    done = trial.finish(trial.wait())
    assert (done.exit_status, done.stderr) == (
        125,
        b"pbsdock: the staging worker was killed; nothing was started\n",
    )
    assert site.left() == []
    assert site.run("--stage-in s3://alice-in/x/1 $HOME/desk/one", "cat $HOME/desk/one").stdout == b"alice-in x/1\n"


def test_job_deleted_while_files_come_in(site: Site, desk: Path) -> None:
    """qdel ends it at once, as it would a bare job; worker, files, role and session are gone."""
    url = _large(site)
    site.store.gateway.freeze()
    site.store.gateway.thaw()
    trial = _begin(site, f"--stage-in {url} $HOME/desk/", "echo ran")
    wait_until("a worker works", lambda: bool(_workers()))
    os.kill(_workers()[0], signal.SIGSTOP)  # so that it cannot end before it is told to
    time.sleep(0.3)
    trial.qdel()
    done = trial.finish(trial.wait())
    assert done.exit_status == 256 + signal.SIGTERM
    assert done.stdout == b""
    assert site.left() == []
    assert _workers() == []
    assert list(desk.iterdir()) == []


def test_agent_killed_while_files_come_in(site: Site, desk: Path) -> None:
    """The next agent goes on with what has arrived, and the job runs."""
    data = os.urandom(1 << 20) * 300
    site.store.alice.put_object(Bucket="alice-in", Key="large/resumed", Body=data)
    trial = _begin(site, "--stage-in s3://alice-in/large/resumed $HOME/desk/", "md5sum <$HOME/desk/resumed")
    wait_until("some has arrived", lambda: any(one.stat().st_size > 20 << 20 for one in desk.rglob(".pbsdock-*/*")))
    site.restart_agent()
    done = trial.finish(trial.wait())

    assert (done.stdout.decode().split(), done.stderr.decode()[:21]) == (
        [hashlib.md5(data).hexdigest(), "-"],
        "pbsdock: staged in 1 ",
    )


def test_gateway_restarted_in_the_middle(site: Site, desk: Path) -> None:
    """Requests are repeated for as long as patience lasts."""
    url = _large(site)
    trial = _begin(site, f"--stage-in {url} $HOME/desk/", "wc -c <$HOME/desk/slow")
    wait_until("some has arrived", lambda: any(one.stat().st_size > 8 << 20 for one in desk.rglob(".pbsdock-*/*")))
    site.store.gateway.stop_radosgw()
    site.store.gateway.start_radosgw()
    done = trial.finish(trial.wait())
    assert (done.exit_status, done.stdout) == (0, b"209715200\n"), done.stderr


def test_gateway_away(frozen: Site, desk: Path) -> None:
    """A stage-out that cannot be done tells so by the exit status and says where the data is; nothing is lost."""
    trial = _begin(
        frozen,
        "--stage-in s3://alice-in/x/1 $HOME/desk/in --stage-out $HOME/desk/out s3://alice-out/never",
        "cp $HOME/desk/in $HOME/desk/out; echo ready; sleep 2; exit 0",
    )
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    frozen.store.gateway.stop_radosgw()
    done = trial.finish(trial.wait())
    told = done.stderr.decode().splitlines()[-1]
    assert done.exit_status == 74
    assert told.startswith("pbsdock: object store ceph: ") or told.startswith(
        "pbsdock: STDIN:3:48: s3://alice-out/never: "
    )
    assert told.endswith(f"; what was not uploaded is kept on {os.uname().nodename} in {desk}/out")
    assert (desk / "out").read_bytes() == b"alice-in x/1\n"
    frozen.store.gateway.start_radosgw()
    frozen.reap()
    assert frozen.left() == []
    assert frozen.run("--read-only", "echo on").stdout == b"on\n"


def test_tmpdir_is_kept_while_the_gateway_is_away(frozen: Site, desk: Path) -> None:
    """An upload in parts that can neither be finished nor ended now: its file is saved all the same."""
    base = Path("/var/tmp/pbsdock-stage")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(mode=0o755)
    trial = Trial(
        frozen.instance.request(
            frozen.script("--stage-out $TMPDIR/out s3://alice-out/away", "head -c 300000000 /dev/zero >$TMPDIR/out"),
            tmpdir=str(base),
        )
    )
    frozen.instance.trials.append(trial)
    assert trial.begin() is None
    wait_until(
        "an upload is under way",
        lambda: bool(frozen.store.alice.list_multipart_uploads(Bucket="alice-out").get("Uploads", [])),
        60,
    )
    frozen.store.gateway.stop_radosgw()
    done = trial.finish(trial.wait())
    kept = Path(f"~{USERS[0]}").expanduser() / f"pbsdock-kept.{done.job_id}"
    try:
        assert done.exit_status == 74
        assert done.stderr.decode().endswith(f"what was not uploaded is kept on {os.uname().nodename} in {kept}\n")
        assert (kept / "out").stat().st_size == 300000000
    finally:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.rmtree(base)
    frozen.store.gateway.start_radosgw()
    wait_until("the upload is ended", lambda: not (frozen.reap() and frozen.left()), 30)
    assert frozen.store.alice.list_multipart_uploads(Bucket="alice-out").get("Uploads", []) == []


def test_what_would_go_with_tmpdir_is_kept(frozen: Site, desk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """mom removes TMPDIR: what could not be uploaded from there is moved to where its owner finds it."""
    base = Path("/var/tmp/pbsdock-stage")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(mode=0o755)
    try:
        done = frozen.run(
            "--stage-out $TMPDIR/out s3://alice-none/never",
            "mkdir $TMPDIR/out && echo 1 >$TMPDIR/out/one",
            tmpdir=str(base),
        )
        kept = Path(f"~{USERS[0]}").expanduser() / f"pbsdock-kept.{done.job_id}"
        assert done.exit_status == 74, done.stderr
        assert done.stderr.decode().endswith(
            f"there is no such bucket; what was not uploaded is kept on {os.uname().nodename} in {kept}\n"
        )
        assert (kept / "out/one").read_text() == "1\n"
        assert (kept / "out/one").stat().st_uid == desk.stat().st_uid
    finally:
        shutil.rmtree(base)
        shutil.rmtree(kept)


@pytest.mark.parametrize(("when", "code", "there"), [("", 3, False), (" on=always", 3, True), (" on=success", 0, True)])
def test_when(site: Site, desk: Path, when: str, code: int, there: bool) -> None:
    """A failed job's results go out only where it says so; the exit status stays the job's own."""
    done = site.run(
        f"--stage-out $HOME/desk/out s3://alice-out/when{code}{there}{when}", f"echo x >$HOME/desk/out; exit {code}"
    )
    found = site.store.alice.list_objects_v2(Bucket="alice-out", Prefix=f"when{code}{there}").get("KeyCount")
    assert (done.exit_status, found) == (code, int(there)), done.stderr


def test_deleted_job_stages_out_in_any_case(site: Site, desk: Path) -> None:
    """A job that is deleted, and does not heed TERM, still has its on=always results uploaded by the epilogue."""
    trial = _begin(
        site,
        "--stage-out $HOME/desk/out s3://alice-out/always on=always",
        "trap '' TERM; echo x >$HOME/desk/out; echo ready; while :; do sleep 1; done",
    )
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    trial.request.kill_delay_s = 0.3
    trial.qdel()
    done = trial.finish(trial.wait())
    assert site.store.alice.get_object(Bucket="alice-out", Key="always")["Body"].read() == b"x\n", done.stderr
    assert "staged out 1 file, 2 B" in done.stderr.decode()
    assert site.left() == []


def test_deleted_while_results_go_out(site: Site, desk: Path) -> None:
    """qdel ends a stage-out; the results are kept, the upload in parts is not left at the gateway."""
    with open(desk / "out", "wb") as file:
        file.write(os.urandom(1 << 20) * 300)
    os.chown(desk / "out", desk.stat().st_uid, -1)
    trial = _begin(site, "--stage-out $HOME/desk/out s3://alice-out/deleted", "true")
    uploads = lambda: site.store.alice.list_multipart_uploads(Bucket="alice-out").get("Uploads", [])  # noqa: E731
    wait_until("an upload is under way", lambda: bool(uploads()) and bool(_workers()))
    os.kill(_workers()[0], signal.SIGSTOP)
    trial.request.kill_delay_s = 5
    trial.qdel()
    done = trial.finish(trial.wait())
    assert done.exit_status == 256 + signal.SIGTERM
    assert (
        f"staging was stopped: the job got SIGTERM; what was not uploaded is kept on {os.uname().nodename} in {desk}/out"
        in done.stderr.decode()
    )
    wait_until("nothing is left", lambda: not site.left())
    assert uploads() == []
    assert (desk / "out").stat().st_size == 300 << 20


def test_agent_killed_while_results_go_out(site: Site, desk: Path) -> None:
    """The next agent goes on with the same upload, and the job ends as it should."""
    with open(desk / "out", "wb") as file:
        file.write(os.urandom(1 << 20) * 300)
    os.chown(desk / "out", desk.stat().st_uid, -1)
    trial = _begin(site, "--stage-out $HOME/desk/out s3://alice-out/resumed", "exit 0")
    client = site.store.alice
    uploads = lambda: client.list_multipart_uploads(Bucket="alice-out").get("Uploads", [])  # noqa: E731
    wait_until("an upload is under way", lambda: bool(uploads()))
    first = uploads()[0]["UploadId"]
    wait_until(
        "parts are there",
        lambda: len(client.list_parts(Bucket="alice-out", Key="resumed", UploadId=first).get("Parts", [])) > 3,
    )
    site.instance.kill_agent()
    assert [one["UploadId"] for one in uploads()] == [first]
    site.restart_agent()
    done = trial.finish(trial.wait())
    assert done.exit_status == 0, done.stderr
    assert client.head_object(Bucket="alice-out", Key="resumed")["ContentLength"] == 300 << 20
    assert uploads() == []


def test_no_room(site: Site, desk: Path) -> None:
    """Told before the first byte, with both figures."""
    small = desk / "small"
    small.mkdir()
    os.chown(small, desk.stat().st_uid, -1)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,uid={desk.stat().st_uid}", "tmpfs", str(small)], check=True)
    try:
        site.store.alice.put_object(Bucket="alice-in", Key="big", Body=bytes(3 << 20))
        done = site.run("--stage-in s3://alice-in/big $HOME/desk/small/", "echo ran")
        assert done.exit_status == 125
        assert done.stderr.decode() == (
            f"pbsdock: STDIN:3:9: 3145728 bytes are to be staged to {desk}/small/ and its file system has 1048576 free;"
            " nothing was started\n"
        )
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_links_lead_nowhere(site: Site, desk: Path) -> None:
    """A link out of the mount is neither written through nor followed, and the user hears of it."""
    secret = Path("/var/tmp/pbsdock-outside")
    secret.mkdir(exist_ok=True)
    secret.chmod(0o777)
    (desk / "away").symlink_to(secret)
    into = site.run("--stage-in s3://alice-in/x/1 $HOME/desk/away/one", "echo ran")
    assert into.exit_status == 125
    assert f": {desk}/away/one leads out of " in into.stderr.decode()
    out = site.run("--stage-out $HOME/desk s3://alice-out/links/", "echo 1 >$HOME/desk/good")
    assert out.exit_status == 74
    assert f"pbsdock: not staged out: {desk}/away is a link that leads out of" in out.stderr.decode()
    assert site.store.alice.get_object(Bucket="alice-out", Key="links/good")["Body"].read() == b"1\n"
    assert list(secret.iterdir()) == []
    secret.rmdir()


def test_files_of_others(site: Site, desk: Path) -> None:
    """What the user cannot read is not uploaded, although the agent is root."""
    (desk / "out").mkdir()
    os.chown(desk / "out", desk.stat().st_uid, -1)
    (desk / "out/roots").write_text("secret")
    (desk / "out/roots").chmod(0o600)
    done = site.run("--stage-out $HOME/desk/out s3://alice-out/others/", "true")
    assert done.exit_status == 74
    assert f"STDIN:3:9: {desk}/out/roots: Permission denied; what was not uploaded is kept" in done.stderr.decode()
    assert site.store.alice.list_objects_v2(Bucket="alice-out", Prefix="others/").get("KeyCount") == 0


def test_key_that_is_no_path(site: Site, desk: Path) -> None:
    """A key with '..' in it would lead out of the target: it is named and not followed, and the others are staged."""
    for key in ("trap/../../evil", "trap/good"):
        site.store.alice.put_object(Bucket="alice-in", Key=key, Body=b"x")
    done = site.run("--stage-in s3://alice-in/trap/ $HOME/desk/d/", "ls $HOME/desk/d")
    site.store.alice.delete_object(Bucket="alice-in", Key="trap/../../evil")
    assert (done.exit_status, done.stdout) == (0, b"good\n")
    assert "trap/../../evil" in done.stderr.decode()
    assert not (desk.parent / "evil").exists()
