"""Go templates as far as they are offered: what the real client prints of them, and their bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from pbsdock.shim import tables
from pbsdock.shim.formats import BadTemplate, Budget, Template
from pbsdock.shim.rows import ContainerRow, ImageRow, NetworkRow
from pbsdock.shim.template_tokens import TEXT_LIMIT
from tests.support.real_client import clients, made_up_engine, run_client

NOW = time.time()
DAY = 86400  # ages in the middle of what is told of them, since a run of all tests takes minutes
CONTAINERS = [
    ContainerRow(
        id="ab" * 32,
        image="busybox:1",
        image_id="sha256:" + "cd" * 32,
        command="/bin/sh -c 'echo \"hello\" world'",
        created=NOW - 3.5 * DAY,
        started=NOW - 3.4 * DAY,
        state="running",
        names=("db",),
        labels={"com.x-y": "b<c"},
        networks=("job",),
        mounts=("/scratch/some/long/path", "/x"),
        zone=UTC,
    ),
    ContainerRow(
        id="12" * 32,
        image="sha256:5555",
        command="sleep",
        created=NOW - 20.5 * DAY,
        started=NOW - 20 * DAY,
        finished=NOW - 1.1 * DAY,
        state="exited",
        exit_code=137,
        names=("döb",),
        zone=UTC,
    ),
    ContainerRow(
        id="34" * 32, image="c", command="日本日本日本日本日本日本", created=NOW - 100 * DAY, names=("c1",), zone=UTC
    ),
]
IMAGES = [
    ImageRow(
        id="sha256:" + "ef" * 32, repository="reg:5000/x", tag="1", created=NOW - 3.5 * DAY, size=1984149, zone=UTC
    ),
    ImageRow(
        id="sha256:" + "ee" * 32,
        repository="busybox",
        tag="latest",
        created=NOW - 500 * DAY,
        size=123456789012,
        zone=UTC,
    ),
    ImageRow(id="sha256:" + "ed" * 32, repository="b", tag="2", created=NOW - 900 * DAY, size=999, zone=UTC),
]
NETWORKS = [
    NetworkRow(id="aa" * 32, name="bridge", created=1795667200, zone=UTC),
    NetworkRow(id="bb" * 32, name="job", internal=True, labels={"k": "v"}, created=1795667200, zone=UTC),
]
DOCUMENT: dict[str, Any] = {
    "Id": "ab" * 32,
    "Created": "2026-11-26T04:33:12.18Z",
    "Path": "sleep",
    "Args": ["1", "2"],
    "State": {"Status": "running", "Running": True, "Paused": False, "Pid": 7, "ExitCode": 0, "Error": ""},
    "Image": "sha256:x",
    "Name": "/db",
    "Config": {"Env": ["A=1", "B=2 3"], "Cmd": ["sleep"], "Labels": {"b": "2", "a": "1"}, "Image": "busybox:1"},
    "HostConfig": {"NetworkMode": "default", "Memory": 5, "NanoCpus": 1500000000},
    "Mounts": [
        {"Type": "bind", "Source": "/a", "Destination": "/b", "Mode": "", "RW": False, "Propagation": "rprivate"}
    ],
    "NetworkSettings": {"IPAddress": "1.2.3.4", "Networks": {"job": {"IPAddress": "10.0.0.1"}}},
}


def _container(row: ContainerRow) -> dict[str, Any]:
    """As the engine's list has it."""
    mounts = [{"Type": "bind", "Source": mount, "Destination": "/d", "RW": True} for mount in row.mounts]
    return {
        "Id": row.id,
        "Names": [f"/{name}" for name in row.names],
        "Image": row.image,
        "ImageID": row.image_id,
        "Command": row.command,
        "Created": int(row.created),
        "Ports": [],
        "Labels": dict(row.labels),
        "State": row.state,
        "Status": row.status(NOW),
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {name: {} for name in row.networks}},
        "Mounts": mounts,
    }


def _image(row: ImageRow) -> dict[str, Any]:
    return {
        "Id": row.id,
        "RepoTags": [f"{row.repository}:{row.tag}"],
        "RepoDigests": [],
        "Created": int(row.created),
        "Size": row.size,
        "VirtualSize": row.size,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": {},
    }


