#!/bin/bash
# Make the disk with what is tested: package.sh BASE DISK CACHE [OPTION VALUE] (BASE: what build.sh made; install.sh's option
# for the resource manager, Torque's if there is none)
# The package is installed from the checkout and from wheels, and install.sh puts it into a throw-away copy of the machine's root,
# at this host's speed; in the machine install.sh then finds its program in place and does the rest. Beside it lie the tests
# and an interpreter environment for them that has the installed package, not the checkout, and the images as archives.
# This host's Python fetches the wheels, also those for the machine's, which may be a newer one.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
base=$1 disk=$2 cache=$3 option=${4---mom-priv} value=${5-/var/spool/torque/mom_priv}
version=$(chroot "$base/root" /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
work=$(mktemp -d /var/tmp/pbsdock-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
opt=$work/opt
mkdir -p "$opt/src" "$opt/wheels" "$opt/images"

(cd "$checkout" && git ls-files -co --exclude-standard -z | tar -c --null --ignore-failed-read -T - 2>/dev/null) | tar -x -C "$opt/src"

# What the package needs changes seldom, the package always.
needs=$cache/wheels-$(cat "$checkout/lock/"*.txt "$checkout/init/"*.[ch] "${BASH_SOURCE[0]}" | sha256sum | cut -c1-16)-$version
pip() { "$checkout/.venv/bin/python" -m pip "$@" --quiet --disable-pip-version-check; }
if [ ! -d "$needs" ]; then
  "$checkout/install.sh" --fetch "$needs.new"
  for lock in run build vm; do
    pip download --require-hashes --no-deps --python-version "$version" -d "$needs.new" -r "$checkout/lock/$lock.txt"
  done
  rm -rf "$cache"/wheels-*-"$version"
  mv "$needs.new" "$needs"
fi
cp "$needs"/* "$opt/wheels/"

sh "$checkout/tests/image.sh" pbsdock-vm/busybox:1
docker save -o "$opt/images/busybox.tar" pbsdock-vm/busybox:1
docker rmi pbsdock-vm/busybox:1 >/dev/null

# shellcheck disable=SC2016 # expanded by the inner shell
unshare -m bash -euc '
  base=$1 work=$2 version=$3 option=$4 value=$5
  mkdir "$work/changes" "$work/root"
  mount -t tmpfs none "$work/changes"
  mkdir "$work/changes/upper" "$work/changes/work"
  mount -t overlay none -o "lowerdir=$base/root,upperdir=$work/changes/upper,workdir=$work/changes/work" "$work/root"
  mount --bind "$work/opt" "$work/root/opt"
  mount -t proc none "$work/root/proc"
  mount --bind /dev "$work/root/dev"
  mkdir -p "$work/root/var/spool/torque/mom_priv/jobs" "$work/root/etc/slurm" "$work/root/var/spool/slurmd"
  [ -e "$work/root/etc/slurm/slurm.conf" ] || : >"$work/root/etc/slurm/slurm.conf"
  chroot "$work/root" sh -euc "
    /opt/src/install.sh $option $value --wheels /opt/wheels >/opt/install.log 2>&1 || { cat /opt/install.log >&2; exit 1; }
    /usr/bin/python3 -m venv /opt/lab
    /opt/lab/bin/python -m pip install --quiet --disable-pip-version-check --no-index --find-links /opt/wheels --require-hashes -r /opt/src/lock/vm.txt
    echo /opt/pbsdock/current/venv/lib/python$version/site-packages >/opt/lab/lib/python$version/site-packages/installed.pth
    /opt/lab/bin/python -m compileall -q /opt/lab /opt/src/tests || true
  "
' - "$base" "$work" "$version" "$option" "$value"
mke2fs -q -F -t ext4 -d "$opt" "$disk.new" 400M
mv "$disk.new" "$disk"
