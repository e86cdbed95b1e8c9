"""A graph of operators answers as its operators do one by one, though it writes where nobody looks again."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")

from models.pytorch.attack_network import OPERATORS, Graph, Operation  # noqa: E402

CHANNELS = 3
GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = {
    name: torch.randn(shape, generator=GENERATOR, dtype=torch.float64)
    for name, shape in (("weight", (CHANNELS, CHANNELS, 1, 1)), ("bias", (1, CHANNELS, 1, 1)), ("row", (CHANNELS,)))
}  # fmt: skip
WEIGHTS["square"] = WEIGHTS["row"] ** 2
# Kind, how many earlier values it takes, what follows them, attributes.
KINDS = (
    ("Conv", 1, ("weight",), {}), ("Relu", 1, (), {}), ("Add", 2, (), {}), ("Add", 1, ("bias",), {}),
    ("Identity", 1, (), {}), ("Slice", 1, (), {"axes": [0], "steps": [1]}),
    ("ReduceMean", 1, (), {"axes": [2, 3], "keepdims": 1}),
    ("BatchNormalization", 1, ("row", "row", "row", "square"), {}), ("ConvTranspose", 1, ("weight",), {}),
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Operation], list[str]]:
    values, operations = ["input0"], []
    for step in range(draw(st.integers(1, 8))):
        kind, count, others, attributes = draw(st.sampled_from(KINDS))
        own = tuple(draw(st.sampled_from(values[-3:])) for _ in range(count))
        values.append(f"value{step}")
        operations.append(Operation(kind, (*own, *others), (values[-1],), attributes))
    return operations, draw(st.lists(st.sampled_from(values[1:]), min_size=1, unique=True))


def one_by_one(operations: list[Operation], x: torch.Tensor) -> dict[str, torch.Tensor]:
    values = {**WEIGHTS, "input0": x}
    for kind, inputs, (output,), attributes in operations:
        values[output] = OPERATORS[kind](attributes, *(values[name] for name in inputs))
    return values


def gradient(values: tuple[torch.Tensor, ...], x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(sum((v**2).sum() for v in values), x)[0]


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_values_and_gradients_are_those_of_the_operators_one_by_one(drawn) -> None:
    operations, results = drawn
    graph = Graph(operations, WEIGHTS, ["input0"], results)
    x = torch.randn(
        (2, CHANNELS, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    x.requires_grad_()
    before, found = x.detach().clone(), graph(x)
    found = found if isinstance(found, tuple) else (found,)
    alone = one_by_one(operations, x)
    expected = tuple(alone[name] for name in results)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(found, x), gradient(expected, x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(x.detach(), before, rtol=0, atol=0)


def test_what_one_operation_alone_asks_for_is_written_into() -> None:
    conv, relu = (
        Operation("Conv", ("input0", "weight"), ("a",), {}),
        Operation("Relu", ("a",), ("b",), {}),
    )
    x = torch.randn((2, CHANNELS, 2, 2), dtype=torch.float64)
    kept: list[torch.Tensor] = []
    graph = Graph([conv, relu], WEIGHTS, ["input0"], ["b"], {**OPERATORS, "Conv": lambda a, *given: kept.append(
        OPERATORS["Conv"](a, *given)) or kept[-1]})  # fmt: skip
    assert graph(x).data_ptr() == kept[0].data_ptr()
