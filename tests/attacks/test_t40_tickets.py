"""T40, the tickets' part: nobody has a sister start what the mother superior did not decide for that user's job."""

from __future__ import annotations

import pwd
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from pbsdock.cluster.signing import KeySigner, read_key
from pbsdock.core.ticket import VARIABLE, Ticket
from pbsdock.trial.wide import WideTrial
from tests.conftest import IMAGE, USERS
from tests.support.cluster import SisterInstance
from tests.support.sisters import Site

pytestmark = pytest.mark.engine
_ALICE, _BOB = USERS[:2]


@dataclass
class Target:
    """A job of alice's over both nodes, whose sister has nothing of it but mom's file, and its ticket."""

    site: Site
    job: WideTrial
    text: str

    @property
    def key(self) -> KeySigner:
        """The cluster's, which no attacker has: for what root of a node has signed at another time."""
        return KeySigner(read_key(self.site.key_of(self.site.cluster.sister)))

    @property
    def ticket(self) -> Ticket:
        """What it says."""
        return Ticket.unpack(self.key.verify(self.text))

    def try_as(self, user: str, text: str, job: str = "", command: str = "echo got in") -> str:
        """What the sister's run hook prints when a user's program calls it; they need no mom for that."""
        entry = pwd.getpwnam(user)
        instance = self.site.cluster.sister.instance
        assert isinstance(instance, SisterInstance)
        variables = {
            "PBS_JOBID": job or self.job.job_id,
            "PBS_NODENUM": "1",
            "PBS_TASKNUM": "7",
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "HOME": entry.pw_dir,
            VARIABLE: text,
        }
        hook = f"{instance.there}/opt/pbsdock/hooks/run"
        done = self.site.cluster.sister.run(
            "setpriv",
            f"--reuid={entry.pw_uid}",
            f"--regid={entry.pw_gid}",
            "--clear-groups",
            "env",
            "-i",
            *(f"{name}={value}" for name, value in variables.items()),
            hook,
            "/bin/sh",
            "-c",
            command,
        )
        return done.stdout + done.stderr

    def containers(self) -> int:
        """How many the sister has."""
        return len(self.site.cluster.sister.docker("ps", "-aq").stdout.split())


@pytest.fixture
def target(site: Site) -> Iterator[Target]:
    """The sister does not listen to the mother superior, so that nothing stands ready there."""
    site.configure("", port=0)
    script = site.script("echo $PBSDOCK_TICKET >~/there; sleep 600")
    job = site.cluster.begin(script, "nodes=1+n2", user=_ALICE)
    site.flags("there")
    found = Target(site, job, (site.home / "there").read_text().strip())
    yield found
    assert "got in" in found.try_as(_ALICE, found.text)  # the ticket itself is good all the while
    job.qdel()
    job.result()


def _refused(said: str, why: str) -> bool:
    return why in said and "got in" not in said


@pytest.mark.threat(40)
def test_a_forged_ticket(target: Target) -> None:
    """Signed with a key of one's own, for one's own job: with another image, say."""
    forged = KeySigner(secrets.token_bytes(32)).sign(replace(target.ticket, image="docker.io/evil/x:1").pack())

    assert _refused(target.try_as(_ALICE, forged), "the signature does not hold")
    assert _refused(target.try_as(_BOB, forged), "the signature does not hold")
    assert target.containers() == 0


@pytest.mark.threat(40)
def test_an_edited_ticket(target: Target) -> None:
    """Every way to change what is signed, and to leave the signature."""
    head, payload, mac = target.text.split(".")
    own = KeySigner(secrets.token_bytes(32)).sign(replace(target.ticket, mounts=(("/", "/host", False),)).pack())
    wrong = [
        ".".join((head, own.split(".")[1], mac)),
        ".".join((head, payload[:-4], mac)),
        ".".join((head, payload + "AAAA", mac)),
        ".".join((head, payload, mac[::-1])),
        ".".join((head, payload)),
        f"m1.{payload}",
        "x" * 5000,
    ]

    for text in wrong:
        assert _refused(target.try_as(_ALICE, text), "the signature does not hold"), text[:80]
    assert target.containers() == 0


@pytest.mark.threat(40)
def test_another_users_ticket(target: Target) -> None:
    """Bob has alice's, since it stood in her home: for her job, and for whatever he says is his."""
    assert _refused(target.try_as(_BOB, target.text), "is another user's")
    assert target.containers() == 0
    assert "got in" in target.try_as(_ALICE, target.text)
    assert _refused(target.try_as(_BOB, target.text), "belongs to another user")
    assert _refused(target.try_as(_BOB, target.text, job="99.vm"), "job 99.vm is not alive on n2")


@pytest.mark.threat(40)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run": "0" * 32}, "is of another run of job"),
        ({"uid": 4242}, "is another user's"),
        ({"expires_at": 1.0}, "was good until its walltime was over"),
        ({"issued_at": 4e9}, "the clock of n2 is"),
    ],
    ids=["run", "user", "expired", "future"],
)
def test_a_replayed_ticket(target: Target, changes: dict[str, object], why: str) -> None:
    """Genuine ones: of the same job before it was queued again, of another user or time."""
    replayed = target.key.sign(replace(target.ticket, **changes).pack())  # type: ignore[arg-type]  # a test's

    assert _refused(target.try_as(_ALICE, replayed), why)
    assert target.containers() == 0


@pytest.mark.threat(40)
def test_another_jobs_ticket(target: Target) -> None:
    """It makes no container, and is as good as none: what runs is what Torque starts for the user without pbsdock."""
    other = target.key.sign(replace(target.ticket, job_id="98.vm", image="docker.io/evil/x:1").pack())

    assert "got in bare" in target.try_as(_ALICE, other, command="[ -e /run/pbsdock/init ] || echo got in bare")
    assert "got in" not in target.try_as(_BOB, other)
    assert target.containers() == 0


@pytest.mark.threat(40)
def test_what_is_signed_and_no_ticket(target: Target) -> None:
    """The agents' own questions are signed by the same key."""
    assert _refused(target.try_as(_ALICE, target.key.sign(b'{"op":"ticket"}')), "what was signed is no ticket")
    assert target.containers() == 0


@pytest.mark.threat(40)
def test_a_ticket_of_a_job_that_is_over(site: Site) -> None:
    """A sister that has nothing of mom's about it starts nothing."""
    site.configure("", port=0)
    job = site.cluster.begin(site.script("echo $PBSDOCK_TICKET >~/there"), "nodes=1+n2", user=_ALICE)
    assert job.result().exit_status == 0
    over = Target(site, job, (site.home / "there").read_text().strip())

    assert _refused(over.try_as(_ALICE, over.text), f"job {job.job_id} is not alive on n2")
    assert over.containers() == 0


@pytest.mark.threat(40)
def test_the_sisters_own_policy(site: Site) -> None:
    """What the mother superior allows is no reason for a node whose site forbids it."""
    site.configure("", port=0)
    image = IMAGE.rpartition(":")[0]
    sister = site.cluster.sister
    site.cluster.configure(
        f"[images]\ndeny = ['*/{image}*']\n[nodes]\nport = 0\n",
        [sister],
    )
    done = site.run("pbsdsh -o /bin/echo got in")

    assert done.stdout == b"got in\n"  # on the mother superior
    assert b"is not allowed at this site" in done.stderr
    assert sister.docker("ps", "-aq").stdout == ""
