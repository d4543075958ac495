"""The order of imports: facts, arrays, torch, Ray, commands; and what an import may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anyecg_ray.backends import Estimator
from anyecg_ray.machine import may_have_gpu
from anyecg_ray.weights import Init, init

PACKAGE = Path(__file__).parent.parent / "anyecg_ray"
MODULES = sorted(p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for p in PACKAGE.rglob("*.py"))

# what a file may import of the heavy libraries, by the layer that it belongs to
ON_RAY = {
    "cluster",
    "scoring",
    "telemetry",
    "delivery",
    "cohort",
    "predict",
    "train_worker",
    "backfill",
    "bench",
    "bench_segments",
    "bench_growth",
    "bench_table",
    "bench_train",
    "bench_backfill",
    "board",
    "initial_weights",
    "submit",
    "demo",
    "train",
    "prepare",
    "labelling",
    "serve",
    "model_calls",
    "replicas",
    "hosting",
    "manifest",
    "pack",
}
ON_TORCH = {
    "net1d",
    "stages",
    "openvino_trace",
    "int8",
    "weights",
    "bench_ecgfounder",
    "losses",
    "augment",
    "optimise",
    "train_loop",
} | ON_RAY


def imports(module):
    """Top-level imports of a module of ours, as written."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "anyecg_ray":
                yield from (f"anyecg_ray.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_in_their_layer(module):
    heavy = {name.split(".")[0] for name in imports(module)}
    assert "ray" not in heavy or module in ON_RAY
    assert "torch" not in heavy or module in ON_TORCH


def test_imports_go_one_way():
    ours = {m: {i.removeprefix("anyecg_ray.") for i in imports(m) if i.startswith("anyecg_ray.")} for m in MODULES}
    seen, path = set(), []

    def visit(module):
        assert module not in path, f"circle: {' → '.join([*path, module])}"
        if module in seen or module not in ours:
            return
        path.append(module)
        for other in sorted(ours[module]):
            visit(other)
        path.pop()
        seen.add(module)

    for module in MODULES:
        visit(module)


@pytest.mark.parametrize("line", ["import anyecg_ray", "from anyecg_ray import cli; cli.main(['--help'])"])
def test_the_package_and_its_help_are_light(line):
    code = f"import sys\n{line}\nprint([m for m in ('ray', 'torch', 'numpy', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_what_only_filters_need_is_loaded_by_nothing_else():
    """scipy.signal takes half a second, which the driver and the model's process need not wait."""
    code = "import sys\nimport anyecg_ray.backfill\nprint('scipy.signal' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_a_back_fill_loads_no_torch_where_openvino_runs_a_graph_that_is_kept(tmp_path, monkeypatch):
    """It takes two seconds and 200 MB in each of its processes, which none of them has a use for."""
    pytest.importorskip("openvino")
    if may_have_gpu():
        pytest.skip("there is a GPU, for which PyTorch is asked")
    monkeypatch.setenv("ANYECG_CACHE", str(tmp_path / "cache"))
    bundle, x = init(Init(out=str(tmp_path / "b"), preset="tiny")), np.ones((20, 1, 5000), np.float32)
    np.save(tmp_path / "right.npy", Estimator(bundle).logits(x))  # traces, rounds and measures
    code = (
        "import sys, numpy as np\nimport anyecg_ray.backfill\nfrom anyecg_ray import backends, model\n"
        f"got = backends.Estimator(model.load({str(tmp_path / 'b')!r})).logits(np.ones((20, 1, 5000), np.float32))\n"
        f"assert (got == np.load({str(tmp_path / 'right.npy')!r})).all()\n"
        "print([m for m in ('torch', 'scipy.signal') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_no_file_is_a_drawer():
    names = {Path(m.replace(".", "/")).name for m in MODULES}
    assert not names & {"utils", "util", "helpers", "core", "base", "common", "misc"}
    for module in MODULES:
        text = (PACKAGE / (module.replace(".", "/") + ".py")).read_text()
        assert ast.get_docstring(ast.parse(text)), f"{module} does not say what it is"
        assert len(text.splitlines()) <= 400, module
