"""The objective in TRL's environment: its chunked divergence, which keeps no logits."""

from torch import Tensor
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from benchmarks.peers.arm import Spec, main
from benchmarks.peers.clock import Cost, cost_of
from benchmarks.peers.tensors import Sides, sides


def divergence(made: Sides) -> Tensor:
    """Forward KL over the whole vocabulary."""
    student = (made.hidden_NH, made.weight_VH, None)
    return ChunkedDivergenceFunction.apply(*student, made.teacher_NH, made.teacher_VH, None, 0.0)[0].sum()


def measured(spec: Spec) -> tuple[Cost, int, float]:
    """As `own_objective.measured`."""

    def step(made: Sides) -> float:
        loss = divergence(made)
        (loss / len(made.hidden_NH)).backward()
        return float(loss.detach()) / len(made.hidden_NH)

    tokens, vocabulary, hidden = spec["sizes"]
    step(sides(32, 4096, hidden, spec["dtype"]))
    made = sides(tokens, vocabulary, hidden, spec["dtype"])
    cost = cost_of(lambda: step(made))
    return cost, tokens, cost.result


if __name__ == "__main__":
    main(measured)
