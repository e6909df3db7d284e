"""Reads pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path


def fenced_blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block of a page, in its order, without the block's indent."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [(language, re.sub(rf"^{indent}", "", text, flags=re.M)) for indent, language, text in found]
