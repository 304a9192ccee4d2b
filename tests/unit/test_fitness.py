"""What an engine says of itself decides whether jobs can run there; whose engines these are is made up."""

from __future__ import annotations

from typing import Any

import pytest

from pbsdock.admin.doctor.engine import judge_fitness
from pbsdock.core.errors import NodeFault
from pbsdock.engine.base import EngineCapabilities
from pbsdock.engine.docker.answers import capabilities
from pbsdock.engine.fitness import check

_INFO: dict[str, Any] = {
    "SecurityOptions": ["name=seccomp,profile=default", "name=cgroupns"],
    "Runtimes": {"runc": {"path": "runc"}, "crun": {"path": "/usr/bin/crun"}},
    "DefaultRuntime": "runc",
}
_PLAIN = capabilities(_INFO)
_USERNS = capabilities({**_INFO, "SecurityOptions": [*_INFO["SecurityOptions"], "name=userns"]})
_OLD = capabilities({})
_OLD_USERNS = capabilities({"SecurityOptions": ["userns"]})


@pytest.mark.parametrize("runtime", ["", "runc", "crun"])
def test_runtimes_it_has(runtime: str) -> None:
    """Each of its own, or its default."""
    check(_PLAIN, runtime, "hpc")
    (judged,) = judge_fitness(_PLAIN, runtime, "hpc")

    assert judged.well
    assert judged.seen == f"jobs run with {runtime or 'runc'}, user ids are the host's"


@pytest.mark.parametrize(
    ("info", "runtime", "seccomp", "code", "says"),
    [
        (
            _PLAIN,
            "kata",
            "hpc",
            "runtime-missing",
            "engine.runtime = 'kata' is no runtime of the Docker engine; it has crun, runc",
        ),
        (_USERNS, "", "hpc", "userns-remap", "the Docker engine maps user ids (userns-remap), so "),
        (_OLD_USERNS, "", "hpc", "userns-remap", "the Docker engine maps user ids (userns-remap), so "),
        (
            _OLD,
            "",
            "/etc/seccomp.json",
            "no-seccomp",
            "security.seccomp = '/etc/seccomp.json', but the Docker engine or ",
        ),
    ],
)
def test_engines_that_cannot(info: EngineCapabilities, runtime: str, seccomp: str, code: str, says: str) -> None:
    """Told to the admin alone, before the first job by the doctor: the job goes to another node."""
    with pytest.raises(NodeFault) as caught:
        check(info, runtime, seccomp)
    (judged,) = judge_fitness(info, runtime, seccomp)

    assert caught.value.code == code
    assert caught.value.sentence.startswith(says)
    assert (judged.well, judged.seen) == (False, caught.value.sentence)


@pytest.mark.parametrize("seccomp", ["hpc", "engine"])
def test_an_engine_without_seccomp(seccomp: str) -> None:
    """Gets no profile, and needs none."""
    check(_OLD, "", seccomp)
