"""Choices that are a name and a function: what each name means. The functions stand in a table with the same names.

    BOUNDS             opsd_core.objective.bounds.BOUNDS
    MIXTURES           opsd_core.teacher.mixtures.MIXTURES
    MIXTURE_WEIGHTS    opsd_core.teacher.mixtures.WEIGHTINGS
    POSITIONS          opsd_core.selection.token_weights.POSITIONS
    ENTROPIES          opsd_core.selection.token_weights.ENTROPIES
    KEPT               opsd_core.selection.groups.KEPT
    ATTEMPTS           opsd_core.prompts.attempts.ATTEMPTS

    REFRESHES          read where completions are judged, opsd_core.training.wear
"""

from collections.abc import Mapping

BOUNDS: dict[str, str] = {
    "none": "off",
    "token_reweight": "detached reweighting, which keeps the gradient's direction",
    "token_clip": "drops the gradient above the threshold",
    "entry_clip": "clips every summand, which can reverse the gradient: there for reproduction",
    "ratio_clip": "clips log T - log S",
}
ENTRY_BOUNDS = ("entry_clip",)
"""Bounds that clip the summands over the vocabulary."""
MIXTURES: dict[str, str] = {
    "arithmetic": "log sum w p, no peer can veto",
    "geometric": "normalised product of p^w, every peer can",
}
MIXTURE_WEIGHTS: dict[str, str] = {
    "uniform": "equal",
    "confidence": "per position softmax of the peers' negative entropies",
}
POSITIONS: dict[str, str] = {
    "uniform": "all alike",
    "late": "later tokens count more (PW-OPSD)",
    "early": "earlier ones do",
}
ENTROPIES: dict[str, str] = {
    "uniform": "all alike",
    "down": "exp(-beta H)",
    "up": "1 - exp(-beta H)",
    "top": "the entropy_fraction of a completion's tokens with the largest H",
    "random": "as many tokens as top, drawn at random, whatever H is: its control",
}
KEPT: dict[str, str] = {
    "all": "every completion that passed the other filters",
    "shortest_right": "of these the shortest one that is right, and none where none is (OASIS)",
    "random": "of these one, drawn by seed and prompt: what shortest_right gains over it is not owed to the number",
}
ATTEMPTS: dict[str, str] = {
    "right_first": "a right one where there is one, else a wrong one",
    "wrong_first": "a wrong one where there is one, else a right one",
    "any": "whichever is drawn",
    "shortest_wrong_first": "the shortest wrong one, else the shortest right one (OASIS)",
}
REFRESHES: dict[str, str] = {
    "every_iteration": "in every iteration",
    "initial": "in the first one alone, by the campaign's first policy",
    "overlap": "when they are worn out: the policy has moved away from the one that sampled them by more than min_overlap and "
    "min_effective_sample_size allow, or they are older than token_weights.max_staleness",
}


def described(choices: Mapping[str, str]) -> str:
    """The names and their meanings as a part of a field's description."""
    return "; ".join(f"{name} = {meaning}" for name, meaning in choices.items())
