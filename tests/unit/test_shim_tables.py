"""Docker's tables: durations, sizes, shortened texts, columns; which rows fit a filter; lines of an env-file."""

from __future__ import annotations

import time

import pytest

from pbsdock.core.errors import BadValue
from pbsdock.shim.columns import aligned, ellipsis
from pbsdock.shim.commands import Images, NetworkLs, Ps
from pbsdock.shim.durations import human_duration, human_size, local_text
from pbsdock.shim.env_file import SIZE_LIMIT, parse_env_file
from pbsdock.shim.filters import check_filters, select_containers, select_images, select_networks
from pbsdock.shim.patterns import PathPattern
from pbsdock.shim.rows import ContainerRow, ImageRow, NetworkRow
from pbsdock.shim.template_tokens import BadTemplate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47.4 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """At each border of go-units' HumanDuration."""
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1984149, "1.98MB"),
        (8640000, "8.64MB"),
        (123456789012, "123GB"),
        (10**21, "1e+03EB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    """Powers of 1000 and three digits."""
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("x" * 20, 20, "x" * 20),
        ("x" * 21, 20, "x" * 19 + "…"),
        ("日" * 10, 20, "日" * 10),
        ("日" * 11, 20, "日" * 9 + "…"),
        ("ä" * 21, 20, "ä" * 19 + "…"),
    ],
)
def test_shortened(text: str, width: int, short: str) -> None:
    """By columns of a terminal."""
    assert ellipsis(text, width) == short


def test_columns() -> None:
    """A line without the cell ends a column; the last cell of a line is not padded."""
    assert aligned("a\tb\nlonger cell\tc\n") == "a             b\nlonger cell   c\n"
    assert aligned("a\tb\nplain\nccccccccccc\td") == "a         b\nplain\nccccccccccc   d"


# -- filters ----------------------------------------------------------------------------------------------------------

ROWS = [
    ContainerRow(
        id="aaaa" * 16,
        image="busybox",
        image_id="sha256:1234abcd",
        created=1,
        state="exited",
        exit_code=3,
        names=("old",),
    ),
    ContainerRow(
        id="bbbb" * 16,
        image="reg:5/x:2",
        created=2,
        state="running",
        names=("db-1",),
        labels={"k": "v"},
        networks=("job",),
    ),
    ContainerRow(
        id="cccc" * 16,
        image="busybox:1",
        created=3,
        state="exited",
        exit_code=0,
        names=("db-2",),
        labels={"k": "w", "l": ""},
    ),
]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (Ps(), ["db-1"]),
        (Ps(all=True), ["db-2", "db-1", "old"]),
        (Ps(last=2), ["db-2", "db-1"]),
        (Ps(latest=True), ["db-2"]),
        (Ps(filters=(("status", "exited"),)), ["db-2", "old"]),
        (Ps(filters=(("status", "exited"), ("status", "running"))), ["db-2", "db-1", "old"]),
        (Ps(filters=(("exited", "3"),)), ["old"]),
        (Ps(all=True, filters=(("name", "db"),)), ["db-2", "db-1"]),
        (Ps(all=True, filters=(("name", "^b"),)), []),
        (Ps(all=True, filters=(("name", "^/db-1$"),)), ["db-1"]),
        (Ps(all=True, filters=(("name", "1$"),)), ["db-1"]),
        (Ps(all=True, filters=(("name", "old"), ("name", "db-1"))), ["db-1", "old"]),
        (Ps(all=True, filters=(("id", "^bbb"),)), ["db-1"]),
        (Ps(all=True, filters=(("label", "k"),)), ["db-2", "db-1"]),
        (Ps(all=True, filters=(("label", "k"), ("label", "l="))), ["db-2"]),
        (Ps(all=True, filters=(("label", "k=v"), ("name", "db-2"))), []),
        (Ps(all=True, filters=(("ancestor", "busybox"),)), ["old"]),
        (Ps(all=True, filters=(("ancestor", "docker.io/library/busybox:1"),)), ["db-2"]),
        (Ps(all=True, filters=(("ancestor", "1234"),)), ["old"]),
        (Ps(all=True, filters=(("ancestor", "Not An Image"),)), []),
        (Ps(filters=(("network", "job"),)), ["db-1"]),
        (Ps(all=True, filters=(("since", "old"),)), ["db-2", "db-1"]),
        (Ps(all=True, filters=(("before", "cccc"),)), ["db-1", "old"]),
        (Ps(all=True, filters=(("is-task", "true"),)), []),
    ],
)
def test_containers_that_fit(command: Ps, names: list[str]) -> None:
    """The newest first; of a key any value, of labels all."""
    assert [row.names[0] for row in select_containers(ROWS, command)] == names


def test_a_container_to_compare_with_has_to_be_there() -> None:
    """As with Docker."""
    with pytest.raises(BadValue, match="No such container: 'x'"):
        select_containers(ROWS, Ps(filters=(("since", "x"),)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "up"),
        ("exited", "x"),
        ("exited", "٣"),
        ("exited", ""),
        ("id", "a*"),
        ("name", ".*(a+)+"),
        ("is-task", "2"),
        ("foo", "1"),
    ],
)
def test_filters_that_are_wrong(key: str, value: str) -> None:
    """No value is a regular expression."""
    with pytest.raises(BadValue, match="^invalid filter "):
        check_filters("ps", ((key, value),))


IMAGES = [
    ImageRow(id="sha256:1", repository="busybox", tag="1", created=1, labels={"a": "b"}),
    ImageRow(id="sha256:2", repository="reg:5000/team/x", tag="2", created=2),
    ImageRow(id="sha256:3", created=3),
]


@pytest.mark.parametrize(
    ("command", "ids"),
    [
        (Images(), "321"),
        (Images(reference="busybox"), "1"),
        (Images(reference="busybox:1"), "1"),
        (Images(reference="busybox:2"), ""),
        (Images(reference="*:2"), ""),
        (Images(filters=(("reference", "*/*/x"),)), "2"),
        (Images(filters=(("reference", "busy*"), ("reference", "reg:5000/team/[a-z]:?"))), "21"),
        (Images(filters=(("dangling", "true"),)), "3"),
        (Images(filters=(("dangling", "0"),)), "21"),
        (Images(filters=(("label", "a=b"),)), "1"),
    ],
)
def test_images_that_fit(command: Images, ids: str) -> None:
    """A pattern's star stays within a component."""
    assert "".join(row.id[-1] for row in select_images(IMAGES, command)) == ids


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ((), ["bridge", "job"]),
        ((("name", "jo"),), ["job"]),
        ((("driver", "bridge"), ("type", "custom")), ["job"]),
        ((("type", "builtin"),), ["bridge"]),
        ((("label", "k"),), ["job"]),
        ((("id", "a"), ("scope", "local")), ["bridge"]),
    ],
)
def test_networks_that_fit(filters: tuple[tuple[str, str], ...], names: list[str]) -> None:
    """By name."""
    rows = [NetworkRow(id="b", name="job", labels={"k": ""}), NetworkRow(id="a", name="bridge")]
    assert [row.name for row in select_networks(rows, NetworkLs(filters=filters))] == names


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("", "", True),
        ("*", "", True),
        ("*", "a/b", False),
        ("a*b*c", "axxbyyc", True),
        ("a*b*c", "axxbyy", False),
        ("[^a]x", "bx", True),
        ("[^a]x", "ax", False),
        ("[a-c]", "b", True),
        ("[", "[", False),
        ("\\*", "*", True),
        ("\\", "\\", False),
        ("**?", "a", True),
    ],
)
def test_patterns(pattern: str, text: str, fits: bool) -> None:
    """As Go's path.Match."""
    assert PathPattern(pattern).fits(text) is fits


