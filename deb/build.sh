#!/bin/sh
# Build the Debian package of this checkout: build.sh [DIRECTORY]; the package goes there (default: dist). It holds the
# checkout that install.sh installs from and all Python packages of the lock, so that a host needs no index, for this
# processor and the Pythons of Debian 12, Ubuntu 24.04 and Debian 13. PBSDOCK_WHEELS names a directory filled already by
# install.sh --fetch, which has this host's Python alone.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$here/dist}
python=/usr/bin/python3
version=$(sed -n 's/^version = //p' "$here/setup.cfg")
minor=$($python -c 'import sys; print(sys.version_info[1])')
first=$minor
last=$minor
architecture=$(dpkg --print-architecture)

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
umask 022
source=$stage/usr/share/pbsdock/source
mkdir -p "$source/lock" "$stage/DEBIAN" "$stage/usr/bin" \
  "$stage/usr/share/doc/pbsdock" "$stage/usr/share/zsh/vendor-completions"

for name in install.sh setup.cfg setup.py pyproject.toml MANIFEST.in LICENSE README.md hooks etc init lib share; do
  cp -R "$here/$name" "$source/"
done
cp "$here/lock/run.txt" "$here/lock/build.txt" "$source/lock/"
find "$source" \( -name __pycache__ -o -name '*.egg-info' -o -name '*.pyc' \) -prune -exec rm -rf {} +
rm -rf "$source/lib/pbsdock/init"
if [ -n "${PBSDOCK_WHEELS-}" ]; then
  cp -R "$PBSDOCK_WHEELS" "$stage/usr/share/pbsdock/wheels"
else
  "$here/install.sh" --fetch "$stage/usr/share/pbsdock/wheels" >&2
  first=11
  last=13
  for other in 11 12 13; do
    for lock in run build; do
      "$here/.venv/bin/python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
        --python-version "3.$other" -d "$stage/usr/share/pbsdock/wheels" -r "$here/lock/$lock.txt" >&2
    done
  done
fi

cp -R "$here/share/man" "$here/share/bash-completion" "$stage/usr/share/"
cp "$here/share/zsh/site-functions/_pbsdock" "$stage/usr/share/zsh/vendor-completions/"
gzip -9n "$stage"/usr/share/man/man1/*.1
cp -R "$here"/docs/*.md "$here"/docs/*.png "$here/docs/pictures" "$stage/usr/share/doc/pbsdock/"
gzip -9nc "$here/CHANGELOG.md" >"$stage/usr/share/doc/pbsdock/changelog.gz"
printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: pbsdock\n\nFiles: *\nCopyright: the authors of pbsdock\nLicense: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n' \
  >"$stage/usr/share/doc/pbsdock/copyright"
ln -s /opt/pbsdock/bin/pbsdock "$stage/usr/bin/pbsdock"

# No conffiles: dpkg asks which to keep where a file is there that no earlier version of the package has put there, and fails
# where it cannot ask (dpkg(1), --force-confold; promptconfaction in its src/main/configure.c). A site may have its own there
# before the first installation. postinst and install.sh write what is not there, and postrm removes it.
cp "$here/deb/default" "$stage/usr/share/pbsdock/default"

for script in postinst prerm postrm; do
  cp "$here/deb/$script" "$stage/DEBIAN/$script"
  chmod 755 "$stage/DEBIAN/$script"
done
chmod -R u=rwX,go=rX "$stage"
(cd "$stage" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
cat >"$stage/DEBIAN/control" <<CONTROL
Package: pbsdock
Version: $version
Section: admin
Priority: optional
Architecture: $architecture
Maintainer: the authors of pbsdock <root@localhost>
Installed-Size: $(du -ks --exclude=DEBIAN "$stage" | cut -f1)
Depends: python3 (>= 3.$first), python3 (<< 3.$((last + 1))), python3-venv, perl-base, util-linux
Recommends: docker.io | docker-ce
Suggests: munge, prometheus-node-exporter
Description: Torque jobs in Docker containers
 A hook suite for pbs_mom: a job script with a #DOCKER line runs in that image,
 with the limits it was granted and the policy of the site.
CONTROL
mkdir -p "$out"
dpkg-deb --root-owner-group "-Z${PBSDOCK_DEB_COMPRESSION:-xz}" --build "$stage" "$out/pbsdock_${version}_$architecture.deb" >&2
echo "$out/pbsdock_${version}_$architecture.deb"
