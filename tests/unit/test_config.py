"""The configuration: typed, unknown keys refused with their line, all errors at once, documented to the last key."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.config import text as config_text
from pbsdock.config.change import changes, in_force
from pbsdock.config.lines import line_of, positions
from pbsdock.config.tables import (
    Config,
    ConfigError,
    Override,
    RegistryConfig,
    StoreConfig,
    StoreRules,
    check_trusted,
    load,
    parse,
)
from tests.conftest import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root's, which are all it trusts")


def _problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


# -- the file that is shipped, and the manual -------------------------------------------------------------------------


def test_shipped_file_is_the_table_of_settings() -> None:
    """The commented file names every setting with its default and what it means."""
    assert (ROOT / "etc/pbsdock.toml").read_text() == config_text.commented()


def test_shipped_file_parses_to_the_defaults() -> None:
    """As shipped, and with every key uncommented, nothing differs from having no file."""
    text = (ROOT / "etc/pbsdock.toml").read_text()
    tables, store = text[: text.index("#[[override]]")].split("#[s3.NAME]")
    tables, _, registry = tables.partition('#[registry."docker.io"]')

    assert parse(text) == Config()
    assert parse(re.sub(r"^#(?=[a-z_0-9]+ = )", "", tables, flags=re.MULTILINE)) == Config()
    named = re.sub(r"^#(?=[a-z_]+ = )", "", registry, flags=re.MULTILINE)
    assert parse(f'[registry."docker.io"]{named}').registry == {"docker.io": RegistryConfig()}
    uncommented = re.sub(r"^#(?=[a-z_]+ = )", "", store, flags=re.MULTILINE)
    needed = {"endpoint": "https://rgw.test", "identity": "/etc/rgw.toml"}
    for key, value in needed.items():
        uncommented = uncommented.replace(f'{key} = ""', f'{key} = "{value}"')
    assert parse(f"[s3.ceph]\n{uncommented}").s3 == {"ceph": StoreConfig(**needed)}


def test_example_of_an_override_parses_when_uncommented() -> None:
    """The commented example at the end of the shipped file is itself valid."""
    text = (ROOT / "etc/pbsdock.toml").read_text()
    example = text[text.index("#[[override]]") :]

    (override,) = parse(re.sub(r"^#(?=[a-z\[])", "", example, flags=re.MULTILINE)).override

    assert override.images is not None
    assert override.images.allow == ("docker.io/library/*",)


def test_every_key_is_in_the_manual() -> None:
    """The manual's tables are those the settings give."""
    assert config_text.documented() in (ROOT / "docs/configuration.md").read_text()


def test_every_default_is_allowed_by_its_own_bounds() -> None:
    """Writing a default out changes nothing: no bound excludes what we ship."""
    for one in config_text.describe():
        if one.section not in ("override", "s3.NAME"):
            found = parse(f"[{one.section}]\n{one.key} = {one.default}\n")
            assert replace(found, registry={}) == Config(), one


# -- registries -------------------------------------------------------------------------------------------------------


def test_registries_and_their_mirrors() -> None:
    """By the names that full references have, with their mirrors in order."""
    text = (
        '[registry."docker.io"]\nmirrors = ["hub.test:5000", "harbor.test/hub"]\ntags = "mirror"\n[registry."r.test"]\n'
    )
    found = parse(f"{text}max_per_minute = 6\n").registry

    assert found["docker.io"] == RegistryConfig(mirrors=("hub.test:5000", "harbor.test/hub"), tags="mirror")
    assert found["r.test"].max_per_minute == 6


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[registry.docker.io]\n",
            "docker\" in registry is not a name; expected a registry as full names of images have it, in quotes",
        ),
        ('[registry."hub"]\n', '"hub" in registry is not a name; expected a registry'),
        ('[registry."index.docker.io"]\n', "expected a registry as full names of images have it"),
        (
            '[registry."docker.io"]\nmirrors = ["https://m.test"]\n',
            '"https://m.test" in registry.docker.io.mirrors is not allowed; expected a mirror as names of images',
        ),
        ('[registry."docker.io"]\nmirrors = ["mirror/x"]\n', "expected a mirror as names of images would begin"),
        ('[registry."a.test"]\nmirrors = ["b.test", "a.test/x"]\n', "a.test/x is at the registry itself"),
        ('[registry."a.test"]\ntags = "both"\n', 'expected one of "origin", "mirror"'),
        ('[registry."a.test"]\nmax_per_minute = -1\n', "registry.a.test.max_per_minute = -1 is not allowed; expected"),
        ('[registry."a.test"]\nmirror = []\n', "did you mean 'mirrors'?"),
        ("[images]\nmax_pulls = -1\n", "images.max_pulls = -1 is not allowed; expected at least 0 and at most 1000"),
    ],
)  # fmt: skip
def test_registries_that_are_wrong(text: str, sentence: str) -> None:
    """One sentence with the value and what is allowed."""
    (problem,) = _problems(text)

    assert sentence in problem
    assert problem.startswith("pbsdock.toml:")


