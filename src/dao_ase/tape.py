"""What torch did once, done again: the operations under a function, without the modules and the autograd that chose them.

On small crystals a call of the potential is hundreds of operations of a microsecond each, and more time goes into choosing
them: modules, recording for autograd, its engine. For tensors of the same shapes the choice is always the same. A tape holds
the operations of one call, forward and backward, in their order, as straight Python code:

- what does not depend on the inputs (weights, elements, who is whose neighbour) is computed once, while recording;
- what is computed twice from the same values is computed once;
- every value is dropped after its last use.

Played again, a tape gives to the bit what the function gives, as long as nothing in the function depends on the *values* of
the inputs but through operations of torch. Where Python asks for a value, recording fails with `NotRecordable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ASKS_FOR_VALUES = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
FEW_NUMBERS = 16
"""Constants of no more numbers than this are compared by value, larger ones by identity."""


class NotRecordable(RuntimeError):
    """What the function does depends on the values of its inputs."""


class _Step(NamedTuple):
    """One operation: what it was given, what came of it, and the tensors that it read, made and changed in place."""

    operation: Any
    arguments: tuple
    settings: dict[str, Any]
    result: Any
    read: list[Tensor]
    made: list[Tensor]
    changed: list[Tensor]


class _Recorder(TorchDispatchMode):
    """Notes every operation below autograd, those of the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch would import it: two seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        schema = func._schema
        if schema.name in ASKS_FOR_VALUES:
            raise NotRecordable(f"{func} was called: the function depends on the values of its inputs")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = [result] if isinstance(result, Tensor) else list(_tensors(result))
        described = zip(schema.arguments, args, strict=False) if schema.is_mutable else ()
        changed = [value for known, value in described if known.alias_info is not None and known.alias_info.is_write]
        read = [*_tensors(args), *_tensors(kwargs.values())]
        self.steps.append(_Step(func, args, kwargs, result, read, made, changed))
        return result


class Tape:
    """A function of tensors, recorded at one call of it; ``first`` is what that call gave.

    >>> weight = torch.tensor([2.0, 3.0])
    >>> tape = Tape(lambda x: ((x * weight).sum(),), torch.ones(2))
    >>> tape(torch.tensor([1.0, 10.0]))[0]
    tensor(32.)
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        with _Recorder() as recorder:
            self.first = tuple(function(*inputs))
        made = {id(value) for step in recorder.steps for value in step.made} | {id(value) for value in inputs}
        found = {id(value): value for step in recorder.steps for value in step.read if id(value) not in made}
        self._found = [(value, value._version) for value in found.values() if not value.is_inference()]
        changed = {_storage(value) for step in recorder.steps for value in step.changed}
        steps = _needed(_depending(recorder.steps, inputs, changed), self.first)
        writer = _Writer(steps, inputs, changed)
        self.source = writer.function(self.first)
        self.steps = len(writer.lines)
        namespace: dict[str, Any] = {}
        exec(_compiled(self.source), namespace)
        self._play = namespace["bind"](*writer.constants)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function gives for other values of the same shapes, detached."""
        with torch.inference_mode():
            return self._play(*inputs)

    @property
    def stale(self) -> bool:
        """Whether a tensor that the function read, such as a weight, has been changed in place since."""
        return any(value._version != version for value, version in self._found)


@lru_cache(maxsize=32)
def _compiled(source: str) -> CodeType:
    return compile(source, "<tape>", "exec")


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage(value: Tensor) -> int:
    return value.untyped_storage()._cdata


def _place(value: Tensor) -> tuple:
    """The same for two tensors if and only if they are the same numbers in the same places of memory."""
    return _storage(value), value.storage_offset(), value.shape, value.stride(), value.dtype


def _depending(steps: Sequence[_Step], inputs: Sequence[Tensor], changed: set[int]) -> list[_Step]:
    """The steps whose result is another when the inputs are, and those that make memory which is written into."""
    live, found = {id(value) for value in inputs}, []
    for step in steps:
        if any(id(value) in live for value in step.read) or (
            changed and any(_storage(value) in changed for value in step.made)
        ):
            found.append(step)
            live.update(map(id, step.made))
    return found


def _needed(steps: Sequence[_Step], results: Sequence[Tensor]) -> list[_Step]:
    """The steps without which some result would not be known."""
    wanted, found = {id(value) for value in results}, []
    for step in reversed(steps):
        if step.changed or any(id(value) in wanted for value in step.made):
            found.append(step)
            wanted.update(map(id, step.read))
    return found[::-1]


