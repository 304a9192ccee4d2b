"""Images as a cache, on the real engine with a real registry: pulled, listed, pinned, pruned and removed for room."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import IMAGE, Instance, wait_until
from tests.support.registry import registry

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def site(images: None) -> Iterator[str]:
    """A registry with images ``one`` to ``four``, none of which is here."""
    with registry() as address:
        for name in ("one", "two", "three", "four"):
            # Of its own content each: an image is known by that.
            container = f"FROM {IMAGE}\nLABEL own={name}-{address}\n"
            subprocess.run(
                ["docker", "build", "-q", "-t", f"{address}/{name}:1", "-"], input=container.encode(), check=True
            )
            subprocess.run(["docker", "push", "-q", f"{address}/{name}:1"], check=True, capture_output=True)
        _remove(address)
        yield address
        _remove(address)


def _remove(address: str) -> None:
    for name in ("one", "two", "three", "four"):
        subprocess.run(["docker", "rmi", f"{address}/{name}:1"], capture_output=True, check=False)


def _here(address: str) -> set[str]:
    listed = subprocess.run(
        ["docker", "images", "--format", "{{.Repository}}"], capture_output=True, text=True, check=True
    ).stdout
    return {line.rpartition("/")[2] for line in listed.split() if line.startswith(address)}


def _images(instance: Instance, address: str) -> dict[str, dict[str, Any]]:
    told = json.loads(instance.command("images", "--json").stdout)
    return {
        image["names"][0].partition("/")[2].partition(":")[0]: image
        for image in told["images"]
        if image["names"] and image["names"][0].startswith(address)
    }


def _settings(text: str = "") -> str:
    """No question of room, unless a test asks for it."""
    return f"[images]\nhigh_water = 100\nguard_free = 0\n{text}"


def test_images_of_jobs_are_listed_kept_and_pruned(instance: Instance, site: str) -> None:
    """What a job has fetched is pbsdock's, and goes; what is pinned, what runs and what others have fetched stays."""
    instance.configure(_settings())
    subprocess.run(["docker", "pull", "-q", f"{site}/four:1"], check=True, capture_output=True)
    for name in ("one", "four"):
        assert instance.run(f"#!/bin/sh\n#DOCKER {site}/{name}:1\ntrue\n").exit_status == 0
    pulled = instance.command("images", "pull", "--pin", f"{site}/two:1", f"{site}/three:1", f"{site}/none:1")
    assert pulled.returncode == 1
    assert "three:1: pulled, sha256:" in pulled.stdout
    assert "none" in pulled.stderr
    instance.command("images", "unpin", f"{site}/three:1")
    running = instance.begin(f"#!/bin/sh\n#DOCKER {site}/three:1\nsleep 300\n")
    rows = _images(instance, site)
    assert {name: row["pulled_by_pbsdock"] for name, row in rows.items()} == {
        "one": True,
        "two": True,
        "three": True,
        "four": False,
    }
    assert rows["one"]["user"] == "pbsdock-a"
    assert rows["one"]["job"]
    assert rows["two"]["kept_because"] == "pinned"
    assert rows["three"]["kept_because"] == "a job uses it"
    assert rows["one"]["kept_because"] == "it is new, or was used a moment ago"

    _age(instance, site)
    trial = instance.command("images", "prune", "--dry-run")
    assert f"would remove {site}/one:1" in trial.stdout
    assert _here(site) == {"one", "two", "three", "four"}
    done = instance.command("images", "prune", "--json")
    assert json.loads(done.stdout)["names"] == [f"{site}/one:1"]
    assert _here(site) == {"two", "three", "four"}
    running.qdel()
    running.finish(running.wait())
    instance.command("images", "unpin", f"{site}/two:1")
    wait_until("nothing uses them", lambda: not instance.left())
    _age(instance, site)
    assert instance.command("images", "prune").returncode == 0
    assert _here(site) == {"four"}
    removed = [event["image"] for event in instance.events() if event["event"] == "image.removed"]
    assert removed[-3:-2] == [f"{site}/one:1"]
    _remove(site)