def test_what_changed_of_registries() -> None:
    """In force without a start, key by key."""
    before = parse('[registry."a.test"]\nmax_per_minute = 1\n[registry."b.test"]\n')
    after = parse('[registry."a.test"]\nmax_per_minute = 2\n')

    found = {change.key: (change.after, change.needs_restart) for change in changes(before, after)}
    assert found == {"registry.a.test.max_per_minute": (2, False), "registry.b.test": (None, False)}
    assert in_force(before, after) == after


# -- object stores ----------------------------------------------------------------------------------------------------

STORE = '[s3.ceph]\nendpoint = "https://rgw.test:8443"\nidentity = "/etc/pbsdock/ceph.toml"\nallow = ["{user}-*", "public:ro"]\n'


def test_stores_keep_the_order_of_the_file() -> None:
    """The first store is the default, so the order counts."""
    found = parse(STORE + STORE.replace("ceph", "archive")).s3

    assert list(found) == ["ceph", "archive"]
    assert found["ceph"].allow == ("{user}-*", "public:ro")


def test_override_of_a_stores_rules() -> None:
    """An override replaces what may be asked for, and nothing else of a store."""
    (override,) = parse(STORE + '[[override]]\ngroups = ["bio"]\n[override.s3.ceph]\nallow = ["bio-*"]\n').override
    (other,) = parse(STORE + '[[override]]\ngroups = ["bio"]\n').override

    assert override.s3 == {"ceph": StoreRules(allow=("bio-*",))}
    assert other.s3 is None


def test_errors_of_stores() -> None:
    """What is missing, misspelt or contradictory is told with its line."""
    text = (
        '[s3.ceph]\nendpoint = "rgw.test/x"\nallow = ["../b", "{home}", "b:rx"]\nlifetime_s = 30\nprobe = ["one"]\n'
        '[s3."b d"]\nx = 1\n[[override]]\n[override.s3.cepf]\nallow = []\n[override.s3.ceph]\nendpoint = "x"\n'
    )

    assert _problems(text) == (
        "pbsdock.toml:1: s3.ceph.endpoint is missing",
        "pbsdock.toml:1: s3.ceph.identity is missing",
        'pbsdock.toml:2: s3.ceph.endpoint = "rgw.test/x" is not allowed; expected scheme and host, for example'
        ' "https://rgw.example.org:8443", without a path',
        'pbsdock.toml:3: "../b" in s3.ceph.allow is not allowed; expected "BUCKET", "BUCKET/PREFIX" with :ro or :rw behind'
        " it; * and ? match, {user} and {group} are filled in",
        "pbsdock.toml:4: s3.ceph.lifetime_s = 30 is not allowed; expected at least 60 and at most 43200",
        "pbsdock.toml:5: s3.ceph.probe names two buckets, or none",
        'pbsdock.toml:6: "b d" in s3 is not a name; expected letters, digits, - and _',
        "pbsdock.toml:9: override.s3.cepf: there is no [s3.cepf]",
        "pbsdock.toml:12: unknown key 'override.s3.ceph.endpoint'; known are allow",
    )
    assert _problems("s3 = 3\n") == ("pbsdock.toml:1: s3 is not a table for each name; expected [s3.NAME]",)
    for wrong in ("{home}", "b:rx", "b/../c", "/b", "b//c"):
        assert "allow is not allowed" in _problems(f'{STORE.splitlines()[0]}\nallow = ["{wrong}"]\n')[-1], wrong


