"""What the rescue system is made of: packages, what is left out, and the files that make it quiet.

Quiet means that nothing of it touches a disk by itself: no volume group, array, swap space or filesystem is
taken into use, so that a capture is `offline` and a restore finds every disk free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HOSTNAME = "rescue"
MASK = "/dev/null"
BUILD = "p2v-build"
"""The folder of the tree in which the build keeps what does not belong to the system."""

PACKAGES = (
    *("systemd-sysv", "udev", "acpid", "kmod", "procps", "util-linux", "iproute2", "openssh-server"),
    "python3",
    *("zstd", "xz-utils", "lvm2", "mdadm", "cryptsetup-bin"),
    *("e2fsprogs", "xfsprogs", "btrfs-progs", "ntfs-3g", "dosfstools"),
    *("fdisk", "gdisk", "parted", "efibootmgr", "pciutils", "dmidecode", "ethtool", "less"),
    "linux-image-amd64",
    "firmware-linux-free",
)

LOADERS = ("busybox-static", "grub-pc-bin", "grub-efi-amd64-signed", "shim-signed")
"""What starts the system; installed with it, and not in it."""

NO_DRIVERS = (
    *("sound", "net/bluetooth", "net/wireless", "net/mac80211", "net/can", "net/nfc", "net/ax25"),
    *("fs/ceph", "net/ceph", "fs/ocfs2", "fs/gfs2", "fs/dlm"),
    *(
        f"drivers/{name}"
        for name in (
            *("accessibility", "bluetooth", "comedi", "gpu", "hwmon", "iio", "infiniband", "isdn", "leds"),
            *("media", "net/can", "net/hamradio", "net/wireless", "nfc", "platform/surface", "staging"),
            *("input/joystick", "input/tablet", "input/touchscreen", "usb/gadget", "video"),
        )
    ),
)
"""Kernel modules of no use here; every driver of disks and wired network cards is kept."""

DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    # No initramfs is made: ours holds the system itself.
    "path-exclude=/etc/kernel/postinst.d/*",
    *(f"path-exclude=*/kernel/{name}/*" for name in NO_DRIVERS),
)

LEFT_OUT = (
    *("proc/*", "sys/*", "dev/*", "run/*", "tmp/*", "boot/*", f"{BUILD}", "var/cache/*", "var/log/*"),
    *("usr/lib/grub", "usr/lib/shim", "usr/share/grub", "usr/sbin/grub-*", "usr/bin/grub-*"),
    *("usr/lib/x86_64-linux-gnu/perl", "usr/share/perl", "usr/lib/udev/hwdb.bin", "usr/lib/udev/hwdb.d"),
    *("etc/apt", "var/lib/apt", "etc/ssh/ssh_host_*", "vmlinuz*", "initrd.img*"),
)
"""Not in the system: what only the build needs, and host keys, which each boot makes for itself."""

MASKED_UNITS = (
    *("lvm2-monitor.service", "lvm2-lvmpolld.socket", "dm-event.socket", "blk-availability.service"),
    *("mdmonitor.service", "mdmonitor-oneshot.timer", "mdcheck_start.timer", "mdcheck_continue.timer"),
    *("mdadm-shutdown.service", "e2scrub_reap.service", "e2scrub_all.timer", "fstrim.timer"),
    *("getty@tty1.service", "systemd-pstore.service", "systemd-random-seed.service", "dpkg-db-backup.timer"),
    # Reads `ip=` too, in another language.
    "systemd-network-generator.service",
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "systemd-update-utmp.service"),
    *("systemd-update-utmp-runlevel.service", "systemd-sysusers.service", "systemd-modules-load.service"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount"),
    *("systemd-logind.service", "systemd-ask-password-wall.path"),
    # Nothing here was updated since it was built.
    *("ldconfig.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service"),
    "systemd-update-done.service",
)
MASKED_GENERATORS = (
    *("systemd-gpt-auto-generator", "systemd-fstab-generator", "systemd-cryptsetup-generator"),
    *("systemd-hibernate-resume-generator", "systemd-getty-generator", "lvm2-activation-generator"),
    "systemd-integritysetup-generator",
    "systemd-veritysetup-generator",
)
MASKED_RULES = ("64-md-raid-assembly.rules", "69-lvm.rules", "69-lvm-metad.rules", "85-hwclock.rules")

SSHD = """# The only way in is a key that this system was built with.
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /etc/p2v/authorized_keys
UsePAM no
UseDNS no
X11Forwarding no
PrintMotd yes
MaxStartups 64
MaxSessions 64
ClientAliveInterval 30
ClientAliveCountMax 10
Subsystem sftp /usr/lib/openssh/sftp-server
"""

MOTD = """
p2v rescue system, in memory only. The disks of this machine are not in use: no volume group is active, no
array assembled, nothing mounted. By hand: vgchange -ay, mdadm --assemble --scan, mount.

"""

LVM_LOCAL = """global {
\tevent_activation = 0
}
activation {
\tauto_activation_volume_list = []
\tmonitoring = 0
}
backup {
\tbackup = 0
\tarchive = 0
}
"""

POWER_BUTTON = "event=button/power\naction=/usr/bin/systemctl poweroff\n"
JOURNALD = "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n"

NETWORK_UNIT = """[Unit]
Description=Network settings of the kernel command line
DefaultDependencies=no
After=systemd-udev-trigger.service systemd-tmpfiles-setup-dev.service
Before=systemd-networkd.service
Wants=systemd-networkd.service

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=60
ExecStart=/usr/bin/python3 -I /etc/p2v/network.py

