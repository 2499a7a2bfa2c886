"""pytest tests/infra/cli/test_progress.py — how far a campaign is, and its outcome in words, from what Prefect keeps."""

import uuid

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, Failed, Pending, Running

from infra.cli.outcome import reasons_of, verdict_lines
from infra.cli.progress import Progress, Report, stage_of
from infra.cli.watching import Plain
from opsd_core.config import resolve
from opsd_core.judgement.verdict import Check, Verdict


def _task(name, state):
    return TaskRun(id=uuid.uuid4(), name=name, task_key=name, dynamic_key="0", state=state)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rollout-it2-shard0", ("rollout", 2)),
        ("score-targets-it10-shard3", ("score-targets", 10)),
        ("evaluate-it0-champion-v1", ("evaluate", 0)),
        ("report-it1", ("report", 1)),
        ("prepare-model-a1b", ("prepare-model", None)),
        ("train-opsd-seed0", ("train-opsd-seed0", None)),
    ],
)
def test_a_task_is_placed_by_its_name(name, found):
    assert stage_of(name) == found


def test_what_is_done_grows_with_the_stages_and_never_shrinks():
    progress = Progress.of(resolve("tiny", {"iterations": 2, "execution": {"num_shards": 2}}))
    assert progress.line() == "starting" and progress.left() == ""
    first = _task("rollout-it0-shard0", Running())
    progress._place([first], {("rollout", 0): 25.0})
    half = progress.done
    assert progress.line() == "iteration 1 of 2: sampling 25 %" and 0 < half < 0.1
    ended = [_task(f"rollout-it0-shard{shard}", Completed()) for shard in (0, 1)]
    progress._place([_task("distil-it0", Running()), *ended], {})
    assert progress.done > half and progress.line() == "iteration 1 of 2: training"
    after_a_crash = progress.done
    progress._place([_task("rollout-it0-shard0", Pending()), _task("rollout-it0-shard0", Failed())], {})
    assert progress.done == after_a_crash
    progress._place([_task("rollout-it1-shard0", Running())], {})
    assert progress.done >= 0.5 and progress.line().startswith("iteration 2 of 2: sampling")
    everything = [_task(f"{stage}-it1", Completed()) for stage in ("distil", "report")]
    everything += [
        _task(f"{stage}-it1-{n}", Completed()) for stage in ("rollout", "score-targets", "evaluate") for n in (0, 1)
    ]
    progress._place(everything, {})
    assert progress.done == pytest.approx(1.0)


