"""Files staged in before and out after a job, through the hooks, an engine and a gateway that are all real."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import USERS
from tests.s3.site import Site

pytestmark = pytest.mark.engine


def _home() -> Path:
    return Path(pwd.getpwnam(USERS[0]).pw_dir)


@pytest.fixture
def desk() -> Iterator[Path]:
    """A directory of the user's that is empty before and gone after; no test may leave anything unfinished in it."""
    path = _home() / "desk"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    shutil.chown(path, USERS[0])
    yield path
    unfinished = [str(one) for one in path.rglob(".pbsdock-*")]
    shutil.rmtree(path)
    assert unfinished == []


def test_there_and_back(site: Site, desk: Path) -> None:
    """An object comes in, is worked on, and the result goes out; the user reads one line of each."""
    done = site.run(
        "--stage-in s3://alice-in/x/1 $HOME/desk/in.txt --stage-out $HOME/desk/out.txt s3://alice-out/results/one",
        "tr a-z A-Z <$HOME/desk/in.txt >$HOME/desk/out.txt; echo ran",
    )
    assert done.exit_status == 0, done.stderr
    assert done.stdout == b"ran\n"
    told = done.stderr.decode().splitlines()
    assert len(told) == 2
    assert told[0].startswith("pbsdock: staged in 1 file, 13 B in ")
    assert told[1].startswith("pbsdock: staged out 1 file, 13 B in ")
    assert site.store.alice.get_object(Bucket="alice-out", Key="results/one")["Body"].read() == b"ALICE-IN X/1\n"
    assert os.stat(desk / "in.txt").st_uid == pwd.getpwnam(USERS[0]).pw_uid


def _put(site: Site, key: str, data: bytes, bucket: str = "alice-in") -> None:
    site.store.alice.put_object(Bucket=bucket, Key=key, Body=data)


def _keys(site: Site, prefix: str) -> dict[str, bytes]:
    client = site.store.alice
    found = client.list_objects_v2(Bucket="alice-out", Prefix=prefix).get("Contents", [])
    return {one["Key"]: client.get_object(Bucket="alice-out", Key=one["Key"])["Body"].read() for one in found}


def test_prefixes_and_wildcards(site: Site, desk: Path) -> None:
    """Whole prefixes keep their tree; a wildcard takes what matches within its component and nothing else."""
    for key in ("t/a.fq", "t/deep/er/b.fq", "t/c.txt", "t2/no.fq"):
        _put(site, key, key.encode())
    done = site.run(
        "--stage-in s3://alice-in/t/ $HOME/desk/tree --stage-in s3://alice-in/t/*.fq $HOME/desk/some/"
        " --stage-in s3://alice-in/t/c.txt $HOME/desk/some/"
        " --stage-out $HOME/desk/tree s3://alice-out/tree --stage-out $HOME/desk/some/*.fq s3://alice-out/globbed/",
        "cd $HOME/desk && find tree some -type f | sort; : >tree/empty; ln -s a.fq tree/link",
    )
    assert done.stdout.decode().split() == [
        "some/a.fq",
        "some/c.txt",
        "tree/a.fq",
        "tree/c.txt",
        "tree/deep/er/b.fq",
    ], done.stderr
    assert done.exit_status == 0
    assert _keys(site, "tree/") == {
        "tree/a.fq": b"t/a.fq",
        "tree/c.txt": b"t/c.txt",
        "tree/deep/er/b.fq": b"t/deep/er/b.fq",
        "tree/empty": b"",
        "tree/link": b"t/a.fq",
    }
    assert _keys(site, "globbed/") == {"globbed/a.fq": b"t/a.fq"}
    events = [one for one in site.instance.trail(done.job_id) if one["event"] == "stage.done"]
    assert [(one["direction"], one["files"]) for one in events] == [("in", 5), ("out", 6)]
    again = site.run("--stage-in s3://alice-in/t/ $HOME/desk/tree", "true")
    assert ", 3 of them there already" in again.stderr.decode()


def test_modes_follow_the_jobs_umask(site: Site, desk: Path) -> None:
    """As of files the job's script makes itself; what was there before keeps its own."""
    _put(site, "modes/d/file", b"1")
    (desk / "there").mkdir(mode=0o700)
    shutil.chown(desk / "there", USERS[0])
    for umask in (0o077, 0o022, 0o007):
        name = f"{umask:o}"
        done = site.run(
            f"--stage-in s3://alice-in/modes/ $HOME/desk/there/{name}",
            f"cd $HOME/desk; mkdir made{name}; touch made{name}/file; stat -c %a made{name} made{name}/file",
            umask=umask,
        )
        assert done.exit_status == 0, done.stderr
        paths = [desk / "there" / name / "d", desk / "there" / name / "d/file"]
        assert [f"{os.stat(path).st_mode & 0o777:o}" for path in paths] == done.stdout.decode().split()
        assert os.stat(desk / "there" / name).st_mode & 0o777 == 0o777 & ~umask
    assert os.stat(desk / "there").st_mode & 0o777 == 0o700


