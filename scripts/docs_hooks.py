"""What `make docs` changes in the pages: links to files of the source, which a site does not hold, become their paths."""

import posixpath
import re

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown, page, **_):
    """`[capture.h](../include/paritrace/capture.h)` becomes `capture.h (include/paritrace/capture.h in the source)`."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def change(link):
        path = posixpath.normpath(f"{folder}/{link[2]}")
        if path.startswith("docs/") and not path.startswith("docs/dev/"):
            return link[0]
        return link[1] if link[1].strip("`").rstrip("/") == path else f"{link[1]} (`{path}` in the source)"

    return _LINK.sub(change, markdown)
