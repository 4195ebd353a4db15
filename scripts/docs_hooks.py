"""What `make docs` changes in the pages: links to files of the source, which a site does not hold, become their paths."""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown, **_):
    """`[capture.h](../include/paritrace/capture.h)` becomes `capture.h (include/paritrace/capture.h in the source)`."""
    return _OUTSIDE.sub(
        lambda link: (
            link[1]
            if link[1].strip("`").rstrip("/") == link[2].rstrip("/")
            else f"{link[1]} (`{link[2]}` in the source)"
        ),
        markdown,
    )
