#!/bin/bash
# Build the kernel, initramfs and root of a Debian machine with systemd, cgroup v2 and Docker: build.sh SUITE DIRECTORY
# Everything comes from Debian's packages, through the sources and apt settings of this host, with SUITE in place of the
# host's own. DIRECTORY then holds vmlinux, initrd.gz, root.ext4 (the disk) and root (its tree, in which the package is
# installed at full speed, see package.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suite=$1
target=$2
work=$target.new
rm -rf "$work"
mkdir -p "$work"
cd "$work"

packages=systemd,systemd-sysv,dbus,docker.io,iptables,python3,python3-venv,busybox-static,kmod,iproute2,procps,logrotate,crun
packages+=,slurmctld,slurmd,slurm-client,slurm-wlm-basic-plugins,munge # Slurm 22.05 in Debian 12, 24.11 in Debian 13
packages+=,gcc,libc6-dev,libslurm-dev # the SPANK plugin is compiled where it is installed
[ "$suite" = bookworm ] || packages+=,docker-cli # a package of its own since Debian 13
apt-config dump Acquire >apt.conf # proxies and the like; mmdebstrap asks apt for nothing of the host's otherwise
own=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
  grep -qsE "(^|[[:space:]])$own([[:space:]]|$)" "$file" || continue # what others offer for this host only
  sed -E "s/(^|[[:space:]])$own/\\1$suite/g" "$file" >"${file##*/}"
  sources+=("$work/${file##*/}")
done

kernel() {
  local setup offset length
  # shellcheck disable=SC2035 # one file, of our own directory
  (cd kernel && dpkg-deb -x *.deb .)
  [ -d kernel/lib/modules ] || mv kernel/usr/lib kernel/lib # since Debian 13
  # The payload of a bzImage (Documentation/arch/x86/boot.rst): an ELF file that needs no decompression in the guest.
  number() { od -An -v -j "$2" -N "$3" -t "u$3" "$1" | tr -d ' '; }
  image=$(echo kernel/boot/vmlinuz-*)
  setup=$(number "$image" $((0x1f1)) 1)
  offset=$(((setup + 1) * 512 + $(number "$image" $((0x248)) 4)))
  length=$(($(number "$image" $((0x24c)) 4) - 4)) # less the size that follows it
  dd if="$image" iflag=skip_bytes,count_bytes skip="$offset" count="$length" bs=1M status=none | lz4 -dc 2>/dev/null >vmlinux || true
  [ "$(head -c 4 vmlinux)" = $'\x7fELF' ] || cp "$image" vmlinux # compressed otherwise: the image itself boots, a second later
}

initramfs() {
  local module modules
  modules=$(echo kernel/lib/modules/*)
  mkdir -p initrd/{bin,dev,proc,newroot,modules}
  cp "$(command -v busybox)" initrd/bin/busybox
  cp "$here/guest/init" initrd/init
  chmod 755 initrd/init
  for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    find "$modules" \( -name "$module.ko" -o -name "$module.ko.xz" \) -exec cp {} initrd/modules/ \;
  done
  unxz --quiet initrd/modules/*.xz 2>/dev/null || true
  (cd initrd && find . | cpio -o -H newc --quiet | gzip -1) >initrd.gz
}

bootstrap() {
  mmdebstrap --quiet --variant=apt --mode=root --include="$packages" --aptopt=apt.conf \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="$here/kernel.sh $work/kernel" "$suite" root "${sources[@]}" 2>debootstrap.log || { cat debootstrap.log >&2; return 1; }
}

mkdir kernel
bootstrap
kernel
initramfs
cp -r kernel/lib/modules root/lib/
chroot root depmod "$(basename root/lib/modules/*)"
cp -r "$here/guest/root/." root/
chmod 755 root/usr/local/sbin/*
# Without a real machine id systemd-firstboot waits for a key, for ever (observed).
echo 0123456789abcdef0123456789abcdef >root/etc/machine-id
mkdir -p root/etc/selinux
echo SELINUX=disabled >root/etc/selinux/config # else systemd complains at every boot of a policy that is not there
echo node >root/etc/hostname
printf '127.0.0.1 localhost node\n' >root/etc/hosts
for unit in getty.target getty@.service serial-getty@.service systemd-firstboot.service systemd-networkd.service apt-daily.timer \
  apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer \
  systemd-timesyncd.service systemd-update-utmp.service systemd-update-utmp-runlevel.service; do
  ln -sf /dev/null "root/etc/systemd/system/$unit"
done
chroot root systemctl --quiet enable lab.service
chroot root systemctl --quiet disable munge slurmctld slurmd # the tests that need them start them
# With a journal: the machine is reset in the middle of work.
mke2fs -q -F -t ext4 -d root root.ext4 1800M
rm -rf kernel initrd apt.conf
rm -rf "$target"
cd /
mv "$work" "$target"
