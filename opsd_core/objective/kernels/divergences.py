"""The divergences of `opsd_core.objective.divergences` for one block of entries: terms l_v and slopes dl_v / ds_v.

The numbers of the kinds are those of `opsd_core.objective.kernels.rows`.
"""

import triton
import triton.language as tl

from opsd_core.objective.types import LOG_ZERO

log_zero = tl.constexpr(LOG_ZERO)


@triton.jit
def entries(s: tl.tensor, t: tl.tensor, forward: tl.tensor, share: tl.tensor, scale: tl.tensor, KIND: tl.constexpr):
    """Terms and slopes of log-probabilities s and t; `share` is the teacher's in a mixture, `forward` that of forward KL."""
    terms = s
    slopes = s
    if KIND == 0:
        terms, slopes = _forward_kl(s, t)
    if KIND == 1:
        terms, slopes = _reverse_kl(s, t)
    if KIND == 2:
        log_s, log_t = _log_over_mixture(s, t, share)
        slopes = tl.exp(s) * log_s * ((1.0 - share) * scale)
        terms = tl.exp(t) * log_t * (share * scale) + slopes
    if KIND == 3:
        log_s, log_t = _log_over_mixture(s, t, share)
        terms = tl.exp(t) * log_t
        slopes = tl.exp(t) * tl.exp(log_s) * -(1.0 - share)
    if KIND == 4:
        to_teacher, to_teacher_slopes = _forward_kl(s, t)
        to_student, to_student_slopes = _reverse_kl(s, t)
        terms = to_student + forward * (to_teacher - to_student)
        slopes = to_student_slopes + forward * (to_teacher_slopes - to_student_slopes)
    return terms, slopes


@triton.jit
def _forward_kl(s: tl.tensor, t: tl.tensor):
    teacher = tl.exp(t)
    return teacher * (t - s), -teacher


@triton.jit
def _reverse_kl(s: tl.tensor, t: tl.tensor):
    student = tl.exp(s)
    terms = student * (s - t)
    return terms, terms + student


@triton.jit
def _log_over_mixture(s: tl.tensor, t: tl.tensor, share: tl.tensor):
    """log S/M and log T/M, exactly 0 where S = T: see the function of this name in torch."""
    difference = t - s
    above = difference > 0
    u = _expm1(tl.where(above, -difference, difference))
    u = _log1p(tl.where(above, 1.0 - share, share) * u)
    higher = tl.where(above, difference, 0.0)
    return -higher - u, difference - higher - u


@triton.jit
def _expm1(x: tl.tensor):
    """exp(x) - 1 for x <= 0: its series near 0, good to float32's rounding."""
    series = 1.0 + x / 6.0 * (1.0 + x / 7.0)
    series = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * series))))
    return tl.where(x > -0.25, series, tl.exp(x) - 1.0)


@triton.jit
def _log1p(x: tl.tensor):
    """log(1 + x) for -1 < x <= 0: 2 artanh(x / (2 + x)) as its series near 0."""
    z = x / (2.0 + x)
    w = z * z
    series = 2.0 * z * (1.0 + w * (1.0 / 3.0 + w * (1.0 / 5.0 + w * (1.0 / 7.0 + w / 9.0))))
    return tl.where(x > -0.25, series, tl.log(1.0 + x))
