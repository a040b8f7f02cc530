"""The one exception of the used-block maps."""


class MapUnknown(Exception):
    """The map met something that it does not know or that contradicts itself."""
