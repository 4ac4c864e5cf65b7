"""Pickles with objects of the user's classes, carried as they are without importing or running anything.

Reading puts an inert stand-in where the pickle names a class: it remembers the name, the arguments and the state.
Writing puts the same name, arguments and state back, so that the owner's program finds its object again.

What is allowed while reading: torch's functions that rebuild tensors, plain containers, and stand-ins. Names from the
standard library and torch are refused but for a few plain classes, so a pickle that wants to call `eval` goes no
further.

Source: Python's pickle protocol (PEP 307) and `pickletools`.
"""

from __future__ import annotations

import datetime
import pathlib
import pickle
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # pickles of protocol 2 use Python 2's names
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar, Protocol, cast

import torch

from ckptgrow.storage.pickles.numpy_values import PickledFloat, PickledInt, number_in
from ckptgrow.storage.pickles.opaque import ABSENT, Named, Opaque
from ckptgrow.storage.tensors import LazyTensor, is_lazy

# Plain data that training scripts put beside their tensors; building them runs no code of the file.
PLAIN_CLASSES: tuple[type, ...] = (Namespace, datetime.timedelta, pathlib.PosixPath, pathlib.PurePosixPath)
# Plain values, containers and classes of the libraries that every script has, carried as stand-ins: none of them is
# called while reading, and calling them where the file belongs only builds values.
HARMLESS_LIBRARY: Mapping[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "builtins": "object dict list tuple set frozenset str bytes int float bool complex slice range "
        "Ellipsis NotImplemented",
        "collections": "defaultdict deque UserDict UserList ChainMap",
        "copyreg": "_reconstructor",
        "datetime": "datetime date time timezone",
        "decimal": "Decimal",
        "enum": "Enum IntEnum",
        "fractions": "Fraction",
        "functools": "partial",
        "operator": "itemgetter",
        "pathlib": "WindowsPath PureWindowsPath",
        "random": "Random",
        "re": "_compile",
        "signal": "Signals",
        "types": "SimpleNamespace MappingProxyType",
        "typing": "Any Union Optional List Dict Tuple",
        "uuid": "UUID",
        "torch.torch_version": "TorchVersion",
        "numpy": "dtype ndarray record bool_ bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
        "float16 float32 float64",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.numeric": "_frombuffer",
        "numpy.core.numeric": "_frombuffer",
        "numpy.rec": "recarray",
        "numpy.ma": "MaskedArray",
        "numpy.ma.core": "_mareconstruct MaskedArray",
        "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
        "numpy.random._pcg64": "PCG64 PCG64DXSM",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._philox": "Philox",
        "numpy.random._sfc64": "SFC64",
        "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    }.items()
}
# Classes of modules, losses, optimizers and schedules; functions that activations are; configs and enumerations.
HARMLESS_CLASSES = re.compile(
    r"torch\.nn\.modules\.\w+\.[A-Z]\w*|torch\.optim\.(\w+\.)?[A-Z]\w*|torch\.optim\.lr_scheduler\.[A-Z]\w*"
    r"|torch\.nn\.functional\.[a-z]\w*|numpy\.dtypes\.[A-Z]\w*DType"
    r"|transformers\.(models\.\w+\.configuration_\w+|configuration_utils|generation\.configuration_utils)\.[A-Z]\w*Config"
    r"|transformers\.(trainer_utils|training_args|utils\.generic)\.[A-Z]\w*(Strategy|Type|Names)"
)
OWN_ROOTS = ("torch", "ckptgrow", "transformers", "numpy")  # refused like the standard library


class Unpickling(Protocol):
    """What instructions need of Python's own unpickler."""

    stack: list[object]
    dispatch: ClassVar[dict[int, Callable[..., None]]]

    def __init__(self, file: IO[bytes]) -> None: ...

    def append(self, item: object, /) -> None:
        """Puts an object on the stack."""
        ...

    def pop_mark(self) -> list[object]:
        """The objects of the stack since the last mark."""
        ...

    def load(self) -> object:
        """Runs the pickle."""
        ...


class Pickling(Protocol):
    """What is needed of Python's own pickler."""

    write: Callable[[bytes], object]

    def memoize(self, obj: object) -> None:
        """Remembers an object that was written."""
        ...

    def save_global(self, obj: object, name: str | None = None) -> None:
        """Writes a class or function by its name."""
        ...


