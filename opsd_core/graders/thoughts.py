"""What a completion says once its thinking is taken away."""

import re

_NAMES = "think|thinking|thought|thoughts|reasoning|scratchpad|seed:think"
_OPENED = re.compile(rf"<(?:{_NAMES})>|\[THINK\]|<\|begin_of_thought\|>|◁think▷|<\|channel\|>analysis<\|message\|>")
_CLOSED = re.compile(rf"</(?:{_NAMES})>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷|<\|channel\|>final<\|message\|>")
_FRAME = re.compile(r"<\|(?:begin|end)_of_solution\|>")


def spoken_text(text: str) -> str:
    """The text behind the last closed thought; empty when a thought is still open at the end.

    Templates often open the thought inside the prompt, so a closing mark needs no opening one.
    """
    end = 0
    for match in _CLOSED.finditer(text):
        end = match.end()
    text = text[end:]
    return "" if _OPENED.search(text) else _FRAME.sub("", text)
