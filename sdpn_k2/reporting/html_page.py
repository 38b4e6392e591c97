"""Self-contained HTML pages: styles, script and pictures inside, for light and dark screens and for paper.

The templates are in ``templates/``; ``page.html`` is the frame of all pages.
"""

import hashlib
import re
from typing import TYPE_CHECKING

from sdpn_k2.progress import hours_minutes_seconds

if TYPE_CHECKING:
    from markupsafe import Markup

# Control characters but tab and line feed, marks and overrides of the writing direction, halves of surrogate pairs.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def render(template: str, **values: object) -> str:
    """Fill a template of ``templates/``; text among the values is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sdpn_k2.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(number=number, inline=inline_svg, duration=hours_minutes_seconds)
    return environment.get_template(template).render(**values)


def visible(text: str) -> str:
    """Write characters that change how others are shown, but are not seen themselves, as escapes such as U+202E."""
    return INVISIBLE.sub(lambda found: f"U+{ord(found[0]):04X}", text)


def _shown(value: object) -> object:
    """Return a value of a template as it is shown; Jinja escapes text after this."""
    from markupsafe import Markup

    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def inline_svg(svg: str, label: str) -> "Markup":
    """Embed an SVG of ``plots.to_svg`` in a page; ``label`` describes it to readers who cannot see it.

    Make the names within the picture unique and drop those without a reference, so that a page can hold many pictures.
    """
    from markupsafe import Markup

    svg, label = visible(svg), visible(label)
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    # Hundredths of a point are accurate enough.
    svg = re.sub(r'\s(?:d|points|transform|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    prefix = f"f{hashlib.sha1(svg.encode()).hexdigest()[:8]}"
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", svg)
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(visible(label)), 1))


def number(value: object) -> str:
    """Format a number: 5 significant digits, groups of thousands. Return other values as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.5g}" if value == value else "–"
