"""The engine on lesser CPUs, without the JIT or a cache, after a fork, from many threads at once.

What changes for a whole process runs in a process of its own.
"""

import errno
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import llvmlite.binding as llvm
import numpy as np
import pytest

import lamina
from lamina.convolution import winograd
from lamina.engine import dots, few, jit, packing, recurrent, taps, tile
from lamina.gru import cell as gru_cell
from lamina.lstm import cell as lstm_cell
from lamina.rnn import cell as rnn_cell
from lamina.train import fused

TESTS, PACKAGE = Path(__file__).parent, Path(lamina.__file__).parent
HOST = llvm.get_process_triple().partition("-")[0]
HAS = llvm.get_host_cpu_features()

AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma"
SSE2 = "+sse,+sse2"
on_x86 = pytest.mark.skipif(HOST != "x86_64", reason="restricts the features of an x86-64 CPU")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="protects pages by Linux's means")


def run(*arguments, **environment):
    """Run Python in this folder, on a script or, by -c, a text; return the lines it prints."""
    arguments = [textwrap.dedent(str(a)) for a in arguments]
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout.splitlines()


# Other instruction sets


@on_linux
@on_x86
@pytest.mark.parametrize(
    ("name", "features", "width", "fma"),
    [
        pytest.param(
            "haswell", AVX2, 32, True,
            marks=pytest.mark.skipif(not HAS.get("avx2"), reason="this CPU has no AVX2"),
        ),
        ("x86-64", SSE2, 16, False),
    ],
    ids=["AVX2", "SSE2"],
)  # fmt: skip
def test_kernels_of_lesser_cpus(name, features, width, fma):
    lines = run(
        "guarded.py", "problems", "1", "120", "120", "60",
        NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features,
    )  # fmt: skip
    assert lines[0] == f"vectors of {width} bytes, {'with' if fma else 'without'} FMA"
    assert len(lines) == 301


@on_linux
@on_x86
@pytest.mark.parametrize(
    ("name", "features"), [("haswell", AVX2), ("x86-64", SSE2)], ids=["AVX2", "SSE2"]
)
@pytest.mark.parametrize(
    "kind", ["activation", "batchnorm", "dropout", "loss", "pool", "recurrent", "rows", "update"]
)
def test_kernels_of_elements_on_lesser_cpus(kind, name, features):
    if name == "haswell" and not HAS.get("avx2"):
        pytest.skip("this CPU has no AVX2")
    lines = run(
        "guarded.py", "elements", kind, "1", "100",
        NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features,
    )  # fmt: skip
    assert len(lines) == 101