def _network(row: NetworkRow) -> dict[str, Any]:
    return {
        "Id": row.id,
        "Name": row.name,
        "Driver": row.driver,
        "Scope": row.scope,
        "Internal": row.internal,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "Labels": dict(row.labels),
        "Created": "2026-11-26T04:26:40Z",
    }


ANSWERS = {
    "/containers/json": [_container(row) for row in CONTAINERS],
    "/images/json": [_image(row) for row in IMAGES],
    "/networks": [_network(row) for row in NETWORKS],
    "/containers/db/json": DOCUMENT,
}
PS = [
    "",
    "table",
    "{{.ID}}",
    "table {{.ID}}\t{{.Names}}",
    'table {{.Names}}\\t{{.Label "com.x-y"}}',
    "table{{.ID}}",
    "table {{.Image}}\t{{upper .Names}}\t{{lower .State}}",
    "table {{.Ports}}\t{{.Size}}\t{{.RunningFor}}\t{{.LocalVolumes}}",
    "table {{.ID}}\\n{{.Image}}\t{{.Names}}",
    'table {{.ID}}\t{{if eq .State "running"}}{{.Names}}\t{{.Image}}{{end}}',
    "{{.Names}}: {{.Status}}",
    "{{.Names}} {{.Command}}",
    "{{.Labels}}|{{.Mounts}}|{{.Networks}}",
    "{{.CreatedAt}} {{.RunningFor}}",
    "{{json .Labels}} {{json .Command}}",
    '{{if eq .State "running"}}yes{{else if eq .State "exited"}}over{{else}}no{{end}}',
    '{{printf "%-10s|%5s" .Names .State}}',
    '{{.ID | upper | printf "%q"}}',
    '{{join (split .Names "") "-"}}',
    "{{title .State}}",
    "{{pad .ID 2 3}}|{{truncate .ID 4}}",
    "{{- .ID -}}   x",
    "  {{.ID}}  ",
    "{{println .ID}}",
    "a\\tb\\n{{.ID}}",
    "{{.Foo}}",
    "{{.ID",
]
INSPECT = [
    "",
    "{{.Id}}",
    "{{.ID}}",
    "{{.State.Running}} {{.State.ExitCode}}",
    "{{json .Config.Env}}",
    "{{range .Config.Env}}{{println .}}{{end}}",
    "{{range $k,$v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
    '{{index .Config.Labels "a"}}|{{index .Config.Labels "zz"}}|{{.Config.Labels.zz}}',
    '{{len .Mounts}} {{len .Name}} {{len "é"}}',
    "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{.NetworkSettings.Networks.job.IPAddress}}",
    "{{with .Config.Labels}}{{.a}}{{end}}{{with .State.Error}}x{{else}}none{{end}}",
    "{{.Config.Env}} {{.Config.Labels}}",
    "{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}",
    "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}",
    "{{(index .Mounts 0).Source}}",
    "{{index .Config.Env 5}}",
    "{{.Nope}}",
    "{{.State.Nope}}",
    "{{.State.Running.Nope}}",
    "{{.Name | json}}",
    '{{and .State.Running .Name}} {{or .State.Error "none"}} {{not .State.Running}}',
    "{{range .Mounts}}{{.Source}}:{{.Destination}}{{if not .RW}}:ro{{end}}{{else}}none{{end}}",
    '{{$x := .Name}}{{$x}}{{if true}}{{$x = "y"}}{{end}}{{$x}}',
    "{{/* c */}}{{.Name}}{{/* d */ -}}   y",
    '{{range .Config.Env}}{{if eq . "A=1"}}{{continue}}{{end}}{{.}}{{break}}{{end}}',
    '{{printf "%d|%5d|%-3d|%05d|%s|%v|%x|%q|%%" .State.Pid .HostConfig.Memory 1 2 .Name .State.Running "ab" "q"}}',
    '{{eq .State.Status "exited" "running"}} {{ne 1 2}} {{lt 1 2}} {{ge "b" "a"}}',
    '{{join .Config.Env ", "}} {{split .Name "b"}}',
    '{{template "x"}}',
    "{{.State.Health}}{{if .State.Health}}h{{else}}n{{end}}",
    "{{.Name",
    "{{end}}",
    "{{if}}",
    "{{if .Name}}",
    "{{foo .Name}}",
    '{{"a" "b"}}',
    "{{1 | .Name}}",
    "{{nil}}",
    "{{$y}}",
    '{{print 1 2 "a" 3}}|{{print "a" "b"}}|{{println 1 "a"}}',
    '{{lower "ABC"}}{{upper "x"}}{{title "hello wörld foo_bar x\'s"}}',
    "{{if and (eq 1 1) (or false .Name)}}k{{end}}",
    '{{with $x := .Name}}{{$x}}{{end}}{{.Name | printf "%s-%s" "a"}}',
    '{{ "\\u00e9\\n\\"" }}{{`raw\\n`}}',
    "a\\tb{{.Name}}",
    '{{.Path}} {{join .Args " "}} {{slice .Name 1 2}} {{index .Args 1}}',
    '{{eq 1 "a"}}',
    "{{.Name.Foo}}",
    "{{range .Name}}x{{end}}",
]


