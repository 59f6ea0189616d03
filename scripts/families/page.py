"""The table of docs/model-families.md."""

from collections.abc import Iterator

from scripts.families.rows import FAMILIES, Family

HEAD = (
    "family",
    "files",
    "chat",
    "calls by",
    "reasoning by",
    "`think`",
    "replies, `format`",
    "not shown here",
)


def rows() -> Iterator[tuple[str, ...]]:
    for family in FAMILIES:
        yield (
            f"{family.name}<br>`{family.repositories}`",
            family.files,
            *(("embeddings", "", "", "", "") if family.embeds else _abilities(family)),
            "; ".join(filter(None, (family.unseen, f"needs {family.needs}" if family.needs else ""))),
        )


def _abilities(family: Family) -> tuple[str, ...]:
    chat = "pictures" if family.vision else "yes"
    return (
        chat,
        f"`{family.tool_parser}`" if family.tool_parser else "none in its template",
        f"`{family.reasoning_parser}`" if family.reasoning_parser else "none",
        ", ".join(f"`{str(level).lower()}`" for level in family.levels),
        "read" if family.is_read else "not here",
    )
