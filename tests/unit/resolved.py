"""Options as the pipeline merges them."""

from collections.abc import Mapping

from app.catalogue.parameters import read_parameters
from app.core.request import Json, Sampling


def resolve(*layers: Mapping[str, Json]) -> Sampling:
    return Sampling.merged(*map(read_parameters, layers))
