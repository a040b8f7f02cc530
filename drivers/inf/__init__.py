"""INF packs: read a folder of drivers as Windows' setup would, and choose for a device of a given Windows."""
