"""Signatures between nodes: by a key and by a real munged; everything else than what root has signed is refused."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pbsdock.admin.cli import main
from pbsdock.cluster.signing import MOST_KEY, KeySigner, MungeSigner, SigningError, choose, key_file, read_key
from pbsdock.config.sections import NodesConfig
from pbsdock.core.paths import Paths
from tests.conftest import ROOT
from tests.support.munge import Munged, needs_munge, two_and_a_stranger

KEY = bytes(range(32))
PAYLOADS = [b"", b"x", b'{"v": 1}\n\n\x00\xff', bytes(range(256)) * 40]
CHARACTERS = re.compile(r"[A-Za-z0-9._-]+")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root's, which are all it trusts")


def _refused(signer: KeySigner | MungeSigner, text: str) -> str:
    with pytest.raises(SigningError) as caught:
        signer.verify(text)
    assert caught.value.code == "not-authentic"
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- a key ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_signed_is_verified(payload: bytes) -> None:
    """By another with the same key, as a word without blank or comma."""
    text = KeySigner(KEY).sign(payload)

    assert CHARACTERS.fullmatch(text)
    assert KeySigner(KEY).verify(text) == payload


@pytest.mark.parametrize("payload", PAYLOADS[:3])
def test_every_change_of_every_character_is_refused(payload: bytes) -> None:
    """Also one that base64 would read as the same bytes, and one character more or less anywhere."""
    signer = KeySigner(KEY)
    text = signer.sign(payload)
    for place in range(len(text)):
        for other in string.ascii_letters + string.digits + "._-":
            if other != text[place]:
                _refused(signer, text[:place] + other + text[place + 1 :])
        _refused(signer, text[:place] + text[place + 1 :])
        _refused(signer, text[:place] + "A" + text[place:])


def test_payloads_are_not_exchanged() -> None:
    """A payload with another's MAC is refused."""
    one, other = KeySigner(KEY).sign(b"one"), KeySigner(KEY).sign(b"other")

    _refused(KeySigner(KEY), one.rpartition(".")[0] + "." + other.rpartition(".")[2])


def test_another_key_is_refused() -> None:
    """The sentence says what may be wrong."""
    assert "signed with another key" in _refused(KeySigner(KEY), KeySigner(KEY[::-1]).sign(b"x"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("k1.", "not written as one"),
        ("k1." + "A" * (1 << 20), "characters, at most"),
        ("k1.AAAA.BBBB\n", "not written as one"),
        (" k1.AAAA.BBBB", "not written as one"),
        ("k1.AAAA.BBBB,X=1", "not written as one"),
        ("k1.Ä.B", "not written as one"),
        ("k2.AAAA.BBBB", "not written as one"),
        ("k1.A.BBBB", "not whole"),
        ("k1.AAAA", "changed, or signed with another key"),
        ("m1.AAAA", "sign_with must be the same on all nodes"),
    ],
)
def test_what_is_no_signature(text: str, said: str) -> None:
    """Each is refused with a sentence."""
    assert said in _refused(KeySigner(KEY), text)


@as_root
def test_the_keys_file(tmp_path: Path) -> None:
    """Only a plain file that root alone can read or replace, of a sensible length."""
    file = tmp_path / "cluster.key"

    def said() -> str:
        with pytest.raises(SigningError) as caught:
            read_key(file)
        assert caught.value.code == "cannot-sign"
        return str(caught.value)

    assert "does not exist; make it with pbsdock setup key" in said()
    for length, fine in ((0, False), (31, False), (32, True), (MOST_KEY, True), (MOST_KEY + 1, False)):
        file.write_bytes(b"x" * length)
        file.chmod(0o600)
        if fine:
            assert read_key(file) == b"x" * length
        else:
            assert f"has {length} bytes; expected 32 to 4096" in said()
    file.write_bytes(KEY)
    for mode in (0o640, 0o604, 0o610):
        file.chmod(mode)
        assert "others than root must not read it: chmod 600" in said()
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        assert "is writable by others" in said()
    file.chmod(0o400)
    assert read_key(file) == KEY
    os.chown(file, 12345, 0)
    assert "belongs to uid 12345" in said()
    os.chown(file, 0, 0)
    tmp_path.chmod(0o777)
    assert "is writable by others" in said()
    tmp_path.chmod(0o755)
    file.unlink()
    file.mkdir(0o700)
    assert "not a plain file" in said()


def test_a_short_key_is_refused() -> None:
    """Wherever it comes from."""
    with pytest.raises(SigningError, match="has 31 bytes"):
        KeySigner(KEY[:31])


