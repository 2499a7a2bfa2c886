"""Recipes of published methods and of controls. docs/recipes.md says what each paper does and what differs here.

Every recipe has a method, which always holds, and two ways to run it: on the tiny model and its task (the default), or
with the paper's prompts, lengths and rates once `model` and `data` name something else.
"""

from typing import Any, NamedTuple

Values = dict[str, Any]


class PaperRecipe(NamedTuple):
    """Partial configurations; `tiny` is merged over the recipe tiny, `full` over the defaults."""

    method: Values
    tiny: Values
    full: Values


STUDENT_TEMPLATE = "Problem: {{ question }}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
OPSD_TEACHER_TEMPLATE = (
    "{{ question }}\n\nHere is a reference solution to this problem:\n{{ privileged_context }}\n\n\n"
    "After understanding the reference solution and the rationale behind each step, now articulate your own step-by-step "
    "reasoning that derives the same final answer to the problem below:\n\n"
    "Please reason step by step, and put your final answer within \\boxed{}."
)
CONTEXT_ONLY_TEMPLATE = (
    "Here is a reference solution to a problem:\n{{ privileged_context }}\n\n\n"
    "After understanding the reference solution and the rationale behind each step, now articulate your own step-by-step "
    "reasoning that derives the same final answer:\n\n"
    "Please reason step by step, and put your final answer within \\boxed{}."
)

_FULL: Values = {
    "iterations": 4,
    "prompts": {"student": STUDENT_TEMPLATE, "max_prompt_length": 2048, "max_teacher_prompt_length": 8192},
    "rollout": {"num_prompts": 800, "max_completion_length": 1024},
    "teacher": {"reference": "solution"},
    "optimizer": {"num_steps": 25, "batch_size": 32},
    "evaluation": {"max_completion_length": 1024},
    "execution": {"num_shards": 8, "microbatch_tokens": 16_384, "checkpoint_every": 25},
}
_LORA_FULL: Values = _FULL | {"model": {"lora": {"rank": 64, "alpha": 128.0}}}
_OPSD_FULL: Values = _LORA_FULL | {
    "prompts": _FULL["prompts"] | {"teacher_thinking": True},
    "teacher": {"reference": "solution", "template": OPSD_TEACHER_TEMPLATE},
    "optimizer": _FULL["optimizer"] | {"learning_rate": 5e-6, "max_grad_norm": 0.1},
}
_ON_SAMPLES: Values = {"evaluation": {"num_samples": 4}, "promotion": {"test": "bootstrap"}}
"""Forward KL and JSD can lower greedy accuracy while sampled accuracy rises: the mean over an item's samples is judged."""
_LORA_TINY: Values = {"model": {"lora": {"rank": 16, "alpha": 32.0}}, "optimizer": {"learning_rate": 3e-3}}
_OPSD_SAMPLING: Values = {"temperature": 1.1, "top_p": 0.95, "top_k": 20}
_OPSD_DIVERGENCE: Values = {
    "targets": "online", "divergence": "forward_kl", "temperature": 1.1, "bound": "entry_clip", "bound_threshold": 0.05,
}  # fmt: skip
_GROUPS_TINY: Values = {"rollout": {"num_prompts": 400}}
_SOLUTION: Values = {"teacher": {"reference": "solution", "template": OPSD_TEACHER_TEMPLATE}}


def _members(*chosen: tuple[float, str, str]) -> Values:
    """A log-linear teacher of (coefficient, context, template; empty = teacher.template)."""
    return {
        "members": [
            {"coefficient": c, "context": context} | ({"template": template} if template else {})
            for c, context, template in chosen
        ]
    }


def _purified(context_only: str) -> Values:
    """The student's own view, and what the reference adds to it beyond what it says without the question."""
    return _members((1.0, "none", ""), (1.0, "reference", ""), (-1.0, "reference", context_only))