def test_completions_that_are_kept_or_sampled_ahead_count_where_they_are_learned_from():
    settings = {"iterations": 2, "execution": {"num_shards": 2}}
    kept, fresh = (Progress.of(resolve("tiny", settings)) for _ in range(2))
    sampled = [_task(f"rollout-it1-shard{shard}", Completed()) for shard in (0, 1)]
    graded = [_task("distil-it1", Running()), _task("grade-it1", Completed())]
    kept._place([*graded, _task("judge-rollouts-it1", Completed())], {})
    fresh._place([*graded, *sampled], {})
    assert kept.done == fresh.done > 0.5 and kept.line() == fresh.line() == "iteration 2 of 2: training"

    ahead = Progress.of(resolve("tiny", settings | {"execution": {"num_shards": 2, "overlap": True}}))
    before = [_task("grade-it0", Completed()), *[_task(f"rollout-it0-shard{shard}", Completed()) for shard in (0, 1)]]
    ahead._place([_task("rollout-it0-shard0", Running())], {})
    assert ahead.iteration == 0
    ahead._place([_task("rollout-it1-shard1", Running()), sampled[0], _task("choose-prompts-it1", Completed()), *before], {})
    assert ahead.done < 0.5 and ahead.iteration == 0 and ahead.line().startswith("iteration 1 of 2: sampling")
    ahead._place([_task("distil-it1", Running()), _task("grade-it1", Completed()), *sampled], {})
    assert ahead.done == kept.done and ahead.line() == "iteration 2 of 2: training"


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_the_percentage_of_a_stage_is_of_all_its_shards_and_never_falls(shards):
    """As the server tells it: shard after shard, each from nothing to 100 %; then a crash, and finished shards called again."""
    progress = Progress.of(resolve("tiny", {"iterations": 2, "execution": {"num_shards": shards}}))
    for iteration in (0, 1):
        for stage in ("rollout", "score-targets"):
            ended, seen = [], []
            for shard in range(shards):
                task = _task(f"{stage}-it{iteration}-shard{shard}", Running())
                for part in (None, 0.0, 0.5, 1.0):
                    shown = {} if part is None else {(stage, iteration): 100 * (shard + part) / shards}
                    progress._place([task, *ended], shown)
                    seen.append(progress.percent or 0.0)
                ended.append(_task(task.name, Completed()))
            assert seen == sorted(seen) and seen[0] == 0.0 and seen[-1] == pytest.approx(100.0)
            assert seen[2] == pytest.approx(50.0 / shards)
            again = [_task(task.name, Completed()) for task in ended[:-1]]
            progress._place([_task(ended[-1].name, Running()), *again, *ended[:-1]], {})
            assert progress.percent == pytest.approx(100.0), "what was shown stands"
    fresh = Progress.of(resolve("tiny", {"iterations": 2, "execution": {"num_shards": shards}}))
    twice = [_task(f"rollout-it0-shard{shard}", Completed()) for shard in range(shards - 1) for _ in "ab"]
    fresh._place([_task(f"rollout-it0-shard{shards - 1}", Running()), *twice], {})
    assert (fresh.percent or 0.0) == pytest.approx(100 * (shards - 1) / shards)


def test_plain_lines_are_few(capsys):
    shown = Plain()
    for percent in range(100):
        shown.show(f"iteration 1 of 1: sampling {percent} %", percent / 100, "about 3 min left")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[5] == "iteration 1 of 1: sampling 50 % (50% done, about 3 min left)"


def _report(number, outcome, markdown=""):
    return Report(number, number + 2, outcome, "0.3000", "0.4000", markdown)


def _told(*reports, mode="auto"):
    return verdict_lines("demo", Progress(mode=mode, reports=list(reports)))


def _markdown(promote):
    check = Check("accuracy gain", 0.0, ">", 0.0, promote)
    return Verdict(
        promote=promote, candidate_version="2", champion_version="1", evaluation_digest="e", metric="accuracy", num_items=10,
        accuracy_before=0.3, accuracy_after=0.4, difference=0.1, interval=(-0.1, 0.3), p_value=0.2, test="mcnemar",
        wins=2, losses=1, ties=7, checks=[check], reasons=["Not significant: 2 better.", "Too short."],
    ).markdown()  # fmt: skip


def test_the_outcome_says_what_ships_and_otherwise_why_not():
    (line,) = _told(_report(0, "promoted"), _report(1, "refused"))
    assert line == "Promoted: version 2 of demo is champion; held-out accuracy 0.3000 → 0.4000."
    report = f"# demo: iteration 0\n\n- a worry\n\n{_markdown(False)}"
    assert reasons_of(report) == ["Not significant: 2 better.", "Too short."]
    first, *reasons = _told(_report(0, "refused", report))
    assert first.startswith("Not promoted: the champion of demo stays") and reasons == [
        "  - Not significant: 2 better.",
        "  - Too short.",
    ]
    waits = _report(0, "waits for a person", _markdown(True))
    said = {mode: _told(waits, mode=mode)[0].partition(" To decide: ")[2] for mode in ("approve", "manual", "")}
    assert said["approve"] == "opsd approve demo 2 (or opsd refuse)" and said["manual"] == "opsd promote demo 2"
    assert said[""] == f"{said['approve']}, or with promotion.mode=manual: {said['manual']}"
    assert Progress.of(resolve("tiny", {"promotion": {"mode": "manual"}})).mode == "manual"
    assert _told() == ["No iteration ended, so there is no new version."]
