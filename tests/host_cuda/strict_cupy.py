"""A stand-in for CuPy that is as strict as CuPy: code written against NumPy alone fails here, not on the first GPU.

Arrays are not NumPy arrays and do not become such by themselves; NumPy arrays are refused where CuPy refuses them; what the
stand-in does not know is an AttributeError. Memory of `empty` is full of 0xA5. Everything that would wait for the device, or copy
from it, and the stream and device of every operation are noted in a `Log`.

Not modelled: that a stream runs behind the host (here everything has happened at once), and what FFTs of cuFFT round differently.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np

KINDS = "biufc"
"""Kinds of dtypes that CuPy has."""
_state = threading.local()


class Log:
    """What happened on the stand-in's devices."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        """Copies to the host and other operations for which the host waits, but for `Stream.synchronize`."""
        self.places: set[tuple[int, int]] = set()
        """(device, handle of the stream) of all operations."""
        self.launches: list[str] = []
        """`stem.kernel` of all launches."""
        self.faults: list[str] = []
        """What a GPU would have done wrong without a word."""

    def note(self) -> None:
        """Note an operation on the current device and stream."""
        self.places.add((current_device(), current_stream().ptr))


def current_device() -> int:
    """Number of the calling thread's device."""
    return int(getattr(_state, "device", 0))


def current_stream() -> Stream:
    """The calling thread's stream; by default the null stream."""
    found: Stream = getattr(_state, "stream", _NULL)
    return found


class Device:
    """`cupy.cuda.Device`."""

    compute_capability = "90"

    def __init__(self, device: int | None = None) -> None:
        self.id = current_device() if device is None else int(device)

    def __enter__(self) -> Device:
        self._before = current_device()
        _state.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        _state.device = self._before


class Stream:
    """`cupy.cuda.Stream`."""

    _handles = iter(range(0x1000, 1 << 30, 16))

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else next(Stream._handles)
        self.device_id = current_device()
        self.busy = False

    def __enter__(self) -> Stream:
        if self.ptr and self.device_id not in (-1, current_device()):
            raise RuntimeError(f"stream of device {self.device_id} used on device {current_device()}")
        self._before = current_stream()
        _state.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        _state.stream = self._before

    def synchronize(self) -> None:
        """Wait for all that was put on the stream."""
        self.busy = False

    @classmethod
    def from_external(cls, obj: Any) -> Stream:
        """Wrap another library's stream."""
        version, handle = obj.__cuda_stream__()
        assert version == 0
        made = cls(null=True)
        made.ptr, made.device_id = handle, -1
        return made


_NULL = Stream(null=True)


class Event:
    """`cupy.cuda.Event`: all is over when it is recorded."""

    def __init__(self) -> None:
        self.time_s: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Note the time."""
        self.time_s = time.perf_counter()

    def synchronize(self) -> None:
        """Wait for it."""
        assert self.time_s is not None


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    assert start_event.time_s is not None
    assert end_event.time_s is not None
    return 1e3 * (end_event.time_s - start_event.time_s)


class RawKernel:
    """`cupy.RawKernel`: what it is given is checked, nothing runs."""

    def __init__(self, code: str, name: str) -> None:
        assert f"void {name}(" in code

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        for value in args:
            if not isinstance(value, DeviceArray | np.generic):
                _refuse(value)


class Memory:
    """An allocation, or memory of somebody else (`owner`)."""

    alive: ClassVar[weakref.WeakSet[Memory]] = weakref.WeakSet()

    def __init__(self, ptr: int, owner: Any) -> None:
        self.ptr, self._owner, self.device_id = ptr, owner, current_device()
        self.size = owner.nbytes if isinstance(owner, np.ndarray) else 0
        Memory.alive.add(self)


def _refuse(value: Any) -> Any:
    raise TypeError(f"Unsupported type {type(value)}")


def _host(value: Any) -> Any:
    """Operand of an operation: a device array or a number."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray) or not isinstance(value, int | float | complex | bool | np.generic):
        _refuse(value)
    return value


