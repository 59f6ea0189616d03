"""What the processes of one server count, as one: each series says whose it is, and adds up over them."""

from collections.abc import Iterable, Sequence

from prometheus_client import Metric

LABEL = "front_end"
_OF_ENGINE = "vllm:"
_ENGINE = "model_name"


def merged(told: Sequence[tuple[int, Iterable[Metric], dict[str, float]]]) -> list[Metric]:
    """The families of all front ends, each sample with the number of its own.

    A gauge of an engine is its own and not a front end's: the one holds that heard of the engine last.
    `told` has the moment for each engine, by the name that its metrics have.
    """
    latest: dict[str, tuple[float, int]] = {}
    for index, _, heard in told:
        for engine, at in heard.items():
            latest[engine] = max(latest.get(engine, (0.0, 0)), (at, index))
    families: dict[str, Metric] = {}
    for index, metrics, _ in told:
        for metric in metrics:
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
            )
            is_engines = metric.type == "gauge" and metric.name.startswith(_OF_ENGINE)
            for sample in metric.samples:
                if not is_engines:
                    family.samples.append(sample._replace(labels=sample.labels | {LABEL: str(index)}))
                elif latest.get(sample.labels.get(_ENGINE, ""), (0.0, index))[1] == index:
                    family.samples.append(sample)
    return list(families.values())