_CONTAINERS: tuple[object, ...] = (OrderedDict, Counter, Namespace)
# The pure Python ones: every instruction of theirs can be replaced.
PYTHON_UNPICKLER: type[Unpickling] = vars(pickle)["_Unpickler"]
PYTHON_PICKLER: type[Pickling] = vars(pickle)["_Pickler"]


BY_NAME = ("builtins.getattr", "__builtin__.getattr")  # by which Python 3.11.0 to 3.11.3 write members of enums


def is_member(*arguments: object) -> bool:
    """Whether the arguments of `getattr` are a class of the user's and a plain name, as for a member of an enum."""
    if len(arguments) != 2 or not isinstance(arguments[0], Named) or not isinstance(arguments[1], str):
        return False
    return not is_everyones(arguments[0].named[0]) and arguments[1].isidentifier() and arguments[1][0] != "_"


def is_everyones(module: str) -> bool:
    """Whether a module belongs to programs that everyone has."""
    root = IMPORT_MAPPING.get(module, module).partition(".")[0]
    return root in sys.stdlib_module_names or root in OWN_ROOTS


def is_refused(module: str, name: str) -> bool:
    """Whether a name belongs to programs that everyone has, and so could be called for harm."""
    module, name = NAME_MAPPING.get((module, name), (module, name))
    module = IMPORT_MAPPING.get(module, module)
    is_harmless = name in HARMLESS_LIBRARY.get(module, ()) or HARMLESS_CLASSES.fullmatch(f"{module}.{name}")
    return is_everyones(module) and not is_harmless


def unpickler_of(located: Callable[[torch.Tensor], LazyTensor]) -> type[Unpickling]:
    """An unpickler class for `torch.load(pickle_module=…)` that makes lazy tensors and stand-ins.

    It raises UnpicklingError where the pickle wants anything else.
    """
    allowed = _allowed(located)
    callable_ids = {id(function) for function in allowed.values()}
    stand_ins: dict[tuple[str, str], Named] = {}

    def find_class(reader: Unpickling, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full in allowed:
            return allowed[full]
        if is_refused(module, name) and full not in BY_NAME:
            raise pickle.UnpicklingError(f"names {full}")
        return stand_ins.setdefault((module, name), Named(name, (Opaque,), {"named": (module, name)}))

    def load_reduce(reader: Unpickling) -> None:
        arguments = arguments_on(reader)
        function = reader.stack[-1]
        if not callable(function) or not (isinstance(function, Named) or id(function) in callable_ids):
            raise pickle.UnpicklingError(f"calls {function!r}")
        if isinstance(function, Named) and ".".join(function.named) in BY_NAME and not is_member(*arguments):
            raise pickle.UnpicklingError(f"names {'.'.join(function.named)}")
        reader.stack[-1] = number_in(function(*arguments))

    refused = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.ADDITEMS)
    instructions = {
        **PYTHON_UNPICKLER.dispatch,
        **{code[0]: refuse_instruction for code in (*refused, pickle.STACK_GLOBAL)},
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: _load_newobj,
        pickle.BUILD[0]: _load_build,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
    }
    return reader_with(instructions, find_class)


def reader_with(
    instructions: Mapping[int, Callable[..., None]], find_class: Callable[[Unpickling, str, str], object]
) -> type[Unpickling]:
    """An unpickler with instructions of its own."""
    return type("Reader", (PYTHON_UNPICKLER,), {"dispatch": instructions, "find_class": find_class})


def arguments_on(reader: Unpickling) -> tuple[object, ...]:
    """The arguments of a call, off the stack."""
    arguments = reader.stack.pop()
    if not isinstance(arguments, tuple):
        raise pickle.UnpicklingError(f"calls with {type(arguments)!r} for arguments")
    return arguments


