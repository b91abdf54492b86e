"""Where a sweep's model and data are, and what identifies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpo_bench.experiment import Content, Experiment
from dpo_bench.experiment.config import WORLD
from dpo_bench.model.files import ModelFolder, model_files, weight_count
from dpo_bench.model.source import resolve_model
from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.find import find_reward

if TYPE_CHECKING:
    from dpo_bench.data.prepare import Preferences


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything outside the configuration that trials are made of.

    Attributes:
        policy: folder of the policy's starting point.
        reference: folder of the reference.
        preferences: path or hub id of the preference data; a world's is the folder made for it.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        content: digests of it all.
        reading: how the preference data was read, in plain words.
    """

    policy: ModelFolder
    reference: ModelFolder
    preferences: str
    device: str
    precision: str
    content: Content
    reading: str = ""

    @property
    def parameters(self) -> int:
        """Number of the policy's weights."""
        return weight_count(model_files(self.policy.path, trust_remote_code=True))


def find_sources(experiment: Experiment, progress: Progress = quiet) -> Sources:
    """Find, convert or build what the experiment names.

    Raises:
        ConfigurationError: a name that means nothing.
        DataError: preference data that cannot be read.
        EnvironmentProblem: a model, data set or package that cannot be had on this machine.
    """
    from dpo_bench.data.prepare import read_preferences
    from dpo_bench.model.load import device_of, precision_of
    from dpo_bench.model.lora import require_peft

    trust = experiment.trust_remote_code
    if experiment.training.lora is not None:
        require_peft()

    def model(spec: str) -> ModelFolder:
        return resolve_model(
            spec, world=experiment.world, trust_remote_code=trust, progress=progress
        )

    def data() -> tuple[str, Preferences]:
        source = preferences_source(experiment, progress)
        return source, read_preferences(source, experiment.data)

    # What can be wrong is said before a world is built, which may take a minute.
    device = device_of(experiment.training.device)
    precision = precision_of(experiment.training.precision, device)
    reward = find_reward(experiment.evaluation, device)
    if experiment.preferences.startswith(WORLD):
        policy, (preferences, found) = model(experiment.policy), data()
    else:
        (preferences, found), policy = data(), model(experiment.policy)
    reference = model(experiment.reference) if experiment.reference else policy
    content = Content(
        policy=policy.digest,
        reference=reference.digest,
        data=found.digest,
        reward=reward.identity if reward else "none",
        device=f"{device}/{precision}",
    )
    return Sources(
        policy, reference, preferences, device, precision, content, found.training.description
    )


def preferences_source(experiment: Experiment, progress: Progress = quiet) -> str:
    """Path or hub id of the preference data; a world's is the folder that has it."""
    if not experiment.preferences.startswith(WORLD):
        return experiment.preferences
    from dpo_bench.worlds import world_preferences

    name = experiment.preferences.removeprefix(WORLD)
    return str(world_preferences(name, experiment.world, progress))
