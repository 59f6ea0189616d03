"""What `/metrics` says, as numbers."""

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(client: httpx.Client) -> list[Sample]:
    text = client.get("/metrics").raise_for_status().text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(client: httpx.Client, name: str, **labels: str) -> float | None:
    """The sum of the samples of this name that have these labels; None where there is none."""
    found = [
        sample.value
        for sample in samples(client)
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None
