"""The data path: devices, layout, used-block maps, the copy and its digests."""
