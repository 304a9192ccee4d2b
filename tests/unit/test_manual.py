"""What is in share/ in use: bash and zsh complete every command with every option, man prints the pages, and an installation
links to them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from pbsdock.admin.setup import manual
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.versions import Version
from tests.conftest import ROOT
from tests.support.commands import parsers

SHARE = ROOT / "share"


ALL = {tuple(parser.prog.split()[1:]): parser for parser in parsers()}


def _visible(parser: argparse.ArgumentParser) -> list[str]:
    shown = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    return [name for action in shown for name in action.option_strings]


def _words(words: tuple[str, ...]) -> list[str]:
    """What may come after *words* on a command line, options left out."""
    return sorted(found[-1] for found in ALL if len(found) == len(words) + 1 and found[:-1] == words)


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man here")
def test_man_has_nothing_to_warn_of() -> None:
    """Each page goes through the real formatter, and comes out with the name of what it is about and its options."""
    for words, parser in ALL.items():
        page = SHARE / f"man/man1/{'-'.join(('pbsdock', *words))}.1"
        done = subprocess.run(
            ["man", "--warnings", "-l", str(page)],
            capture_output=True,
            text=True,
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "200"},
        )
        assert (done.returncode, done.stderr) == (0, ""), page
        assert f"{page.stem} -" in " ".join(done.stdout.split())
        assert not [name for name in {*_visible(parser)} - {"-h", "--help"} if name not in done.stdout], page


def _bash(directory: Path, *words: str) -> list[str]:
    """What bash offers for the last of *words*."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
        '_shtab_pbsdock pbsdock "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    file = directory / "pbsdock"
    file.write_text((SHARE / "bash-completion/completions/pbsdock").read_text())
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "-", str(file), "pbsdock", *words],
        capture_output=True, text=True, cwd=directory, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.parametrize("words", sorted(words for words in ALL if _words(words)), ids=" ".join)
def test_bash_offers_every_command(tmp_path: Path, words: tuple[str, ...]) -> None:
    """At each place where there is a choice of commands."""
    assert set(_words(words)) <= set(_bash(tmp_path, *words, ""))


@pytest.mark.parametrize("words", sorted(ALL), ids=" ".join)
def test_bash_offers_every_option(tmp_path: Path, words: tuple[str, ...]) -> None:
    """And none that is hidden."""
    assert set(_bash(tmp_path, *words, "-")) == set(_visible(ALL[words]))


def test_bash_offers_files_where_the_argument_is_one(tmp_path: Path) -> None:
    """Beside each other."""
    (tmp_path / "job.sh").touch()
    (tmp_path / "jobs").mkdir()

    assert {"job.sh", "jobs"} <= set(_bash(tmp_path, "check", "jo"))


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_loads_it_and_knows_every_command(tmp_path: Path) -> None:
    """Its completion system takes the file for that of pbsdock, and what describes the commands names each."""
    (tmp_path / "_pbsdock").write_text((SHARE / "zsh/site-functions/_pbsdock").read_text())
    script = (
        'fpath=("$1" $fpath); autoload -U compinit; compinit -u -d "$1/dump"; print -r -- "$_comps[pbsdock]"\n'
        "_describe() { print -rl -- ${(P)4} ${(P)3} ${(P)2} }; _arguments() { : }; service=pbsdock\n"
        'autoload +X _pbsdock; eval "$functions[_pbsdock]" >/dev/null 2>&1; for f in ${(k)functions[(I)_shtab_pbsdock*commands]}; do $f; done'
    )
    done = subprocess.run(["zsh", "-f", "-c", script, "-", str(tmp_path)], capture_output=True, text=True, check=True)

    said = done.stdout.splitlines()
    assert said[0] == "_pbsdock", done
    for words in ALL:
        assert not words or any(line.startswith(f"{words[-1]}:") for line in said), (words, said, done.stderr)


def _version(prefix: Path, *pages: str) -> Version:
    version = Version(prefix / "versions/1")
    for page in pages:
        path = version.home / "share/man/man1" / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (prefix / "current").unlink(missing_ok=True)
    (prefix / "current").symlink_to("versions/1")
    return version


def test_an_installation_links_to_the_version_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a version has not goes, what is not ours stays, and taking pbsdock out takes the links along."""
    local = tmp_path / "local"
    monkeypatch.setattr(manual, "_LOCAL", local)
    monkeypatch.setattr(manual, "_PACKAGE", tmp_path / "no")
    places = Places(mom_priv=tmp_path, prefix=tmp_path / "opt")
    (local / "man/man1").mkdir(parents=True)
    (local / "man/man1/ls.1").touch()
    (local / "man/man1/pbsdock-ps.1").write_text("the admin's own")

    manual.link(places, _version(places.prefix, "pbsdock.1", "pbsdock-ps.1"))
    (places.prefix / "versions/1/share/man/man1/pbsdock.1").unlink()
    between = sorted(path.name for path in (local / "man/man1").iterdir())
    manual.link(places, _version(places.prefix, "pbsdock-why.1"))
    after = sorted(path.name for path in (local / "man/man1").iterdir())

    assert between == ["ls.1", "pbsdock-ps.1", "pbsdock.1"]
    assert after == ["ls.1", "pbsdock-ps.1", "pbsdock-why.1"]
    assert (local / "man/man1/pbsdock-why.1").is_file()
    manual.remove(places)
    assert sorted(path.name for path in (local / "man/man1").iterdir()) == ["ls.1", "pbsdock-ps.1"]


@pytest.mark.parametrize("kind", ["below a root", "of the package"])
def test_no_links_where_they_are_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """An instance of several, and a host whose package has its own pages."""
    monkeypatch.setattr(manual, "_LOCAL", tmp_path / "local")
    monkeypatch.setattr(manual, "_PACKAGE", tmp_path / "pbsdock.list")
    if kind == "of the package":
        (tmp_path / "pbsdock.list").touch()
    root = tmp_path if kind == "below a root" else Path("/")
    places = Places(mom_priv=tmp_path, prefix=tmp_path / "opt", root=root)

    manual.link(places, _version(places.prefix, "pbsdock.1"))

    assert not (tmp_path / "local").exists()
