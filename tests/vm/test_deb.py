"""The Debian package in a Debian of each suite that has it, in namespaces without a network: installed, upgraded, removed,
purged. No machine, no systemd and no engine: what those add, install.sh's own tests have."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.docs_shell import blocks
from tests.vm.base import SUITES, BuildError, built
from tests.vm.debian import Debian
from tests.vm.packages import Packages, build

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]
MOM = "/var/spool/torque/mom_priv"
TOML = "/etc/pbsdock/pbsdock.toml"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Both of them."""
    return build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(params=SUITES)
def debian(request: pytest.FixtureRequest, packages: Packages) -> Iterator[Debian]:
    """With both versions of the package in ``/root``."""
    try:
        base = built(request.param)
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)
    debian = Debian(base / "root")
    shutil.copy(packages.now, packages.later.with_name("now.deb"))
    for file in (packages.later.with_name("now.deb"), packages.later):
        debian.take(file)
    yield debian
    debian.close()


def _files(debian: Debian) -> set[str]:
    """All files of the host but the logs and databases of the package tools, and what is compiled."""
    found = debian.check("find / -xdev \\( -path /proc -o -path /dev -o -path /tmp -o -path /root \\) -prune -o -print")
    tools = re.compile(
        r"/var/(lib/(dpkg|ucf|systemd)|cache/(debconf|man|ldconfig)|log/)|__pycache__|^/etc/(ld\.so|\.pwd)"
    )
    return {line for line in found.splitlines() if not tools.search(line)}


def test_its_whole_life(debian: Debian) -> None:
    """Before there is a mom; into Torque; a later version while something runs from the first; back; out; without a trace."""
    before = _files(debian)

    said = debian.check("dpkg -i /root/now.deb")
    assert "no mom_priv is found here" in said
    assert "dpkg-reconfigure pbsdock" in said
    assert debian.run("test -e /opt/pbsdock").returncode == 1

    debian.put(f"{MOM}/config", "$loglevel 3\n")
    debian.put(f"{MOM}/prologue", "#!/bin/sh\n# the site's\n")
    debian.check(f"mkdir {MOM}/jobs; chmod 755 {MOM}/prologue")
    debian.check("dpkg-reconfigure pbsdock")
    assert "pbsdock is installed correctly" in debian.check("pbsdock setup check")
    assert "$job_starter /opt/pbsdock/hooks/run\n" in debian.check(f"cat {MOM}/config")
    assert debian.run("find /usr/local -name '*pbsdock*'").stdout == ""  # the admin's, where a package has its own
    assert "pbsdock-why.1.gz" in debian.check("dpkg -L pbsdock")
    debian.check(
        "bash -n /usr/share/bash-completion/completions/pbsdock; test -s /usr/share/zsh/vendor-completions/_pbsdock"
    )
    assert (
        debian.run("test -x /opt/pbsdock/current/venv/lib/python3*/site-packages/pbsdock/init/pbsdock-init").returncode
        == 0
    )

    first = debian.check("readlink /opt/pbsdock/current").strip()
    debian.check(f"echo '# the site has changed this' >>{TOML}")
    debian.check(
        "setsid /opt/pbsdock/current/venv/bin/python3 -c 'import time; time.sleep(900)' >/dev/null 2>&1 </dev/null & echo $! >/root/job"
    )
    debian.check("dpkg -i /root/later.deb")
    second = debian.check("readlink /opt/pbsdock/current").strip()
    assert second != first
    assert debian.check("readlink /opt/pbsdock/previous").strip() == first
    assert debian.check(f"tail -1 {TOML}") == "# the site has changed this\n"
    debian.check("pgrep -f 'sleep.900'")
    debian.check("pbsdock setup rollback")
    assert debian.check("readlink /opt/pbsdock/current").strip() == first
    debian.check("dpkg -i /root/now.deb")  # an older package is the way back as well
    assert debian.check("readlink /opt/pbsdock/current").strip() == first

    debian.check("dpkg -r pbsdock")
    assert debian.check(f"cat {MOM}/config {MOM}/prologue") == "$loglevel 3\n#!/bin/sh\n# the site's\n"
    assert debian.check(f"tail -1 {TOML}") == "# the site has changed this\n"
    debian.check("test -d /var/lib/pbsdock; ! test -e /opt/pbsdock/versions")

    debian.check(f"rm -r {MOM}; dpkg -P pbsdock")
    after = _files(debian)
    assert sorted(after - before - {"/var/spool/torque", "/root/job"}) == []
    assert sorted(before - after) == []


