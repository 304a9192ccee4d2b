#!/bin/bash
# Make an image with an MPI of Debian's and the programs of mpi_programs.c: mpi_image.sh openmpi4|mpich4|openmpi5 NAME[:TAG]
# Packages come through the sources and apt settings of this host and are unpacked, not installed: seconds, and no Docker
# registry. An image that was made of the same inputs is kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kind=$1
name=$2
case $kind in
  openmpi4) suite=bookworm packages=openmpi-bin headers=libopenmpi-dev include=openmpi/include library=libmpi.so.40 ;;
  openmpi5) suite=trixie packages=openmpi-bin headers=libopenmpi-dev include=openmpi/include library=libmpi.so.40 ;;
  mpich4) suite=bookworm packages=mpich headers=libmpich-dev include=mpich library=libmpich.so.12 ;;
  *) echo "mpi_image.sh: $kind is none of openmpi4, openmpi5, mpich4" >&2 && exit 2 ;;
esac
inputs=$(cat "${BASH_SOURCE[0]}" "$here/mpi_programs.c" - <<<"$kind" | sha256sum | cut -c1-16)
[ "$(docker image inspect -f '{{index .Config.Labels "mpi-inputs"}}' "$name" 2>/dev/null)" != "$inputs" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
chmod 755 .
apt-config dump Acquire >apt.conf # proxies and the like; mmdebstrap asks apt for nothing of the host's otherwise
own=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
  grep -qsE "(^|[[:space:]])$own([[:space:]]|$)" "$file" || continue # what others offer for this host only
  sed -E "s/(^|[[:space:]])$own/\\1$suite/g" "$file" >"${file##*/}"
  sources+=("$work/${file##*/}")
done
cat >merged.sh <<'END'
#!/bin/sh -eu
for name in bin lib lib64 sbin; do
  mkdir -p "$1/usr/$name"
  ln -s "usr/$name" "$1/$name"
done
END
cat >headers.sh <<'END'
#!/bin/sh -eu
cd "$2"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -o APT::Sandbox::User=root download "$3"
dpkg-deb -x "$3"_*.deb headers
END
chmod 755 merged.sh headers.sh
mmdebstrap --quiet --variant=extract --mode=root --include="$packages,dash,busybox-static" --aptopt=apt.conf \
  --aptopt='APT::Install-Recommends "false"' --setup-hook="$work/merged.sh" \
  --extract-hook="$work/headers.sh \"\$1\" $work $headers" "$suite" root "${sources[@]}" 2>log || { cat log >&2; exit 1; }

triplet=$(gcc -print-multiarch)
libraries=root/usr/lib/$triplet
# The libraries of a newer suite ask for a newer C library than this host's: they will find it there.
gcc -O2 -Wall -Wextra -o root/usr/bin/mpi-programs "$here/mpi_programs.c" \
  -I"headers/usr/lib/$triplet/$include" -I"headers/usr/include/$triplet/$include" "$libraries/$library" \
  -Wl,--unresolved-symbols=ignore-in-shared-libs
# What the packages' own scripts would have done: names without a suffix, a cache of libraries.
for program in root/usr/bin/{mpirun,mpiexec}.{openmpi,mpich,hydra}; do
  [ ! -e "$program" ] || [ -e "${program%.*}" ] || ln -s "${program##*/}" "${program%.*}"
done
for applet in $(busybox --list); do
  [ -e "root/usr/bin/$applet" ] || ln -s busybox "root/usr/bin/$applet"
done
ldconfig -r root
mkdir -p root/{etc,root,tmp}
chmod 1777 root/tmp
# What no test needs: texts, GPU plug-ins of UCX with the compiler behind them, a plug-in whose library is only suggested.
rm -rf root/usr/share/{doc,man,locale} root/var/cache/* root/var/lib/{apt,dpkg} root/usr/lib/*/{libicu*,*.a,gconv,libLLVM*,libamd*,libhsa*,libz3*}
find root/usr/lib \( -name "*rocm*" -o -name "*_psm.so" \) -delete
tar -C root -c . | docker import -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' -c "LABEL mpi-inputs=$inputs" - "$name" >/dev/null
