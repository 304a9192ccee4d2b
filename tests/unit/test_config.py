"""The configuration: typed, unknown keys refused with their line, documented to the last key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbsdock import config
from tests.conftest import ROOT


def test_shipped_file_is_the_defaults() -> None:
    """The commented file names every setting with its default and parses to exactly the defaults."""
    text = (ROOT / "etc/pbsdock.toml").read_text()

    assert text == config.commented()
    assert config.parse(text) == config.Config()


def test_every_key_is_in_the_manual() -> None:
    """The manual's tables are those the settings give."""
    assert config.documented().strip() in (ROOT / "docs/configuration.md").read_text()


def test_all_errors_at_once_with_their_lines() -> None:
    """One reading tells everything that is wrong."""
    text = (
        "[image]\nx = 1\n[images]\nalow = ['a']\npull = 'sometimes'\n[limits]\npids = 3\nshm = '64zz'\n"
        "[engine]\ntimeout_s = true\n[[override]]\nuser = ['a']\n[[override]]\n[override.mounts]\nallow = ['x']\n"
    )
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text)

    assert caught.value.problems == (
        "pbsdock.toml:1: unknown key 'image'; did you mean 'images'?",
        "pbsdock.toml:4: unknown key 'images.alow'; did you mean 'allow'?",
        "pbsdock.toml:5: images.pull = 'sometimes' is not allowed; use one of 'never', 'missing', 'always'",
        "pbsdock.toml:7: limits.pids = 3 is not allowed; it must be at least 16 and at most 4194304",
        "pbsdock.toml:8: limits.shm = '64zz' is not allowed; write a size such as \"64mb\" or a number of bytes",
        "pbsdock.toml:10: engine.timeout_s = True is not allowed; write a number",
        "pbsdock.toml:12: unknown key 'override.user'; did you mean 'users'?",
        "pbsdock.toml:15: override.mounts.allow = ('x',) is not allowed; every path begins with /",
    )


def test_not_toml() -> None:
    """A syntax error names its line."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse("[engine]\nsocket = \n")

    assert str(caught.value).startswith("pbsdock.toml:2: not TOML: ")


def test_untrusted_file(tmp_path: Path) -> None:
    """A file others can write to is not believed."""
    path = tmp_path / "pbsdock.toml"
    path.write_text("")
    path.chmod(0o666)

    assert config.untrusted(path) == f"{path} is writable by others (mode 0666); use chmod go-w"
    with pytest.raises(config.ConfigError):
        config.load(path)
    assert config.load(tmp_path / "absent.toml") == config.Config()
