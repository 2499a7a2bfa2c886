"""A float64 oracle of the objective, token by token from probabilities, and random problems to try it on."""

import torch
from torch import Tensor

from opsd_core.objective import Head, HiddenTargets, TopKTargets


def problem(
    tokens=11,
    vocabulary=53,
    hidden=7,
    seed=0,
    dtype=torch.float32,
    bias=False,
    softcap=None,
    top_k=5,
    scale=1.0,
    head_scale=1.0,
) -> dict:
    """Hidden states, heads, both kinds of targets, and weights of which some are 0; `scale` sharpens the logits."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    student = normal(tokens, hidden) * scale
    weight = normal(vocabulary, hidden)
    bias_V = normal(vocabulary) if bias else None
    head = Head(weight.to(dtype), None if bias_V is None else bias_V.to(dtype), softcap, head_scale)
    teacher_scale = head_scale if head_scale == 1.0 else 1.3 * head_scale
    teacher_head = Head((weight + 0.3 * normal(vocabulary, hidden)).to(dtype), head.bias_V, softcap, teacher_scale)
    teacher = (student + 0.5 * normal(tokens, hidden)).to(dtype)
    weights = torch.rand(tokens, generator=generator)
    weights[1::4] = 0.0
    return {
        "hidden": student.to(dtype),
        "head": head,
        "online": HiddenTargets(teacher, teacher_head, temperature=0.8),
        "ids": torch.randint(vocabulary, (tokens,), generator=generator),
        "weights": weights,
        "top_k": top_k,
    }


def probabilities(hidden: Tensor, head: Head, temperature: float) -> Tensor:
    logits = hidden.double() @ head.weight_VH.double().T
    if head.bias_V is not None:
        logits = logits + head.bias_V.double()
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return torch.softmax(logits / temperature, dim=-1)


def joined(P: Tensor, own: tuple[int, ...], stops) -> Tensor:
    """Probabilities (N, V) with the end tokens' columns emptied, and their sums in the columns of the events."""
    if stops is None:
        return P
    others = [token for token in stops.union if token not in own]
    columns = [torch.zeros_like(P[:, 0]) if token in stops.union else P[:, token] for token in range(P.shape[1])]
    columns[stops.entry] = P[:, list(own)].sum(-1)
    if stops.leftover >= 0:
        columns[stops.leftover] = P[:, others].sum(-1).clamp(min=1e-10)
    return torch.stack(columns, dim=-1)


def column_of(token: int, stops) -> int:
    """Where the student's token is compared."""
    if stops is None or token not in stops.union:
        return token
    return stops.entry if token in stops.student else stops.leftover


def chosen(P: Tensor, k: int, stops) -> list[int]:
    """The k most likely entries of one token, and the events besides."""
    always = stops.events if stops else []
    ranked = [i for i in P.detach().argsort(descending=True).tolist() if i not in always]
    return [*ranked[:k], *always]


def recorded(case: dict, temperature: float, stops=None) -> TopKTargets:
    """What a recorder stores of the online teacher: built here from float64 probabilities."""
    online = case["online"]
    T = probabilities(online.hidden_NH, online.head, online.temperature * temperature)
    T = joined(T, stops.members[0], stops) if stops else T
    ids = torch.tensor([chosen(row, case["top_k"], stops) for row in T])
    tail = T.scatter(1, ids, 0.0).sum(-1)
    sampled = T.gather(1, torch.tensor([[column_of(int(i), stops)] for i in case["ids"]]))[:, 0]
    return TopKTargets(ids, T.gather(1, ids).log().float(), tail.log().float(), sampled.log().float(), stops)


def kl(P: Tensor, Q: Tensor) -> Tensor:
    """Summands of KL(P || Q) of one token."""
    return torch.where(P > 0, P * (P.clamp(min=1e-300).log() - Q.clamp(min=1e-300).log()), torch.zeros_like(P))


def summands(S: Tensor, T: Tensor, entropy: Tensor, config) -> Tensor:
    beta, name = config.beta, config.divergence
    if name == "forward_kl" or (name == "jsd" and beta == 0.0):
        return kl(T, S)
    if name == "reverse_kl" or (name == "jsd" and beta == 1.0):
        return kl(S, T)
    if name == "jsd":
        M = beta * T + (1 - beta) * S
        value = beta * kl(T, M) + (1 - beta) * kl(S, M)
        return value / (beta * (1 - beta)) if config.normalise_beta else value
    if name == "skew_kl":
        return kl(T, config.skew * T + (1 - config.skew) * S)
    share = 1 / (1 + torch.exp(-(entropy - config.entropy_threshold) / config.entropy_width))
    return share * kl(T, S) + (1 - share) * kl(S, T)


