"""A model card in Hugging Face's format, from the files of the run that trained the model.

Read are `result.json`, `settings.json` and the ledgers of the run. For a model folder without
its run the card has only what the folder says. Figures are over all customers together; the
card names neither customers nor stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse_common.audit.evidence import find
from hanse_common.decoding import decoding, json_object
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, LedgerError, RunDirectoryError
from hanse_common.paths import MODEL_FOLDER, STORES_FOLDER
from hanse_common.wording import ABSENT, counted
from hanse_common.wording import epsilon as rounded_up

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

from hanse_common.paths import CONFIG_FILE, RESULT_FILE, SETTINGS_FILE, WEIGHTS_FILE

UNTRAINED = "untrained"
_BUFFERS = ("class_vectors", "class_popularity")
"""Tensors in the weights file that are no parameters; they are public."""
_COPY_HINT = "restore the file from a complete copy"
_METRICS = {
    "ndcg@10": "NDCG@10, next basket",
    "hr@10": "HR@10, next basket",
    "recall@10": "recall@10, next basket",
    "explore_ndcg@10": "NDCG@10, new to the customer",
    "rise_auc": "AUC of a rise",
    "fall_auc": "AUC of a fall",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledgers:
    """Summary of the ledgers of a run's stores."""

    stores: int
    epsilon: float
    """The largest of any store."""
    simulated: bool
    """Whether the noise is seeded: it can be computed and subtracted, and protects nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The contents of a card."""

    name: str
    classes: int
    level: str
    horizon_days: float
    parameters: int
    result: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ledgers: Ledgers | None = None

    @property
    def privacy(self) -> dict[str, Any] | None:
        """The run's privacy cost per customer; None if it was not private, or is unknown."""
        spent = self.result.get("epsilon")
        if not isinstance(spent, dict):
            return None
        # JSON has no infinity: null is an epsilon without a bound.
        reported = float("inf") if spent.get("max") is None else float(spent["max"])
        # The run's result and the stores' ledgers both record epsilon; the larger one is stated.
        most = max(reported, self.ledgers.epsilon) if self.ledgers else reported
        keys = ("delta", "unit", "relation", "mode", "noise_multiplier", "sample_rate", "steps")
        return {"epsilon": most, **{key: spent.get(key) for key in keys}}

    def plain(self) -> dict[str, Any]:
        """The contents as plain values, for JSON."""
        return {
            "name": self.name,
            "classes": self.classes,
            "level": self.level,
            "parameters": self.parameters,
            "metrics": dict(self.result.get("metrics", {})),
            "privacy": self.privacy,
            "ledgers": None if self.ledgers is None else asdict(self.ledgers),
            "data": self.result.get("data_note"),
            "licence": _licence(self)[0],
        }


def gather(path: Path) -> Facts:
    """Read the contents of a card.

    Args:
        path: A run's folder, or a model's. The run of a model is searched in the folder above.

    Raises:
        RunDirectoryError [model-not-found]: The folder contains no interest model.
        ConfigError: The run's files are damaged.
        LedgerError: A ledger of the run is damaged.
    """
    folder = next((p for p in (path, path / MODEL_FOLDER) if (p / WEIGHTS_FILE).is_file()), None)
    config = {} if folder is None else _table(folder / CONFIG_FILE)
    if folder is None or config.get("model_type") != "hanse-interest":
        raise RunDirectoryError(
            f"{path} holds no interest model",
            code="model-not-found",
            hint="give a run's folder, or its model's",
        )
    above = folder.absolute().parent
    run = next((p for p in (folder, above) if (p / RESULT_FILE).is_file()), None)
    return Facts(
        name=folder.absolute().name if run is None else run.absolute().name,
        classes=len(config.get("classes", [])),
        level=str(config.get("level", "category")),
        horizon_days=float(config.get("horizon_days", 28.0)),
        parameters=_parameters(folder / WEIGHTS_FILE),
        result={} if run is None else _table(run / RESULT_FILE),
        settings={} if run is None else _table(run / SETTINGS_FILE),
        ledgers=None if run is None else _ledgers(run / STORES_FOLDER),
    )


