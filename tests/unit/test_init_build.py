"""How the first process is compiled, carried and packed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.admin.setup.errors import SetupError

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "init"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host as most are."""
    monkeypatch.setenv("PATH", "/no/such/directory")
    monkeypatch.delenv("CC", raising=False)


def test_the_same_bytes_wherever_it_is_compiled(tmp_path: Path) -> None:
    """In another directory, from another directory, at another time: what is compared by its hash can be made again."""
    elsewhere = tmp_path / "a/longer/way"
    shutil.copytree(SOURCE, elsewhere)
    os.utime(elsewhere / "init.c", (0, 0))

    first_process.compile_to(tmp_path / "one/program", SOURCE)
    first_process.compile_to(tmp_path / "other", elsewhere)

    assert (tmp_path / "one/program").read_bytes() == (tmp_path / "other").read_bytes()
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o755
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"program"}


@pytest.mark.parametrize("compiler", first_process.COMPILERS)
def test_every_compiler_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    """Static in any case, and without a warning."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("CC", compiler)

    first_process.compile_to(tmp_path / "program", SOURCE)

    done = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "usage, as process 1 of a container: pbsdock-init DIRECTORY [GRACE_MS]\n"


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler(tmp_path: Path) -> None:
    """One sentence, and nothing half-made."""
    said = first_process.provide(tmp_path / "program", SOURCE, None)

    assert said == "there is no C compiler; apt-get install gcc libc6-dev (or musl-tools)"
    assert list(tmp_path.iterdir()) == []


def test_with_a_compiler_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own first error is in the sentence."""
    broken = tmp_path / "source"
    shutil.copytree(SOURCE, broken)
    (broken / "init.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setenv("CC", "cc")

    with pytest.raises(
        SetupError, match=r"^\S*/cc cannot compile \S*/source/init.c: init.c:1:\d+: error: .*nothing.*$"
    ):
        first_process.compile_to(tmp_path / "program", broken)

    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_it_is_carried_with_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To hosts without a compiler: only what was compiled from the same source counts."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    carried = wheels / first_process.carried(SOURCE)
    first_process.compile_to(carried, SOURCE)
    changed = tmp_path / "source"
    shutil.copytree(SOURCE, changed)
    with (changed / "message.h").open("a") as file:
        file.write("/* newer */\n")
    monkeypatch.setenv("PATH", "/no/such/directory")
    monkeypatch.delenv("CC", raising=False)

    assert first_process.provide(tmp_path / "program", SOURCE, wheels) == ""
    assert (tmp_path / "program").read_bytes() == carried.read_bytes()
    assert os.access(tmp_path / "program", os.X_OK)
    assert first_process.provide(tmp_path / "other", changed, wheels).startswith("there is no C compiler;")


def test_a_wheel_has_it(tmp_path: Path) -> None:
    """Executable, and the wheel says for which processor it is; where it cannot be compiled there is no wheel."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, checkout)
    shutil.copytree(SOURCE, checkout / "init")
    programs = [Path(program.name).name for program in first_process.PROGRAMS]
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", *programs)
    shutil.copytree(REPOSITORY / "lib", checkout / "lib", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    build = [*pip, "--no-build-isolation", "-w", str(tmp_path), str(checkout)]

    done = subprocess.run(build, capture_output=True, text=True, check=False, env={**os.environ, "PATH": "/no/such"})
    assert done.returncode != 0
    assert "the first process of containers is missing: there is no C compiler;" in done.stdout + done.stderr
    subprocess.run(build, capture_output=True, check=True)

    (wheel,) = tmp_path.glob("pbsdock-*.whl")
    assert wheel.name.startswith("pbsdock-0.1.0-py3-none-linux_")
    with zipfile.ZipFile(wheel) as file:
        for program in first_process.PROGRAMS:
            found = file.getinfo(f"pbsdock/{program.name}")
            assert found.external_attr >> 16 & 0o777 == 0o755
            assert file.read(found).startswith(b"\x7fELF")
