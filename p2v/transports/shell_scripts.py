"""What runs on a source without Python: POSIX `sh`, `dd`, and what else may be there. Nothing is written
there.

`DISK` serves one disk. It says hello as the readers do (magic, size, JSON), then answers lines from its
standard input until they end:

    R tag codec blocks piece…   the bytes of the pieces; codec n = plain, z = one zstd frame, g = one of gzip
    H tag n blocks piece…       what sha256sum says of them, 68 bytes: 64 hexadecimal digits, "  -", newline

A piece is `d,SIZE,SKIP,COUNT` of the disk (the operands of dd) or `z,SIZE,0,COUNT` of zeros; `blocks` is the
sum of COUNT over those of the disk. An answer is a head of 18 bytes, the content, a tail of 208 bytes with a
status and what dd said. dd goes on after a read error with zeros in place of the block (`conv=noerror,sync`),
so that the content has the length that was asked for, whatever happens; it counts such a block as partial
(GNU dd prints its counts at each error, too, so that only the partial ones tell). A dd that was ended early
counts nothing: the shell ends then, because nobody knows how much it gave.

`INVENTORY` prints what `remote_inventory.py` looks at: `=NAME` begins a value, its lines follow behind `+`.
"""

from p2v.transports.remote_inventory import OLD_RELEASES

COMMON = """
LC_ALL=C
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
"""

DISK = (
    COMMON
    + r"""
set -f
disk=$1
exec 3>&1
has() { if command -v "$1" >/dev/null 2>&1; then echo true; else echo false; fi; }
bytes() {
  if [ ! -b "$disk" ]; then stat -Lc %s "$disk"; return; fi
  blockdev --flushbufs "$disk" 2>/dev/null
  blockdev --getsize64 "$disk" 2>/dev/null && return
  name=$(readlink -f "$disk")
  read -r sectors <"/sys/class/block/${name##*/}/size" && echo $((sectors * 512))
}
pieces() {
  IFS=,
  for piece do
    set -- $piece
    case $1 in
    d) dd if="$disk" bs="$2" skip="$3" count="$4" $direct conv=noerror,sync 2>&4 </dev/null ;;
    z) dd if=/dev/zero bs="$2" count="$4" 2>/dev/null </dev/null ;;
    esac
  done
}
count() {
  full=0 part=0
  while [ $# -ge 3 ]; do
    case "$2 $3" in 'records in') full=$((full + ${1%+*})) part=$((part + ${1#*+})) ;; esac
    shift
  done
}
sync
direct=iflag=direct
dd if="$disk" of=/dev/null bs=4096 count=1 $direct 2>/dev/null </dev/null || direct=
about="{\"size\": $(bytes), \"uid\": $(id -u), \"direct\": \"$direct\", \"zstd\": $(has zstd)"
about="$about, \"gzip\": $(has gzip), \"sha256sum\": $(has sha256sum)}"
printf '\000P2V1\000\000\000\001\000%-256.256s' "$about"
while read -r op tag codec blocks parts; do
  printf 'P2V> %010d %s\n' "$tag" "$codec"
  case $op$codec in
  Rn) said=$(pieces $parts 4>&1 >&3) ;;
  Rz) said=$({ pieces $parts | zstd -1 -q -c 2>/dev/null >&3; } 4>&1) ;;
  Rg) said=$({ pieces $parts | gzip -1 -c 2>/dev/null >&3; } 4>&1) ;;
  Hn) said=$({ pieces $parts | sha256sum >&3; } 4>&1) ;;
  *) exit 4 ;;
  esac
  count $said
  if [ "$part" -gt 0 ]; then status=1
  elif [ "$full" -eq "$blocks" ]; then status=0
  else echo "$said" >&2; exit 5; fi
  printf 'P2V< %s %-200.200s\n' "$status" "$(echo $said)"
done
"""
)

INVENTORY = (
    COMMON
    + r"""
file() { echo "=$1"; [ -r "$2" ] && sed 's/^/+/' "$2" 2>/dev/null; echo; }
value() { echo "=$1"; shift; "$@" 2>/dev/null | sed 's/^/+/'; echo; }
value uid id -u
value hostname uname -n
value kernel uname -r
value architecture uname -m
value cpus grep -c '^processor' /proc/cpuinfo
file cpuinfo /proc/cpuinfo
file meminfo /proc/meminfo
[ -d /sys/firmware/efi ] && value uefi echo yes
file os_release /etc/os-release
file os_release_usr /usr/lib/os-release
for name in OLD_RELEASES; do
  [ -e "/etc/$name" ] && file "old_release /etc/$name" "/etc/$name"
done
file machine_id /etc/machine-id
file boot_id /proc/sys/kernel/random/boot_id
file vendor /sys/class/dmi/id/sys_vendor
file product /sys/class/dmi/id/product_name
file uuid /sys/class/dmi/id/product_uuid
file cmdline /proc/cmdline
file mounts /proc/self/mounts
file swaps /proc/swaps
file routes /proc/net/route
value addresses ip -o addr show
memory=/sys/devices/system/memory
file memory_block "$memory/block_size_bytes"
value memory_online grep -lx 1 "$memory"/memory*/online
for disk in /sys/block/*; do
  name=${disk##*/}
  case $name in loop*|ram*|zram*|sr*|fd*|dm-*|md*|nbd*|drbd*|'*') continue ;; esac
  value disk echo "$name"
  for key in size removable device/model device/serial wwid queue/logical_block_size; do
    file "disk $key" "$disk/$key"
  done
  [ -r "$disk/device/vpd_pg80" ] && value 'disk page' tr -dc '[:print:]' <"$disk/device/vpd_pg80"
  read -r numbers <"$disk/dev" && file 'disk udev' "/run/udev/data/b$numbers"
  for part in "$disk/$name"*; do
    [ -e "$part/partition" ] || continue
    value partition echo "${part##*/}"
    file 'partition number' "$part/partition"
    file 'partition start' "$part/start"
  done
done
for link in /dev/disk/*/*; do
  [ -e "$link" ] || continue
  target=$(readlink -f "$link")
  value link echo "${target##*/} $link"
done
for card in /sys/class/net/*; do
  [ -e "$card/device" ] || continue
  value nic echo "${card##*/}"
  file 'nic mac' "$card/address"
  driver=$(readlink -f "$card/device/driver")
  value 'nic driver' echo "${driver##*/}"
done
""".replace("OLD_RELEASES", " ".join(name.rpartition("/")[2] for name in OLD_RELEASES))
)
