"""An HTML page. What comes from the caller is escaped: otherwise anyone could put a script into your page."""

import html

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
<ul>
{items}
</ul>
"""


def Run(engine):
    title = html.escape(engine.params.get("title", "What you sent"))
    items = [f"<li>{html.escape(name)}: {html.escape(value)}</li>" for name, value in engine.params.items()]
    engine.result.set(PAGE.format(title=title, items="\n".join(items)), content_type="html")
