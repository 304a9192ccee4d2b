"""What the agent tells of a job, as lines for a person. Pure.

*told* is the documented JSON object (docs/why.md). What is not in it, because an older agent answers, is left out.
Control characters, and whatever else is not printable, cannot reach the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pbsdock.core.sizes import human

Told = Mapping[str, Any]
_LABEL = 10  # columns
_BAR = 20
_ROWS = 12  # of phases
_EARLIER = 4
_WHOLE_DAY = 86400
_RED, _YELLOW, _BOLD, _RESET = "\033[31m", "\033[33m", "\033[1m", "\033[0m"
_WELL = ("well", "running", "preparing", "ready", "staging")
# What a phase is called, and of which hook it is a part.
_HOOKS = {"prologue": "prologue", "start": "run: start", "ran": "run: the job", "release": "epilogue"}


def screen(told: Told, nodes: Sequence[str] = (), *, width: int = 100, colour: bool = False) -> list[str]:
    """The whole of it, with the lines on the job's other *nodes* before the cause."""
    parts: list[tuple[str, Sequence[str]]] = [
        ("asked", list(_asked(told))),
        ("decided", _wrapped("; ".join(_decided(told)), width - _LABEL)),
        ("image", list(_image(told))),
        ("when", list(_when(told))),
        ("used", usage_rows(told)),
        ("ended", list(ended(told))),
        ("nodes", nodes),
    ]
    lines = [_head(told)]
    lines += [line for label, texts in parts for line in _labelled(label, texts)]
    cause = told.get("cause") or {}
    shade = "" if not colour else _BOLD if cause.get("code") in _WELL else _RED
    said = _wrapped(plain(cause.get("sentence", "")), width - _LABEL)
    lines += [f"{shade}{line}{_RESET if shade else ''}" for line in _labelled("why", said)]
    lines += _labelled("earlier", [line for line in _earlier(told, width - _LABEL)])
    return lines


def _labelled(label: str, texts: Sequence[str]) -> list[str]:
    return [f"{label if not index else '':<{_LABEL}}{text}".rstrip() for index, text in enumerate(texts)]


def _head(told: Told) -> str:
    outcome = outcome_of(told)
    day = time.strftime("%Y-%m-%d", time.localtime(told.get("created_at") or 0))
    return plain(f"job {told.get('job')} of {told.get('user')} on {told.get('node')}, {day}: {outcome}").rstrip()


def outcome_of(told: Told) -> str:
    """In a word or two what became of it, or where it is."""
    outcome = str(told.get("outcome") or told.get("state") or "")
    if outcome != "ran":
        return outcome
    status = told["exit_status"] if told.get("exit_status") is not None else (told.get("exit") or {}).get("code")
    if status is None and told.get("mother"):
        return "over"
    return "failed" if status != 0 else "ended well"


def _asked(told: Told) -> Iterator[str]:
    lines = [plain(line) for line in str(told.get("asked") or "").split("\n") if line]
    yield from lines[:4]
    if len(lines) > 4:
        yield f"… and {len(lines) - 4} lines more"
    if told.get("on_demand"):
        yield "for a container on demand"


def _decided(told: Told) -> Iterator[str]:
    for decision in told.get("decided") or ():
        rule, line = decision.get("rule"), decision.get("line")
        where = f"{told.get('config')}:{line}" if line else "default" if "." in str(rule) else ""
        by = f" ({rule}{', ' + where if where else ''})" if rule else ""
        if decision.get("what") == "refused by":
            yield plain(f"refused by {rule}{f' ({where})' if where else ''}")
            continue
        yield plain(f"{decision.get('what')} {decision.get('value')}{by}")


def _image(told: Told) -> Iterator[str]:
    if told.get("image"):
        yield plain(told["image"])
        came = next((phase for phase in told.get("phases") or () if phase.get("name") == "image"), None)
        digest = told.get("image_digest") or told.get("image_id") or ""
        took = f", {came.get('note')} in {span((came.get('ms') or 0) / 1000)}" if came else ""
        if digest:
            yield plain(f"{digest}{took}")


