"""What ``ps``, ``images`` and ``network ls`` print: a table, ids alone, JSON lines or a template's text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pbsdock.shim.columns import aligned
from pbsdock.shim.formats import BadTemplate, Budget, Method, Template
from pbsdock.shim.go_text import json_text
from pbsdock.shim.rows import ContainerRow, ImageRow, NetworkRow
from pbsdock.shim.template_tokens import bad

_CONTAINERS = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
_IMAGES = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_DIGESTS = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_NETWORKS = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
_ID = "{{.ID}}"
_JSON = "{{json .}}"
_ESCAPES = (("\\t", "\t"), ("\\n", "\n"))

_CONTAINER_HEADERS = {
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Labels": "LABELS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Mounts": "MOUNTS",
    "Names": "NAMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
    "Ports": "PORTS",
    "RunningFor": "CREATED",
    "Size": "SIZE",
    "State": "STATE",
    "Status": "STATUS",
}
_IMAGE_HEADERS = {
    "Containers": "CONTAINERS",
    "CreatedAt": "CREATED AT",
    "CreatedSince": "CREATED",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "SharedSize": "SHARED SIZE",
    "Size": "SIZE",
    "Tag": "TAG",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
_NETWORK_HEADERS = {
    "CreatedAt": "CREATED AT",
    "Driver": "DRIVER",
    "ID": "NETWORK ID",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "Name": "NAME",
    "Scope": "SCOPE",
}


def containers(
    rows: Sequence[ContainerRow], now: float, *, format_: str = "", quiet: bool = False, no_trunc: bool = False
) -> str:
    """What ``docker ps`` prints; *now* in seconds since the epoch. Raises BadTemplate."""
    fields = [row.fields(now, full=no_trunc) for row in rows]
    return _text(fields, _ID if quiet else format_, _CONTAINERS, _CONTAINER_HEADERS)


def images(
    rows: Sequence[ImageRow],
    now: float,
    *,
    format_: str = "",
    quiet: bool = False,
    no_trunc: bool = False,
    digests: bool = False,
) -> str:
    """What ``docker images`` prints. Raises BadTemplate."""
    fields = [row.fields(now, full=no_trunc) for row in rows]
    if digests and format_.startswith("table ") and "{{.Digest}}" not in format_:
        format_ += "\t{{.Digest}}"
    columns = _ID if quiet else _DIGESTS if digests else _IMAGES
    return _text(fields, columns if quiet and not format_ else format_, columns, _IMAGE_HEADERS)


def networks(rows: Sequence[NetworkRow], *, format_: str = "", quiet: bool = False, no_trunc: bool = False) -> str:
    """What ``docker network ls`` prints. Raises BadTemplate."""
    fields = [row.fields(full=no_trunc) for row in rows]
    return _text(fields, _ID if quiet and not format_ else format_, _NETWORKS, _NETWORK_HEADERS)


def objects(found: Sequence[Any], format_: str = "") -> str:
    """What ``inspect`` prints of values of plain JSON types, without a format as indented JSON. Raises BadTemplate."""
    if not format_:
        return indented(list(found)) + "\n"
    if format_ == "json":
        return json_text(list(found)) + "\n"
    template, budget = Template(format_), Budget()
    return "".join(f"{template.render(value, budget)}\n" for value in found)


def one_object(value: Any, format_: str) -> str:
    """What ``version -f`` and ``info -f`` print of one value. Raises BadTemplate."""
    return Template(_JSON if format_ == "json" else format_).render(value) + "\n"


def indented(value: Any) -> str:
    """JSON as ``docker inspect`` prints it."""
    return json.dumps(value, ensure_ascii=False, indent=4)


def _unescaped(text: str) -> str:
    for written, meant in _ESCAPES:
        text = text.replace(written, meant)
    return text


def _text(rows: Sequence[Mapping[str, Any]], format_: str, columns: str, headers: Mapping[str, str]) -> str:
    table = not format_ or format_.startswith("table")
    if table:
        format_ = format_[len("table") :].strip(" ") or columns
    elif format_ == "json":
        format_ = _JSON
    elif format_ == "raw":
        raise bad("'raw' is not offered; write 'json', 'table' or a template")
    template, budget = Template(_unescaped(format_.strip(" "))), Budget()
    texts = [template.render(row, budget) for row in rows]
    if not table:
        return "".join(f"{text}\n" for text in texts)
    return aligned("".join(f"{text}\n" for text in (_header(template, headers, budget), *texts)))


def _header(template: Template, headers: Mapping[str, str], budget: Budget) -> str:
    """The template's own header: its fields' names. Nothing, where it does with a field what a header does not bear."""
    try:
        return template.render({**headers, "Label": Method(_label_header)}, budget, for_header=True)
    except BadTemplate:
        return ""


def _label_header(key: str) -> str:
    return key.rpartition(".")[2].replace("-", " ").replace("_", " ")


__all__ = ["BadTemplate", "containers", "images", "indented", "networks", "objects", "one_object"]
