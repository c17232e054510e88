"""Tables of results in documents, between two marks. Pure."""


def in_document(text: str, begin: str, table: str, end: str) -> str:
    """The document with a table between its two marks. Raises ValueError if a mark is missing."""
    before, first, rest = text.partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise ValueError(f"the document has no place for the table: a line '{begin}', and after it a line '{end}'")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"
