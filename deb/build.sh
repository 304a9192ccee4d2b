#!/bin/bash
# Make dist/pbsdock_VERSION_ARCHITECTURE.deb: the checkout that install.sh needs, the wheels of the lock for every Python of
# the releases of Debian and Ubuntu it is for, manual pages and completion. The packages need an index once; then they are kept
# in build/. dpkg-deb alone: nothing is compiled or installed here that debhelper would have a part in.
set -euo pipefail
umask 022
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$checkout"
pythons=(3.11 3.12 3.13) # Debian 12, Ubuntu 24.04, Debian 13; control has the range
version=${PBSDOCK_DEB_VERSION:-$(sed -n 's/^version = //p' setup.cfg)}
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
lib=$root/usr/lib/pbsdock
share=$root/usr/share
mkdir -p "$root/DEBIAN" "$lib/lock" "$root/usr/bin" "$share/pbsdock" "$share/doc/pbsdock" "$share/zsh" dist build

wheels=$checkout/build/wheels-$({ cat lock/run.txt lock/build.txt init/*.[ch]; echo "${pythons[@]}"; } | sha256sum | cut -c1-16)
if [ ! -d "$wheels" ]; then
  rm -rf build/wheels-*
  ./install.sh --fetch "$wheels.new"
  for python in "${pythons[@]}"; do
    for lock in run build; do
      .venv/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
        --python-version "$python" -d "$wheels.new" -r "lock/$lock.txt"
    done
  done
  mv "$wheels.new" "$wheels"
fi
for program in pbsdock-init tm-agent; do
  ls "$wheels/$program"-* >/dev/null || { echo "deb/build.sh: $program was not compiled; apt-get install musl-tools" >&2; exit 1; }
done

cp -r "$wheels" "$lib/wheels"
cp -r install.sh hooks etc init setup.cfg LICENSE "$lib/"
mkdir "$lib/lib"
cp -r lib/pbsdock "$lib/lib/"
rm -rf "$lib/lib/pbsdock/init"
find "$lib/lib" -name __pycache__ -prune -exec rm -rf {} +
cp lock/run.txt lock/build.txt "$lib/lock/"
sed -i "s/^version = .*/version = $version/" "$lib/setup.cfg"

.venv/bin/python -m pbsdock.admin.manual "$share" "$version"
gzip -9n "$share"/man/man*/*
mv "$share/zsh/site-functions" "$share/zsh/vendor-completions" # Debian's place for packages
ln -s /opt/pbsdock/bin/pbsdock "$root/usr/bin/pbsdock"
cp deb/default "$share/pbsdock/default"
cp deb/copyright "$share/doc/pbsdock/"
mkdir -p "$share/lintian/overrides"
cp deb/lintian-overrides "$share/lintian/overrides/pbsdock"
gzip -9nc CHANGELOG.md >"$share/doc/pbsdock/CHANGELOG.md.gz"
ln -s ../../../lib/pbsdock/etc "$share/doc/pbsdock/examples"
printf 'pbsdock (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- pbsdock <pbsdock@localhost>  %s\n' \
  "$version" "$(date -uRd "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$share/doc/pbsdock/changelog.gz"

chmod -R u=rwX,go=rX "$root"
chmod 755 "$lib/install.sh" "$lib"/hooks/*
chmod 644 "$lib/hooks/ask"
for script in postinst prerm postrm; do install -m 755 "deb/$script" "$root/DEBIAN/"; done
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@SIZE@/$size/" deb/control >"$root/DEBIAN/control"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/md5sums"
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0 touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
dpkg-deb --root-owner-group -Zxz --build "$root" "dist/pbsdock_${version}_$architecture.deb"
