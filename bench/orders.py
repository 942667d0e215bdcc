"""How the cost of a derivative by one coordinate grows with its order: the emitted program beside JAX's nested ways.

    python -m bench.orders [--orders 1-6] [--seconds 2] [--budget 60]

Every row is one step: the derivative of a network 3-128-128-1 at 1024 points, the mean of its square, and the gradient
of that by the parameters. `reverse` nests jax.grad, `forward` nests jax.jvp; all take every core, one after another.
A way that has no answer after `--budget` seconds, compilation included, is not asked for higher orders.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from bench import contestants, environment

POINTS, WIDTH = 1024, 128


def ours(order: int, seconds: float) -> tuple[float, float]:
    """Milliseconds and 1e6 floating-point operations of a step of the emitted program."""
    folder = environment.WORK / f"orders-{order}"
    compiler = [sys.executable, "-c", "from tesserac.cli import main; main()", "build"]
    settings = [f"N={POINTS}", f"W={WIDTH}", f"K={order}"]
    flags = [part for setting in settings for part in ("--set", setting)]
    source = environment.ROOT / "bench" / "models" / "orders.py"
    write = [*compiler, str(source), *flags, "--emit=cpp", "-o", str(folder)]
    for command in (write, ["make", "-s", "-C", str(folder), "orders"]):
        done = subprocess.run(command, env=environment.plain(), capture_output=True, text=True)
        if done.returncode:
            raise contestants.Failed((done.stderr.strip() or command[0]).splitlines()[0])
    program = [str(folder / "orders"), "bench", "--json"]
    quick = contestants.json_line([*program, "--steps", "5"], environment.plain())
    steps = max(5, min(500, int(seconds * 1e3 / quick["median_ms"])))
    record = contestants.json_line([*program, "--steps", str(steps)], environment.plain())
    return record["median_ms"], record["flops"] / 1e6


def theirs(order: int, way: str, seconds: float, budget: float) -> float:
    """Milliseconds of JAX's step, in a process of its own that has `budget` seconds. Raises Failed."""
    command = [sys.executable, "-m", "bench.orders", "--jax", way, "--orders", str(order), "--seconds", str(seconds)]
    return float(contestants.json_line(command, environment.plain(), budget)["median_ms"])


def jax_step(order: int, way: str) -> Callable[[], None]:
    """The jitted step of JAX."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 4)
    sizes = [(3, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
    weights = [jax.random.normal(key, size) * size[0] ** -0.5 for key, size in zip(keys, sizes, strict=False)]
    points = jax.random.uniform(keys[3], (POINTS, 3))
    direction = jnp.broadcast_to(jnp.eye(3)[0], points.shape)

    def loss(weights: list[jax.Array]) -> jax.Array:
        def field(at: jax.Array) -> jax.Array:
            hidden = jnp.tanh(jnp.tanh(at @ weights[0]) @ weights[1])
            return (hidden @ weights[2])[:, 0]

        for _ in range(order):
            if way == "forward":
                field = lambda at, f=field: jax.jvp(f, (at,), (direction,))[1]  # noqa: E731
            else:
                field = lambda at, f=field: jax.grad(lambda z: f(z).sum())(at)[:, 0]  # noqa: E731
        return (field(points) ** 2).mean()

    jitted = jax.jit(jax.value_and_grad(loss))

    def step() -> None:
        jax.block_until_ready(jitted(weights))

    return step


def run_jax(order: int, way: str, seconds: float) -> None:
    """Times JAX's step and prints a line of JSON."""
    step = jax_step(order, way)
    step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"median_ms": statistics.median(times)}))


def table(orders: range, seconds: float, budget: float) -> None:
    """One line per order as it is measured; what fails or takes too long says so in its place."""
    given_up: set[str] = set()
    print(f"{'order':>5}{'tesserac ms':>13}{'MFLOP':>9}{'JAX forward ms':>16}{'JAX reverse ms':>16}", flush=True)
    for order in orders:
        cells = []
        for way in ("forward", "reverse"):
            try:
                cells.append("-" if way in given_up else f"{theirs(order, way, seconds, budget):.2f}")
            except contestants.Failed as failure:
                given_up.add(way)
                cells.append(f"over {budget:.0f} s" if "within" in str(failure) else str(failure)[:15])
        milliseconds, work = ours(order, seconds)
        print(f"{order:5}{milliseconds:13.2f}{work:9.0f}{''.join(f'{cell:>16}' for cell in cells)}", flush=True)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--orders", default="1-6", help="one order, or the first and the last")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each timed part")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds that JAX may take for one order")
    parser.add_argument("--jax", choices=("forward", "reverse"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    first, _, last = options.orders.partition("-")
    if options.jax:
        run_jax(int(first), options.jax, options.seconds)
    else:
        table(range(int(first), int(last or first) + 1), options.seconds, options.budget)


if __name__ == "__main__":
    main()
