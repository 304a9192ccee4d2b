"""Add to the table of advisories what the OSV database has on the locked packages and the table has not.

``make lock`` runs it after the lock files. Without a network the table stays as it is. The engine's table is kept by
hand. The form of the answers: google.github.io/osv.dev/post-v1-query and ossf.github.io/osv-schema.
"""

from __future__ import annotations

import datetime
import http.client
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "lib/pbsdock/admin/doctor/advisories-packages.toml"
LOCK = HERE / "run.txt"
HOST = "api.osv.dev"
_TIMEOUT_S = 20.0
_PIN = re.compile(r"^([a-z0-9.-]+)==", re.MULTILINE)


def ask(package: str, host: str = HOST) -> dict[str, Any]:
    """What OSV answers on a package of PyPI. Raises OSError, http.client.HTTPException, ValueError."""
    connection = http.client.HTTPSConnection(host, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", "/v1/query", json.dumps({"package": {"name": package, "ecosystem": "PyPI"}}))
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{host} answered {answer.status}")
        found = json.loads(answer.read())
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise ValueError(f"{host} did not answer with an object")
    return found


def rows(package: str, answer: dict[str, Any], known: set[str], today: datetime.date) -> Iterator[str]:
    """A row of the table for each vulnerability of *answer* that has been mended and no name of which is *known*. Pure.

    The names of those that are returned are added to *known*: OSV has one vulnerability from several databases.
    """
    for found in answer.get("vulns", []):
        names = {found["id"], *found.get("aliases", [])}
        cves = sorted(name for name in names if name.startswith("CVE-")) or [found["id"]]
        fixed = _fixed(package, found)
        if "withdrawn" in found or names & known or not fixed:
            continue
        known |= names
        lines = (
            f"component = {json.dumps(package)}",
            f"cves = {json.dumps(cves)}",
            f"what = {json.dumps(found.get('summary') or 'see its source')}",
            f"fixed = {json.dumps(fixed)}",
            f"added = {today}",
            f"sources = {json.dumps(['https://osv.dev/vulnerability/' + found['id']])}",
        )
        yield "\n[[advisory]]\n" + "\n".join(lines) + "\n"


def _fixed(package: str, found: dict[str, Any]) -> list[str]:
    """The versions that mended it, ascending; only of ranges of versions, not of commits."""
    found_in = [
        event["fixed"]
        for affected in found.get("affected", [])
        if affected.get("package", {}).get("name") == package
        for extent in affected.get("ranges", [])
        if extent.get("type") == "ECOSYSTEM"
        for event in extent.get("events", [])
        if "fixed" in event
    ]
    return sorted(set(found_in), key=lambda version: [int(number) for number in re.findall(r"\d+", version)])


def main(host: str = HOST, table: Path = TABLE) -> int:
    """Returns 0 also where there is no network."""
    text = table.read_text(encoding="utf-8")
    known = {name for row in tomllib.loads(text)["advisory"] for name in row["cves"]}
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        packages = _PIN.findall(LOCK.read_text())
        new = [row for package in packages for row in rows(package, ask(package, host), known, today)]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        print(f"advisories: {host} cannot be asked ({error}); {table.name} stays as it is", file=sys.stderr)
        return 0
    if new:
        table.write_text(text + "".join(new), encoding="utf-8")
        print(f"advisories: {len(new)} new in {table.name}; read them, and add them to docs/security.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
