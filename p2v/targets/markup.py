"""XML of configurations, out of text that may come from a guest."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document can hold, escaped or not."""


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    """A new last child of `parent`; what XML cannot hold is left out of its text and attributes."""
    element = ET.SubElement(parent, tag, {name: NOT_XML.sub("", value) for name, value in attributes.items()})
    element.text = None if text is None else NOT_XML.sub("", text)
    return element


def to_text(root: ET.Element, *, encoding: str = "UTF-8") -> str:
    """The document with its declaration, indented."""
    ET.indent(root)
    return f'<?xml version="1.0" encoding="{encoding}"?>\n{ET.tostring(root, encoding="unicode")}\n'