@on_x86
@pytest.mark.parametrize(
    ("name", "features"),
    [(None, None), ("haswell", AVX2), ("x86-64", SSE2)],
    ids=["this CPU", "AVX2", "SSE2"],
)
def test_arithmetic_meets_nothing_that_stood_in_memory(name, features):
    if name == "haswell" and not HAS.get("avx2"):
        pytest.skip("this CPU has no AVX2")
    cpu = {} if name is None else {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    assert len(run("leftovers.py", "0", "40", "80", "20", **cpu)) == 140


BITS = """
    import hashlib
    import numpy as np
    import problems
    from lamina.engine import jit

    digest, rng = hashlib.sha256(), np.random.default_rng(0)
    for i in range(60):
        problem = (problems.linear, problems.convolution)[i % 2](rng)
        kernel, arrays = problems.LAYERS[problem.layer][0], problem.arrays()
        found = problems.passes(kernel, problem, arrays, problems.random_dy(problem))
        for a in found.values():
            digest.update((a + 0).tobytes())  # -0 + 0 = 0
    print(jit.vector_bytes(), digest.hexdigest())
"""


@on_x86
@pytest.mark.skipif(not (HAS.get("avx512f") and HAS.get("fma")), reason="this CPU has no AVX-512")
def test_the_width_of_vectors_changes_no_bit():
    wide, narrow = (
        run("-c", BITS, **other)[0].split()
        for other in ({}, {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2})
    )
    assert (wide[0], narrow[0]) == ("64", "32")
    assert wide[1] == narrow[1]


ELEMENTS = """
    import hashlib, sys
    import numpy as np
    from lamina.engine import jit

    width, registers = int(sys.argv[1]), int(sys.argv[2])
    jit.vector_bytes, jit.vector_registers = lambda: width, lambda: registers
    import elements
    from lamina.convolution import kernel as convolution

    digest, rng = hashlib.sha256(), np.random.default_rng(0)
    for i in range(20):
        problem = elements.batchnorm(rng)
        problem.check(i)
        arrays = problem.arrays()
        y, cache = elements.batchnorm_kernel.forward(**arrays)
        dx, grads = elements.batchnorm_kernel.backward(arrays["x"], cache)
        for a in (y, dx, cache.mean, cache.var, *grads.values()):
            digest.update((a + 0).tobytes())
        elements.dropout(rng).check(i)  # to the bit
        inputs, outputs = rng.integers(16, 70, 2)
        x, weight, dy = (
            rng.standard_normal(shape, np.float32) for shape in
            ((2, 9, 8, inputs), (3, 3, inputs, outputs), (2, 7, 6, outputs))
        )
        y, cache = convolution.forward(x, weight)
        dx, grads = convolution.backward(dy, cache)
        for a in (y, dx, *grads.values()):
            digest.update((a + 0).tobytes())
    print(digest.hexdigest())
"""


def test_the_width_of_vectors_changes_no_bit_of_elements():
    """LLVM makes several narrow vectors of a wide one, so every width runs on every CPU."""
    widths = ("16", "16"), ("32", "16"), ("64", "32")
    digests = {run("-c", ELEMENTS, *w, LAMINA_CACHE_DIR=os.devnull)[0] for w in widths}
    assert len(digests) == 1


def uncache(monkeypatch):
    """Let what follows from `jit.cpu` be asked for anew, and not kept for tests to come."""
    for name in ("vector_bytes", "has_fma", "vector_registers", "is_amd"):
        monkeypatch.setattr(jit, name, getattr(jit, name).__wrapped__)


@pytest.fixture(
    params=[
        ("x86_64-linux-gnu", "skylake-avx512", AVX2 + ",+avx512f,+avx512vl,+avx512dq", 64, 32),
        ("x86_64-linux-gnu", "haswell", AVX2, 32, 16),
        ("x86_64-linux-gnu", "x86-64", SSE2, 16, 16),
        ("aarch64-linux-gnu", "neoverse-n1", "+neon", 16, 32),
    ],
    ids=["AVX-512", "AVX2", "SSE2", "NEON"],
)
def target(request, monkeypatch):
    """Emit code for a CPU; return what turns IR to assembly."""
    triple, cpu, features, width, registers = request.param
    monkeypatch.setattr(llvm, "get_process_triple", lambda: triple)
    monkeypatch.setattr(jit, "cpu", lambda: (cpu, features))
    uncache(monkeypatch)
    assert (jit.vector_bytes(), jit.vector_registers()) == (width, registers)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        found = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM writes no code for {triple}")
    machine = found.create_target_machine(cpu=cpu, features=features, opt=3)

    def assembly(ir):
        module = llvm.parse_assembly(ir)
        module.triple = triple
        module.verify()
        return machine.emit_assembly(module)

    assembly.triple, assembly.cpu = triple, cpu
    return assembly


FMA = {"skylake-avx512": r"vfmadd\w+p[sd]\t.*%[yz]mm", "haswell": r"vfmadd\w+p[sd]\t.*%ymm",
       "x86-64": r"mulp[sd]\t.*%xmm", "neoverse-n1": r"fmla\tv\d+\.[24][sd]"}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiles_are_vector_code(target, dtype):
    emitter = tile.Emitter(dtype)
    for rows, vectors in ((1, 1), (2, 2), (tile.tallest(4), 4)):
        for last in (None, *tile.last_vectors(emitter.lanes)):
            emitter.tile(rows, vectors, last).linkage = "external"
    assembly = target(str(emitter.module))
    sums = re.findall(FMA[target.cpu], assembly)
    # Masked tiles are of two widths, or have a loop without masks; others, of terms together.
    large, some = 4 * tile.tallest(4), tile.together(tile.tallest(4), 4)
    assert len(sums) == 3 * (1 + 4 + large) + (some > 1) * some * large
    assert not re.search(r"\t(callq?|bl)\t", assembly), "calls a library"


def test_tiles_stay_in_registers(target):
    """The tallest tiles, but for masks, keep no vector on the stack."""
    on_stack, most = r"\(%rsp\).*%[xyz]mm|%[xyz]mm\d+,.*\(%rsp\)", {}
    if target.triple.startswith("aarch64"):
        on_stack, most = r"\t(ldr|str|ldp|stp)\tq.*\[sp", {3: 8}  # 9 rows do
    emitter = tile.Emitter(np.float32)
    for vectors in tile.WIDTHS:
        rows = min(tile.tallest(vectors), most.get(vectors, tile.TALLEST))
        emitter.tile(rows, vectors).linkage = "external"
    vectors = tile.panel_vectors()
    emitter.tile(tile.tallest(vectors), vectors, packs=True).linkage = "external"
    narrow = (1, 2) if jit.vector_bytes() == 64 else ()
    for vectors in narrow:
        emitter.narrow_tile(vectors).linkage = "external"
    assembly = target(str(emitter.module))
    assert not re.search(on_stack, assembly)
    # What narrow tiles multiply with an element of A, they take from memory themselves.
    from_memory = re.findall(r"vfmadd\w+ps\t[^,]*\{1to16\}", assembly)
    assert len(from_memory) >= sum(narrow) * tile.ROWS * tile.TERMS


@on_x86
@pytest.mark.parametrize(("cpu", "level"), [("znver4", "nta"), ("emeraldrapids", "t1")])
def test_what_is_used_once_is_read_past_the_caches_where_that_is_as_fast(monkeypatch, cpu, level):
    monkeypatch.setattr(jit, "cpu", lambda: (cpu, AVX2))
    uncache(monkeypatch)
    machine = jit.machine()
    module = llvm.parse_assembly(fused.RULES["sgd"][1].emit(np.dtype(np.float32)))
    assert set(re.findall(r"prefetch(\w+)", machine.emit_assembly(module))) == {level}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "code",
    [packing.copy, packing.spread, packing.transpose],
    ids=["copy", "spread", "transpose"],
)
def test_copies_are_vector_code(target, code, dtype):
    assembly = target(code.emit(np.dtype(dtype)))
    assert re.search(r"%[xyz]mm|\tq\d+, q\d+|\tq\d+, \[", assembly)
    assert not re.search(r"\t(callq?|bl)\t", assembly), "calls a library"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [(1, 1), (2, 2)], ids=["depthwise", "groups"])