def _when(told: Told) -> Iterator[str]:
    phases = list(told.get("phases") or ())
    if (began := told.get("started_at")) is not None:
        phases.append({"name": "ran", "at": began, "ms": 1000 * (told.get("run_s") or 0.0)})
    # What a hook did comes after the hook, which began no later.
    order = {name: rank for rank, name in enumerate(("prologue", "start", "ran", "release"))}
    phases.sort(key=lambda phase: (phase.get("at") or 0.0, order.get(phase.get("name"), 9)))
    for phase in phases[:_ROWS]:
        name, ms = str(phase.get("name")), phase.get("ms")
        called = _HOOKS.get(name, f"  {name}")
        note = str(phase.get("note") or "")
        if name == "release":
            called, note = ("epilogue", "") if note == "epilogue" else ("release", note)
        took = span(ms / 1000) if ms is not None else ""
        yield plain(f"{_clock(phase.get('at'))}  {called:<14} {took:>10}  {note}".rstrip())
    if len(phases) > _ROWS:
        yield f"… and {len(phases) - _ROWS} more"


def usage_rows(told: Told) -> list[str]:
    """A bar for each limit and what of it was used; what the kernel does not tell is left out."""
    used, limits = told.get("used") or {}, told.get("limits") or {}
    now = told.get("now") or {}
    rows = []
    for name, peak, most, level in (
        ("memory", used.get("memory_peak_bytes"), limits.get("memory_bytes"), now.get("memory_bytes")),
        ("shm", told.get("shm_peak_bytes"), limits.get("shm_bytes"), now.get("shm_bytes")),
    ):
        if peak is not None or level is not None:
            top = max(peak or 0, level or 0)
            of = f" of {human(most)}" if most else ", not limited"
            rows.append(_row(name, top, most, f"peak {human(top)}{of}{_now(level, human)}"))
    if (seconds := used.get("cpu_seconds")) is not None and told.get("run_s"):
        rows.insert(min(1, len(rows)), _cpu(seconds, told["run_s"], limits))
    top = max(used.get("pids_peak") or 0, now.get("pids") or 0)
    if top:
        most = limits.get("pids")
        rows.insert(min(2, len(rows)), _row("pids", top, most, f"peak {top} of {most}{_now(now.get('pids'), str)}"))
    if used.get("io_read_bytes") is not None:
        text = f"read {human(used['io_read_bytes'])}, wrote {human(used.get('io_write_bytes') or 0)}"
        rows.append(f"{'disk':<9}{'':<{_BAR + 8}}{text}")
    if told.get("run_s") is not None and told.get("walltime_s"):
        most, run = told["walltime_s"], told["run_s"]
        rows.append(_row("walltime", run, most, f"{span(run)} of {span(most)}"))
    return rows


def _cpu(seconds: float, run_s: float, limits: Told) -> str:
    most = (limits.get("cpu_millis") or 0) / 1000 or cpus_in(limits.get("cpuset") or "")
    mean = seconds / run_s
    of = f" of {_cpus(most)}" if most else " CPUs, not limited"
    return _row("cpu", mean, most, f"mean {mean:.2f}{of} ({span(seconds)})")


def _cpus(count: float) -> str:
    return f"{count:g} CPU{'' if count == 1 else 's'}"


def _now(level: Any, write: Any) -> str:
    return "" if level is None else f", now {write(level)}"


def _row(name: str, part: float, whole: float | None, text: str) -> str:
    if not whole:
        return f"{name:<9}{'':<{_BAR + 8}}{text}"
    return f"{name:<9}{bar(part, whole)} {100 * part / whole:3.0f} % {text}"


def bar(part: float, whole: float) -> str:
    """A bar of 20 characters; what is more than nothing is seen, and only what is full is full."""
    filled = int(_BAR * min(max(part, 0.0), whole) / whole)
    if part > 0 and not filled:
        filled = 1
    return f"[{'#' * filled}{'-' * (_BAR - filled)}]"