def pickler_of(hollow: Callable[[LazyTensor], torch.Tensor]) -> type[Pickling]:
    """A pickler class for `torch.save(pickle_module=…)`: lazy tensors as `hollow` makes them, stand-ins as they were.

    It imports no module of a stand-in.
    """

    def reducer_override(writer: Pickling, value: object) -> object:
        if isinstance(value, Opaque):
            return value.as_pickled()
        if isinstance(value, PickledFloat | PickledInt):
            return value.pickled.as_pickled()
        if is_lazy(value):
            return hollow(value).__reduce_ex__(2)
        return NotImplemented

    def save_global(writer: Pickling, value: object, name: str | None = None) -> None:
        if not isinstance(value, Named):
            PYTHON_PICKLER.save_global(writer, value, name)
            return
        module, named = value.named
        writer.write(pickle.GLOBAL + module.encode() + b"\n" + named.encode() + b"\n")
        writer.memoize(value)

    members = {"reducer_override": reducer_override, "save_global": save_global}
    return type("Writer", (PYTHON_PICKLER,), members)


def refuse_instruction(reader: Unpickling) -> None:
    """For instructions that no torch.save writes."""
    raise pickle.UnpicklingError("uses an old or rare pickle instruction")


def _load_newobj(reader: Unpickling) -> None:
    arguments = arguments_on(reader)
    made = reader.stack.pop()
    if not isinstance(made, Named) and made not in _CONTAINERS:
        raise pickle.UnpicklingError(f"makes {made!r}")
    reader.append(cast(Any, made).__new__(made, *arguments))


def _load_build(reader: Unpickling) -> None:
    state = reader.stack.pop()
    made = reader.stack[-1]
    if isinstance(made, Opaque) and made.state is ABSENT:
        made.state = state
    elif isinstance(made, Namespace | OrderedDict) and isinstance(state, dict):
        vars(made).update({str(key): value for key, value in state.items()})
    else:
        raise pickle.UnpicklingError(f"changes {type(made)!r}")


def _list_on(reader: Unpickling) -> list[object] | Opaque:
    target = reader.stack[-1]
    if type(target) is list or isinstance(target, Opaque):
        return target
    raise pickle.UnpicklingError(f"puts items into {type(target)!r}")


def _dict_on(reader: Unpickling) -> dict[object, object] | Opaque:
    target = reader.stack[-1]
    if isinstance(target, Opaque) or (isinstance(target, dict) and type(target) in (dict, OrderedDict, Counter)):
        return target
    raise pickle.UnpicklingError(f"puts items into {type(target)!r}")


def _load_append(reader: Unpickling) -> None:
    item = reader.stack.pop()
    _list_on(reader).append(item)


def _load_appends(reader: Unpickling) -> None:
    items = reader.pop_mark()
    _list_on(reader).extend(items)


def _load_setitem(reader: Unpickling) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _dict_on(reader)[key] = value


def _load_setitems(reader: Unpickling) -> None:
    items = reader.pop_mark()
    target = _dict_on(reader)
    for index in range(0, len(items), 2):
        target[items[index]] = items[index + 1]


class _TensorClass:
    """Stands for torch's class of a tensor, which a pickle may name but not call."""


def _allowed(located: Callable[[torch.Tensor], LazyTensor]) -> Mapping[str, object]:
    """What pickles may name and call, by full name."""

    def tensor(*args: object) -> LazyTensor:
        return located(torch._utils._rebuild_tensor_v2(*args[:6]))  # pyright: ignore

    def parameter(data: LazyTensor, *others: object) -> LazyTensor:
        return data

    def with_attributes(rebuild: object, kind: object, args: tuple[object, ...], attributes: object) -> LazyTensor:
        """A tensor on which a program has put attributes of its own, as DeepSpeed does; they are left out."""
        if rebuild not in (tensor, parameter) or not isinstance(kind, _TensorClass):
            raise pickle.UnpicklingError(f"makes a tensor of {kind!r}")
        return tensor(*args) if rebuild is tensor else parameter(cast(Any, args[0]))

    dtypes = {str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
    return {
        **dtypes,
        **{f"{one.__module__}.{one.__qualname__}": one for one in PLAIN_CLASSES},
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "torch._tensor._rebuild_from_type_v2": with_attributes,
        "torch.Tensor": _TensorClass(),
        "torch.nn.parameter.Parameter": _TensorClass(),
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch.serialization._get_layout": torch.serialization._get_layout,  # pyright: ignore
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "builtins.set": set,
        "builtins.complex": complex,
        "__builtin__.set": set,
        "_codecs.encode": _encoded,
    }


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    return str(text).encode("latin1" if encoding != "utf-8" else encoding)
