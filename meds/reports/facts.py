"""What was run: the parts of the spec, when and on what, the images and their noise, and what each stage cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from meds.core.dataset import ANOMALOUS, NORMAL
from meds.core.finished_run import FinishedRun
from meds.core.registry import Options, nested_plugins, registry
from meds.core.spec import Block


@dataclass(frozen=True)
class StageFacts:
    """A stage, the options that differ from their defaults, and its cost (None if run.json has none)."""

    name: str
    options: str
    cost: Mapping[str, float] | None


@dataclass(frozen=True)
class ClassImages:
    """The images of one class, or of all: `noise` is its entry of metrics.json; `labels` counts test images."""

    name: str
    train: int
    known_defects: int
    noise: Mapping[str, Any]
    normal: int
    defective: int
    unlabelled: int
    masks: int

    @property
    def of_normal(self) -> float | None:
        """Known defects for each other training image, after what people took out; None without others."""
        others = self.train - self.known_defects
        return self.known_defects / others if others else None

    @property
    def of_total(self) -> float:
        """The share of known defects among the training images."""
        return self.known_defects / self.train


def run_facts(run: FinishedRun, readable: bool) -> list[tuple[str, str]]:
    """Names and values for the table of what was run."""
    spec = run.plain_spec
    finished = finished_at(run)
    blocks = {"Images": "dataset", "Encoder": "backbone", "Student": "student"}
    facts = [
        (title, in_short(getattr(run.spec, key)) if readable else spec[key]["type"]) for title, key in blocks.items()
    ]
    names = run.data.class_names
    if len(names) > 1:
        kind = "one student for all" if spec.get("classes", "unified") == "unified" else "one student for each"
        facts.append(("Classes", f"{', '.join(names)}; {kind}"))
    facts += [
        ("Seed", str(run.state["seed"])),
        ("Device", run.state["device"]),
        ("Finished", f"{finished:%Y-%m-%d %H:%M} UTC"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.state["versions"].items())),
        ("Folder", str(run.path.resolve())),
    ]
    return facts


def in_short(block: Block) -> str:
    """A plugin's name and those of its options that differ from their defaults."""
    options = changed_options(block)
    return f"{block.type} ({options})" if options else block.type


def changed_options(block: Block) -> str:
    """The options that differ from their defaults, as "name: value" separated by commas."""
    changed = _changed(type(block.options), block.dump())
    return ", ".join(f"{key}: {in_line(value)}" for key, value in changed.items())


def _changed(model: type[Options], written: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults of an options model; an option that names a plugin is compared with its own."""
    kinds = nested_plugins(model)
    found: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        value = written[key]
        if field.is_required():
            found[key] = value
            continue
        default = to_jsonable_python(field.get_default(call_default_factory=True))
        if key in kinds and value:
            inner = _changed(registry().get(kinds[key], value["type"]).plugin.options, value)
            if inner or value["type"] != (default or {}).get("type"):
                found[key] = {"type": value["type"], **inner}
        elif value != default:
            found[key] = value
    return found


def in_line(value: Any) -> str:
    """Plain data on one line, as YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def finished_at(run: FinishedRun) -> datetime:
    """When the run ended, by its events; by its metrics' date where these are missing."""
    events = run.path / "events.jsonl"
    lines = events.read_text(encoding="utf-8").splitlines() if events.is_file() else []
    for line in reversed(lines):
        if '"run_finished"' in line:
            return datetime.fromtimestamp(json.loads(line)["time"], UTC)
    return datetime.fromtimestamp((run.path / "metrics.json").stat().st_mtime, UTC)


def stage_facts(run: FinishedRun, readable: bool) -> list[StageFacts]:
    """Every stage with its cost, the encoder's features first if the run computed any."""
    features = run.state.get("features")
    facts = []
    if features and features.get("images"):
        facts.append(StageFacts("features", f"{features['images']} images encoded", features))
    options = {block.name: changed_options(block) for block in run.spec.stages} if readable else {}
    return facts + [StageFacts(row["name"], options.get(row["name"], ""), row["cost"]) for row in run.state["stages"]]


def class_images(run: FinishedRun) -> list[ClassImages]:
    """The images by class."""
    data = run.data
    found = []
    for index, name in enumerate(data.class_names):
        train = [sample for sample in data.train if sample.class_index == index]
        test = [sample.record for sample in data.test if sample.class_index == index]
        labels = Counter(record.label for record in test)
        found.append(
            ClassImages(
                name,
                len(train),
                sum(sample.injected for sample in train),
                data.noise["classes"][name],
                labels[NORMAL],
                labels[ANOMALOUS],
                labels[None],
                sum(record.mask is not None for record in test),
            )
        )
    return found