class _Line(NamedTuple):
    """An assignment: the names on its left, the expression, and the names that it reads."""

    names: list[str]
    expression: str
    read: list[str]


class _Writer:
    """Steps as Python code. Values that steps make are r0, r1, …; what is there before are constants c0, c1, …

    Memory that is written into (``changed``, by its storages) is always made anew, and never taken for other memory.
    """

    def __init__(self, steps: Sequence[_Step], inputs: Sequence[Tensor], changed: set[int]) -> None:
        self.names = {id(value): f"x{number}" for number, value in enumerate(inputs)}
        self.parameters = list(self.names.values())
        self.constants: list[Any] = []
        self.lines: list[_Line] = []
        self._bound: dict[Any, str] = {}
        self._made: dict[str, list[str]] = {}
        self._at = {_place(value): name for value, name in zip(inputs, self.parameters, strict=True)}
        for step in steps:
            volatile = bool(changed) and any(_storage(value) in changed for value in [*step.read, *step.made])
            self._write(step, volatile)

    def _write(self, step: _Step, volatile: bool) -> None:
        """One line, or none where the same value is there already."""
        single = isinstance(step.result, Tensor)
        if single and not volatile and (name := self._at.get(_place(step.result))):
            self.names[id(step.result)] = name  # a view that changes nothing, or one of a view that leads back
            return
        read: list[str] = []
        expression = self._call(step, read)
        results = [step.result] if single else list(step.result)
        if volatile or expression not in self._made:
            names = [self.names.get(id(value), f"r{len(self.lines)}_{number}") for number, value in enumerate(results)]
            self._made[expression] = names
            self.lines.append(_Line(names if single else [*names, ""], expression, read))
        for value, name in zip(results, self._made[expression], strict=True):
            if value is not None:
                self.names[id(value)] = name
                if not volatile:
                    self._at.setdefault(_place(value), name)

    def _call(self, step: _Step, read: list[str]) -> str:
        """The call of an operation, where there is a choice by the function of torch that costs least."""
        function, arguments, operation = _function(step.operation), step.arguments, step.operation._schema.name
        if operation == "aten::slice" and len(arguments) == 4 and arguments[2] >= 0:
            function, arguments = torch.narrow, (*arguments[:3], step.result.shape[arguments[1]])
        given = [self._show(value, read) for value in arguments]
        given += [f"{name}={self._show(value, read)}" for name, value in step.settings.items()]
        return f"{self.bind(function)}({', '.join(given)})"

    def _show(self, value: Any, read: list[str]) -> str:
        if isinstance(value, Tensor):
            name = self.names.get(id(value)) or self.bind(value)
            read.append(name)
            return name
        if isinstance(value, list | tuple):
            return "(" + "".join(self._show(one, read) + "," for one in value) + ")"
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        return self.bind(value)

    def bind(self, value: Any) -> str:
        """The name of a constant."""
        key: Any = id(value)
        if isinstance(value, Tensor) and value.numel() <= FEW_NUMBERS:
            key = (value.dtype, value.device, value.shape, value.stride(), repr(value.tolist()))
        if key not in self._bound:
            self._bound[key] = f"c{len(self.constants)}"
            self.constants.append(value.detach() if isinstance(value, Tensor) else value)
        return self._bound[key]

    def function(self, results: Sequence[Tensor]) -> str:
        """The code of a function that binds the constants and gives the function of the inputs."""
        returned: list[str] = []
        final = self._show(tuple(results), returned)
        last = {name: number for number, line in enumerate(self.lines) for name in line.read if name[0] == "r"}
        over: dict[int, list[str]] = {}
        for name, number in last.items():
            if name not in returned:
                over.setdefault(number, []).append(name)
        body = []
        for number, line in enumerate(self.lines):
            body.append(f"{', '.join(line.names).strip()} = {line.expression}")
            body += [f"del {', '.join(over[number])}"] if number in over else []
        code = [f"def bind({', '.join(f'c{number}' for number in range(len(self.constants)))}):"]
        code += [f" def play({', '.join(self.parameters)}):", *(f"  {line}" for line in body), f"  return {final}"]
        return "\n".join([*code, " return play", ""])


def _function(operation: Any) -> Callable:
    """torch's own Python function for an operation, which costs half of what the dispatcher's general one costs."""
    name = operation._schema.name.removeprefix("aten::").removeprefix("_unsafe_")
    for home in (torch._C._VariableFunctions, torch._C.TensorBase, torch._C._nn):
        if hasattr(home, name):
            return getattr(home, name)
    return operation._op
