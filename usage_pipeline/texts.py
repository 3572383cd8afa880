"""Text that others chose (ids, reasons, errors) where a person reads it: a terminal, a log, a message, a spreadsheet. Pure.

JSON and Parquet need none of this: they hold any text as it is.
"""

import re

# As discord.py escapes mentions: what comes after an invisible space is no mention and no link any more.
_BREAK = "\N{ZERO WIDTH SPACE}"
_AT_A_MENTION = re.compile(
    r"(?<=@)(?=everyone|here|channel|all\b|team\b)"  # also in the middle of a word
    r"|(?<![\w.+-]@)(?<=@)(?=[\w&!])"  # a person, but not an e-mail address
    r"|(?<=<)(?=[@#!/:&\w])"  # Slack's and Discord's own forms, HTML, <https://...>
    r"|(?<=\])(?=[(\[:])"  # [text](address) of Markdown
    r"|(?<=:)(?=//)|(?<=\bwww)(?=\.)"  # what services make a link of by themselves
    r"|(?<=mailto:)|(?<=tel:)|(?<=javascript:)",
    re.IGNORECASE,
)
# OWASP's list, and the full-width forms that spreadsheets take for the same.
_FORMULA = re.compile("[\\s\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*[=+\\-@＝＋－＠]|[\t\r\n]")


def visible(text: str, *, but: str = "") -> str:
    """The text with an escape such as `\\x1b` or `\\u202e` for each character that does not print as itself.

    Those are controls, line breaks, marks that turn or hide text, lone surrogates. Spaces of all kinds stay, and so does each
    character of `but`.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in but or _is_a_space(one) else _escaped(one) for one in text)


def shortened(text: str, most: int) -> str:
    """`visible`, and at most so many characters, of which the last is a `…` where there were more."""
    # What is cut is not escaped first: it may be long.
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def without_mentions(text: str) -> str:
    """`visible`, and nothing in it calls a person or a channel, or is a link: a zero-width space breaks each."""
    return _AT_A_MENTION.sub(_BREAK, visible(text))


def storable(text: str) -> str:
    """The text with escapes for what PostgreSQL's text and UTF-8 cannot hold: NUL and lone surrogates."""
    return re.sub("[\0\ud800-\udfff]", lambda found: _escaped(found[0]), text)


def counted(number: int, one: str, more: str = "") -> str:
    """The number with what is counted: `1 key`, `2 keys`. `more` is for all numbers but 1; without it, `one` gets an s."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def csv_cell(text: str) -> str:
    """The text with a `'` in front if a spreadsheet would compute it. Who reads the file takes that one off again.

    Text that begins with a `'` before such a beginning gets one more, so that nothing is lost.
    """
    return f"'{text}" if _FORMULA.match(text.lstrip("'")) else text


def _is_a_space(character: str) -> bool:
    return character.isspace() and character not in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