def test_patterns_do_not_try_every_way() -> None:
    """The last star alone is tried again."""
    start = time.process_time()
    assert not PathPattern("*a" * 250 + "*b").fits("a" * 1000)
    assert time.process_time() - start < 2


def test_a_table_of_tabs_is_refused_at_once() -> None:
    """Before they are made columns."""
    start = time.process_time()
    with pytest.raises(BadTemplate, match="choose fewer columns"):
        aligned("\t" * 4_000_000)
    assert time.process_time() - start < 1


# -- env-file ---------------------------------------------------------------------------------------------------------


def test_env_file() -> None:
    """As Docker's client reads it: nothing is quoted or trimmed at the end, a name alone is the client's own."""
    data = b'\xef\xbb\xbfA=1\r\n# no\n\n  B=x y \n\tC="q"\nHOME\nD==\nE=\n  # no\nF=a#b\nA=2'
    assert parse_env_file(data, "e") == (
        ("A", "1"),
        ("B", "x y "),
        ("C", '"q"'),
        ("HOME", None),
        ("D", "="),
        ("E", ""),
        ("F", "a#b"),
        ("A", "2"),
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"A=1\n=x", "env file 'e', line 2: no variable name on line '=x'"),
        (b" D = 3", "line 1: variable 'D ' contains whitespaces"),
        (b"A B", "contains whitespaces"),
        (b"\n\xff=1", "line 2: the line is not UTF-8 text"),
        (b"A=\0", "holds a NUL"),
        (b"A=" + b"x" * 65536, "less than 65536"),
        (b"A=1\n" * (SIZE_LIMIT // 4 + 1), f"at most {SIZE_LIMIT} are taken"),
    ],
)
def test_env_files_that_are_wrong(data: bytes, said: str) -> None:
    """With the line."""
    with pytest.raises(BadValue) as caught:
        parse_env_file(data, "e")
    assert said in str(caught.value)


@pytest.mark.parametrize("seconds", [-62135596800.0 - 86400, -1e15, 1e18])
def test_times_that_no_calendar_has(seconds: float) -> None:
    """An image may say that it was made at any time: the list of all images is not to fail of one."""
    assert local_text(seconds).startswith("0001-01-01")
