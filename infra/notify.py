"""Who is told when something happens: automations of the Prefect server, one for each kind of event and target.

The events are those of `tasks.runtime.announce`, and failed runs. A target is a block of the Prefect server: a webhook, which
gets the event's payload as JSON, or anything that takes messages, such as Slack or e-mail. Saying the same again changes
nothing; a new address of a webhook or of Slack replaces the old one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.blocks.core import Block
from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import CallWebhook, SendNotification
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from opsd_core.errors import ConfigError

PREFIX = "opsd: "
"""Of the names of these automations; others are left alone."""
BLOCK = "opsd-notify"
"""Name of the blocks that are made here."""
OFF = "off"
OWN = {"webhook": Webhook, "slack": SlackWebhook}
_MODEL = {"prefect.resource.id": "opsd.model.*"}
_TEXT = "{{ event.payload.text }}{% for name, url in event.payload.links.items() %}\n{{ name }}: {{ url }}{% endfor %}"
_JSON = "{{ event.payload | tojson }}"
_FAILED = "{{ event.resource['prefect.resource.name'] }} failed: {{ event.payload.validated_state.message }}"
_FAILED_JSON = '{"kind": "failed", "model": null, "version": null, "text": {{ (' + (
    "event.resource['prefect.resource.name'] ~ ' failed: ' ~ event.payload.validated_state.message) | tojson }}, "
    '"because": "", "links": {}}'
)


class Kind(NamedTuple):
    """One kind of event that somebody is told about."""

    event: str
    match: Mapping[str, str] = _MODEL
    related: Mapping[str, str] = {}
    text: str = _TEXT
    json: str = _JSON


KINDS = {
    "approval waits": Kind("opsd.approval-waits"),
    "promoted": Kind("opsd.promoted"),
    "refused by a guard": Kind("opsd.refused", {**_MODEL, "opsd.because": "guard"}),
    "alarm": Kind("opsd.alarm"),
    "crashed for good": Kind("opsd.crashed"),
    "failed": Kind(
        "prefect.flow-run.Failed",
        {"prefect.resource.id": "prefect.flow-run.*"},
        {"prefect.resource.role": "flow", "prefect.resource.name": "opsd"},
        _FAILED,
        _FAILED_JSON,
    ),
}


def notify(client: SyncPrefectClient, target: str, address: str | None) -> list[str]:
    """Tell `target` of every kind of event from now on; returns the names of the automations.

    target: webhook or slack with their address, or TYPE/NAME of a block that the server has. ConfigError for any other.
    """
    block, calls = _block(client, target, address)
    names = []
    for kind, what in KINDS.items():
        name = f"{PREFIX}{kind} → {target}"
        action = (
            CallWebhook(block_document_id=block, payload=what.json)
            if calls
            else SendNotification(block_document_id=block, subject=f"{PREFIX}{kind}", body=what.text)
        )
        trigger = EventTrigger(
            expect={what.event},
            match=dict(what.match),
            match_related=dict(what.related),
            posture=Posture.Reactive,
            threshold=1,
        )
        automation = AutomationCore(
            name=name, description="Made by `opsd notify`; docs/operations.md.", trigger=trigger, actions=[action]
        )
        _put(client, automation)
        names.append(name)
    return names


def stop_notifying(client: SyncPrefectClient) -> int:
    """Delete every automation that `notify` made; returns how many there were."""
    found = [automation for automation in client.read_automations() if automation.name.startswith(PREFIX)]
    for automation in found:
        client.delete_automation(automation.id)
    return len(found)


def _put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create it, or make the one of this name like it."""
    known = client.read_automations_by_name(automation.name)
    for old in known[1:]:
        client.delete_automation(old.id)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def _block(client: SyncPrefectClient, target: str, address: str | None) -> tuple[Any, bool]:
    """Id of the target's block, and whether it is a webhook."""
    if target in OWN:
        if not address or not address.startswith(("http://", "https://")):
            raise ConfigError(
                f"{target} needs its address, https://…: give it after {target}, or in the variable OPSD_NOTIFY_URL, where no "
                "list of processes shows it."
            )
        return _save(OWN[target], address), target == "webhook"
    kind, slash, name = target.partition("/")
    if not slash or address:
        raise ConfigError(
            f"{target!r:.100} is no target. Give webhook URL, slack URL, TYPE/NAME of a block in Prefect, or {OFF}."
        )
    try:
        found = client.read_block_document_by_name(name, kind)
    except ObjectNotFound as error:
        raise ConfigError(
            f"Prefect has no block {target!r:.200}. Make it in Prefect's page (Blocks), such as Sendgrid Email, and name it as "
            "TYPE/NAME: sendgrid-email/ops."
        ) from error
    return found.id, kind == "webhook"


def _save(block: type[Block], address: str) -> Any:
    try:
        more = {"headers": {"Content-Type": "application/json"}} if block is Webhook else {}
        made = block(url=SecretStr(address), **more)
    except ValueError as error:
        why = f"the address is refused by Prefect's block {block.get_block_type_slug()}: {str(error)[:200]}"
        raise ConfigError(why) from error
    return made.save(BLOCK, overwrite=True)
