"""Every way to use the chart renders, on both Helms and each Kubernetes, into what that Kubernetes takes."""

from pathlib import Path

import pytest

from tests.chart.helm import CHART, KUBES, MAJORS, VALUES, objects, parse, run, template, try_template
from tests.chart.schemas import CUSTOM, FOLDER, custom_faults, faults

pytestmark = pytest.mark.row("C2")

files = pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem.removesuffix("-values"))


def test_there_are_enough_ways_to_use_it() -> None:
    assert len(VALUES) >= 8


@files
@pytest.mark.parametrize("major", MAJORS)
def test_lint_finds_nothing(values: Path, major: int) -> None:
    done = run(major, "lint", "--strict", f"--values={values}", CHART)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


@files
@pytest.mark.parametrize("kube", KUBES)
def test_both_helms_render_the_same_and_kubernetes_takes_it(values: Path, kube: str) -> None:
    one, other = (template(values, major=major, kube=kube) for major in MAJORS)
    assert one == other
    assert faults(parse(one), kube) == []


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    for major in MAJORS:
        done = try_template(major=major, kube="1.26")
        assert done.returncode != 0
        assert "kubeVersion" in done.stderr


def test_kinds_of_other_projects_are_as_those_have_them() -> None:
    every = [each for file in VALUES for each in objects(file)]
    assert {(each["apiVersion"], each["kind"]) for each in every} >= CUSTOM
    assert custom_faults(every) == []


class TestFaults:
    """The judge is judged: what is wrong is found."""

    def test_a_field_that_is_unknown(self) -> None:
        [service] = [each for each in objects() if each["kind"] == "Service"][:1]
        assert faults([service], "1.33") == []
        service["spec"]["ports"][0]["prot"] = "TCP"
        assert "prot" in faults([service], "1.33")[0]

    def test_a_version_that_is_gone_and_a_kind_that_never_was(self) -> None:
        old = {
            "apiVersion": "autoscaling/v2beta2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a"},
        }
        odd = {"apiVersion": "example.com/v1", "kind": "Odd", "metadata": {"name": "a"}}
        assert len(faults([old, odd], "1.33")) == 2

    def test_a_wrong_type_in_a_kind_of_another_project(self) -> None:
        scaled = {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "a"},
            "spec": {"scaleTargetRef": {"name": "b"}, "triggers": [{"type": 1, "metadata": {}}]},
        }
        assert "must be string" in custom_faults([scaled])[0]

    @pytest.mark.parametrize("kube", KUBES)
    def test_every_version_that_is_supported_has_schemas(self, kube: str) -> None:
        assert (FOLDER / f"v{kube}.0-local-strict" / "deployment-apps-v1.json").is_file()