def test_keys_that_can_be_no_files(site: Site, desk: Path) -> None:
    """They are named, the others are staged, and the job runs; a gateway takes all of these keys."""
    keys = ("odd/a", "odd/a/b", "odd/x//y", "odd/dir/", f"odd/{'n' * 300}", "odd/ok")
    for key in keys:
        _put(site, key, b"" if key.endswith("/") else b"1")
    done = site.run("--stage-in s3://alice-in/odd/ $HOME/desk/odd", "cd $HOME/desk/odd && find . | sort")
    assert done.exit_status == 0, done.stderr
    assert done.stdout.decode().split() == [".", "./a", "./a/b", "./dir", "./ok"]
    told = done.stderr.decode().splitlines()
    assert told[0].startswith("pbsdock: staged in 2 files, 2 B in ")
    assert sorted(line.partition(" the key ")[2][:12] for line in told[1:]) == [
        "'odd/a' cann",
        "'odd/nnnnnnn",
        "'odd/x//y' i",
    ]
    assert all(line.startswith("pbsdock: not staged in: the key ") for line in told[1:])
    refused = site.run(f"--stage-in s3://alice-in/odd/{'n' * 300} $HOME/desk/one/", "echo ran")
    assert (refused.exit_status, refused.stdout) == (125, b"")
    assert b" cannot be a file: its name would have more than 255 bytes; nothing was started" in refused.stderr


def test_large_files(site: Site, desk: Path) -> None:
    """What goes in parts comes whole: 40 MiB of several parts in, and out again."""
    data = os.urandom(1 << 20) * 40 + b"end"
    _put(site, "large/one", data)
    done = site.run(
        "--stage-in s3://alice-in/large/one $HOME/desk/large/ --stage-out $HOME/desk/large/copy s3://alice-out/large/copy",
        "cp $HOME/desk/large/one $HOME/desk/large/copy",
    )
    assert done.exit_status == 0, done.stderr
    assert site.store.alice.get_object(Bucket="alice-out", Key="large/copy")["Body"].read() == data
    assert site.store.alice.list_multipart_uploads(Bucket="alice-out").get("Uploads", []) == []
    back = site.run(
        "--stage-in s3://alice-out/large/copy $HOME/desk/large/back", "cmp $HOME/desk/large/back $HOME/desk/large/one"
    )
    assert (back.exit_status, back.stdout) == (0, b"")
    verified = [one["unverified"] for one in site.instance.trail(back.job_id) if one["event"] == "stage.done"]
    assert verified == [0]


REFUSED = {
    "missing": (
        "--stage-in s3://alice-in/x/9 $HOME/desk/in",
        "no-such-object",
        ":3:9: s3://alice-in/x/9 does not exist; nothing was started",
    ),
    "a prefix without its slash": (
        "--stage-in s3://alice-in/x $HOME/desk/in",
        "no-such-object",
        ":3:9: s3://alice-in/x does not exist; there are objects below it: write s3://alice-in/x/ for all of them;"
        " nothing was started",
    ),
    "an empty prefix": (
        "--stage-in s3://alice-in/nothing/ $HOME/desk/in",
        "no-such-object",
        ":3:9: s3://alice-in/nothing/ has no object below it; nothing was started",
    ),
    "no match": (
        "--stage-in s3://alice-in/x/*.fq $HOME/desk/in",
        "no-such-object",
        ":3:9: s3://alice-in/x/*.fq matches no object; nothing was started",
    ),
    "no such bucket": (
        "--stage-in s3://alice-none/x $HOME/desk/in",
        "no-such-object",
        ":3:9: s3://alice-none/x: there is no such bucket; nothing was started",
    ),
    "not mounted": (
        "--stage-in s3://alice-in/x/1 /data/in",
        "stage-path-not-mounted",
        ":3:9: --stage-in path '/data/in' is not in a directory of the host that the container gets; those are ",
    ),
    "not open": (
        "--stage-out $HOME/desk/x s3://bob-data/x",
        "bucket-not-allowed",
        ":3:9: --stage-out s3://bob-data/x: bucket 'bob-data' below 'x' of store ceph is not open to ",
    ),
    "two that become one": (
        "--stage-in s3://alice-in/x/1 $HOME/desk/in/ --stage-in s3://alice-in/y/1 $HOME/desk/in/",
        "stage-path",
        ":3:53: s3://alice-in/y/1 and s3://alice-in/x/1 would both become HOME/desk/in/1; nothing was started",
    ),
    "a file in the way": (
        "--stage-in s3://alice-in/x/1 $HOME/desk/file/in",
        "stage-path",
        ":3:9: HOME/desk/file/in cannot be written: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(site: Site, desk: Path, case: str) -> None:
    """One sentence with its place, exit status 125, nothing started, nothing left."""
    options, code, sentence = REFUSED[case]
    (desk / "file").touch()
    done = site.run(options, "echo ran")
    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.decode().startswith(f"pbsdock: STDIN{sentence.replace('HOME', str(_home()))}"), done.stderr
    assert len(done.stderr.decode().splitlines()) == 1
    refused = [one for one in site.instance.trail(done.job_id) if one["event"] == "job.refused"]
    assert [one["code"] for one in refused] == [code]
    assert site.left() == []
