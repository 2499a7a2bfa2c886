"""Notation: Unicode and LaTeX to plain arithmetic (for numbers), and Unicode and code to LaTeX (for expressions)."""

import re

_DASHES = str.maketrans(dict.fromkeys("\u2212\u2013\u2010\u2011\u2012\ufe63\uff0d", "-"))
_SPACES = re.compile(r"[\u00a0\u2000-\u200b\u202f\u205f\u2060\u3000]")
_DIGIT_SPACES = re.compile(r"(?<=\d)[\u00a0\u2007\u2009\u202f](?=\d{3}(?!\d))")
_SUPER, _SUB = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "₀₁₂₃₄₅₆₇₈₉"
_SCRIPTS = {**dict(zip(_SUPER, "0123456789+-", strict=True)), **dict(zip(_SUB, "0123456789", strict=True))}
_RAISED, _LOWERED = re.compile(f"[{_SUPER}]+"), re.compile(f"[{_SUB}]+")
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_VULGAR_SIGN = re.compile(f"[{''.join(_VULGAR)}]")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|bb)?|mbox|hbox|operatorname|boldsymbol|bm)\s*\{([^{}]*)\}"
)
_DELIMITERS = re.compile(r"\\[()\[\]]|\$")
_BIG = re.compile(r"\\(?:left|right|[bB]ig[glr]?|displaystyle|limits)(?![a-zA-Z])\.?")
_THIN_IN_NUMBER = re.compile(r"(?<=\d)(?:\\[,!;: ]|\{,\}(?=\\!)\\!|,\\!|~)+(?=\d{3}(?!\d))")
_LATEX_SPACE = re.compile(r"\\[,;: !]|\\q?quad(?![a-zA-Z])|~")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_REPEATING = re.compile(r"(?<!\d)(\d{0,40})\.(\d{0,40})\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_NUMERIC = re.compile(r"\s*-?\s*\d+(?:[.,]\d+)*\s*")
_DEGREES = re.compile(r"[ ]?(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])|°(?![CFK]\b))")
_PRODUCT = re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·∙⋅∗]")
_POWER_OF_TEN = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)\s*[*xX]\s*10\s*\^\s*[({]?\s*([-+]?)\s*(\d+)(?:\s*[)}])?")
_BARE_POWER_OF_TEN = re.compile(r"(?<![\w.^/*])10\s*\^\s*[({]?\s*([-+]?)\s*(\d+)(?:\s*[)}])?(?![\w^])")
_SCRIPT_BRACES = re.compile(r"([\^_])\s*\{\s*([-+]?\w+)\s*\}")
_PLAIN_BRACES = re.compile(r"(?<![\w\\^}])\{([^{}\\]*)\}")
_STARRED = re.compile(r"(?<![\w)*])\*([^\s*](?:[^*\n]{0,80}[^\s*])?)\*(?![\w(*])")
_TAG = re.compile(r"</?[a-zA-Z]\w{0,20}>")
_AND_FRACTION = re.compile(r"(\d)\s+and\s+(?=\d+\s*/\s*\d+(?!\d))")
_CURRENCY = re.compile(r"(?:\b(?:US|USD|EUR|GBP|INR|Rs\.?|A|C)\s?)?[€£¥₹₽₩$]|\b(?:USD|EUR|GBP|INR|Rs\.?)\s?(?=\d)")
_LATEX_SIGNS = {
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi ", "°": r"^\circ ", "⁄": "/", "∈": r"\in ", "ℝ": r"\mathbb{R}",
}  # fmt: skip
_LATEX_TABLE = str.maketrans(_LATEX_SIGNS)
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[a-z]))")
_CODE_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)")
_CODE_NAME = re.compile(r"(?<![\\a-zA-Z])(pi|infty|infinity)(?![a-zA-Z])")


def unify_signs(text: str) -> str:
    """Unicode dashes, spaces, raised and lowered digits and vulgar fractions in their ASCII notation."""
    if not text.isascii():
        text = _DIGIT_SPACES.sub("", text.translate(_DASHES))
        text = _SPACES.sub(" ", text).replace("⁄", "/")
        text = _RAISED.sub(lambda m: "^{" + "".join(_SCRIPTS[sign] for sign in m.group()) + "}", text)
        text = _LOWERED.sub(lambda m: "_{" + "".join(_SCRIPTS[sign] for sign in m.group()) + "}", text)
        text = _VULGAR_SIGN.sub(lambda m: " " + _VULGAR[m.group()] + " ", text)
    return text