def test_taps_are_vector_code(target, groups, dtype):
    """With AVX-512 they stay in registers."""
    inputs, _ = groups
    together, rest = taps.split(3, inputs, 1)
    tiles = [(by, r) for by in (1, 2) for r in range(1, taps.rows_together(*groups) + 1)]
    heights = {tile: range(1, taps.tallest(*groups, tile[1], tile[0]) + 1) for tile in tiles}
    abreast, sums = taps.sums_abreast(*groups)
    rows_of = {k: taps.most_rows(k, inputs, sums) for k in range(1, taps.most_taps(inputs) + 1)}
    sums_back = sum(r * k for k, most in rows_of.items() for r in range(1, most + 1))
    for code, count in (
        *(
            (taps.taps(*groups, together, rest, by, r), r * sum(heights[by, r]) * (together + rest))
            for by, r in tiles
        ),
        *(
            (taps.taps_gradient(*groups, by), (taps.at_once(abreast) + 1) * sums_back)
            for by in (1, 2)
        ),
    ):
        assembly = target(code.emit(np.dtype(dtype)))
        assert len(re.findall(FMA[target.cpu], assembly)) >= 2 * inputs * count, code.name
        assert not re.search(r"\t(callq?|bl)\t(?!\*%r|taps_\d|gradient_\d)", assembly)
        if jit.vector_bytes() == 64:
            assert not re.search(r"\(%rsp\).*%zmm|%zmm\d+,.*\(%rsp\)", assembly)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dot_products_are_vector_code(target, dtype):
    """With AVX-512 they stay in registers."""
    widths = [columns for columns in range(1, 8) if dots.tallest(columns)]
    assert widths[0] == 1
    for columns in widths:
        assembly = target(dots.dots(columns).emit(np.dtype(dtype)))
        heights = range(1, dots.tallest(columns) + 1)
        assert len(re.findall(FMA[target.cpu], assembly)) >= 2 * columns * sum(heights)
        assert not re.search(r"\t(callq?|bl)\t(?!\*%r|dots_\d)", assembly)
        if jit.vector_bytes() == 64:
            assert not re.search(r"\(%rsp\).*%zmm|%zmm\d+,.*\(%rsp\)", assembly)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_are_vector_code(target, dtype):
    codes = [recurrent.affine]
    codes += [code for cell in (lstm_cell, gru_cell) for code in (cell.forward, cell.backward)]
    codes += [*rnn_cell.forward.values(), *rnn_cell.backward.values()]
    for maps in (winograd.transforms_of(3, 3), winograd.transforms_of(5, 5)):
        codes += [maps.of_x, maps.of_weight, maps.to_y_relu]
    for code in codes:
        assembly = target(code.emit(np.dtype(dtype)))
        assert re.search(r"%[xyz]mm|\tv\d+\.[24][sd]", assembly), code.name
        assert not re.search(r"\t(callq?|bl)\t", assembly), f"{code.name} calls a library"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "code",
    [few.few_rows, few.few_rows_past, few.few_terms, few.few_sums, few.few_turned, few.few_panels],
    ids=["rows", "rows past the caches", "terms", "sums", "turned", "panels"],
)
def test_a_few_rows_are_vector_code(target, code, dtype):
    assembly = target(code.emit(np.dtype(dtype)))
    assert re.search(FMA[target.cpu], assembly)
    called = re.findall(r"\t(?:callq?|bl)\t(\w+)", assembly)
    own = ("rows_", "terms_", "sums", "turned_", "panels_")
    assert all(name.startswith(own) for name in called), "calls a library"