def _age(instance: Instance, address: str) -> None:
    """Have all of it used two days ago, as the file says; who reads it is an agent that starts."""
    file = instance.state_dir / "images.json"
    wait_until("it is written down", lambda: file.exists())
    instance.command("images", "pin", f"{address}/nothing:1")  # which writes it at once
    instance.kill_agent()
    data = json.loads(file.read_text())
    for use in data["images"].values():
        for key in ("used_at", "pulled_at"):
            use[key] = max(0.0, use[key] - 2 * 86400)
    file.write_text(json.dumps(data))
    instance.start_agent() if instance.left() else instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")


def test_a_scheduler_is_told_what_is_here(instance: Instance, site: str) -> None:
    """By the names of images that jobs have fetched, and no longer once they are removed."""
    file = instance.root / "images.varattr"
    instance.configure(f'{_settings()}properties_file = "{file}"\n[reaper]\nperiod_s = 1\n')
    assert instance.run(f"#!/bin/sh\n#DOCKER {site}/one:1\ntrue\n").exit_status == 0
    name = f"img.{site.replace(':', '.')}.one_1"

    def names() -> list[str]:
        return file.read_text().rstrip("\n").partition(":")[2].split("+") if file.exists() else []

    wait_until("it is told", lambda: name in names(), 20)
    assert file.stat().st_mode & 0o777 == 0o644
    wait_until("nothing uses it", lambda: not instance.left())
    _remove(site)
    wait_until("it is told no longer", lambda: name not in names(), 20)


def test_a_disk_above_the_mark_cleans_itself(instance: Instance, site: str) -> None:
    """The marks are put below what this disk has used, so that all that may go has to; a job fetches anew what it needs."""
    instance.configure(_settings())
    for name in ("one", "two", "three"):
        assert instance.run(f"#!/bin/sh\n#DOCKER {site}/{name}:1\ntrue\n").exit_status == 0
    instance.command("images", "pin", f"{site}/two:1")
    _age(instance, site)
    instance.configure("[images]\nhigh_water = 1\nlow_water = 0\nguard_free = 0\n[reaper]\nperiod_s = 1\n")
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").exit_status == 0
    wait_until("the cache is lowered", lambda: _here(site) == {"two"})
    assert instance.run(f"#!/bin/sh\n#DOCKER {site}/one:1\ntrue\n").exit_status == 0
    told = [event for event in instance.events() if event["event"] in ("image.removed", "image.collected")]
    assert {event["why"] for event in told if event["event"] == "image.removed"} >= {"high-water"}
    assert any(event["event"] == "image.collected" and event["level"] == "warning" for event in told)
    instance.command("images", "unpin", f"{site}/two:1")
    _remove(site)


def test_an_image_that_cannot_fit_is_not_begun_to_be_pulled(instance: Instance, site: str) -> None:
    """A manifest that says a petabyte: nothing is fetched, the sentence says what is there, and the job is queued again."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": 2,
                "digest": _put(site, b"{}"),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": 1 << 50,
                    "digest": _put(site, b"layer"),
                }
            ],
        }
    )
    _request(
        site, "PUT", "/v2/huge/manifests/1", manifest.encode(), "application/vnd.docker.distribution.manifest.v2+json"
    )
    instance.configure("[images]\nhigh_water = 100\nguard_free = '1000tb'\n")
    outcome = instance.run(f"#!/bin/sh\n#DOCKER {site}/huge:1\ntrue\n")
    assert outcome.prologue_status == 2
    told = json.loads(instance.command("why", "--json", outcome.job_id).stdout)
    assert told["cause"]["code"] == "disk-full"
    assert "needs some 2 PiB" in told["cause"]["sentence"] or "needs some 2048" in told["cause"]["sentence"]
    assert instance.run(f"#!/bin/sh\n#DOCKER {site}/one:1\ntrue\n").exit_status == 0
    assert not (instance.run_dir / "unhealthy").exists()
    _remove(site)


def _put(address: str, blob: bytes) -> str:
    import hashlib

    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    place = _request(address, "POST", "/v2/huge/blobs/uploads/", b"", "")
    _request(address, "PUT", f"{place}&digest={digest}", blob, "application/octet-stream")
    return digest


def _request(address: str, method: str, path: str, body: bytes, kind: str) -> str:
    import http.client

    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path.removeprefix(f"http://{address}"), body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status < 300, text
    connection.close()
    return answer.getheader("Location") or ""