# -- errors -----------------------------------------------------------------------------------------------------------


def test_all_errors_at_once_with_their_lines() -> None:
    """One reading tells everything that is wrong, in the order of the file."""
    text = (
        "[image]\nx = 1\n[images]\nalow = ['a']\npull = 'sometimes'\n[limits]\npids = 3\nshm = '64zz'\n"
        "[engine]\ntimeout_s = true\n[[override]]\nuser = ['a']\n[[override]]\n[override.mounts]\nallow = ['x']\n"
    )

    assert _problems(text) == (
        "pbsdock.toml:1: unknown key 'image'; did you mean 'images'?",
        "pbsdock.toml:4: unknown key 'images.alow'; did you mean 'allow'?",
        'pbsdock.toml:5: images.pull = "sometimes" is not allowed; expected one of "never", "missing", "always"',
        "pbsdock.toml:7: limits.pids = 3 is not allowed; expected at least 16 and at most 4194304",
        'pbsdock.toml:8: limits.shm = "64zz" is not allowed; expected a size such as "64mb", or a number of bytes',
        "pbsdock.toml:10: engine.timeout_s = true is not allowed; expected a number",
        "pbsdock.toml:12: unknown key 'override.user'; did you mean 'users'?",
        'pbsdock.toml:15: "x" in override.mounts.allow is not allowed; expected "/PATH" or "/PATH:ro", without \'..\'',
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("images = 3", "1: images is not a table; expected [images]"),
        ("[override]\nusers = []", "1: override is not a list of tables; expected [[override]]"),
        ("override = [1]", "1: override is not a list of tables; expected [[override]]"),
        ("[limits]\npids = true", "2: limits.pids = true is not allowed; expected a whole number"),
        ("[limits]\npids = 1e3", "2: limits.pids = 1000.0 is not allowed; expected a whole number"),
        (
            "[limits]\nmax_memory = -1",
            "2: limits.max_memory = -1 is not allowed; expected at least 0 and at most 1152921504606846976",
        ),
        ("[limits]\nmax_memory = '5mb'", "2: limits.max_memory is below 6mb, the least the engine takes"),
        (
            "[limits]\nmax_memory = '1gb'\ndefault_memory = '2gb'",
            "3: limits.default_memory is larger than limits.max_memory",
        ),
        ("[limits]\nshm = '2gb'\nmax_shm = '1gb'", "2: limits.shm is larger than limits.max_shm"),
        ("[prologue]\nalarm_s = 30\nmargin_s = 30", "3: prologue.margin_s leaves nothing of prologue.alarm_s"),
        (
            "[agent]\nrequest_timeout_s = nan",
            "2: agent.request_timeout_s = nan is not allowed; expected at least 1 and at most 31622400",
        ),
        (
            "[agent]\nrequest_timeout_s = inf",
            "2: agent.request_timeout_s = inf is not allowed; expected at least 1 and at most 31622400",
        ),
        ("[events]\njournald = 'yes'", '2: events.journald = "yes" is not allowed; expected true or false'),
        (
            "[events]\nfile = 'x.jsonl'",
            "2: events.file = \"x.jsonl\" is not allowed; expected an absolute path without '..', or nothing",
        ),
        ("[users]\ndeny = 'bob'", '2: users.deny = "bob" is not allowed; expected a list of strings'),
        (
            "[users]\ndeny = ['']",
            '2: "" in users.deny is not allowed; expected one or more printable characters',
        ),
        ("[users]\nmin_uid = 0", "2: users.min_uid = 0 is not allowed; expected at least 1 and at most 4294967294"),
        (
            "[images]\nallow = [\n  'docker.io/*',\n  'busybox']",
            '4: "busybox" in images.allow is not allowed; expected a registry first, for example'
            " 'docker.io/library/busybox'",
        ),
        (
            "[images]\ndeny = ['evil/*']",
            "2: \"evil/*\" in images.deny is not allowed; expected a registry first, for example 'docker.io/evil/*'",
        ),
        (
            "[images]\ndeny = ['sha256:12']",
            '2: "sha256:12" in images.deny is not allowed; expected sha256: and 64 hexadecimal digits',
        ),
        (
            "[mounts]\nallow = ['/a/../b']",
            '2: "/a/../b" in mounts.allow is not allowed; expected "/PATH" or "/PATH:ro", without \'..\'',
        ),
        (
            "[mounts]\ndeny = ['/a:ro']",
            "2: \"/a:ro\" in mounts.deny is not allowed; expected an absolute path without '..' and ':'",
        ),
        (
            "[mounts]\nalways = ['/a']",
            '2: "/a" in mounts.always is not allowed; expected "/SOURCE:/TARGET" or "/SOURCE:/TARGET:ro", without \'..\'',
        ),
        (
            "[cgroup]\nparent = 'mom.service'",
            '2: cgroup.parent = "mom.service" is not allowed; expected a cgroup such as /system.slice/pbs_mom.service, or nothing',
        ),
        (
            "[cgroup]\nparent = '/'",
            '2: cgroup.parent = "/" is not allowed; expected a cgroup such as /system.slice/pbs_mom.service, or nothing',
        ),
        (
            "[cgroup]\nparent = '/sys/fs/cgroup/a'",
            '2: cgroup.parent = "/sys/fs/cgroup/a" is not allowed; expected the cgroup without /sys/fs/cgroup',
        ),
        (
            "[network]\ndefault = 'container:x'",
            '2: network.default = "container:x" is not allowed; expected host, none, bridge or the name of an engine\'s network',
        ),
        (
            "[devices]\nallow = ['/dev/../etc/shadow']",
            '2: "/dev/../etc/shadow" in devices.allow is not allowed; expected a path below /dev',
        ),
        (
            "[engine]\nfrobnicate = 1",
            "2: unknown key 'engine.frobnicate'; known are docker_config, first_process, runtime, socket, timeout_s",
        ),
        (
            "[engine]\nruntime = '../runc'",
            '2: engine.runtime = "../runc" is not allowed; expected the name of a runtime in the engine\'s daemon.json, such as crun, or nothing',
        ),
        ("[engine]\nsocket = \n", "2: column 10: not TOML: Invalid value"),
        ("[engine]\nsocket = '", '2: not TOML: Expected "\'"'),
    ],
)
def test_sentence(text: str, says: str) -> None:
    """Line, key, value, and what is allowed."""
    assert _problems(text) == (f"pbsdock.toml:{says}",)