def test_features_are_of_the_cpu_that_numba_compiles_for(monkeypatch):
    cpu, host = jit.cpu.__wrapped__, (llvm.get_host_cpu_name(), HAS.flatten())
    for name, features, expected in (
        (None, None, host),
        ("haswell", "+avx2", ("haswell", "+avx2")),
        ("haswell", None, ("haswell", "")),
        (None, "+sse2", (host[0], "+sse2")),
    ):
        for variable, value in (("NUMBA_CPU_NAME", name), ("NUMBA_CPU_FEATURES", features)):
            if value is None:
                monkeypatch.delenv(variable, raising=False)
            else:
                monkeypatch.setenv(variable, value)
        assert cpu() == expected


# Without the compiler


def test_kernels_as_plain_python():
    script = """
        import types
        import numpy as np
        import elements
        import lamina as lm
        import problems
        from lamina.engine import jit, matmul, tile

        assert jit.DISABLED and tile.tile("float32") is tile.twin
        assert isinstance(matmul._part, types.FunctionType)
        problems.sweep(2, (60, 60, 30), 6, 1_000_000)
        problems.cut(3)
        problems.sweep(3, (20, 20, 10), 6, 1_000_000)
        model = lm.Sequential(lm.ConvTranspose2d(2, 3, 3, stride=2, rng=0), lm.ReLU())
        x = np.random.default_rng(0).standard_normal((1, 3, 4, 2), np.float32)
        assert (model.for_inference()(x) == model(x)).all()
        elements.sweep("activation", 4, 40)
        elements.sweep("batchnorm", 4, 40)
        elements.sweep("dropout", 4, 40)
        elements.sweep("loss", 4, 40)
        elements.sweep("pool", 4, 30)
        elements.sweep("recurrent", 4, 10)
        elements.sweep("rows", 4, 20)
    """
    run("-c", script, NUMBA_DISABLE_JIT="1", LAMINA_CACHE_DIR=os.devnull)


# The cache