def entries(S: Tensor, row: int, case: dict, targets, config) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Student and teacher mass on the compared entries, teacher entropy, teacher probability of the sampled token."""
    floor = 1e-10
    if isinstance(targets, TopKTargets):
        keep, stops = targets.ids_NK[row], targets.stops
        T = torch.cat([targets.logprobs_NK[row].double().exp(), targets.tail_logprob_N[row].double().exp()[None]])
        entropy, sampled = -torch.special.xlogy(T, T).sum(), targets.sampled_logprob_N[row].double().exp()
    else:
        stops = targets.stops
        full = probabilities(targets.hidden_NH[row], targets.head, targets.temperature * config.temperature)
        full = joined(full[None], stops.members[0], stops)[0] if stops else full
        entropy, sampled = -torch.special.xlogy(full, full).sum(), full[column_of(int(case["ids"][row]), stops)]
        if config.top_k_of == "full":
            return S, full, entropy, sampled
        sides = {"teacher": [full], "student": [S], "union": [full, S]}[config.top_k_of]
        k = min(config.top_k, len(S))
        keep = torch.tensor(sorted({i for side in sides for i in chosen(side, k, stops)}))
        T = torch.cat([full[keep], full[[i for i in range(len(full)) if i not in set(keep.tolist())]].sum()[None]])
    rest = S[[i for i in range(len(S)) if i not in set(keep.tolist())]].sum()
    T = torch.cat([T[:-1], T[-1:].clamp(min=floor)])
    return torch.cat([S[keep], rest.clamp(min=floor)[None]]), T, entropy, sampled


def oracle(case: dict, targets, config) -> dict:
    """Loss, per-token columns and gradients in float64, by autograd over explicit probabilities."""
    hidden = case["hidden"].double().requires_grad_()
    weight = case["head"].weight_VH.double().requires_grad_()
    bias = None if case["head"].bias_V is None else case["head"].bias_V.double().requires_grad_()
    S_all = probabilities(hidden, case["head"]._replace(weight_VH=weight, bias_V=bias), config.temperature)
    unmerged, stops = S_all.detach(), targets.stops
    S_all = joined(S_all, stops.student, stops) if stops else S_all
    loss, columns = torch.zeros((), dtype=torch.float64), []
    tau = config.bound_threshold
    for row, (S, w) in enumerate(zip(S_all, case["weights"].double(), strict=True)):
        if w == 0:
            columns.append([0.0] * 5)
            continue
        Se, Te, entropy, sampled = entries(S, row, case, targets, config)
        y, itself = S[column_of(int(case["ids"][row]), stops)], unmerged[row, case["ids"][row]].log().item()
        if config.divergence == "sampled_token":
            raw = (y.log() - sampled.log()).detach()
            used = raw.clamp(-tau, tau) if config.bound == "ratio_clip" else raw
            bounded = used * (1 + y.log() - y.log().detach())
        else:
            raw = summands(Se, Te, entropy, config).sum()
            if config.bound == "ratio_clip":
                ratio = (Te.log() - Se.log()).detach().clamp(-tau, tau)
                bounded = summands(Se, Se.detach() * ratio.exp(), entropy, config).sum()
            elif config.bound == "entry_clip":
                bounded = summands(Se, Te, entropy, config).clamp(max=tau).sum()
            else:
                bounded = raw
        if config.bound == "token_reweight":
            bounded = bounded * min(1.0, tau / abs(bounded.item()) if bounded.item() else 1.0)
        if config.bound == "token_clip":
            bounded = bounded.clamp(max=tau)
        if config.scale_by_temperature_squared:
            bounded = bounded * config.temperature**2
        loss = loss + w * bounded
        columns.append(
            [raw.item(), bounded.item(), -torch.special.xlogy(S, S).sum().item(), entropy.item(), itself]
        )
    loss.backward()
    return {
        "loss": loss.detach(),
        "columns": torch.tensor(columns, dtype=torch.float64).T,
        "grads": [leaf.grad for leaf in (hidden, weight, bias) if leaf is not None],
    }


def evaluate(function, case: dict, targets, config, **options) -> tuple:
    """Run one path on fresh leaves; returns the result and the gradients of its leaves."""
    head = case["head"]
    hidden, weight = (tensor.clone().requires_grad_() for tensor in (case["hidden"], head.weight_VH))
    bias = None if head.bias_V is None else head.bias_V.clone().requires_grad_()
    result = function(
        hidden, head._replace(weight_VH=weight, bias_V=bias), targets, case["ids"], case["weights"], config, **options
    )
    result.loss_sum.backward()
    return result, [leaf.grad for leaf in (hidden, weight, bias) if leaf is not None]


def columns(result) -> Tensor:
    fields = (
        result.divergence_N,
        result.bounded_N,
        result.student_entropy_N,
        result.teacher_entropy_N,
        result.logprobs_N,
    )
    return torch.stack([field.double() for field in fields])
