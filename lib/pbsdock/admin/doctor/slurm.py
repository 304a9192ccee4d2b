"""``pbsdock doctor site`` where Slurm is the manager: slurmd, slurm.conf as a file and as it is in force, live jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, ok, unknown, warn, wrong
from pbsdock.admin.setup import slurm_config, spank
from pbsdock.admin.setup.files import read
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.versions import Versions
from pbsdock.rm.slurm.manager import Slurm


def examine(subject: Subject) -> Iterator[Row]:
    """All of them."""
    manager = subject.manager
    assert isinstance(manager, Slurm)
    places = Places.of(subject.paths)
    assert places.slurm_conf is not None
    if manager.is_running():
        yield ok("slurm", "daemon", "slurmd runs here")
    else:
        yield warn("slurm", "daemon", "slurmd does not run here", "start it")
    told = list(slurm_config.wrong(read(places.slurm_conf), places))
    for sentence in told:
        seen, _, lost = sentence.partition(": ")
        fix = lost or "pbsdock setup install --slurm CONF tells what is to be in it; then scontrol reconfigure"
        yield wrong("slurm", "configuration", seen, fix)
    if not told:
        yield ok("slurm", "configuration", f"{places.slurm_conf} has pbsdock's lines")
    if problem := spank.told(places, Versions(places.prefix).current()):
        seen, _, fix = problem.partition(": ")
        yield warn("slurm", "steps", seen, fix or "pbsdock setup install --slurm CONF tells what is to be in it")
    else:
        yield ok("slurm", "steps", "steps of srun and salloc come into containers by the SPANK plugin")
    settings = manager.control.settings()
    if settings is None:
        yield unknown("slurm", "in force", "slurmctld gives no answer", "start it, or look at SLURM_CONF and munge")
    else:
        yield in_force(settings, places)
    heeds, sentence = manager.heeds_errors()
    if heeds is False:
        yield wrong("slurm", "health check", sentence, "name pbsdock's health-check, or call it from the site's own")
    elif heeds:
        yield ok("slurm", "health check", sentence)
    try:
        yield ok("slurm", "jobs", f"{len(manager.live())} jobs are alive here")
    except OSError as error:
        yield wrong("slurm", "jobs", str(error), "nothing is reaped while they cannot be read")


def in_force(settings: Mapping[str, str], places: Places) -> Row:
    """Whether the controller has what slurm.conf says; *settings* by names in lower case. Pure."""
    lacking = [
        line
        for line in slurm_config.lines(places)
        if line.partition("=")[2].startswith("/")
        and settings.get(line.partition("=")[0].lower()) != line.partition("=")[2]
    ]
    if lacking:
        seen = f"the controller lacks {', '.join(line.partition('=')[0] for line in lacking)}"
        return wrong("slurm", "in force", seen, "scontrol reconfigure")
    return ok("slurm", "in force", "the controller has pbsdock's hooks")
