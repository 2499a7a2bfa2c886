"""The objective in TRL's environment: its chunked divergence, which keeps no logits."""

from torch import Tensor
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from benchmarks.peers.arm import main
from benchmarks.peers.tensors import Sides, measured


def divergence(made: Sides) -> Tensor:
    """Forward KL over the whole vocabulary."""
    student = (made.hidden_NH, made.weight_VH, None)
    return ChunkedDivergenceFunction.apply(*student, made.teacher_NH, made.teacher_VH, None, 0.0)[0].sum()


if __name__ == "__main__":
    main(lambda spec: measured(spec, divergence))