def cpus_in(cpuset: str) -> int:
    """How many CPUs the kernel's list names, such as "0-3,8"; 0 for none."""
    count = 0
    for part in cpuset.split(",") if cpuset else ():
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def ended(told: Told) -> Iterator[str]:
    """When and how, and what its user was told."""
    end, recorded = told.get("exit") or {}, told.get("exit_status")
    said = []
    if end.get("code") is not None:
        said.append(f"exit status {end['code']}")
    if recorded is not None:
        said.append(f"{told.get('manager')} recorded {recorded}")
    if told.get("ended_at") is not None:
        said.insert(0, _clock(told["ended_at"]))
    if said:
        yield plain(", ".join(said))
    for sentence in end.get("sentences") or ():
        yield f"told: {plain(sentence)}"


def _earlier(told: Told, width: int) -> Iterator[str]:
    earlier = told.get("earlier") or ()
    for story in earlier[:_EARLIER]:
        sentence = (story.get("cause") or {}).get("sentence", "")
        text = f"{_clock(story.get('created_at'))}  {story.get('outcome')}: {sentence}"
        shown = plain(text)
        yield shown if len(shown) <= width else f"{shown[: width - 1]}…"
    if len(earlier) > _EARLIER:
        yield f"… and {len(earlier) - _EARLIER} more"


# -- live --------------------------------------------------------------------------------------------------------------


def live_row(told: Told, before: Told | None) -> str:
    """What a running job has now, and how fast since *before*, in a line."""
    now, limits = told.get("now") or {}, told.get("limits") or {}
    parts = [_clock(told.get("told_at"))]
    for name in ("memory", "shm"):
        if (level := now.get(f"{name}_bytes")) is not None:
            most = limits.get(f"{name}_bytes")
            parts.append(f"{name} {human(level)}{' of ' + human(most) if most else ''}")
    if now.get("pids") is not None:
        parts.append(f"pids {now['pids']} of {limits.get('pids')}")
    parts += [f"{name} {text}" for name, text in rates(told, before)]
    return "  ".join(parts)


def live_rows(told: Told, before: Told | None) -> list[str]:
    """The same as bars, one line each."""
    now, limits = told.get("now") or {}, told.get("limits") or {}
    rows = [f"{_clock(told.get('told_at'))}  {plain(told.get('job'))} {plain(told.get('state'))}"]
    for name in ("memory", "shm"):
        if (level := now.get(f"{name}_bytes")) is not None:
            most = limits.get(f"{name}_bytes")
            rows.append(_row(name, level, most, f"{human(level)}{' of ' + human(most) if most else ''}"))
    if now.get("pids") is not None:
        rows.append(_row("pids", now["pids"], limits.get("pids"), f"{now['pids']} of {limits.get('pids')}"))
    for name, text in rates(told, before):
        whole = (limits.get("cpu_millis") or 0) / 1000 or cpus_in(limits.get("cpuset") or "")
        part = float(text.split()[0]) if name == "cpu" else 0.0
        rows.append(_row(name, part, whole if name == "cpu" else None, text))
    return rows


def rates(told: Told, before: Told | None) -> list[tuple[str, str]]:
    """CPUs in use and bytes a second since *before*; nothing without that."""
    if before is None or before.get("incarnation") != told.get("incarnation"):
        return []
    seconds = (told.get("told_at") or 0.0) - (before.get("told_at") or 0.0)
    used, was = told.get("used") or {}, before.get("used") or {}
    made = []
    if seconds <= 0:
        return []
    for key, name in (("cpu_seconds", "cpu"), ("io_read_bytes", "read"), ("io_write_bytes", "written")):
        if used.get(key) is not None and was.get(key) is not None:
            rate = max(0.0, used[key] - was[key]) / seconds
            made.append((name, f"{rate:.2f} CPUs" if name == "cpu" else f"{human(int(rate))}/s"))
    return made


# -- words -------------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """Seconds for a person: "0.04 s", "12.3 s", "3:05 min", "2:10:00 h"."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def _clock(at: float | None) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at or 0))


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines


def plain(value: Any) -> str:
    """Without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
