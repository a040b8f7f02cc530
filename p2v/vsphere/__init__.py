"""Live import into vSphere (vCenter or a single ESXi host) through pyvmomi."""