@pytest.fixture(scope="module", params=clients() or [pytest.param("", marks=pytest.mark.skip(reason="no docker here"))])
def client(request: pytest.FixtureRequest) -> str:
    """Each real client of this machine."""
    return str(request.param)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A made-up engine with the rows above."""
    with made_up_engine(Path(tmp_path_factory.mktemp("engine")), ANSWERS) as address:
        yield address


def _same(real: tuple[int, str, str], mine: str | None) -> None:
    """The same text, or an error of both."""
    status, output, error = real
    if mine is None:
        assert status != 0, output
    else:
        assert (status, output) == (0, mine), error


def _mine(text: Any) -> str | None:
    try:
        return str(text())
    except BadTemplate as error:
        assert str(error).startswith("template parsing error: ")
        return None


@pytest.mark.parametrize("format_", PS)
@pytest.mark.parametrize("full", [False, True])
def test_ps_of_a_made_up_engine(client: str, host: str, format_: str, full: bool) -> None:
    """Tables, templates and errors, shortened and in full."""
    words = [*(["--format", format_] if format_ else []), *(["--no-trunc"] if full else [])]
    if "20.10" in run_client(client, "--version")[1] and not format_.startswith("{{"):
        pytest.skip("20.10 counts letters, not columns")
    mine = _mine(lambda: tables.containers(CONTAINERS, NOW, format_=format_, no_trunc=full))

    _same(run_client(client, "ps", "-a", *words, host=host), mine)


@pytest.mark.parametrize("format_", INSPECT)
def test_inspect_of_a_made_up_engine(client: str, host: str, format_: str) -> None:
    """One container's document."""
    mine = _mine(lambda: tables.objects([DOCUMENT], format_))

    _same(run_client(client, "inspect", *(["-f", format_] if format_ else []), "db", host=host), mine)


@pytest.mark.parametrize(
    "words",
    [[], ["-q"], ["--no-trunc"], ["--digests"], ["--format", "{{json .}}"], ["--format", "{{.ID}} {{.VirtualSize}}"]],
)
def test_images_of_a_made_up_engine(client: str, host: str, words: list[str]) -> None:
    """The newest first."""
    mine = tables.images(
        IMAGES,
        NOW,
        quiet="-q" in words,
        no_trunc="--no-trunc" in words,
        digests="--digests" in words,
        format_=words[1] if words[:1] == ["--format"] else "",
    )
    _same(run_client(client, "images", *words, host=host), mine)


@pytest.mark.parametrize(
    "words", [[], ["-q"], ["--no-trunc"], ["--format", "{{.Name}} {{.Internal}} {{.Labels}} {{.CreatedAt}}"]]
)
def test_networks_of_a_made_up_engine(client: str, host: str, words: list[str]) -> None:
    """By name."""
    format_ = words[1] if words[:1] == ["--format"] else ""
    mine = tables.networks(NETWORKS, quiet="-q" in words, no_trunc="--no-trunc" in words, format_=format_)
    _same(run_client(client, "network", "ls", *words, host=host), mine)