def test_sizes_as_text_or_bytes() -> None:
    """Both ways of writing a size are the same."""
    assert parse("[limits]\nshm = '128mb'").limits == parse("[limits]\nshm = 134217728").limits


def test_override_inherits_what_it_leaves_out() -> None:
    """An override for one key must not loosen the others: they stay the site's, not the defaults."""
    config = parse(
        "[images]\nrequire_digest = true\n[[override]]\nusers = ['a']\n[override.images]\nallow = ['quay.io/*']\n"
    )

    (override,) = config.override
    assert override.images is not None
    assert (override.images.allow, override.images.require_digest) == (("quay.io/*",), True)
    assert override == Override(users=("a",), images=override.images)


def test_override_may_stand_above_what_it_inherits() -> None:
    """The order of the tables in the file does not matter."""
    config = parse("[[override]]\n[override.images]\nallow = ['quay.io/*']\n[images]\nrequire_digest = true\n")

    assert config.override[0].images is not None
    assert config.override[0].images.require_digest is True


# -- lines ------------------------------------------------------------------------------------------------------------


def test_lines_of_everything_toml_can_write() -> None:
    """Text that looks like keys is not taken for keys, and every way to write one is found."""
    text = (
        '# [engine]\n[images] # x\nallow = [ # [limits]\n  "a[b]", # c\n  \'d,e\',\n]\ndeny = """\n[mounts]\npids = 1"""\n'
        'env.deny = []\n["net work" . "x"]\n\'a.b\' = 1\n\n[[ override ]]\nimages = { pull = "never",'
        " allow = [\"[x]\"] }\n[[override]]\n[override.limits]\npids = 5\r\nshm = '''\n'''\n[last]\n"
    )
    lines = positions(text)

    assert {place: line for place, line in lines.items() if len(place) > 1} == {
        ("images", "allow"): 3,
        ("images", "allow", 0): 4,
        ("images", "allow", 1): 5,
        ("images", "deny"): 7,
        ("images", "env"): 10,
        ("images", "env", "deny"): 10,
        ("net work", "x"): 11,
        ("net work", "x", "a.b"): 12,
        ("override", 0): 14,
        ("override", 0, "images"): 15,
        ("override", 0, "images", "pull"): 15,
        ("override", 0, "images", "allow"): 15,
        ("override", 0, "images", "allow", 0): 15,
        ("override", 1): 16,
        ("override", 1, "limits"): 17,
        ("override", 1, "limits", "pids"): 18,
        ("override", 1, "limits", "shm"): 19,
    }
    assert lines["last",] == 21
    assert line_of(lines, ("override", 1, "limits", "absent")) == 17
    assert line_of(lines, ("absent",)) == 1


