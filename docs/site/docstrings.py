"""Sets the labels of an environment's docstring ("State: ...") apart in the reference."""

from __future__ import annotations

import re
from typing import Any

import griffe
from site_environments import LABELS


class Labels(griffe.Extension):
    """Begins a paragraph with each label."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Change the docstring of a class."""
        if cls.docstring:
            labels = rf"(?:^|(?<=\. ))({'|'.join(LABELS)}): "
            cls.docstring.value = re.sub(labels, r"\n\n**\1.** ", cls.docstring.value, flags=re.MULTILINE)