[Install]
WantedBy=multi-user.target
"""

HOST_KEY_UNIT = """[Unit]
Description=A host key for this boot
Before=ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=120
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
"""

CONSOLE_UNIT = """[Unit]
Description=Address and host key on the console

[Service]
ExecStart=/usr/bin/python3 -I /etc/p2v/console.py
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""

SSH_AFTER = "[Unit]\nRequires=p2v-host-key.service\nAfter=p2v-host-key.service\n"

FINISH = f"""set -eu
out=/{BUILD}
kernel=$(basename /lib/modules/*)
usermod -p '*' root
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /etc/mtab
: > /etc/machine-id
ln -s ../proc/self/mounts /etc/mtab
systemctl enable -q systemd-networkd.service p2v-network.service p2v-host-key.service p2v-console.service
systemctl disable -q systemd-networkd-wait-online.service
mkdir -p $out/modules $out/loader
cp /boot/vmlinuz-$kernel $out/vmlinuz
echo "$kernel" > $out/kernel
cp /bin/busybox $out/busybox
number=10
for module in $(cat $out/first); do
    # A module that is built in has no file.
    modprobe -S $kernel --show-depends $module | while read -r word file options; do
        [ "$word" = insmod ] || continue
        name=$(basename "$file"); name=${{name%%.ko*}}
        [ -z "$(ls $out/modules | grep -- "-$name.ko$" || true)" ] || continue
        case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -dcq "$file" ;;
        *.gz) gzip -dc "$file" ;;
        *) cat "$file" ;;
        esac > "$out/modules/$number-$name.ko"
    done
    number=$((number + 10))
done
cp /usr/lib/shim/shimx64.efi.signed $out/loader/BOOTX64.EFI
cp /usr/lib/shim/mmx64.efi.signed $out/loader/mmx64.efi
cp /usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed $out/loader/grubx64.efi
cp /usr/lib/grub/i386-pc/boot_hybrid.img $out/loader/
grub-mkimage -O i386-pc-eltorito -p /boot/grub -o $out/loader/eltorito.img $(cat $out/grub)
"""
"""Runs in the tree once all packages are there."""

FIRST_MODULES = ("loop", "squashfs", "overlay")
GRUB_MODULES = (
    *("biosdisk", "iso9660", "part_msdos", "part_gpt", "normal", "configfile", "search", "search_fs_file"),
    *("linux", "serial", "terminal", "minicmd", "echo", "test", "sleep", "reboot", "halt", "boot"),
)

INIT = """#!/bin/busybox sh
# The root of the rescue system is a squashfs image with a layer of memory above it.
bb=/bin/busybox
fail() {
    echo "p2v rescue system: $1 failed (it needs 1 GiB of memory)" >/dev/console
    while :; do $bb sleep 3600; done
}
$bb mkdir -p /proc /sys /dev /lower /layer /system
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do $bb insmod "$module"; done
$bb mount -t squashfs -o loop,ro /root.squashfs /lower || fail "mounting the system"
$bb mount -t tmpfs -o mode=0755 layer /layer || fail "mounting the memory"
$bb mkdir /layer/upper /layer/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work system /system \\
    || fail "putting the memory above the system"
$bb mkdir -p /system/etc/p2v
$bb cp /p2v/* /system/etc/p2v/ || fail "copying keys and settings"
$bb chmod 0600 /system/etc/p2v/authorized_keys
for place in proc sys dev; do $bb mount -o move /$place /system/$place; done
exec $bb switch_root /system /sbin/init
"""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file that is added to the tree; `link` is where it points, instead of having `content`."""

    path: str
    content: bytes = b""
    link: str = ""


def tree_files(release: str) -> Iterator[TreeFile]:
    """What the packages do not bring; `release` names what the system is made from."""
    texts = {
        "etc/hostname": f"{HOSTNAME}\n",
        "etc/hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost\n",
        "etc/resolv.conf": "",
        "etc/fstab": "",
        "etc/motd": MOTD,
        "etc/os-release": _os_release(release),
        "etc/ssh/sshd_config": SSHD,
        "etc/lvm/lvmlocal.conf": LVM_LOCAL,
        "etc/mdadm/mdadm.conf": "AUTO -all\n",
        "etc/systemd/journald.conf.d/p2v.conf": JOURNALD,
        "etc/acpi/events/p2v-power": POWER_BUTTON,
        "etc/systemd/system/p2v-network.service": NETWORK_UNIT,
        "etc/systemd/system/p2v-host-key.service": HOST_KEY_UNIT,
        "etc/systemd/system/p2v-console.service": CONSOLE_UNIT,
        "etc/systemd/system/ssh.service.d/p2v.conf": SSH_AFTER,
        f"{BUILD}/finish": FINISH,
        f"{BUILD}/first": " ".join(FIRST_MODULES),
        f"{BUILD}/grub": " ".join(GRUB_MODULES),
    }
    for path, text in texts.items():
        yield TreeFile(path, text.encode())
    yield from _masks()


def _masks() -> Iterator[TreeFile]:
    for unit in MASKED_UNITS:
        yield TreeFile(f"etc/systemd/system/{unit}", link=MASK)
    for generator in MASKED_GENERATORS:
        yield TreeFile(f"etc/systemd/system-generators/{generator}", link=MASK)
    for rules in MASKED_RULES:
        yield TreeFile(f"etc/udev/rules.d/{rules}", link=MASK)


def _os_release(release: str) -> str:
    title = f'PRETTY_NAME="p2v rescue system ({release})"\nNAME="p2v rescue system"\n'
    return f"{title}ID=p2v-rescue\nID_LIKE=debian\n"