USE = """
    import sys
    import numpy as np
    from lamina.engine import jit
    from lamina.linear import kernel

    x, weight = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    y, _ = kernel.forward(x, weight)
    assert (y == 4).all()
    print(jit.folder(), "numba" in sys.modules)
"""


def test_code_is_compiled_once(tmp_path):
    def files():
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}

    (first,) = run("-c", USE, LAMINA_CACHE_DIR=str(tmp_path))
    assert first.split()[1] == "True"
    before = files()
    assert {p.suffix for p in before} == {".code"}
    assert all(Path(first.split()[0]) in p.parents for p in before)
    (second,) = run("-c", USE, LAMINA_CACHE_DIR=str(tmp_path))
    assert second.split() == [first.split()[0], "False"]
    assert files() == before


@pytest.mark.parametrize("parent", ["file", "in a file", "nowhere", "read-only"])
def test_a_folder_that_cannot_be_written(parent, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "read-only").mkdir(mode=0o500)
    path = {"in a file": tmp_path / "file" / "in", "nowhere": Path("/proc/lamina")}
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(path.get(parent, tmp_path / parent)))
    found = jit.folder.__wrapped__()
    if parent == "read-only" and os.geteuid() == 0:  # root writes there all the same
        assert found is not None
    else:
        assert found is None
    assert (tmp_path / "file").read_text() == ""


