"""The double of an engine core: what each step gives, and that no token is lost or too many."""

from vllm.v1.engine import FinishReason

from harness.core_double import Steps


def test_each_request_gets_its_tokens_one_a_step_at_its_client() -> None:
    steps = Steps(token=7)
    steps.add("a", client=0, tokens=2, prompt_tokens=3)
    steps.add("b", client=1, tokens=1, prompt_tokens=3)
    first = {client: ([each.request_id for each in made], ended) for client, made, ended in steps.step()}
    assert first == {0: (["a"], set()), 1: (["b"], {"b"})}
    ((client, (last,), ended),) = list(steps.step())
    assert (client, last.new_token_ids, last.finish_reason, ended) == (0, [7], FinishReason.LENGTH, {"a"})
    assert (len(steps), list(steps.step())) == (0, [])


def test_only_the_first_output_has_what_comes_before_a_token() -> None:
    steps = Steps(token=7)
    steps.add("a", client=0, tokens=3, prompt_tokens=5)
    ((_, (output,), _),) = list(steps.step())
    assert (output.prefill_stats.num_prompt_tokens, len(output.events)) == (5, 2)
    ((_, (output,), _),) = list(steps.step())
    assert (output.prefill_stats, output.events) == (None, None)


def test_an_aborted_request_gets_no_more() -> None:
    steps = Steps(token=7)
    steps.add("a", client=0, tokens=9, prompt_tokens=1)
    steps.abort(["a", "unknown"])
    assert list(steps.step()) == []