def test_a_sites_own_configuration_may_be_there_before(debian: Debian) -> None:
    """It stays, also at an upgrade, and nobody is asked: there is no terminal."""
    debian.put(TOML, "# from the site's own tools\n")
    debian.put("/etc/default/pbsdock", "MOM_PRIV=/nowhere/yet\n")

    assert "is no directory" in debian.run("dpkg -i /root/now.deb").stdout
    debian.put("/nowhere/yet/config", "")
    debian.check("dpkg --configure -a")
    debian.check("dpkg -i /root/later.deb")

    assert debian.check(f"cat {TOML} /etc/default/pbsdock") == "# from the site's own tools\nMOM_PRIV=/nowhere/yet\n"
    assert "pbsdock is installed correctly in /nowhere/yet" in debian.check("pbsdock setup check")


def test_what_install_sh_refuses_the_package_refuses(debian: Debian) -> None:
    """With its sentence; mended, dpkg goes on where it stopped."""
    debian.put(f"{MOM}/config", "$job_starter /site/starter\n")
    debian.put("/etc/default/pbsdock", f"MOM_PRIV={MOM}\n")

    done = debian.run("dpkg -i /root/now.deb")

    assert done.returncode != 0
    assert "has another $job_starter (/site/starter)" in done.stdout
    debian.put(f"{MOM}/config", "")
    debian.check("dpkg --configure -a")
    assert "pbsdock is installed correctly" in debian.check("pbsdock setup check")
    assert debian.check("cat /etc/default/pbsdock") == f"MOM_PRIV={MOM}\n"


# In place of ssh and scp, which clush calls: no node here has an sshd.
_SSH = """#!/bin/sh
while :; do case $1 in -*) shift ;; *) break ;; esac; done
enter=$(cat {nodes}/$1) || exit 255
shift
DEBIAN_FRONTEND=noninteractive exec $enter /bin/sh -c "$*"
"""
_SCP = """#!/bin/sh
while :; do case $1 in -*) shift ;; *) break ;; esac; done
name=$(echo "${{2%%:*}}" | tr -d '[]')
enter=$(cat "{nodes}/$name") || exit 255
exec $enter /bin/sh -c "cat >${{2#*:}}$(basename "$1")" <"$1"
"""


def test_the_lines_for_a_cluster(packages: Packages, tmp_path: Path) -> None:
    """As the docs have them, by the real clush on two nodes, a Debian of each suite; then a later version by the same lines."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    for name, text in (("ssh", _SSH), ("scp", _SCP)):
        (tmp_path / name).write_text(text.format(nodes=nodes))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "clush.conf").write_text(f"[Main]\nssh_path: {tmp_path}/ssh\nscp_path: {tmp_path}/scp\n")
    (tmp_path / "groups.conf").write_text("[Main]\ndefault: local\n[local]\nmap: echo n[1-2]\nall: echo n[1-2]\n")
    (lines,) = [block.text for block in blocks() if "apt-get install" in block.text and "clush" in block.text]

    with ExitStack() as stack:
        for name, suite in zip(("n1", "n2"), SUITES, strict=True):
            debian = Debian(built(suite) / "root")
            stack.callback(debian.close)
            debian.put(f"{MOM}/config", "$loglevel 3\n")
            debian.check(f"mkdir {MOM}/jobs")
            (nodes / name).write_text(shlex.join(debian.enter))
        said = []
        for package in (packages.now, packages.later):
            shutil.copy(package, tmp_path / "pbsdock_0.1.0_amd64.deb")
            done = subprocess.run(
                ["bash", "-euc", lines],
                cwd=tmp_path,
                env={**os.environ, "CLUSTERSHELL_CFGDIR": str(tmp_path), "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)

    assert "version 0.1.0-" in said[0]
    assert "version 0.1.0.1-" in said[1]
    assert all(text.count(f"pbsdock is installed correctly in {MOM}") >= 1 for text in said)
