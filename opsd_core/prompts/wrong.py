"""A text with its result changed: what a wrong reference shows."""

import re

_NUMBER = re.compile(r"(?<![\d.,])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\d)")
_MOST = 9


def with_wrong_result(text: str, seed: int) -> str | None:
    """`text` with its last number, wherever it stands, off by 1 to 9 in its last digit; None without a number.

    The number keeps its form (decimals, thousands, leading zeros) and stays at least 0 where it was.
    """
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    wrong = _changed(numbers[-1], seed)
    return _NUMBER.sub(lambda found: wrong if found.group() == numbers[-1] else found.group(), text)


def _changed(number: str, seed: int) -> str:
    decimals, size = len(number.partition(".")[2]), sum(map(str.isdigit, number))
    value, offset = int(number.replace(",", "").replace(".", "")), 1 + seed % _MOST
    changed = value - offset if seed // _MOST % 2 and not 0 <= value < offset else value + offset
    zeros = size if number.lstrip("-").startswith("0") else decimals + 1
    digits = str(abs(changed)).zfill(zeros)
    whole, part = (digits[:-decimals], digits[-decimals:]) if decimals else (digits, "")
    grouped = f"{int(whole):,}" if "," in number else whole
    return f"{'-' if changed < 0 else ''}{grouped}{'.' if decimals else ''}{part}"
