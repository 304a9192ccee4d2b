"""``pbsdock doctor packages``, on copies of the installed program in which something was really changed."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, USERS, Instance

pytestmark = [pytest.mark.engine, pytest.mark.threat(27)]
_CALL = "import sys; from pbsdock.admin.cli import main; sys.exit(main())"


class Copy:
    """The program of an instance, to be spoiled."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (self.site,) = base.glob("venv/lib/python3*/site-packages")

    def replace(self, name: str, data: bytes) -> Path:
        """Put a file in place of another; the copy shares its files with the instance."""
        path = self.site / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def doctor(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the copy's own command, as an ordinary user: there is nothing in it only root may know."""
        return subprocess.run(
            [
                str(self.base / "venv/bin/python3"),
                "-I",
                "-c",
                _CALL,
                "--paths",
                str(self.base / "paths.json"),
                "doctor",
                "packages",
                *options,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            user=USERS[0],
        )


@pytest.fixture
def copy(installed: Instance, scratch: Path) -> Iterator[Copy]:
    """A copy that nobody else looks at."""
    base, original = scratch / "copy", installed.home
    subprocess.run(["cp", "-al", str(original), str(base)], check=True)
    places = json.loads((base / "paths.json").read_text())
    (base / "paths.json").unlink()
    text = json.dumps({**places, "home": str(base), "lib": places["lib"].replace(str(original), str(base))})
    (base / "paths.json").write_text(text)
    yield Copy(base)
    shutil.rmtree(base)


def test_nothing_is_wrong(instance: Instance) -> None:
    """As installed: the lock's packages, every file, no known vulnerability; in words and for programs."""
    done = instance.command("doctor", "packages", "--json")
    found = json.loads(done.stdout)
    pinned = [line for line in (ROOT / "lock/run.txt").read_text().splitlines() if "==" in line]

    assert [(one["part"], one["step"], one["well"]) for one in found] == [
        ("packages", "lock", True),
        ("packages", "files", True),
        ("packages", "advisories", True),
    ], done.stdout
    assert found[0]["seen"] == f"the {len(pinned)} packages of the lock, and no others"
    assert int(found[1]["seen"].split()[0]) > 1000
    assert done.returncode == 0


def test_everything_that_was_changed_is_told(copy: Copy) -> None:
    """A source, a compiled file that no longer follows from its source, a file that is gone, files nobody installed."""
    source = copy.site / "docker/api/client.py"
    changed = copy.replace("docker/api/client.py", source.read_bytes() + b"# and more\n")
    honest = copy.site / "pbsdock/policy/decide.py"
    compiled = Path(importlib.util.cache_from_source(str(honest)))
    head = compiled.read_bytes()[:16]  # its source's time and size: an import would take it
    other = compile("ALLOW_ALL = True\n", str(honest), "exec")
    copy.replace(str(compiled.relative_to(copy.site)), head + marshal.dumps(other))
    gone = copy.site / "urllib3/response.py"
    gone.unlink()
    orphan = copy.replace(f"docker/__pycache__/more.{compiled.name.split('.')[1]}.pyc", head)
    path_file = copy.replace("more.pth", b"import os\n")
    module = copy.replace("sitecustomize.py", b"pass\n")
    done = copy.doctor()

    told = {line.removeprefix("NOT packages files: ") for line in done.stdout.splitlines() if line.startswith("NOT ")}
    locked = dict(
        line.split(" ")[0].split("==") for line in (ROOT / "lock/run.txt").read_text().splitlines() if "==" in line
    )
    assert told == {
        f"{changed} of docker {locked['docker']} is not as it was installed; run install.sh again",
        f"{compiled} is not what decide.py compiles to; remove it",
        f"{gone} of urllib3 {locked['urllib3']} cannot be read (No such file or directory); run install.sh again",
        f"{orphan} belongs to no package's source; remove it",
        f"{path_file} belongs to no package; remove it",
        f"{module} belongs to no package; remove it",
    }
    assert (done.returncode, done.stderr) == (1, "")


def test_other_packages_than_the_locks_are_told(copy: Copy) -> None:
    """One that is older and has a known vulnerability, one that is missing, one nobody asked for; and a lock that is gone."""
    (metadata,) = copy.site.glob("urllib3-*.dist-info/METADATA")
    text = metadata.read_text()
    version = text.split("\nVersion: ")[1].split("\n")[0]
    copy.replace(str(metadata.relative_to(copy.site)), text.replace(f"Version: {version}", "Version: 2.6.2").encode())
    (six,) = copy.site.glob("six-*.dist-info")
    shutil.rmtree(six)
    copy.replace("more-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    done = copy.doctor()
    (copy.base / "lock.txt").unlink()
    without = copy.doctor()

    for line in (
        f"NOT packages lock: urllib3 is 2.6.2 and the lock has {version}; run install.sh again",
        f"NOT packages lock: six {six.name.split('-')[1].removesuffix('.dist')} is missing; run install.sh again",
        "NOT packages lock: more 1.0 is not in the lock; run install.sh again",
        "NOT packages files: more 1.0 has no list of its files; run install.sh again",
        f"NOT packages files: {copy.site}/six.py belongs to no package; remove it",
        "NOT packages advisories: urllib3 2.6.2 has CVE-2025-66418, CVE-2025-66471, CVE-2026-21441 (answers that unpack "
        "without an end); 2.6.3 has not: install a newer pbsdock",
    ):
        assert line in done.stdout.splitlines(), done.stdout
    assert (done.returncode, without.returncode, without.stdout) == (1, 2, "")
    assert without.stderr == (
        f"pbsdock: the installation cannot be read ([Errno 2] No such file or directory: '{copy.base}/lock.txt'); "
        "run install.sh again\n"
    )


def test_the_installer_repairs(instance: Instance) -> None:
    """What doctor finds, ``install.sh --check`` finds, and installing again mends it, and takes out what the lock lacks."""
    (site,) = instance.home.glob("venv/lib/python3*/site-packages")
    module = site / "jmespath/ast.py"
    good = module.read_bytes()
    module.write_bytes(good + b"# and more\n")
    stray = site / "more-1.0.dist-info"  # as an older version's lock may have had
    stray.mkdir()
    (stray / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (stray / "RECORD").write_text("more-1.0.dist-info/METADATA,,\nmore-1.0.dist-info/RECORD,,\n")
    call = [str(ROOT / "install.sh"), "--mom-priv", str(instance.mom_priv), "--root", str(instance.root)]
    try:
        told = subprocess.run([*call, "--check"], capture_output=True, text=True, check=False).stdout
        mended = subprocess.run(call, capture_output=True, text=True, check=False)
    finally:
        if module.exists():
            module.write_bytes(good)
            shutil.rmtree(stray, ignore_errors=True)
    (site,) = instance.home.glob("venv/lib/python3*/site-packages")
    repaired, left = (site / "jmespath/ast.py").read_bytes(), (site / stray.name).exists()

    assert f"wrong: packages files: {module} of jmespath " in told
    assert "wrong: packages lock: more 1.0 is not in the lock; run install.sh again" in told.splitlines()
    assert (mended.returncode, repaired == good, left) == (0, True, False), mended.stderr
    assert instance.command("doctor", "packages").returncode == 0
    assert os.access(instance.home / "lock.txt", os.R_OK)
