"""HTML as a tree, so that text is escaped wherever it stands: no name of a team or a token can be markup."""

from xml.etree.ElementTree import Element, tostring

from usage_pipeline.api.dashboard.routes import FILES

Child = Element | str


def tag(name: str, /, *children: Child, **attributes: str) -> Element:
    """An element. `_` in a name stands for `-`; one at its end for nothing: `class_`."""
    element = Element(name, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def page(title: str, *parts: Child) -> bytes:
    """A whole page, with the style of the dashboard where that is built. Its addresses are relative, as those of all pages."""
    folder = f"dashboard/{FILES.version}"
    files = [
        tag("link", rel=rel, href=f"{folder}/{name}")
        for rel, name in (("icon", "icon.svg"), ("stylesheet", "index.css"))
        if name in FILES.files
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · usage_pipeline"),
        *files,
    )
    mark = tag("span", *(tag("i") for _ in range(3)), class_="mark", aria_hidden="true")
    brand = tag("header", tag("span", mark, "usage_pipeline", class_="brand"), class_="top")
    footer = tag("footer", tag("a", "All other questions", href="./"), " ", tag("a", "API documentation", href="docs"))
    whole = tag("html", head, tag("body", brand, tag("main", *parts), footer), lang="en")
    written: bytes = tostring(whole, encoding="utf-8", method="html", xml_declaration=False)
    return b"<!doctype html>\n" + written
