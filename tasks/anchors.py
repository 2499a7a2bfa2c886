"""What holds the student beside its objective, from the store: the initial policy and the references of each step."""

from typing import Any

from opsd_core.anchors import Anchors, gold_batch_size, gold_item
from opsd_core.digest import derive_seed
from opsd_core.models import Policy
from opsd_core.references import reference_template
from opsd_core.teachers import AdapterOffTeacher, FixedTeacher, TeacherWeights
from opsd_core.trainer import batch_order
from tasks.context import load_shared, stored_examples
from tasks.records import Campaign
from tasks.teach import prompt_builder


def anchors_identity(campaign: Campaign) -> dict[str, Any]:
    """What decides the references beside the settings of the method; nothing without any."""
    config = campaign.config
    if not config.distillation.gold_share:
        return {}
    data = campaign.data_uri.rsplit("/", 2)[-2]
    return {"gold": [data, reference_template(config), prompt_builder(campaign).student_digest]}


def load_anchors(campaign: Campaign, student: Policy, iteration: int) -> Anchors:
    """The anchors of an iteration: references in seeded passes over the training split, as many as its steps need."""
    config, size, gold = campaign.config, gold_batch_size(campaign.config), []
    if size:
        train, builder = stored_examples(campaign.data_uri, "train"), prompt_builder(campaign)
        seed = derive_seed("gold", config.seed, iteration)
        for rows in batch_order(len(train), size, config.optimizer.num_steps, seed):
            gold.append(tuple(gold_item(train[row], builder, student, config) for row in rows))
    return Anchors(_initial(campaign, student) if config.distillation.initial_kl else None, tuple(gold))


def _initial(campaign: Campaign, student: Policy) -> TeacherWeights:
    """Under LoRA the student without its adapters, which is the initial policy without a second copy."""
    if campaign.config.model.lora.rank:
        return AdapterOffTeacher(student)
    return FixedTeacher(load_shared(campaign.initial.uri, campaign.config.model.model_dump_json()))
