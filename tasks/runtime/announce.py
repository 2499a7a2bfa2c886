"""Events that others act on: a notification, a deployment system. Every one of them is emitted here.

    opsd.approval-waits     a person is asked whether a version becomes champion
    opsd.promoted           a version became champion; `opsd.because`: gate | person
    opsd.rolled-back        the previous champion is champion again
    opsd.refused            a version did not become champion; `opsd.because`: guard | test | person | champion moved
    opsd.alarm              a monitor passed its limit
    opsd.crashed            a run's process died and nothing starts it again

They are events of the Prefect server. Their resource is the model, `opsd.model.NAME`; its labels are `opsd.model`,
`opsd.version` where there is one and `opsd.because`; the payload has the sentence (`text`) and addresses (`links`). An event
that a stage emits again when it is resumed has the same id, so that whoever keeps ids sees it once.
"""

from collections.abc import Mapping
from uuid import NAMESPACE_URL, uuid4, uuid5

from prefect.events import emit_event

from tasks.runtime.secrets import redact

_MAX_TEXT = 2000


def announce(
    kind: str,
    about: tuple[str, int | None],
    text: str,
    *,
    because: str = "",
    links: Mapping[str, str] | None = None,
    once: str = "",
) -> None:
    """Emit `opsd.<kind>` about a model or campaign and a version of it. It never fails: what it tells is done already.

    `once` is what the event happens once to, such as a campaign's id: a stage that runs again gives its event the same id.
    """
    name, version = about
    labels = {"opsd.model": name, "opsd.version": str(version or ""), "opsd.because": because}
    resource = {"prefect.resource.id": f"opsd.model.{name}", "prefect.resource.name": f"{name} v{version}" if version else name}
    said = redact(text)[:_MAX_TEXT]
    emit_event(
        f"opsd.{kind}",
        resource=resource | {label: value for label, value in labels.items() if value},
        payload={"kind": kind, "model": name, "version": version, "text": said, "because": because, "links": dict(links or {})},
        id=uuid5(NAMESPACE_URL, f"opsd:{kind}:{name}:{version}:{once}") if once else uuid4(),
    )