class DeviceArray:
    """`cupy.ndarray` over NumPy memory. `log` is set by `make_cupy`."""

    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    log: Log

    def __init__(self, host: np.ndarray, memory: Memory | None = None) -> None:
        if host.dtype.kind not in KINDS:
            raise ValueError(f"Unsupported dtype {host.dtype}")
        self._host = host
        self._memory = memory or Memory(host.ctypes.data, host)

    # What an array is.

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._host.flags.c_contiguous))
    device = property(lambda self: SimpleNamespace(id=self._memory.device_id))

    @property
    def data(self) -> Any:
        """`cupy.cuda.MemoryPointer`."""
        return SimpleNamespace(ptr=self._host.ctypes.data if self._host.size else 0, mem=self._memory)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3,
            "strides": None if self.flags.c_contiguous else self.strides, "stream": current_stream().ptr or 1,
        }  # fmt: skip

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    def __len__(self) -> int:
        return len(self._host)

    # Copies to the host.

    def _waited(self, how: str) -> np.ndarray:
        self.log.waits.append(f"{how} of {self.shape} {self.dtype}")
        self.log.note()
        current_stream().synchronize()
        return self._host.copy()

    def get(self) -> np.ndarray:
        """Copy to the host."""
        return self._waited("get")

    def tolist(self) -> Any:
        """Copy to the host."""
        return self._waited("tolist").tolist()

    def item(self) -> Any:
        """Copy to the host."""
        return self._waited("item").item()

    def __bool__(self) -> bool:
        return bool(self._waited("bool"))

    def __int__(self) -> int:
        return int(self._waited("int"))

    def __float__(self) -> float:
        return float(self._waited("float"))

    def __index__(self) -> int:
        return self._waited("index").__index__()

    # What happens on the device.

    def _made(self, host: Any) -> DeviceArray:
        """A result, in the same memory if it is a view."""
        self.log.note()
        host = np.asarray(host)
        return DeviceArray(host, self._memory if np.may_share_memory(host, self._host) else None)

    def _keys(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        plain = []
        for one in keys:
            if isinstance(one, list):
                _refuse(one)
            if isinstance(one, DeviceArray | np.ndarray) and one.dtype.kind == "b":
                self.log.waits.append(f"index of flags {one.shape}")
            plain.append(one._host if isinstance(one, DeviceArray) else one)
        return tuple(plain)

    def __getitem__(self, key: Any) -> DeviceArray:
        return self._made(self._host[self._keys(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.log.note()
        self._host[self._keys(key)] = _host(value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__" or out is not None:
            raise TypeError(f"operand type(s) do not support {ufunc.__name__}.{method}")
        return self._made(ufunc(*(_host(value) for value in inputs), **options))

    def __array_function__(self, function: Callable[..., Any], _: Any, given: Any, options: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with a CuPy array; call the array's own module")

    def fill(self, value: Any) -> None:
        """Fill with a number."""
        self[...] = value


def _binary(name: str) -> Callable[[DeviceArray, Any], DeviceArray]:
    def method(self: DeviceArray, other: Any) -> DeviceArray:
        return self._made(getattr(np.ndarray, name)(self._host, _host(other)))

    return method


def _in_place(name: str) -> Callable[[DeviceArray, Any], DeviceArray]:
    def method(self: DeviceArray, other: Any) -> DeviceArray:
        self.log.note()
        getattr(np.ndarray, name)(self._host, _host(other))
        return self

    return method


def _method(name: str) -> Callable[..., DeviceArray]:
    def method(self: DeviceArray, *given: Any, **options: Any) -> DeviceArray:
        for value in (*given, *options.values()):
            if isinstance(value, np.ndarray | DeviceArray):
                _refuse(value)
        return self._made(getattr(self._host, name)(*given, **options))

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "and", "or", "xor", "lshift", "rshift", "pow"):
    setattr(DeviceArray, f"__{_name}__", _binary(f"__{_name}__"))
    setattr(DeviceArray, f"__r{_name}__", _binary(f"__r{_name}__"))
    setattr(DeviceArray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(DeviceArray, f"__{_name}__", _binary(f"__{_name}__"))
for _name in ("neg", "invert", "abs"):
    setattr(DeviceArray, f"__{_name}__", _method(f"__{_name}__"))
METHODS = (
    "all", "any", "argmax", "astype", "copy", "max", "mean", "min", "ravel", "repeat", "reshape", "sum", "transpose", "view",
)  # fmt: skip
"""Methods of arrays that are NumPy's."""
for _name in METHODS:
    setattr(DeviceArray, _name, _method(_name))

FUNCTIONS = ("abs", "clip", "concatenate", "maximum", "minimum", "rint", "rot90", "stack", "where")
"""Functions of the module that are NumPy's, of device arrays and numbers."""
FFTS = ("fft", "ifft", "irfft", "irfft2", "rfft", "rfft2")


def make_cupy(log: Log) -> ModuleType:
    """Make the module; its arrays note what they do in `log`."""
    cupy = ModuleType("cupy")
    DeviceArray.log = log

    def of_device(function: Callable[..., Any]) -> Callable[..., DeviceArray]:
        def call(*given: Any, **options: Any) -> DeviceArray:
            log.note()
            arrays = given[0] if given and isinstance(given[0], list | tuple) else given
            if not any(isinstance(value, DeviceArray) for value in arrays):
                _refuse(arrays[0] if arrays else None)
            plain = [[_host(v) for v in arrays]] if arrays is not given else [
                value if isinstance(value, tuple) else _host(value) for value in given
            ]  # fmt: skip
            return DeviceArray(np.ascontiguousarray(function(*plain, **options)))

        return call

    def empty(shape: Any, dtype: Any = float) -> DeviceArray:
        log.note()
        host = np.empty(shape, dtype)
        host.reshape(-1).view(np.uint8).fill(0xA5)
        return DeviceArray(host)

    def asarray(a: Any, dtype: Any = None) -> DeviceArray:
        log.note()
        if isinstance(a, DeviceArray):
            return a if dtype is None or a.dtype == dtype else a.astype(dtype)
        if hasattr(a, "__cuda_array_interface__"):
            return DeviceArray(a.shared_with_numpy(), Memory(a.__cuda_array_interface__["data"][0], a))
        if not isinstance(a, np.ndarray | np.generic | int | float | list):
            _refuse(a)
        return DeviceArray(np.array(a, dtype))

    def asnumpy(a: Any) -> np.ndarray:
        return a.get() if isinstance(a, DeviceArray) else np.asarray(a)

    def made(function: Callable[..., np.ndarray]) -> Callable[..., DeviceArray]:
        def call(*given: Any, **options: Any) -> DeviceArray:
            log.note()
            return DeviceArray(function(*given, **options))

        return call

    cupy.ndarray = DeviceArray  # type: ignore[attr-defined]
    cupy.empty, cupy.asarray, cupy.asnumpy = empty, asarray, asnumpy  # type: ignore[attr-defined]
    cupy.empty_like = lambda prototype: empty(prototype.shape, prototype.dtype)  # type: ignore[attr-defined]
    cupy.zeros_like = lambda a: cupy.zeros(a.shape, a.dtype)  # type: ignore[attr-defined]
    cupy.ascontiguousarray = lambda a: DeviceArray(np.ascontiguousarray(a._host))  # type: ignore[attr-defined]
    for name in ("zeros", "full", "arange"):
        setattr(cupy, name, made(getattr(np, name)))
    for name in FUNCTIONS:
        setattr(cupy, name, of_device(getattr(np, name)))
    cupy.fft = SimpleNamespace(**{name: of_device(getattr(np.fft, name)) for name in FFTS})  # type: ignore[attr-defined]
    cupy.RawKernel = RawKernel  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Device=Device, Stream=Stream, Event=Event, get_elapsed_time=get_elapsed_time,
        get_current_stream=lambda device=None: current_stream(),
    )  # fmt: skip
    return cupy
