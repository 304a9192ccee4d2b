#!/bin/sh
# Make a small local image from Debian's static busybox: image.sh NAME[:TAG] [without-shell]
set -eu
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/bin" "$tree/etc" "$tree/tmp" "$tree/root" "$tree/usr/bin"
chmod 1777 "$tree/tmp"
chmod 755 "$tree"
busybox=$(command -v busybox)
cp "$busybox" "$tree/bin/busybox"
if [ "${2:-}" != without-shell ]; then
  for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$tree/bin/$applet"
  done
  ln -sf ../../bin/busybox "$tree/usr/bin/env"
fi
tar -C "$tree" -c . | docker import -c 'ENV FROM_IMAGE=yes PATH=/usr/local/bin:/usr/bin:/bin' - "$1" >/dev/null
