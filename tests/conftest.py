"""Fixtures shared by all tests."""

import os
from pathlib import Path

# Compiled programs are kept between the processes of a run, those that tests start included, and
# between runs (`pytest --cache-clear` drops them): compiling is most of what the tests take. Set
# here since JAX reads them when it is imported.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# What XLA optimises, the tests do not ask about: without LLVM's costly passes they compile a third
# faster, and a tenth if a program is not cut into parts for cores that other tests keep busy.
# Benchmarks and users have both.
FAST_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _let_go_of_programs():
    """A process may map memory 65,530 times, and each compiled program does so several times."""
    yield
    jax.clear_caches()


WIDE = jax.config.values["jax_enable_x64"]


@pytest.fixture(autouse=True)
def _restore_precision():
    """The command sets the precision of its process; no test nor fixture must leave it set."""
    yield
    jax.config.update("jax_enable_x64", WIDE)


@pytest.fixture
def x64():
    """JAX's 64-bit mode, for one test."""
    with jax.enable_x64(True):
        yield