_VALUES = st.recursive(
    st.sampled_from(["1", "true", '"a = 1"', "'[x]'", '"""\n[engine]\n\\""""', "'''\nk = 2\n'''", "1.5", '"\\""']),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[ # c = 1\n" + ",\n".join(items) + "\n]"),
    max_leaves=5,
)


@given(st.lists(st.tuples(st.integers(0, 2), _VALUES), max_size=8))
def test_lines_are_found_whatever_the_values(rows: list[tuple[int, str]]) -> None:
    """No value, however it is spelt, shifts the line of a later key."""
    text, expected = "[t]\n", {}
    for index, (gap, value) in enumerate(rows):
        text += "\n# k = [\n" * gap
        expected["t", f"k{index}"] = text.count("\n") + 1
        text += f"k{index} = {value}\n"

    lines = positions(text)

    assert {place: line for place, line in lines.items() if len(place) == 2} == expected


@given(st.text(max_size=60) | st.text(alphabet="[]{}=.,\"'\n#abc 1", max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Whatever is in the file, the answer is a configuration or a ConfigError with lines."""
    try:
        parse(text)
    except ConfigError as error:
        assert all(re.match(r"pbsdock\.toml:[0-9]+: ", one) for one in error.problems)


def test_number_of_thousands_of_digits() -> None:
    """What Python itself will not read as a number is an error of the file, not a crash."""
    (problem,) = _problems("x = " + "9" * 5000)

    assert problem.startswith("pbsdock.toml:1: not TOML: Exceeds the limit")


# -- load and trust ---------------------------------------------------------------------------------------------------


@as_root
def test_missing_file_is_all_defaults(tmp_path: Path) -> None:
    """No file, no surprise."""
    assert load(tmp_path / "absent.toml") == Config()


@as_root
def test_file_of_roots_is_read(tmp_path: Path) -> None:
    """A directory below /tmp passes: it is sticky and root's, and what is in it is root's."""
    path = tmp_path / "pbsdock.toml"
    path.write_text("[limits]\npids = 100\n")

    assert load(path).limits.pids == 100


@as_root
def test_file_that_is_not_text(tmp_path: Path) -> None:
    """A file in another encoding is told, not guessed."""
    path = tmp_path / "pbsdock.toml"
    path.write_bytes(b"# caf\xe9\n")

    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems == ("pbsdock.toml: the file is not UTF-8 text (byte 6)",)


def _distrust(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_trusted(path)
    (problem,) = caught.value.problems
    asked, _, sentence = problem.partition(": ")
    assert asked == str(path)
    return sentence


@as_root
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o1666])
def test_file_others_can_write(tmp_path: Path, mode: int) -> None:
    """A file others can write to is not believed; the sticky bit makes a directory safer, not a file."""
    path = tmp_path / "pbsdock.toml"
    path.touch()
    path.chmod(mode)

    assert _distrust(path) == f"{path} is writable by others (mode {mode:04o}); use chmod go-w"


@as_root
def test_file_of_somebody_else(tmp_path: Path) -> None:
    """A file of a user's is not believed."""
    path = tmp_path / "pbsdock.toml"
    path.touch()
    os.chown(path, 4711, 0)

    assert _distrust(path) == f"{path} belongs to uid 4711; it must belong to root"


@as_root
def test_directory_on_the_way(tmp_path: Path) -> None:
    """Whoever can rename in a directory chooses the file: also one far above it, also when the file is missing."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a").chmod(0o777)

    assert _distrust(tmp_path / "a/b/absent.toml") == (
        f"{tmp_path}/a is writable by others (mode 0777); use chmod go-w"
    )


@as_root
def test_sticky_directory_of_roots(tmp_path: Path) -> None:
    """In a sticky directory of root's nobody can exchange what is root's."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o1777)
    (tmp_path / "a/x.toml").touch()

    check_trusted(tmp_path / "a/x.toml")


@as_root
def test_link_through_a_directory_others_can_write(tmp_path: Path) -> None:
    """The place a link lies in counts, not only the file it leads to."""
    (tmp_path / "good.toml").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open/x.toml").symlink_to("../good.toml")

    check_trusted(tmp_path / "open/x.toml")
    (tmp_path / "open").chmod(0o777)
    assert _distrust(tmp_path / "open/x.toml") == (f"{tmp_path}/open is writable by others (mode 0777); use chmod go-w")


@as_root
def test_link_of_somebody_else(tmp_path: Path) -> None:
    """A user's link in a sticky directory leads where the user likes."""
    (tmp_path / "good.toml").touch()
    (tmp_path / "x.toml").symlink_to(tmp_path / "good.toml")
    os.chown(tmp_path / "x.toml", 4711, 4711, follow_symlinks=False)

    assert _distrust(tmp_path / "x.toml") == f"{tmp_path}/x.toml belongs to uid 4711; it must belong to root"


@as_root
def test_link_to_nothing_is_not_a_missing_file(tmp_path: Path) -> None:
    """Defaults would be looser than the policy that cannot be reached."""
    (tmp_path / "x.toml").symlink_to(tmp_path / "gone/real.toml")

    assert _distrust(tmp_path / "x.toml") == f"{tmp_path}/x.toml points to {tmp_path}/gone, which does not exist"


@as_root
def test_links_in_a_circle(tmp_path: Path) -> None:
    """A circle ends, as the kernel ends it."""
    (tmp_path / "x.toml").symlink_to("y.toml")
    (tmp_path / "y.toml").symlink_to("x.toml")

    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        check_trusted(tmp_path / "x.toml")


@as_root
def test_directory_instead_of_a_file(tmp_path: Path) -> None:
    """A directory is no configuration."""
    assert _distrust(tmp_path) == f"{tmp_path} is not a plain file"


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("[]", "expected an object"),
        ("{}", "expected a defaultAction, and an action of each of syscalls, such as SCMP_ACT_ERRNO, not None"),
        ('{"defaultAction": "ALLOW"}', "expected a defaultAction, and an action of each of syscalls, such as"
         " SCMP_ACT_ERRNO, not 'ALLOW'"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": {"a": 1}}', "expected a list of objects as syscalls"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": ["read"]}', "expected a list of objects as syscalls"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"]}]}', "expected a defaultAction, and an action"
         " of each of syscalls, such as SCMP_ACT_ERRNO, not None"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": "read", "action": "SCMP_ACT_ALLOW"}]}',
         "expected names, a list of strings, in each of syscalls"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": null}', None),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "bpf", "action": "SCMP_ACT_ERRNO", "args": null}]}', None),
    ],
)  # fmt: skip
def test_a_seccomp_profile_is_looked_at(tmp_path: Path, profile: str, says: str | None) -> None:
    """Before the first job: the engine would say so at the start of each."""
    own = tmp_path / "seccomp.json"
    own.write_text(profile)
    text = tmp_path / "pbsdock.toml"
    text.write_text(f'[security]\nseccomp = "{own}"\n')
    if says is None:
        load(text)
        return
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert str(caught.value) == f"security.seccomp: {own} is no profile that can be read: {says}"
