"""pytest tests/infra/test_notify.py — a real webhook is told of each kind of event by a real Prefect server, once."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect import flow
from prefect.automations import AutomationCore, DoNothing, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Crashed, Scheduled

from infra.cli.app import run as opsd
from infra.cli.server import submit
from infra.notify import KINDS, PREFIX
from infra.recovery import FOR_GOOD
from opsd_core.config import resolve
from opsd_core.errors import AlarmError
from tasks.context import store, tracker
from tasks.refs import Campaign, Iteration, PolicyRef, Ref
from tasks.stages.watch import watch
from tests.flows.test_approval import judged
from tests.stack import Stack

pytestmark = pytest.mark.timeout(900)


class Receiver:
    """A web server that keeps what it is sent."""

    def __init__(self) -> None:
        self.got: list[dict] = []
        kept = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def told(self, kind: str, about: str) -> dict:
        """What came about `about`; waits for it."""
        deadline = time.monotonic() + 300
        while not (found := [one for one in self.got if one["kind"] == kind and about in one["text"]]):
            assert time.monotonic() < deadline, self.got
            time.sleep(0.5)
        return found[0]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()


@pytest.fixture
def client(worker: Stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
        assert opsd(["notify", "off"]) == 0


@flow(name="opsd-test-alarm")
def alarmed() -> None:
    """An iteration in which most completions are cut, where an alarm ends the campaign."""
    config = resolve("tiny", {"name": "alarmed", "alarms": {"remedy": "end"}})
    run_id, policy = tracker().campaign_run("alarmed", "c0", {}, {}), PolicyRef(uri="", digest="", version=1)
    sides = {"initial": policy, "champion": policy, "record": Ref(uri=""), "data": Ref(uri="")}
    campaign = Campaign(id="c0", config=config, run_id=run_id, **sides)
    iteration = Iteration(campaign=campaign, number=0, config=config, run_id=run_id, policy=policy, champion=policy)
    watch(iteration, "rollout", [{"completions/clipped_ratio": 0.9}])


def test_each_kind_of_event_reaches_the_webhook(client: SyncPrefectClient, receiver: Receiver) -> None:
    store().ensure_bucket()
    assert opsd(["notify", "webhook", receiver.url]) == 0
    asked, _ = judged("told-asked", 0, 40)
    promoted, _ = judged("told-promoted", 0, 40, "auto")
    judged("told-equal", 0, 10, "auto")
    guarded, _ = judged("told-guarded", 0, 40, "auto", length=100)
    with pytest.raises(AlarmError):
        alarmed()
    tomorrow = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    crashed = client.create_flow_run_from_deployment(client.read_deployment_by_name("opsd/gc").id, state=tomorrow)
    client.set_flow_run_state(crashed.id, Crashed(message="killed"), force=True)
    submit(client, "rollback", {"name": "told-absent", "reason": "test"})

    found = receiver.told("promoted", f"told-promoted: version {promoted} promoted")
    assert (found["model"], found["version"], found["because"]) == ("told-promoted", promoted, "gate")
    assert found["links"]["version"].endswith(f"/models/told-promoted/versions/{promoted}")
    waits = receiver.told("approval-waits", f"told-asked: version {asked} waits for a person until")
    assert waits["links"]["answers"].partition("?")[0].endswith("/artifacts/answers.html")
    assert "length_ratio" in receiver.told("refused", f"told-guarded: version {guarded} refused")["text"].replace(" ", "_")
    assert "alarms.max_truncation" in receiver.told("alarm", "alarmed: alarm in iteration 0: ")["text"]
    assert f"({crashed.id}) crashed for good" in receiver.told("crashed", "gc")["text"]
    assert "told-absent has no earlier champion" in receiver.told("failed", "rollback told-absent")["text"]
    assert FOR_GOOD in client.read_flow_run(crashed.id).tags
    assert not [one for one in receiver.got if "told-equal" in one["text"]], "no better is no news"


def test_an_event_is_told_once_and_an_answer_too(client: SyncPrefectClient, receiver: Receiver) -> None:
    store().ensure_bucket()
    assert opsd(["notify", "webhook", receiver.url]) == 0
    version, _ = judged("once", 0, 40)
    assert judged("once", 0, 40)[0] == version, "the campaign triggered again"
    receiver.told("approval-waits", "once: ")
    deadline = time.monotonic() + 300
    while opsd(["approve", "once", "--comment", "read them", "--who", "ada"]) != 0:
        assert time.monotonic() < deadline
        time.sleep(2)
    assert receiver.told("promoted", "once: ")["text"] == f"once: version {version} approved by ada: read them"
    assert len([one for one in receiver.got if one["kind"] == "approval-waits"]) == 1


def test_saying_it_again_changes_nothing_and_off_leaves_what_others_made(
    client: SyncPrefectClient, receiver: Receiver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {one.id for one in client.read_automations()}
    trigger = EventTrigger(expect={"opsd.promoted"}, posture=Posture.Reactive, threshold=1)
    mine = client.create_automation(AutomationCore(name="mine", trigger=trigger, actions=[DoNothing()]))

    def made() -> dict[str, str]:
        return {one.name: str(one.id) for one in client.read_automations() if one.name.startswith(PREFIX)}

    assert opsd(["notify", "webhook", receiver.url]) == 0
    first = made()
    assert set(first) == {f"{PREFIX}{kind} → webhook" for kind in KINDS}
    monkeypatch.setenv("OPSD_NOTIFY_URL", "http://127.0.0.1:9/other")
    assert opsd(["notify", "webhook"]) == 0 and made() == first
    assert opsd(["notify", "slack"]) == 0 and len(made()) == 2 * len(KINDS)
    assert "127.0.0.1:9" not in str(client.read_automations()) + capsys.readouterr().out
    assert opsd(["notify", "off"]) == 0 and not made()
    assert {one.id for one in client.read_automations()} == others | {mine}
    client.delete_automation(mine)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["slack"], "slack needs its address"),
        (["webhook", "example.org"], "webhook needs its address"),
        (["sendgrid-email/absent"], "Prefect has no block 'sendgrid-email/absent'"),
        (["pigeon"], "'pigeon' is no target"),
        (["sendgrid-email/ops", "https://example.org/hook"], "'sendgrid-email/ops' is no target"),
    ],
)
def test_a_target_that_is_none_is_refused(
    worker: Stack, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opsd(["notify", *arguments]) == 1
    assert why in capsys.readouterr().err
