"""Many machines from one manifest: on this machine, or on a Dask cluster."""
