"""Back to metal: an image or a virtual machine goes onto the disks of a machine that runs a rescue system."""
