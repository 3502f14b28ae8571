"""An interpreter for the data-only part of the pickle language that torch's files are written in.

``pickle.Unpickler`` with a strict ``find_class`` runs no foreign code, yet a ten-byte file makes
it allocate gigabytes (one ``LONG_BINPUT`` with a large index sizes its memo table), and nested
tuples as dictionary keys keep it hashing for ever. Here every instruction is one of the few that
a state dict needs, memos are a dictionary, keys are text or integers, and the only callables that
can be called are the ones the caller supplies. ``pickletools`` does the parsing.
"""

from __future__ import annotations

import pickletools
from typing import IO, TYPE_CHECKING, Any

from shapjax.core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A state dict takes about forty instructions a tensor, so this is room for 25,000 tensors.
_MAX_INSTRUCTIONS = 1_000_000
_MARK = object()


def interpret(stream: IO[bytes], names: Mapping[str, Any], fetch: Callable[[Any], Any]) -> Any:
    """The object that one pickle describes; ``stream`` is left right behind it.

    Args:
        stream: seekable, at the pickle's first byte.
        names: what each global, written ``"module qualified.name"``, stands for; callables among
            them are the only ones a pickle can call.
        fetch: what a persistent identifier stands for.

    Raises:
        WeightsError: a global that is not in ``names``, an instruction that state dicts do not
            need, or bytes that are no well-formed pickle.
    """
    try:
        return _run(stream, _Machine(names, fetch))
    except WeightsError:
        raise
    # Damaged bytes are still instructions: to take from an empty stack, to call with too few
    # arguments, to read text that is none.
    except Exception as error:
        raise WeightsError(
            f"it holds no well-formed pickle ({type(error).__name__}), expected the state dict "
            "that torch.save writes; download or save the file again."
        ) from error


def _run(stream: IO[bytes], machine: _Machine) -> Any:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        instruction = _INSTRUCTIONS.get(opcode.name)
        if instruction is None or count >= _MAX_INSTRUCTIONS:
            raise WeightsError(
                f"its pickle uses instruction {opcode.name} (number {count}), expected only what "
                "a state dict needs; save model.state_dict() again."
            )
        instruction(machine, argument)
    return machine.stack.pop()


class _Machine:
    """The pickle stack machine: one method for each kind of instruction, named after it."""

    def __init__(self, names: Mapping[str, Any], fetch: Callable[[Any], Any]):
        self.names = names
        self.fetch = fetch
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def nothing(self, _: Any) -> None:
        pass

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError("no mark on the stack")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def pop_last(self, count: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(count))[::-1]

    def find(self, name: str) -> None:
        if name not in self.names:
            raise WeightsError(
                f"its pickle names {name.replace(' ', '.')[:80]!r}, expected nothing but tensors "
                "(none of it was run); save model.state_dict() again, from a source you trust."
            )
        self.stack.append(self.names[name])

    def find_stacked(self, _: Any) -> None:
        module, name = self.pop_last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("name of a global that is no text")
        self.find(f"{module} {name}")

    def call(self, _: Any) -> None:
        function, arguments = self.pop_last(2)
        if not callable(function) or not isinstance(arguments, tuple):
            raise TypeError("call of something that is no function")
        self.stack.append(function(*arguments))

    def fetch_persistent(self, _: Any) -> None:
        self.stack.append(self.fetch(self.stack.pop()))

    def store(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def store_next(self, _: Any) -> None:
        self.store(len(self.memo))

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def append(self, values: list[Any] | tuple[Any, ...]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("append to something that is no list")
        target.extend(values)

    def set_items(self, values: list[Any] | tuple[Any, ...]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("item of something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            set_item(target, key, value)


def set_item(target: dict[Any, Any], key: Any, value: Any) -> None:
    """``target[key] = value`` for keys that hash in no time: text and integers.

    Raises:
        TypeError: another kind of key.
    """
    if not isinstance(key, str | int):
        raise TypeError("a key that is neither text nor integer")
    target[key] = value


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "STOP": _Machine.nothing,
    "MARK": _constant(lambda: _MARK),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINFLOAT": _Machine.push,
    "BINUNICODE": _Machine.push,
    "SHORT_BINUNICODE": _Machine.push,
    "BINSTRING": _Machine.push,
    "SHORT_BINSTRING": _Machine.push,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_last(3)),
    "APPEND": lambda machine, _: machine.append(machine.pop_last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "BINPUT": _Machine.store,
    "LONG_BINPUT": _Machine.store,
    "MEMOIZE": _Machine.store_next,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_stacked,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BINPERSID": _Machine.fetch_persistent,
    # The state of an object, such as the versions torch hangs on a state dict: not needed.
    "BUILD": lambda machine, _: machine.pop_last(1),
}
