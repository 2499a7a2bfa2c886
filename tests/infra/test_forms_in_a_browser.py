"""pytest tests/infra/test_forms_in_a_browser.py — Prefect's own forms in Chromium: what is touched is submitted, and no more."""

import os
import time
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from infra.access.door import LOGIN_PATH
from infra.state import MODEL_QUEUE, POOL, USER
from tasks.context import store, tracker
from tests.flows.test_approval import ended, judged, suspended
from tests.infra import browser
from tests.stack import Stack

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(browser.program() is None, reason=browser.MISSING),
    pytest.mark.timeout(900),
]
HELPERS = """
window.field = (name, section) => {
  const named = l => l.innerText.trim().split(/\\s/)[0]
  const labels = root => [...root.querySelectorAll('.schema-form-property__label')]
  const root = section ? labels(document).find(l => named(l) === section).closest('.schema-form-property') : document
  return labels(root).find(l => named(l) === name).closest('.schema-form-property').querySelector('select, input, textarea')
}
window.type = (name, value, section) => {
  const input = field(name, section)
  if (input.tagName === 'SELECT') input.selectedIndex = [...input.options].findIndex(o => o.innerText.trim() === value)
  else input.value = value
  for (const kind of ['input', 'change']) input.dispatchEvent(new Event(kind, { bubbles: true }))
}
window.press = async word => {
  await new Promise(done => setTimeout(done, 500))  // the form gathers what is typed for some milliseconds
  ;[...document.querySelectorAll('button')].reverse().find(b => b.innerText.trim() === word).click()
}
"""


@pytest.fixture
def client(worker: Stack) -> Iterator[SyncPrefectClient]:
    """A client while the queue of campaigns is paused, so that what is submitted waits."""
    with get_client(sync_client=True) as client:
        queue = client.read_work_queue_by_name(MODEL_QUEUE, work_pool_name=POOL)
        client.update_work_queue(queue.id, is_paused=True)
        yield client
        for run in client.read_flow_runs(limit=200):
            if run.state and run.state.is_scheduled():
                client.delete_flow_run(run.id)
        client.update_work_queue(queue.id, is_paused=False)


@pytest.fixture
def tab(worker: Stack) -> Iterator[browser.Browser]:
    page = os.environ["PREFECT_API_URL"].removesuffix("/api")
    with browser.browsing("--window-size=1300,1300") as opened:
        opened.open(f"{page}{LOGIN_PATH}#{USER}:{worker.state.passwords['PREFECT_PASSWORD']}")
        opened.wait_for("document.body.innerText.includes('Dashboard')")
        yield opened


def _form(tab: browser.Browser, client: SyncPrefectClient) -> None:
    deployment = client.read_deployment_by_name("opsd/iterate")
    page = os.environ["PREFECT_API_URL"].removesuffix("/api")
    tab.open(f"{page}/deployments/deployment/{deployment.id}/run")
    tab.wait_for("document.body.innerText.includes('dry_run')")
    tab.run("new Promise(done => setTimeout(done, 1000))")
    tab.run(HELPERS)


def _submitted(tab: browser.Browser, client: SyncPrefectClient) -> dict:
    """The parameters of the run that the form makes."""
    before = {run.id for run in client.read_flow_runs(limit=200)}
    tab.run("press('Submit')")
    deadline = time.monotonic() + 60
    while not (made := [run for run in client.read_flow_runs(limit=200) if run.id not in before]):
        assert time.monotonic() < deadline, tab.text()[-2000:]
        time.sleep(0.5)
    (run,) = made
    return run.parameters


def test_a_form_submits_what_was_touched_and_nothing_else(tab, client):
    _form(tab, client)
    text = tab.text()
    assert "Peak learning rate. Untouched: default 1e-05, demo 0.0001, tiny 0.001" in text and "null_control" in text
    assert _submitted(tab, client) == {}, "nothing was touched"

    _form(tab, client)
    touched = {"recipe": "tiny", "model": "~/model", "grader": "exact", "num_steps": "3", "learning_rate": "0.00003"}
    for name, value in touched.items():
        tab.run(f"type('{name}', '{value}')")
    tab.run("type('answer', 'final', 'columns')")
    tab.run("type('dry_run', 'true')")
    assert _submitted(tab, client) == {
        "recipe": "tiny", "model": "~/model", "grader": "exact", "num_steps": 3, "learning_rate": 0.00003,
        "columns": {"answer": "final"}, "dry_run": True,
    }  # fmt: skip


def test_a_setting_of_a_section_is_a_field_and_a_number_out_of_bounds_is_refused(tab, client):
    _form(tab, client)
    tab.run("type('temperature', '9', 'rollout')")
    tab.run("type('drop_leaks', 'false', 'filter')")
    tab.run("press('Submit')")
    tab.wait_for("document.body.innerText.includes('9 is greater than the maximum of 5')")
    tab.run("type('temperature', '0.8', 'rollout')")
    assert _submitted(tab, client) == {"overrides": {"rollout": {"temperature": 0.8}, "filter": {"drop_leaks": False}}}


def test_an_approval_has_no_preset_answer_and_its_button_sends_the_chosen_one(tab):
    store().ensure_bucket()
    version, _ = judged("looked-at", 0, 40)
    run = suspended("looked-at")
    assert run.name == f"promote looked-at v{version}" and {"looked-at", "promote"} <= set(run.tags)
    tab.open(f"{os.environ['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{run.id}")
    tab.wait_for("[...document.querySelectorAll('button')].some(b => b.innerText.trim() === 'Resume')")
    tab.run(HELPERS)
    tab.run("press('Resume')")
    tab.wait_for("document.querySelector('.p-modal select')")
    shown = tab.run("document.querySelector('.p-modal').innerText")
    assert f"Shall version {version} of looked-at become champion?" in shown and "Waits for a person" in shown
    assert "promoted" not in shown.lower() and tab.run("field('Decision').selectedIndex") == -1
    assert tab.run("[...document.querySelectorAll('.p-modal a')].some(a => a.href.includes('artifacts/answers.html'))")
    tab.run("press('Submit')")
    tab.wait_for("document.querySelector('.p-modal').innerText.includes(\"'decision' is a required property\")")
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).state.is_paused()
    tab.run("type('Decision', 'approve')")
    tab.run("press('Submit')")
    assert ended(run.id).state.is_completed()
    assert tracker().version_by_alias("looked-at", "champion") == version
