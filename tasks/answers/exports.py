"""A version's answers and the completions that it was trained on, as files for other tools."""

from pathlib import Path

from opsd_core.answers.exports import completion_rows, inspect_log, write_dataset, write_inspect_log, write_jsonl
from tasks.answers.recorded import recorded
from tasks.answers.versions import chosen_version, measured_sides, records_of
from tasks.context import lineage, tracker
from tasks.refs import Ref


def export_answers(name: str, version: int | None, folder: Path, against: int | None = None) -> list[Path]:
    """Write below `folder`, and return, what other tools read; arguments and errors are those of `answers_of`.

    completions.jsonl      a line per completion of the version's iteration: messages, tokens, both sides' log-probabilities
    dataset/               the same as Parquet with a card: `datasets.load_dataset` reads it, a hub takes it as it is
    before.json after.json Inspect's logs of both evaluations: `inspect view --log-dir FOLDER`
    """
    versions = tracker().versions(name)
    chosen = chosen_version(name, versions, version)
    known = lineage(chosen.tags)
    shards, targets = ([Ref(uri=uri) for uri in known[part]] for part in ("rollouts", "targets"))
    graded, data, policy = (Ref(uri=known[part]) for part in ("grades", "data", "model_uri"))
    found = recorded(shards, graded, targets, data, policy)
    examples, sides = records_of(measured_sides(name, versions, chosen, against))
    write_jsonl(folder / "completions.jsonl", completion_rows(found))
    write_dataset(folder / "dataset", f"{name} version {chosen.version}", completion_rows(found))
    for place, side in zip(("before", "after"), sides, strict=True):
        write_inspect_log(folder / f"{place}.json", inspect_log(name, f"{name}/{side.name}", examples, side.outcomes))
    return [folder / part for part in ("completions.jsonl", "dataset", "before.json", "after.json")]
