"""The rule of a log-linear teacher's members together; those of each member by itself stand with the teacher's."""

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.teachers import MEMBER_WEIGHTS


def members_make_a_distribution(config: CampaignSettings) -> str | None:
    """Why teacher.members are no teacher together; None without members, or when they are one."""
    teacher = config.teacher
    if not teacher.members:
        return None
    inherits = any(member.weights is None for member in teacher.members)
    if inherits and teacher.weights not in MEMBER_WEIGHTS:
        return (
            f"teacher.members with teacher.weights={teacher.weights}, which is several models itself. Name each member's "
            f"weights: {', '.join(MEMBER_WEIGHTS)}."
        )
    if nothing := [number for number, member in enumerate(teacher.members) if member.coefficient == 0.0]:
        return f"teacher.members[{nothing[0]}].coefficient=0 leaves that member out. Remove it, or give it a coefficient."
    for number, member in enumerate(teacher.members):
        if member.source and (member.weights or teacher.weights) != "external":
            return f"teacher.members[{number}].source={member.source!r} has no effect without weights=external in that member."
    if teacher.scale <= 0.0:
        return (
            f"teacher.members: the coefficients add up to {teacher.scale:g}, so that a token on which all members agree would be "
            "as likely as any other, or the likelier the less they like it. Their sum must be above 0, and is 1 where the "
            "teacher keeps the scale of a distribution: add the student's own view, {\"context\": \"none\", \"coefficient\": 1}."
        )
    if teacher.peer_filter != "off":
        return "teacher.peer_filter chooses among whole teachers, not among teacher.members. Set teacher.peer_filter=off."
    return None