def test_formats_of_newer_clients(client: str, host: str) -> None:
    """``json`` as a format, and -q that outweighs one, came after 20.10."""
    if "20.10" in run_client(client, "--version")[1]:
        pytest.skip("it has none")
    for format_ in ("json", "{{json .}}"):
        _same(
            run_client(client, "ps", "-a", "--format", format_, host=host),
            tables.containers(CONTAINERS, NOW, format_=format_),
        )
    _same(
        run_client(client, "ps", "-aq", "--format", "x", host=host),
        tables.containers(CONTAINERS, NOW, format_="x", quiet=True),
    )
    _same(run_client(client, "inspect", "-f", "json", "db", host=host), tables.objects([DOCUMENT], "json"))
    _same(run_client(client, "network", "ls", "--format", "json", host=host), tables.networks(NETWORKS, format_="json"))


def test_one_object() -> None:
    """``version -f`` and ``info -f``: no list around it."""
    assert tables.one_object({"Server": {"Version": "1"}}, "{{.Server.Version}}") == "1\n"
    assert tables.one_object({"a": [1, None]}, "json") == '{"a":[1,null]}\n'


# -- bounds -----------------------------------------------------------------------------------------------------------


def _error(text: str, value: Any = None) -> str:
    with pytest.raises(BadTemplate) as caught:
        Template(text).render(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{if 1}}" * 21 + "{{end}}" * 21, "nested more than 20 deep"),
        ("{{" + "(" * 21 + "1" + ")" * 21 + "}}", "nested more than 20 deep"),
        ("x" * (TEXT_LIMIT + 1), f"at most {TEXT_LIMIT} are taken"),
        ("{{range 1000000}}{{end}}", "more than 200000 steps"),
        ("{{range 1000}}{{range 1000}}{{end}}{{end}}", "more than 200000 steps"),
        ('{{printf "%9999s" "x"}}', "a width of at most 1024"),
        ('{{range 100000}}{{printf "%1000s" "x"}}{{end}}', "too long texts"),
        ("{{range 100000}}" + "y" * 1000 + "{{end}}", "the output has more than"),
        ('{{$x := "0123456789"}}{{range 40}}{{$x = print $x $x}}{{end}}', "too long texts"),
        (
            '{{$x := split "aaaaaaaaaa" ""}}{{range 5000}}{{$y := join $x "01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"}}{{end}}',
            "too long texts",
        ),
        ("{{call .}}", "the function call is not offered; the functions are"),
        ('{{define "x"}}{{end}}', "{{define}} is not offered"),
    ],
)
def test_bounds(text: str, said: str) -> None:
    """Each is met quickly, with a sentence."""
    start = time.process_time()
    assert said in _error(text)
    assert time.process_time() - start < 5


def test_as_deep_as_allowed() -> None:
    """The bound itself is fine, and chains are no nesting."""
    assert Template("{{if 1}}" * 20 + "x" + "{{end}}" * 20).render(None) == "x"
    assert Template("{{if 0}}" + "{{else if 0}}" * 4000 + "{{else}}x{{end}}").render(None) == "x"
    assert Template("{{." + ".".join(["a"] * 3) + "}}").render({"a": {"a": {"a": 1}}}) == "1"


def test_a_budget_is_shared() -> None:
    """Many rows have no more than one."""
    template, budget = Template("{{range 1000}}{{end}}"), Budget()
    with pytest.raises(BadTemplate, match="steps"):
        "".join(template.render(None, budget) for _ in range(1000))


@pytest.mark.parametrize(
    "text", ["{{", "{{a", "{{(", '{{"', "{{`", "{{$x :=", "{{|", "{{.a.", "{{/*", "{{else", "{{- ", "{{if 1}}"]
)
def test_hostile_templates_cost_linear_time(text: str) -> None:
    """The same beginning over and over, up to the limit."""
    start = time.process_time()
    for repeated in (text * (TEXT_LIMIT // len(text)), text + "a" * (TEXT_LIMIT - len(text)), "a" * 60_000 + text):
        assert _error(repeated)
    assert time.process_time() - start < 5


def test_a_wide_cell_does_not_blow_up_a_table() -> None:
    """Blanks of all rows are counted before they are made."""
    rows = [
        ContainerRow(id="a" * 64, image="b", names=("x" * 200_000 if number == 0 else "y",)) for number in range(100)
    ]
    with pytest.raises(BadTemplate, match="leave out its widest column"):
        tables.containers(rows, NOW, format_="table {{.Names}}\t{{.ID}}")
