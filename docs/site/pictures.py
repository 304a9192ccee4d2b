"""Draw the pictures of the docs: ``python docs/site/pictures.py`` writes docs/pictures/*.svg; a test compares them.

They have a light ground of their own, so that they can be read in a dark theme as well. Coordinates are pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from pbsdock.core.record import TRANSITIONS

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
_INK = "#1f2937"
_FILLS = {
    "torque": "#e5e7eb",
    "ours": "#dbeafe",
    "root": "#bfdbfe",
    "outside": "#f3f4f6",
    "job": "#dcfce7",
    "bad": "#fee2e2",
}
_HALO = 'font-size="11" stroke="#ffffff" stroke-width="4"'  # beneath a label, so that no line crosses it
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"
 font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13" fill="{ink}">
<title>{title}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse">
<path d="M0 0L8 4L0 8z" fill="{ink}"/></marker></defs>
<rect x="1" y="1" width="{inner_width}" height="{inner_height}" rx="10" fill="#ffffff" stroke="#cbd5e1"/>
"""


def svg(title: str, width: int, height: int, parts: Iterator[str]) -> str:
    """A whole picture."""
    head = _HEAD.format(
        title=escape(title), width=width, height=height, inner_width=width - 2, inner_height=height - 2, ink=_INK
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def text(x: float, y: float, words: str, *, anchor: str = "middle", style: str = "") -> str:
    """A line of text; *y* is its base line."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style and " " + style}>{escape(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    """A rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {style}/>'


def box(x: float, y: float, width: float, height: float, lines: list[str], kind: str) -> Iterator[str]:
    """A box with a name and what it is below that."""
    yield rectangle(x, y, width, height, f'rx="6" fill="{_FILLS[kind]}" stroke="#64748b"')
    first = y + height / 2 + 4 - 8 * (len(lines) - 1)
    for index, line in enumerate(lines):
        style = 'font-weight="600"' if index == 0 else 'font-size="11"'
        yield text(x + width / 2, first + 16 * index, line, style=style)


def arrow(
    points: list[tuple[float, float]], label: str = "", at: tuple[float, float] | None = None, *, both: bool = False
) -> Iterator[str]:
    """A line with a tip through *points*, its label where *at* says or above its middle."""
    way = " ".join(f"{x:g},{y:g}" for x, y in points)
    start = ' marker-start="url(#tip)"' if both else ""
    yield f'<polyline points="{way}" fill="none" stroke="{_INK}" marker-end="url(#tip)"{start}/>'
    if label:
        x, y = at or ((points[0][0] + points[-1][0]) / 2, (points[0][1] + points[-1][1]) / 2 - 5)
        yield text(x, y, label, style=_HALO)
        yield text(x, y, label, style='font-size="11"')


def architecture() -> str:
    """Who runs what on a node, and who talks to whom."""
    return svg("pbsdock on a node: who runs what, and who talks to whom", 860, 400, _architecture())


def _architecture() -> Iterator[str]:
    yield from box(20, 60, 130, 250, ["pbs_mom", "Torque, root"], "torque")
    hooks = (
        (60, ["prologue", "root: plan and prepare"], "root"),
        (125, ["run hook", "$job_starter, the user"], "ours"),
        (190, ["epilogue", "root: release, verify"], "root"),
        (255, ["node check", "root: is the node well?"], "root"),
    )
    for y, lines, kind in hooks:
        yield from box(225, y, 160, 55, lines, kind)
        yield from arrow([(150, y + 27), (224, y + 27)])
        yield from arrow([(385, y + 27), (464, y + 27)], both=True)
    yield text(425, 50, "unix socket", style='font-size="11"')
    yield from box(
        465, 60, 150, 250, ["agent", "root, one a node;", "alone talks to Docker;", "ledger, policy, reaper"], "root"
    )
    yield from box(690, 60, 150, 45, ["registries", "images"], "outside")
    yield from box(690, 115, 150, 45, ["Docker engine", "pull, create, start"], "outside")
    yield from box(690, 170, 150, 45, ["object stores", "credentials for a job"], "outside")
    yield from box(690, 225, 150, 45, ["other nodes", "agents, signed"], "outside")
    yield from box(690, 280, 150, 30, ["events, metrics"], "outside")
    yield from arrow([(690, 130), (675, 130), (675, 82), (689, 82)])
    for y, both in ((140, True), (192, True), (247, True), (295, False)):
        yield from arrow([(615, y), (689, y)], both=both)
    yield from box(
        225,
        330,
        390,
        50,
        ["container: pbsdock-init, then the job", "the user's, in the job's own cgroup, with limits and mounts"],
        "job",
    )
    yield from arrow([(225, 166), (195, 166), (195, 355), (224, 355)])
    yield text(190, 372, "mom's own descriptors,", anchor="end", style='font-size="11"')
    yield text(190, 386, "arguments, environment", anchor="end", style='font-size="11"')
    yield from arrow([(540, 310), (540, 329)], "looks, opens its gate", (612, 324))
    yield text(430, 30, "A node of the cluster", style='font-weight="600" font-size="15"')


_LANES = {"mom": 70, "hook": 235, "agent": 430, "engine": 610, "container": 770}
# From, to, what: the same lane twice is what somebody does alone.
_LIFE = (
    ("mom", "hook", "prologue (root)"),
    ("hook", "agent", "job and script"),
    ("agent", "agent", "#DOCKER line + site policy = plan or refusal; written down"),
    ("agent", "engine", "pull, create, start"),
    ("engine", "container", "first process waits"),
    ("agent", "hook", "ready, or: refused"),
    ("mom", "hook", "run hook (the user)"),
    ("hook", "agent", "start"),
    ("agent", "container", "compare with the plan, look inside, open the gate"),
    ("hook", "container", "mom's descriptors, arguments, environment, limits"),
    ("container", "container", "the job runs; writes to mom's own files"),
    ("container", "hook", "wait status"),
    ("hook", "agent", "ended"),
    ("hook", "mom", "exit code or signal"),
    ("agent", "engine", "release: container, cgroup, mounts, credentials"),
    ("mom", "hook", "epilogue (root)"),
    ("hook", "agent", "is everything gone?"),
    ("agent", "hook", "verified"),
)


def life() -> str:
    """What happens in which order in the life of a job."""
    return svg("The life of a job, from top to bottom", 860, 90 + 34 * len(_LIFE), _life())


def _life() -> Iterator[str]:
    bottom = 75 + 34 * len(_LIFE)
    names = {"mom": ("pbs_mom", "torque"), "hook": ("hook", "ours"), "agent": ("agent", "root")}
    names |= {"engine": ("Docker engine", "outside"), "container": ("container", "job")}
    for lane, x in _LANES.items():
        yield f'<line x1="{x}" y1="50" x2="{x}" y2="{bottom}" stroke="#94a3b8" stroke-dasharray="4 4"/>'
        yield from box(x - 60, 18, 120, 32, [names[lane][0]], names[lane][1])
    for index, (before, to, what) in enumerate(_LIFE):
        y = 86 + 34 * index
        if before == to:
            width = 7 * len(what) + 10
            x = min(_LANES[before], 850 - width / 2)
            kind = "job" if to == "container" else "root"
            yield rectangle(x - width / 2, y - 16, width, 22, f'rx="4" fill="{_FILLS[kind]}"')
            yield text(x, y, what, style='font-size="11"')
            continue
        yield from arrow([(_LANES[before], y), (_LANES[to], y)], what)


# Centre of each state's box.
_PLACES: Mapping[str, tuple[int, int]] = {
    "preparing": (110, 110),
    "ready": (290, 110),
    "running": (470, 110),
    "staging": (650, 110),
    "ended": (650, 230),
    "refused": (290, 230),
    "releasing": (470, 330),
}
# Corners on the way, and where the event's name is, for the ways that are not straight.
_WAYS: Mapping[tuple[str, str], tuple[list[tuple[float, float]], tuple[float, float]]] = {
    ("preparing", "ready"): ([(165, 110), (234, 110)], (200, 100)),
    ("preparing", "refused"): ([(140, 130), (140, 222), (234, 222)], (186, 216)),
    ("preparing", "releasing"): ([(90, 130), (90, 340), (414, 340)], (250, 334)),
    ("ready", "running"): ([(345, 104), (414, 104)], (380, 96)),
    ("ready", "refused"): ([(290, 130), (290, 209)], (252, 175)),
    ("ready", "releasing"): ([(330, 130), (440, 309)], (402, 220)),
    ("running", "ready"): ([(415, 118), (346, 118)], (380, 134)),
    ("running", "staging"): ([(525, 110), (594, 110)], (560, 100)),
    ("running", "ended"): ([(510, 130), (600, 209)], (590, 170)),
    ("running", "releasing"): ([(475, 130), (475, 309)], (475, 180)),
    ("staging", "ended"): ([(650, 130), (650, 209)], (680, 175)),
    ("staging", "releasing"): ([(705, 110), (740, 110), (740, 336), (526, 336)], (640, 330)),
    ("ended", "releasing"): ([(600, 250), (526, 316)], (566, 290)),
    ("refused", "releasing"): ([(330, 250), (414, 322)], (372, 290)),
    ("releasing", "releasing"): ([(450, 350), (450, 372), (490, 372), (490, 351)], (470, 388)),
}


def states() -> str:
    """A job's states, as core.record has them."""
    return svg("The states of a job, and the event that tells of each change", 780, 410, _states())


def _states() -> Iterator[str]:
    yield text(110, 48, "a job's prologue", style='font-size="11"')
    yield from arrow([(110, 54), (110, 89)])
    yield text(120, 268, "a #DOCKER line that is wrong", style='font-size="11"', anchor="start")
    yield from arrow([(200, 256), (234, 244)])
    for (before, to), event in TRANSITIONS.items():
        points, at = _WAYS[before.value, to.value]
        yield from arrow(points, event, at)
    yield from arrow([(525, 345), (640, 370)], "release.done: gone", (660, 386))
    kinds = {"running": "job", "refused": "bad"}
    for name, (x, y) in _PLACES.items():
        yield from box(x - 55, y - 20, 110, 40, [name], kinds.get(name, "ours"))


ALL = {"architecture.svg": architecture, "life-of-a-job.svg": life, "states.svg": states}

if __name__ == "__main__":
    for name, draw in ALL.items():
        (PICTURES / name).write_text(draw())