def write_card(facts: Facts, path: Path) -> None:
    """Write a card, atomically.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        write_durably(path, str(render(facts)))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def render(facts: Facts) -> ModelCard:
    """Compose the card: YAML metadata for a model hub, and Markdown for people."""
    from huggingface_hub import ModelCard

    text = "\n\n".join(part for part in _sections(facts) if part)
    return ModelCard(
        f"---\n{_data(facts).to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False
    )


def _data(facts: Facts) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    source = str(_setting(facts, "data", "source") or "unknown")
    results = [
        EvalResult(
            task_type="other",
            task_name="next basket and outlook",
            dataset_type="other",
            dataset_name=source,
            dataset_split="test",
            metric_type=name,
            metric_name=label,
            metric_value=round(value, 4),
        )
        for name, label in _METRICS.items()
        if isinstance(value := facts.result.get("metrics", {}).get(name), float)
    ]
    licence, name = _licence(facts)
    return ModelCardData(
        license=licence,
        license_name=name,
        library_name="transformers",
        pipeline_tag=None,
        tags=["federated-learning", "differential-privacy", "recommendation"],
        model_name=facts.name,
        eval_results=results or None,
        ignore_metadata_errors=False,
    )


def _licence(facts: Facts) -> tuple[str, str | None]:
    if _setting(facts, "data", "source") == "synthetic":
        return "apache-2.0", None
    return "other", "terms-of-the-training-data"


def _sections(facts: Facts) -> Iterator[str]:
    yield f"# {facts.name}"
    yield (
        f"A model of short-term shopper interest over {facts.classes:,} classes at the level "
        f"of a {facts.level}: what will be in the next basket, and whether an interest falls, "
        f"stays or rises over the next {facts.horizon_days:g} days. "
        f"{facts.parameters:,} parameters. Made with Hanse."
    )
    yield (
        "## Use\n\n```python\nfrom hanse_client.tasks.interest import InterestModel\n\n"
        'model = InterestModel.from_pretrained("<this folder>")\n```\n\n'
        "```\nhanse model predict <this folder> --store store.toml\n```"
    )
    yield _data_section(facts)
    yield _privacy_section(facts)
    yield _metrics_section(facts)
    yield _limits_section(facts)
    yield _licence_section(facts)


def _data_section(facts: Facts) -> str:
    if not facts.result:
        return "## Data\n\nUnknown: the model's run was not available when this card was written."
    stores, customers = (int(facts.result.get(key) or 0) for key in ("stores", "customers"))
    where = _setting(facts, "data", "source")
    lines = [f"{counted(customers, 'customer')} of {counted(stores, 'store')}, source `{where}`."]
    split = _setting(facts, "data", "split")
    if isinstance(split, dict):
        lines.append(
            f"Trained on what happened before {_day(split, 'train_until')}, tested on "
            f"{_day(split, 'validate_until')} to {_day(split, 'test_until')} (first day after)."
        )
    lines.append(str(facts.result.get("data_note") or ""))
    return "## Data\n\n" + " ".join(line for line in lines if line)


def _privacy_section(facts: Facts) -> str:
    spent = facts.privacy
    if not facts.result:
        return "## Privacy\n\nUnknown. Take it to have none."
    if spent is None:
        return "## Privacy\n\nNone: the model was trained without differential privacy."
    rows = {
        "ε": f"≤ {rounded_up(spent['epsilon'])}",
        "δ": f"{spent['delta']:g}" if spent["delta"] is not None else ABSENT,
        "unit": f"one {spent['unit']} of one store, with their whole history",
        "neighbouring relation": spent["relation"],
        "mode": _MODES.get(str(spent["mode"]), str(spent["mode"])),
        "noise multiplier": _number(spent["noise_multiplier"]),
        "sampling": f"Poisson, rate {_number(spent['sample_rate'])}",
        "steps": _number(spent["steps"]),
        "accountant": "dp-accounting, privacy loss distributions",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    notes = []
    if facts.ledgers is not None:
        notes.append(
            f"ε is the largest of any store, by {counted(facts.ledgers.stores, 'ledger')} with an "
            "unbroken chain of entries; `hanse audit verify` checks everything else in a ledger."
        )
        if facts.ledgers.simulated:
            notes.append(
                "**Sampling and noise were seeded**: with the seed, the noise can be computed and "
                "subtracted. The figures are those that a real federation would have promised."
            )
    colluders = _setting(facts, "federation", "colluders")
    if spent["mode"] == "distributed" and isinstance(colluders, int):
        notes.append(
            f"It holds while no more than {counted(colluders, 'store')} work with the coordinator."
        )
    most = _setting(facts, "privacy", "max_stores_per_customer")
    if _setting(facts, "privacy", "one_home"):
        notes.append("Each person is trained on at one store only.")
    elif isinstance(most, int) and most > 1:
        notes.append(f"Clipping is shared among up to {most} stores of one person.")
    else:
        notes.append("For a customer of several stores, ε is larger than this.")
    return f"## Privacy\n\n| | |\n|---|---|\n{table}\n\n{' '.join(notes)}"


_MODES = {
    "distributed": "distributed: each store adds a share of the noise, only the masked sum has all",
    "local": "local: each store's update is private by itself",
}


def _metrics_section(facts: Facts) -> str:
    own = facts.result.get("metrics", {})
    if not own:
        return ""
    rules = facts.result.get("baselines", {})
    lines = [
        "| | this model | before training | best baseline |",
        "|---|---:|---:|---|",
    ]
    for metric, label in _METRICS.items():
        known = [
            (figures[metric], name)
            for name, figures in rules.items()
            if name != UNTRAINED and isinstance(figures.get(metric), float)
        ]
        best = f"{max(known)[0]:.3f} {max(known)[1].replace('_', ' ')}" if known else ABSENT
        before = _figure(rules.get(UNTRAINED, {}).get(metric))
        lines.append(f"| {label} | {_figure(own.get(metric))} | {before} | {best} |")
    return (
        "## Figures\n\nOn the test split, full ranking over all classes, over all customers "
        "together; computed without noise, so that ε does not cover them.\n\n" + "\n".join(lines)
    )


def _limits_section(facts: Facts) -> str:
    own, rules = facts.result.get("metrics", {}), facts.result.get("baselines", {})
    before = rules.get(UNTRAINED, {})
    limits = [
        "It predicts from a customer's own history; for a customer without one it predicts what "
        "is popular.",
        "It ranks the classes of its federation's catalogue only.",
        "Not made to decide about credit, prices or anybody's rights.",
    ]
    worse = [
        label
        for metric, label in _METRICS.items()
        if isinstance(own.get(metric), float)
        and isinstance(before.get(metric), float)
        and own[metric] <= before[metric]
    ]
    if worse:
        limits.append(f"No better than before training: {', '.join(worse)}.")
    limits += [str(note) for note in facts.result.get("notes", [])]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in limits)


def _licence_section(facts: Facts) -> str:
    licence, name = _licence(facts)
    if name is None:
        return f"## Licence\n\n{licence}: the data are synthetic."
    return "## Licence\n\nWhatever the terms of the training data allow" + (
        ": see *Data*." if facts.result.get("data_note") else "; ask those who brought them."
    )


def _ledgers(stores: Path) -> Ledgers | None:
    try:
        evidence_of_stores = find(stores)
    except LedgerError:  # a run without privacy has no ledgers
        return None
    spent = [
        max((entry.epsilon_after for entry in evidence.entries()), default=0.0)
        for evidence in evidence_of_stores
    ]
    return Ledgers(
        stores=len(evidence_of_stores),
        epsilon=max(spent, default=0.0),
        simulated=any(evidence.simulated for evidence in evidence_of_stores),
    )


def _parameters(weights: Path) -> int:
    # The header of the file has all shapes; no tensor is read.
    from math import prod

    from safetensors import SafetensorError, safe_open

    with (
        decoding(
            weights, RunDirectoryError, SafetensorError, code="model-not-found", hint=_COPY_HINT
        ),
        safe_open(weights, framework="numpy") as file,
    ):
        names = (name for name in file.keys() if name not in _BUFFERS)  # noqa: SIM118
        return sum(prod(file.get_slice(name).get_shape()) for name in names)


def _table(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with decoding(path, ConfigError, hint=_COPY_HINT):
        return json_object(path.read_bytes())


def _setting(facts: Facts, part: str, name: str) -> Any:
    table = facts.settings.get(part)
    return table.get(name) if isinstance(table, dict) else None


def _day(split: Mapping[str, Any], name: str) -> str:
    return str(split.get(name, ABSENT))[:10]


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ABSENT


def _number(value: Any) -> str:
    return ABSENT if value is None else f"{value:g}"
