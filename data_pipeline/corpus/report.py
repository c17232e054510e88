"""What `prepare` has left out, replaced and ignored of its inputs, as the manifest of a corpus keeps it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

MAX_LISTED = 100
"""Findings that are kept of each kind; all are counted."""
MAX_CHARS = 400
"""Characters that are kept of a finding."""


@dataclass(frozen=True)
class Finding:
    """Something that is broken."""

    file: str
    what: str
    """The place in the file, if it is known, and why nothing can be read there."""


@dataclass(frozen=True)
class InputReport:
    """What is not in a corpus as it is in its inputs."""

    num_skipped: int = 0
    """Broken documents and files that were left out, of which `skipped` has the first."""
    skipped: list[Finding] = field(default_factory=list)
    replaced: dict[str, int] = field(default_factory=dict)
    """By file: documents in which invalid UTF-8 was replaced by U+FFFD."""
    ignored: dict[str, int] = field(default_factory=dict)
    """By ending: files in the folders whose names have an ending that no format knows."""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "InputReport":
        """Return the report in a manifest. Raises TypeError if it cannot be one."""
        report = cls(**{**fields, "skipped": [Finding(**each) for each in fields["skipped"]]})
        counts = [report.num_skipped, *report.replaced.values(), *report.ignored.values()]
        texts = [text for each in report.skipped for text in (each.file, each.what)]
        if any(type(count) is not int for count in counts) or any(type(text) is not str for text in texts):
            raise TypeError("the report of the inputs has other types")
        return report

    def lines(self, max_listed: int = MAX_LISTED) -> Iterator[str]:
        """Yield what to show of it, line by line; nothing if there is nothing to report."""
        if self.num_skipped:
            yield f"broken documents and files that were left out: {self.num_skipped:,}"
            yield from (f"  {each.file}: {each.what}" for each in self.skipped[:max_listed])
            if self.num_skipped > max_listed:
                yield f"  and {self.num_skipped - min(max_listed, len(self.skipped)):,} more"
        if self.replaced:
            yield f"documents with invalid UTF-8, replaced by U+FFFD: {sum(self.replaced.values()):,}"
            yield from (f"  {file}: {count:,}" for file, count in islice(self.replaced.items(), max_listed))
        if self.ignored:
            most = sorted(self.ignored.items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{count:,} {ending}" for ending, count in most[:max_listed])
            yield f"files that no format knows by their endings, ignored: {shown}"