# -- munge ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def munges() -> Iterator[tuple[Munged, Munged, Munged]]:
    """Two nodes of one cluster, and a stranger's munged; users can reach them, which pytest's own directories deny."""
    with TemporaryDirectory() as name:
        where = Path(name)
        where.chmod(0o755)
        with two_and_a_stranger(where) as found:
            yield found


@needs_munge
@pytest.mark.parametrize("payload", PAYLOADS)
def test_munge_on_another_node(munges: tuple[Munged, Munged, Munged], payload: bytes) -> None:
    """What is signed on one node is verified on another, as often as it is asked there: replayed in munge's sense."""
    node, other, _ = munges
    text = node.signer.sign(payload)

    assert CHARACTERS.fullmatch(text)
    assert [other.signer.verify(text) for _ in range(3)] == [payload] * 3


@needs_munge
def test_munge_with_another_key(munges: tuple[Munged, Munged, Munged]) -> None:
    """A stranger's credential is refused, and ours there."""
    node, _, stranger = munges

    assert "munge says: Error: Invalid credential" in _refused(node.signer, stranger.signer.sign(b"x"))
    _refused(stranger.signer, node.signer.sign(b"x"))


@needs_munge
def test_munge_changed_at_every_character(munges: tuple[Munged, Munged, Munged]) -> None:
    """Each character, one change; and cut short."""
    node = munges[0]
    text = node.signer.sign(b'{"v": 1}')
    for place in range(len(text)):
        other = "A" if text[place] != "A" else "B"
        _refused(node.signer, text[:place] + other + text[place + 1 :])
    for cut in (1, 2, 3, 4, len(text) // 2):
        _refused(node.signer, text[:-cut])
    for wrong in ("", "m1.", "m1.AAAA", "m1.A", "k1.AAAA.BBBB", text + "\n", text + "A", "m1." + "A" * (1 << 20)):
        _refused(node.signer, wrong)


def _as_ours(credential: bytes) -> str:
    raw = base64.b64decode(credential.split(b":")[1])
    return "m1." + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@needs_munge
def test_munge_expired_is_still_authentic(munges: tuple[Munged, Munged, Munged]) -> None:
    """The payload has a time of its own, which its reader looks at."""
    node = munges[0]
    text = _as_ours(node.call("munge", "--ttl=1", "--restrict-uid=0", payload=b"pbsdock\0old"))
    time.sleep(2.5)

    assert node.signer.verify(text) == b"old"


@needs_munge
def test_munge_of_a_user_is_refused(munges: tuple[Munged, Munged, Munged]) -> None:
    """Whoever may have munge sign: not root, no signature. One for another reader is none either."""
    node = munges[0]
    users = node.call("munge", "--uid=65534", payload=b"pbsdock\0x")

    assert "uid 65534 has signed it, not root" in _refused(node.signer, _as_ours(users))
    others = node.call("munge", "--restrict-uid=65534", payload=b"pbsdock\0x")
    assert "munge says" in _refused(node.signer, _as_ours(others))


@needs_munge
def test_munge_of_another_program_of_roots_is_refused(munges: tuple[Munged, Munged, Munged]) -> None:
    """Root's other programs use munge as well, for other things."""
    node = munges[0]

    assert "another program" in _refused(node.signer, _as_ours(node.call("munge", payload=b'{"v": 1}')))


@needs_munge
def test_no_user_reads_a_signed_text(munges: tuple[Munged, Munged, Munged]) -> None:
    """It is restricted to root, although it travels through users' processes."""
    node = munges[0]
    raw = base64.urlsafe_b64decode(node.signer.sign(b"seen?")[3:] + "==")
    call = ["unmunge", f"--socket={node.socket}"]
    data = b"MUNGE:" + base64.b64encode(raw) + b":"
    done = subprocess.run(call, input=data, capture_output=True, user=65534, extra_groups=())

    assert done.returncode == 18  # EMUNGE_CRED_UNAUTHORIZED
    assert b"seen?" not in done.stdout + done.stderr


@needs_munge
def test_munged_gone(tmp_path: Path) -> None:
    """Told as this node's trouble, not as a forged signature."""
    munged = Munged(tmp_path / "m")
    text = munged.signer.sign(b"x")
    munged.stop()
    for ask in (lambda: munged.signer.sign(b"x"), lambda: munged.signer.verify(text)):
        with pytest.raises(SigningError, match="munge") as caught:
            ask()
        assert caught.value.code == "cannot-sign"
    assert not munged.signer.answers()


def test_no_munge_installed(tmp_path: Path) -> None:
    """A sentence, and not chosen by itself."""
    signer = MungeSigner(programs=tmp_path)

    with pytest.raises(SigningError, match="munge cannot be started: No such file"):
        signer.sign(b"x")
    assert not signer.answers()


def test_a_munge_that_hangs_is_given_up_with_a_fake_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake program, since no munged hangs when asked to."""
    monkeypatch.setattr("pbsdock.cluster.signing._MUNGE_TIMEOUT_S", 0.2)
    program = tmp_path / "munge"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)

    began = time.monotonic()
    with pytest.raises(SigningError, match="has not answered"):
        MungeSigner(programs=tmp_path).sign(b"x")
    assert time.monotonic() - began < 5


# -- the choice -------------------------------------------------------------------------------------------------------


@needs_munge
def test_the_choice(tmp_path: Path, munges: tuple[Munged, Munged, Munged]) -> None:
    """auto: munge where it answers, else the key where it is, else nothing. What is asked for by name is not replaced."""
    config, key = tmp_path / "pbsdock.toml", tmp_path / "cluster.key"
    here, gone = munges[0].signer, MungeSigner(str(tmp_path / "none"))
    auto, named = NodesConfig(), NodesConfig(sign_with="key")

    assert choose(auto, config, here) is here
    assert choose(auto, config, gone) is None
    assert choose(NodesConfig(sign_with="munge"), config, gone) is gone
    with pytest.raises(SigningError, match="does not exist"):
        choose(named, config, here)
    key.write_bytes(KEY)
    key.chmod(0o644)
    for nodes in (auto, named):
        with pytest.raises(SigningError, match="chmod 600"):
            choose(nodes, config, gone)
    key.chmod(0o600)
    for nodes, munge in ((auto, gone), (named, here)):
        chosen = choose(nodes, config, munge)
        assert isinstance(chosen, KeySigner)
        assert chosen.verify(KeySigner(KEY).sign(b"x")) == b"x"
    assert key_file(NodesConfig(key_file="/a/b"), config) == Path("/a/b")


# -- pbsdock setup key ------------------------------------------------------------------------------------------------


def _setup_key(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'lib')!r})\n"]
    call[-1] += "from pbsdock.admin.cli import main; sys.exit(main())"
    return subprocess.run([*call, "setup", "key", f"--root={root}", *options], capture_output=True, text=True)


@as_root
def test_setup_key(tmp_path: Path) -> None:
    """Made once, root's alone; another only by request; where the configuration has it."""
    etc = tmp_path / "etc/pbsdock"
    etc.mkdir(parents=True)
    key = etc / "cluster.key"

    made = _setup_key(tmp_path)
    assert made.returncode == 0, made.stderr
    assert f"made {key}; copy it as it is" in made.stdout
    found = key.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)
    first = read_key(key)
    assert first.decode() not in made.stdout

    again = _setup_key(tmp_path)
    assert (again.returncode, read_key(key)) == (1, first)
    assert "copy it to all nodes, or make another with --replace" in again.stderr

    replaced = _setup_key(tmp_path, "--replace")
    assert replaced.returncode == 0
    assert read_key(key) != first

    elsewhere = tmp_path / "keys"
    elsewhere.mkdir()
    (etc / "pbsdock.toml").write_text(f'[nodes]\nkey_file = "{elsewhere}/k"\n')
    assert _setup_key(tmp_path).returncode == 0
    assert read_key(elsewhere / "k")
    elsewhere.chmod(0o777)
    unsafe = _setup_key(tmp_path, "--replace")
    assert unsafe.returncode == 1
    assert "is writable by others" in unsafe.stderr


@as_root
def test_config_looks_at_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is there or has to be; so does install.sh --check, which asks the same command."""
    etc = tmp_path / "etc"
    etc.mkdir()
    paths = tmp_path / "paths.json"
    places = dict.fromkeys(Paths.__dataclass_fields__, str(tmp_path)) | {"config": str(etc / "pbsdock.toml")}
    paths.write_text(json.dumps(places))

    def config(text: str = "") -> tuple[int, str]:
        (etc / "pbsdock.toml").write_text(text)
        return main(["--paths", str(paths), "config"]), capsys.readouterr().err

    assert config() == (0, "")
    code, said = config("[nodes]\nsign_with = 'key'\n")
    assert (code, said.split(":")[:2]) == (2, ["pbsdock.toml", " nodes.key_file"])
    (etc / "cluster.key").write_bytes(KEY)
    (etc / "cluster.key").chmod(0o640)
    assert "chmod 600" in config()[1]
    assert config("[nodes]\nsign_with = 'munge'\n") == (0, "")
    (etc / "cluster.key").chmod(0o600)
    assert config() == (0, "")


def test_setup_key_says_what_it_does() -> None:
    """``--help``."""
    assert "--replace" in _setup_key(Path("/nowhere"), "--help").stdout