PAPERS: dict[str, PaperRecipe] = {
    "opsd_paper_v2": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "rollout": _OPSD_SAMPLING,
            "teacher": {"weights": "adapter_off", "context": "reference"},
            "distillation": {"targets": "online", "divergence": "jsd", "beta": 0.5, "temperature": 1.1, "bound": "none"},
        },
        tiny=_LORA_TINY,
        full=_OPSD_FULL
        | {
            "rollout": _FULL["rollout"] | {"max_completion_length": 2048},
            "optimizer": _OPSD_FULL["optimizer"] | {"learning_rate": 2e-4},
        },
    ),
    "opsd_paper_v3": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "rollout": _OPSD_SAMPLING,
            "teacher": {"weights": "adapter_off", "context": "reference"},
            "distillation": _OPSD_DIVERGENCE,
        },
        tiny=_LORA_TINY,
        full=_OPSD_FULL,
    ),
    "sdft": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "teacher": {"weights": "ema", "ema_decay": 0.99, "context": "demo"},
            "token_weights": {"importance_correction": True, "importance_clip": 2.0},
            "distillation": {"targets": "online", "divergence": "forward_kl", "bound": "none"},
        },
        tiny={},
        full=_FULL | {"distillation": {"skip_first_tokens": 3}},
    ),
    "op2sd": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "rollout": _OPSD_SAMPLING,
            "teacher": {"weights": "adapter_off", "context": "other_problem"},
            "distillation": _OPSD_DIVERGENCE,
        },
        tiny=_LORA_TINY | {"teacher": {"template": "{{ other_question }}{{ privileged_context }}\n{{ question }}"}},
        full=_OPSD_FULL | {"teacher": {"reference": "solution"}},
    ),
    "u_opsd": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "rollout": {"group_size": 8},
            "teacher": {"weights": "ema", "ema_decay": 0.99, "context": "majority", "only_unsuccessful": True},
            "distillation": {
                "targets": "online",
                "divergence": "forward_kl",
                "bound": "entry_clip",
                "bound_threshold": 0.05,
            },
        },
        tiny=_GROUPS_TINY | {"teacher": {"min_agreement": 0.25}},
        full=_FULL | {"teacher": {}, "rollout": _FULL["rollout"] | {"num_prompts": 400, "max_completion_length": 4096}},
    ),
    "opsdc": PaperRecipe(
        method={
            "teacher": {"weights": "initial", "context": "concise"},
            "distillation": {"targets": "online", "divergence": "reverse_kl", "bound": "none"},
        },
        tiny={"teacher": {"template": "{{ privileged_context }}\n{{ question }}"}},
        full=_FULL | {"teacher": {}},
    ),
    "sdpo_like": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "rollout": {"group_size": 8},
            "teacher": {"weights": "ema", "ema_decay": 0.95, "context": "sibling_success"},
            "token_weights": {"importance_correction": True, "importance_clip": 2.0},
            "distillation": {
                "targets": "online",
                "divergence": "jsd",
                "beta": 0.5,
                "top_k_of": "student",
                "top_k": 100,
                "bound": "none",
            },
        },
        tiny=_GROUPS_TINY,
        full=_FULL
        | {
            "teacher": {},
            "rollout": _FULL["rollout"] | {"num_prompts": 320},
            "optimizer": _FULL["optimizer"] | {"num_steps": 10, "batch_size": 256},
        },
    ),
    "oasis": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "rollout": _OPSD_SAMPLING | {"group_size": 8},
            "filter": {"keep_per_prompt": "shortest_right"},
            "teacher": {"weights": "adapter_off", "context": "other_attempt", "attempt": "shortest_wrong_first"},
            "distillation": _OPSD_DIVERGENCE,
        },
        tiny=_LORA_TINY | _GROUPS_TINY | {"teacher": {"template": "{{ privileged_context }}\n{{ question }}"}},
        full=_OPSD_FULL | {"teacher": {}, "rollout": _FULL["rollout"] | {"num_prompts": 1600}},
    ),
    "beta_opsd": PaperRecipe(
        method=_ON_SAMPLES | {"teacher": {"weights": "initial"} | _members((0.5, "none", ""), (0.5, "reference", ""))},
        tiny={},
        full=_FULL | _SOLUTION,
    ),
    "purified": PaperRecipe(
        method=_ON_SAMPLES | {"teacher": {"weights": "initial"}},
        tiny={"teacher": _purified("{{ privileged_context }}|")},
        full=_FULL | {"teacher": _SOLUTION["teacher"] | _purified(CONTEXT_ONLY_TEMPLATE)},
    ),
    "contrastive": PaperRecipe(
        method=_ON_SAMPLES
        | {
            "teacher": {"weights": "initial"}
            | _members((1.0, "none", ""), (1.0, "reference", ""), (-1.0, "wrong_reference", ""))
        },
        tiny={},
        full=_FULL | _SOLUTION,
    ),
    "null_control": PaperRecipe(
        method={"control": True, "teacher": {"context": "none"}}, tiny={}, full=_FULL | {"teacher": {}}
    ),
    "shuffled_control": PaperRecipe(
        method={"control": True, "teacher": {"context": "shuffled_reference"}},
        tiny={},
        full=_FULL | {"teacher": {"reference": "solution", "template": OPSD_TEACHER_TEMPLATE}},
    ),
}