def test_a_folder_that_can_only_be_read_is_read(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(Path, "touch", refuse)
    (tmp_path / jit.KEY).mkdir()
    assert jit.folder.__wrapped__() == tmp_path / jit.KEY


def test_a_user_without_a_home_has_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMINA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert jit.folder.__wrapped__() is None
    assert not list(tmp_path.iterdir())


def test_a_folder_stays_where_it_is_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMINA_CACHE_DIR", "cache")
    assert jit.folder.__wrapped__() == tmp_path / "cache" / jit.KEY


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_no_file(error, tmp_path, monkeypatch):
    def write(path, data):
        path.touch()
        raise error

    monkeypatch.setattr(Path, "write_bytes", write)
    with suppress(KeyboardInterrupt):
        jit._write(tmp_path / "name.code", b"code")
    assert not list(tmp_path.iterdir())


def test_folders_that_nobody_uses_are_removed(tmp_path, monkeypatch):
    """Those that were made here alone, and of what lies in them what was written here."""
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    ours, old, late, shared = jit.KEY, *(f"lamina-{c * 24}" for c in "abc")
    others = ("a" * 24, "lamina-notes")
    for name, days in ((ours, 99), (old, 31), (late, 29), (shared, 31), *((n, 99) for n in others)):
        (tmp_path / name).mkdir()
        for file in ("tile-float32.code", "tile-float32.123", ".123"):
            (tmp_path / name / file).touch()
        if name == shared:
            (tmp_path / name / "thesis").touch()
        then = time.time() - days * 86400
        os.utime(tmp_path / name, (then, then))
    assert jit.folder.__wrapped__() == tmp_path / ours
    left = {path.name: len([*path.iterdir()]) for path in tmp_path.iterdir()}
    assert left == {ours: 3, late: 3, shared: 1, **dict.fromkeys(others, 3)}


def test_no_cache_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = run("-c", USE, LAMINA_CACHE_DIR=str(tmp_path / "file"))
    assert line.split()[0] == "None"


@pytest.mark.parametrize("damage", ["nothing", "empty", "cut", "changed", "a folder"])
def test_a_damaged_file_is_compiled_anew(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "folder", lambda: tmp_path)
    emitted, path = [], tmp_path / "name.code"

    def emit():
        emitted.append(1)
        return packing.copy.emit(np.dtype(np.float32))

    jit.native("name", emit, "copy")
    whole = path.read_bytes()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        changed = bytes([whole[40] ^ 1])
        path.write_bytes(
            {
                "nothing": whole,
                "empty": b"",
                "cut": whole[:-10],
                "changed": whole[:40] + changed + whole[41:],
            }[damage]
        )
    assert jit.native("name", emit, "copy")
    assert len(emitted) == (1 if damage == "nothing" else 2)
    assert damage == "a folder" or path.read_bytes() == whole


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE_DIR", "")  # empty as if it was not there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert jit.folder.__wrapped__() == tmp_path / "xdg" / "lamina" / jit.KEY
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert jit.folder.__wrapped__() == tmp_path / "home" / ".cache" / "lamina" / jit.KEY
    assert not list((tmp_path / "xdg" / "lamina" / jit.KEY).iterdir())


def another(package, file="jit.py"):
    """Return the jit of a copy of the package."""
    path = package / "engine" / file
    spec = importlib.util.spec_from_file_location("lamina.engine.another", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """Copy the package."""
    ignored = shutil.ignore_patterns("__pycache__", "*.npz")
    return shutil.copytree(PACKAGE, tmp_path / "lamina", ignore=ignored)


@pytest.mark.parametrize("change", ["none", "edited", "gone"])
def test_the_cache_is_for_the_sources_that_were_imported(change, package, tmp_path, monkeypatch):
    """Where one changes, what is imported afterwards may be either."""
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    other, emitted = another(package), []

    def emit():
        emitted.append(1)
        return packing.copy.emit(np.dtype(np.float32))

    other.native("first", emit, "copy")
    cell = package / "lstm" / "cell.py"
    if change == "edited":
        cell.write_text(cell.read_text() + "\n# changed\n")
    elif change == "gone":
        cell.unlink()
    for name in ("first", "second"):
        assert other.native(name, emit, "copy")
    same = change == "none"
    assert len(emitted) == (2 if same else 3)
    files = {path.name for path in other.folder().iterdir()}
    assert files == {"first.code", *["second.code"] * same}


def test_without_sources_there_is_no_cache(package, tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    engine = package / "engine"
    py_compile.compile(engine / "jit.py", engine / "jit.pyc")
    for path in package.glob("*/**/*.py"):
        path.unlink()
    assert another(package, "jit.pyc").folder() is None
    assert not (tmp_path / "cache").exists()


def test_the_cache_knows_sources_and_cpu(package, monkeypatch):
    other = another(package)
    key = other.sources
    before = key()
    assert before == jit.KEY
    writes = re.compile(r"@jit\.|\bCode\b|\bEach\(|\bllvmlite\b")  # kernels, or IR
    kernels = [p for p in PACKAGE.glob("*/**/*.py") if writes.search(p.read_text())]
    assert {"batchnorm/columns.py", "lstm/cell.py", "parts/sums_kernel.py"} <= {
        p.relative_to(PACKAGE).as_posix() for p in kernels
    }
    deep = PACKAGE / "convolution" / "transposed" / "kernel.py"
    for path in (*PACKAGE.glob("engine/*.py"), *kernels, deep):
        changed = package / path.relative_to(PACKAGE)
        changed.write_text(changed.read_text() + "\n# changed\n")
        after = key()
        assert after != before, path
        before = after
    for name, value in (
        ("cpu", lambda: ("another", "")),
        ("cpu", lambda: (jit.cpu()[0], "+another")),
        ("version", lambda package: "another"),
        ("llvm", SimpleNamespace(llvm_version_info=(0, 0, 0))),
        ("sys", SimpleNamespace(version_info=(3, 0))),
        ("HEADER", 32),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(other, name, value)
            assert key() != before, name


# Processes and threads

BUSY = """
    import os, sys, threading
    import numpy as np
    import problems
    from lamina.engine import threads

    for module in problems.modules():
        if hasattr(module, "SERIAL"):
            module.SERIAL = 0
    PROBLEMS = [
        problems.Problem("linear", (40, 30), (30, 50)),
        problems.Problem("convolution", (2, 9, 9, 4), (3, 3, 4, 20), options={"padding": 1}),
    ]

    def work():
        results = []
        for problem in PROBLEMS:
            kernel, arrays = problems.LAYERS[problem.layer][0], problem.arrays()
            found = problems.passes(kernel, problem, arrays, problems.random_dy(problem))
            results.append({name: a.tobytes() for name, a in found.items()})
        return results

    expected = work()
    assert threads.count() == 2
"""

FORK = """
    for _ in range(3):
        child = os.fork()
        if child == 0:
            same = work() == expected
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if work() == expected else 1)
            assert os.waitpid(grandchild, 0)[1] == 0
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert work() == expected and threads.count() == 2
"""

TOGETHER = """
    start, wrong = threading.Barrier(8), []

    def many():
        start.wait()
        for _ in range(25):
            if work() != expected:
                wrong.append(1)

    workers = [threading.Thread(target=many) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
"""


COMPILE = """
    import os, threading
    import numpy as np
    from lamina.engine import jit, packing

    begun, others = threading.Event(), []

    def emit(dtype):
        begun.set()
        others.append(inner())
        return packing.copy.emit(dtype)

    code = jit.Code("copy", emit, None)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_while_another_thread_binds_a_call():
    run(
        "-c",
        """
    import os, signal, threading
    import numpy as np
    from lamina.engine import pool
    from lamina.linear import kernel

    inside, leave, in_order = threading.Event(), threading.Event(), pool.in_order

    def forward(m, n):
        kernel.forward(np.ones((m, 8), np.float32), np.ones((8, n), np.float32))

    def slow(*calls):
        inside.set()
        leave.wait()
        return in_order(*calls)

    forward(2, 8)
    pool.in_order = slow
    other = threading.Thread(target=forward, args=(3, 9))
    other.start()
    inside.wait()
    pool.in_order = in_order
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        forward(4, 10)
        os._exit(0)
    leave.set()
    assert os.waitpid(child, 0)[1] == 0
    """,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_waits_until_nobody_compiles():
    script = """
        import time

        inner = lambda: time.sleep(0.5)
        thread = threading.Thread(target=code, args=(np.dtype(np.float32),))
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            packing.copy(np.dtype(np.float64))
            os._exit(0 if others else 1)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
    """
    run("-c", textwrap.dedent(COMPILE) + textwrap.dedent(script), LAMINA_CACHE_DIR=os.devnull)


def test_the_end_of_a_process_waits_until_nobody_compiles():
    script = """
        import time

        inner = lambda: (time.sleep(0.5), print("ended"))
        threading.Thread(target=code, args=(np.dtype(np.float32),), daemon=True).start()
        begun.wait()
    """
    script = textwrap.dedent(COMPILE) + textwrap.dedent(script)
    assert run("-c", script, LAMINA_CACHE_DIR=os.devnull) == ["ended"]


def test_a_handler_may_compile_while_its_thread_does():
    """A signal's, or a `__del__`, comes in the middle of anything."""
    script = """
        import faulthandler

        faulthandler.dump_traceback_later(60, exit=True)
        inner = lambda: packing.copy(np.dtype(np.float64))
        assert code(np.dtype(np.float32)) and others[0]
    """
    run("-c", textwrap.dedent(COMPILE) + textwrap.dedent(script), LAMINA_CACHE_DIR=os.devnull)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_works_on():
    assert not run("-c", textwrap.dedent(BUSY) + textwrap.dedent(FORK), LAMINA_THREADS="2")


def test_many_python_threads_at_once():
    assert not run("-c", textwrap.dedent(BUSY) + textwrap.dedent(TOGETHER), LAMINA_THREADS="2")


def test_a_first_call_from_many_threads(tmp_path):
    """All compile at once, and the cache holds whole files."""
    script = """
        import threading
        import numpy as np
        from lamina.engine import jit, matmul, packing, tile

        start, found = threading.Barrier(8), []

        def first():
            start.wait()
            a, c = np.ones((3, 3), np.float32), np.empty((3, 3), np.float32)
            matmul.matmul(a, 3, 1, a, 1, 3, 3, 3, 3, c)
            found.append((c == 3).all())

        workers = [threading.Thread(target=first) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(found) == 8 and all(found)
        print(*sorted(p.name for p in jit.folder().glob("*-*")))
    """
    (names,) = run("-c", script, LAMINA_CACHE_DIR=str(tmp_path))
    emitted = [f"{name}-float32" for name in ("copy", "spread", "tile", "transpose")]
    compiled = [
        "engine.matmul-_part",
        "engine.pool-_run_ready",
        "enter-2",
        "enter-3",
        "enter-table",
    ]
    assert names.split() == [f"{name}.code" for name in sorted(emitted + compiled)]
