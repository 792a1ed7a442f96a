"""What every test runs under: one known JAX configuration, and how many random examples hypothesis draws."""

import os
from importlib.metadata import version

from hypothesis import settings

# JAX reads its environment when it is imported, so this stands before any import of jax. Settings of the person who
# runs the tests (64-bit mode, a compile cache, disabled jit) would change what is tested; they are dropped.
for name in [name for name in os.environ if name.startswith("JAX_")]:
    del os.environ[name]
os.environ["JAX_PLATFORMS"] = os.environ.get("OPTIMKIT_TEST_PLATFORM", "cpu")

# Eight CPU devices, so that sharding is tested everywhere. Measured on 2 cores with jax 0.10.2 against one device:
# import, compile time, eager operations and dispatch all agree within the noise of 10 %.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

# No deadline: the first example compiles. Under CI the examples are the same in each run, so that a red run says
# something about the commit; elsewhere they are drawn anew. `full` is what `make test-all` sets.
CI = "CI" in os.environ
settings.register_profile("fast", deadline=None, derandomize=CI, max_examples=20)
settings.register_profile("full", parent=settings.get_profile("fast"), max_examples=200)
settings.load_profile(os.environ.get("OPTIMKIT_TEST_EXAMPLES", "fast"))


# Scripts that wrote what other people's code computes; what they need is installed for them alone.
collect_ignore_glob = ["golden/privacy/*.py", "golden/traces/*.py"]


def pytest_report_header() -> str:
    """Tell which end of the supported range of versions this run tests."""
    return ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "numpy"))
