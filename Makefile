# Each line is a command that a person could type. `make demo` on a fresh Debian 12 or 13 needs nothing before it.

PYTHON = .venv/bin/python
CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# What p2v needs to run.
PACKAGES = python3 python3-venv python3-guestfs python3-libnbd python3-hivex python3-parted libguestfs-tools libguestfs-xfs \
	linux-image-amd64 qemu-system-x86 qemu-utils ovmf openssh-client xorriso
# What only the demo and the tests need: to build disks, to run machines, and to check against.
TEST_PACKAGES = mmdebstrap squashfs-tools debian-archive-keyring ca-certificates e2fsprogs fdisk gdisk dosfstools openssh-server \
	libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu partclone zstd xz-utils lz4 bzip2 cpio util-linux \
	initramfs-tools-core xfsprogs btrfs-progs ntfs-3g exfatprogs exfat-fuse dosfstools mtools lvm2 mdadm mount \
	libxml2-utils sleuthkit nbdkit libnbd-bin busybox virt-v2v libwine wine reglookup \
	golang-go golang-github-vmware-govmomi-dev mono-mcs gcc libc6-dev

.PHONY: setup packages demo test matrix bench check fast clean

# Everything below starts here; a second call takes seconds.
setup: packages .venv/ready

packages:
	@missing=$$(dpkg-query -W -f '$${Status} $${binary:Package}\n' $(PACKAGES) $(TEST_PACKAGES) 2>&1 \
		| sed -n -e '/^install ok installed/d' -e 's/^dpkg-query: no packages found matching //p' \
			-e 's/^[a-z]* [a-z]* [a-z-]* \([a-z0-9.+-]*\).*/\1/p'); \
	if [ -n "$$missing" ]; then \
		$(SUDO) apt-get update -q && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi
	@# The appliance is made from the host's kernel, which Debian leaves readable and Ubuntu does not.
	@for kernel in /boot/vmlinuz-*; do [ -r "$$kernel" ] || $(SUDO) chmod 0644 "$$kernel"; done

# libguestfs' bindings exist for the distribution's own interpreter only, so the environment must be made with it.
.venv/ready: pyproject.toml
	/usr/bin/python3 -m venv --system-site-packages .venv
	$(PYTHON) -m pip install --quiet --editable '.[dev]'
	touch $@

# Disks are built as root, for their owners and device nodes; everything else works without.
demo: setup
	@[ "$$(id -u)" = 0 ] || { \
		$(SUDO) env XDG_CACHE_HOME="$(CACHE)" $(PYTHON) -m fixtures.build debian12-bios >/dev/null && \
		$(SUDO) chown -R "$$(id -u):$$(id -g)" "$(CACHE)/p2v"; }
	$(PYTHON) -m fixtures.demo

# Everything that a clean checkout can show, on real disks; a missing tool is a failure here.
test: setup
	CI=true $(PYTHON) -m pytest -m 'not matrix'

# Every machine of the matrix on the target, unconverted and converted (root; an hour and a half in emulation),
# and one machine on the devices of every target; the tables of the README are then in matrix.md and targets.md.
matrix: setup
	CI=true P2V_MATRIX=matrix.md P2V_TARGETS=targets.md \
		$(PYTHON) -m pytest -m '' tests/e2e/test_matrix.py tests/e2e/test_targets.py tests/e2e/test_live_machine.py \
		tests/e2e/test_metal_conversion.py tests/e2e/test_rescue.py tests/e2e/test_restore.py \
		tests/e2e/test_nvram.py tests/e2e/test_rollback.py tests/e2e/test_rollback_from.py \
		tests/e2e/test_windows.py tests/e2e/test_windows_virt_v2v.py

# Compares sides in one run and prints ratios; root, about 16 GiB in TMPDIR, on a machine that does nothing else.
bench: setup
	$(PYTHON) -m tests.bench --output bench.json
	$(PYTHON) -m tests.bench.convert --output bench-convert.json
	$(PYTHON) -m tests.bench.batch --output bench-batch.json
	$(PYTHON) -m tests.bench.restore --output bench-restore.json
	$(PYTHON) -m tests.bench.ledger
	$(PYTHON) -m tests.bench.targets --output bench-targets.json

fast: setup
	$(PYTHON) -m pytest

check: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean:
	rm -rf .venv demo