def unwrap_text(text: str) -> str:
    r"""`text` with \text{...}, \mathrm{...} and their kin replaced by what they hold."""
    for _ in range(3):
        text, count = _TEXT.subn(r" \1 ", text)
        if not count:
            break
    return text


def plain_text(text: str) -> str:
    r"""`text` in plain arithmetic: "1\frac12" is "1 1/2", "3 × 10^{8}" is "3e8", "5\text{ m}²" is "5 m^2".

    What has no plain notation (roots, Greek letters, matrices) stays LaTeX.
    """
    text = _TAG.sub(" ", unify_signs(text))
    if "*" in text:
        text = re.sub(r"(?<=\d)\*\*(?=[\d(-])", "^", text).replace("**", " ")
        text = _STARRED.sub(r" \1 ", text)
    if "\\" in text or "{" in text or "~" in text:
        text = _plain_latex(text)
    text = _CURRENCY.sub("", _DELIMITERS.sub(" " if "\\" in text else "", text))
    text = _DEGREES.sub(" ", text).replace("`", "")
    text = _SCRIPT_BRACES.sub(r"\1\2", _PRODUCT.sub("*", text))
    if "10" in text and "^" in text:
        text = _POWER_OF_TEN.sub(r"\1e\2\3", text)
        text = _BARE_POWER_OF_TEN.sub(r"1e\1\2", text)
    return _AND_FRACTION.sub(r"\1 ", text)


def _plain_latex(text: str) -> str:
    text = text.replace("\\$", "").replace("\\%", "%").replace("{,}", ",").replace("\\pm", "±")
    text = text.replace("\\approx", "≈").replace("\\div", "÷").replace("\\{", "⦃").replace("\\}", "⦄")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = _REPEATING.sub(_repeating_fraction, _BIG.sub("", _THIN_IN_NUMBER.sub("", text)))
    text = _LATEX_SPACE.sub(" ", unwrap_text(text))
    text = _PLAIN_BRACES.sub(r"\1", _SHORT_FRACTION.sub(_slash, text))
    return text


def _slash(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2] or "", match[3] or match[4] or ""
    if not (_NUMERIC.fullmatch(top) and _NUMERIC.fullmatch(bottom)):
        return match.group()
    return f" {top.strip().replace('- ', '-')}/{bottom.strip()} "


def _repeating_fraction(match: re.Match[str]) -> str:
    """The digits once through minus the digits before, over nines and zeros: "0.1\\overline{6}" is 15/90."""
    whole, fixed, period = match[1] or "0", match[2], match[3]
    if len(whole + fixed + period) > 60:
        return match.group()
    top = int(whole + fixed + period) - int(whole + fixed)
    return f"{top}/{'9' * len(period)}{'0' * len(fixed)}"


def latex_text(text: str) -> str:
    r"""`text` as one LaTeX formula without delimiters: "2√3" is "2\sqrt{3}", "3*pi" is "3\cdot \pi "."""
    text = re.sub(r"\\\$|\$|\\\(|\\\)|\\\[|\\\]", " ", unify_signs(text).replace("**", "^"))
    text = _THIN_IN_NUMBER.sub("", text)
    text = _BIG.sub("", text.replace("{,}", "")).replace("\\!", "").replace("\\%", "%")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\d|[a-z](?![a-z]))", r"\\sqrt{\1}", text)
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2] or m[3]}}}", text)
    text = _CODE_ROOT.sub(r"\\sqrt{\1}", text)
    text = _CODE_NAME.sub(lambda m: "\\pi " if m[1] == "pi" else "\\infty ", text)
    text = re.sub(r"(?<![A-Za-z\\])(\d[\d.]*)e([-+]?\d+)(?!\w)", r"\1\\cdot 10^{\2}", text)
    return text.translate(_LATEX_TABLE).replace("*", r"\cdot ").strip()
