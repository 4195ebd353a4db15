"""Capture of JAX: tap() under jit records what the compiled function computed, and costs nothing outside a capture."""

import jax
import jax.numpy as jnp
import numpy as np
import paritrace
import paritrace.jax as adapter
import pytest


def layer(x, weight):
    q = adapter.tap("layers.0.attn.q", x @ weight)
    return adapter.tap("layers.0.out", jax.nn.silu(q) + x)


X = jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(3, 4)
W = jnp.linspace(0, 1, 16, dtype=jnp.float32).reshape(4, 4)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_taps_are_recorded_in_order(tmp_path, compiled):
    function = jax.jit(layer) if compiled else layer
    before = function(X, W)  # compiled without taps: must be traced again
    with adapter.capture(tmp_path / "t", tokens=[[5, 6, 7]], model={"name": "toy"}):
        during = function(X, W)
    after = function(X, W)
    assert np.array_equal(before, after)
    trace = paritrace.open_trace(tmp_path / "t")
    assert [entry.site for entry in trace.entries] == ["layers.0.attn.q", "layers.0.out"]
    assert np.array_equal(trace.values("layers.0.out"), during)
    assert trace.header["engine"] == {"name": "jax", "version": jax.__version__}
    assert trace.header["run"]["tokens"] == [[5, 6, 7]]
    assert trace.header["run"]["arithmetic"] == "jax-f32"
    assert trace.complete


def test_bf16_keeps_its_bits(tmp_path):
    with adapter.capture(tmp_path / "t"):
        jax.jit(layer)(X.astype(jnp.bfloat16), W.astype(jnp.bfloat16))
    trace = paritrace.open_trace(tmp_path / "t")
    entry = trace.find("layers.0.attn.q")
    assert entry.dtype == "bf16"
    expected = jax.jit(lambda x, w: x @ w)(X.astype(jnp.bfloat16), W.astype(jnp.bfloat16))
    assert np.array_equal(entry.numpy(), np.asarray(expected, np.float32))
    assert trace.header["run"]["arithmetic"] == "jax-bf16"


def test_steps_and_scan(tmp_path):
    def rounds(x):
        return jax.lax.scan(lambda x, _: (adapter.tap("hidden", x * 2), None), x, length=3)[0]

    with adapter.capture(tmp_path / "t", tokens=[[1, 2, 3]]):
        jax.jit(rounds)(X)
        adapter.next_step(3, [[4]])
        jax.jit(layer)(X[:1], W)
    trace = paritrace.open_trace(tmp_path / "t")
    hidden = [entry for entry in trace.entries if entry.step == 0]
    assert [entry.name for entry in hidden] == ["hidden", "hidden#2", "hidden#3"]
    for power, entry in enumerate(hidden, 1):
        assert np.array_equal(entry.numpy(), X * 2**power)
    assert trace.values("layers.0.attn.q", 1).shape == (1, 4)
    assert trace.header["run"]["tokens"] == [[1, 2, 3, 4]]


def test_failure_leaves_an_open_trace_and_no_tap(tmp_path):
    with pytest.raises(ZeroDivisionError), adapter.capture(tmp_path / "t"):
        layer(X, W)
        raise ZeroDivisionError
    assert not paritrace.open_trace(tmp_path / "t").complete
    assert "callback" not in str(jax.make_jaxpr(layer)(X, W))
    with adapter.capture(tmp_path / "u"), pytest.raises(RuntimeError, match="already running"):
        with adapter.capture(tmp_path / "v"):
            pass


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_vmap_records_each_mapped_call(tmp_path, compiled):
    function = jax.vmap(lambda x: adapter.tap("hidden", x * 2))
    with adapter.capture(tmp_path / "t"):
        (jax.jit(function) if compiled else function)(X)
    trace = paritrace.open_trace(tmp_path / "t")
    assert [entry.name for entry in trace.entries] == ["hidden", "hidden#2", "hidden#3"]
    assert np.array_equal(np.stack([entry.numpy() for entry in trace.entries]), 2 * X)


def test_vmap_of_a_scan_under_jit(tmp_path):
    def rounds(x):
        return jax.lax.scan(lambda x, _: (adapter.tap("hidden", x + 1), None), x, length=2)[0]

    with adapter.capture(tmp_path / "t"):
        jax.jit(jax.vmap(rounds))(X[:2])
    values = [entry.numpy() for entry in paritrace.open_trace(tmp_path / "t").entries]
    assert len(values) == 4  # two rounds of two
    assert sorted(map(tuple, np.stack(values).tolist())) == sorted(
        map(tuple, [*(X[:2] + 1).tolist(), *(X[:2] + 2).tolist()])
    )


@pytest.mark.parametrize("mode", ["stats", "digest"])
def test_modes_without_values(tmp_path, mode):
    with adapter.capture(tmp_path / "t", mode=mode):
        jax.jit(layer)(X, W)
    entry = paritrace.open_trace(tmp_path / "t").find("layers.0.attn.q")
    assert not entry.has_data
    assert "rms" in entry.stats_json


SCRIPT = """
import jax, jax.numpy as jnp
from paritrace.jax import tap

@jax.jit
def model(ids):
    return tap("logits", jax.nn.one_hot(ids[0], 8))

def silent(ids):
    return ids

broken = 3
"""


def test_command(paritrace_cli, tmp_path):
    (tmp_path / "toy.py").write_text(SCRIPT)
    done = paritrace_cli("capture", "jax", "toy.py:model", "--tokens", "1,2,5", "-o", "t")
    assert (done.returncode, done.stderr) == (0, "")
    trace = paritrace.open_trace(tmp_path / "t")
    assert np.array_equal(trace.values("logits"), np.eye(8, dtype=np.float32)[[1, 2, 5]])
    assert trace.header["run"]["tokens"] == [[1, 2, 5]]
    for function in ("toy.py:silent", "toy.py:broken", "toy.py:absent", "absent.py:model", "toy.py"):
        done = paritrace_cli("capture", "jax", function, "--tokens", "1", "-o", "bad", "--overwrite")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_flax_intermediates(tmp_path):
    linen = pytest.importorskip("flax.linen")

    class Toy(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3, name="second")(jax.nn.relu(linen.Dense(5, name="first")(x)))

    model = Toy()
    variables = model.init(jax.random.PRNGKey(0), X)
    with adapter.capture(tmp_path / "t"):
        output, state = model.apply(variables, X, capture_intermediates=True, mutable=["intermediates"])
        adapter.record_intermediates(state["intermediates"])
    trace = paritrace.open_trace(tmp_path / "t")
    values = {entry.name: entry.numpy() for entry in trace.entries}
    assert set(values) == {"__call__", "first", "second"}
    assert np.array_equal(values["second"], output)
    assert values["first"].shape == (3, 5)


def test_intermediates_without_flax(tmp_path):
    """The shape of what Flax hands out, nested as its sow nests it."""
    state = {"layers_0": {"attn": {"q": {"__call__": (X, X + 1)}}, "__call__": (X * 2,)}}
    with adapter.capture(tmp_path / "t"):
        adapter.record_intermediates(state)
    names = [entry.name for entry in paritrace.open_trace(tmp_path / "t").entries]
    assert names == ["layers_0/attn/q", "layers_0/attn/q#2", "layers_0"]
