"""What comes last in the conversion of every Linux guest, whatever its family."""

from __future__ import annotations

from conversions.clean_up import clean_up
from conversions.linux import Step
from conversions.selinux import label_files

LAST_STEPS: tuple[Step, ...] = (clean_up, label_files)
"""Labels come behind everything that writes."""
