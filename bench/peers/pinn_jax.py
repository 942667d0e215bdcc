"""The residual of a differential equation in JAX, by every way its users take derivatives by coordinates; Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import grad, hessian, jacfwd, jvp, vmap
from jax.experimental import jet

from bench import cases
from bench.peers import harness, loop_jax

Array = jax.Array
Field = Callable[[Array], Array]  # [..., d] -> [...]
Parameters = dict[str, Array]


def network(parameters: Parameters, hidden: int) -> Field:
    """The field: hidden layers of tanh and a linear one."""

    def field(points: Array) -> Array:
        for layer in range(1, hidden + 1):
            points = jnp.tanh(points @ parameters[f"w{layer}"] + parameters[f"b{layer}"])
        return (points @ parameters[f"w{hidden + 1}"] + parameters[f"b{hidden + 1}"])[..., 0]

    return field


def along(points: Array, *axes: int, sign: int = 1) -> Array:
    """The direction of an axis, or of the sum (difference) of two, at every point."""
    direction = jnp.zeros(points.shape[-1]).at[axes[0]].set(1)
    for axis in axes[1:]:
        direction = direction.at[axis].set(sign)
    return jnp.broadcast_to(direction, points.shape)


def directional(field: Field, axis: int) -> Field:
    """The derivative along one axis in forward mode."""
    return lambda points: jvp(field, (points,), (along(points, axis),))[1]


def taylor(field: Field, points: Array, order: int, direction: Array) -> Sequence[Array]:
    """Derivatives of orders 1 to `order` along a direction."""
    zeros = [jnp.zeros_like(points)] * (order - 1)
    return jet.jet(field, (points,), ((direction, *zeros),))[1]


def momentum_loss(first: Sequence[Array], xx: Array, yy: Array, xt: Array, xy: Array) -> Array:
    """As in pinn_torch.py."""
    continuity, momentum = xx + yy, xt + first[0] * xx + first[1] * xy + xt
    return (continuity**2).mean() + (momentum**2).mean()


def momentum(way: str, field: Field, points: Array) -> Array:
    """The loss of listing 2."""
    if way == "nested":  # one reverse pass for every op.grad of the source

        def by(f: Field, axis: int) -> Field:
            return lambda at: grad(lambda z: f(z).sum())(at)[..., axis]

        u, v, p = (by(field, axis) for axis in range(3))
        continuity = by(u, 0)(points) + by(v, 1)(points)
        carried = u(points) * by(u, 0)(points) + v(points) * by(u, 1)(points)
        return (continuity**2).mean() + ((by(u, 2)(points) + carried + by(p, 0)(points)) ** 2).mean()
    gradient = grad(lambda at: field(at).sum())
    if way == "reverse":
        first, back = jax.vjp(gradient, points)
        by_x, by_y = (back(along(points, axis))[0] for axis in range(2))
        return momentum_loss(first.T, by_x[:, 0], by_y[:, 1], by_x[:, 2], by_x[:, 1])
    if way == "mixed":
        first, by_x = jvp(gradient, (points,), (along(points, 0),))
        _, by_y = jvp(gradient, (points,), (along(points, 1),))
        return momentum_loss(first.T, by_x[:, 0], by_y[:, 1], by_x[:, 2], by_x[:, 1])
    if way == "forward":
        by_axis = [directional(field, axis) for axis in range(3)]
        pairs = ((by_axis[0], 0), (by_axis[1], 1), (by_axis[0], 2), (by_axis[0], 1))
        second = [directional(f, axis)(points) for f, axis in pairs]
        return momentum_loss([f(points) for f in by_axis[:2]], *second)
    if way == "hessian":
        first, second = vmap(grad(field))(points), vmap(jacfwd(grad(field)))(points)
        return momentum_loss(first.T, second[:, 0, 0], second[:, 1, 1], second[:, 0, 2], second[:, 0, 1])
    if way == "points":
        of_u, of_v = (vmap(grad(lambda at, i=i: grad(field)(at)[i]))(points) for i in range(2))
        return momentum_loss(vmap(grad(field))(points).T, of_u[:, 0], of_v[:, 1], of_u[:, 2], of_u[:, 1])
    if way == "jet":  # mixed derivatives by polarisation
        (u, xx), (v, yy), (_, tt) = (taylor(field, points, 2, along(points, axis)) for axis in range(3))
        xt, xy = (taylor(field, points, 2, along(points, 0, axis))[1] for axis in (2, 1))
        return momentum_loss((u, v), xx, yy, (xt - xx - tt) / 2, (xy - xx - yy) / 2)
    raise ValueError(f"there is no way {way!r}")


def biharmonic(way: str, field: Field, points: Array) -> Array:
    """How far the Laplacian of the Laplacian is from 1."""
    if way == "jet":
        x, y = (taylor(field, points, 4, along(points, axis))[3] for axis in range(2))
        plus, minus = (taylor(field, points, 4, along(points, 0, 1, sign=sign))[3] for sign in (1, -1))
        return ((x + y + 2 * (plus + minus - 2 * x - 2 * y) / 12 - 1) ** 2).mean()

    def laplacian(f: Field) -> Field:
        if way == "hessian":
            return lambda at: jnp.trace(hessian(f)(at))
        if way == "nested":
            return lambda at: sum(
                grad(lambda z, i=i: grad(lambda w: f(w).sum())(z)[..., i].sum())(at)[..., i] for i in range(2)
            )
        if way == "forward":
            return lambda at: sum(directional(directional(f, axis), axis)(at) for axis in range(2))
        if way == "mixed":
            gradient = grad(lambda at: f(at).sum())
            return lambda at: sum(jvp(gradient, (at,), (along(at, axis),))[1][..., axis] for axis in range(2))
        raise ValueError(f"the biharmonic is not raced by way of {way!r}")

    twice = laplacian(laplacian(field))
    return (((vmap(twice) if way == "hessian" else twice)(points) - 1) ** 2).mean()


def main() -> None:
    options = harness.options("pinn", __doc__ or "")
    size = cases.CASES["pinn"][options.size]
    assert isinstance(size, cases.Pinn)
    weights, data = cases.initial("pinn", options.size)
    points = jnp.concatenate([jnp.asarray(data[name]) for name in size.coordinates], 1)
    residual = momentum if size.equation == "momentum" else biharmonic

    def update(state: tuple[Parameters, Parameters, Parameters, Array]) -> tuple[Array, tuple[Parameters, ...]]:
        parameters, first, second, count = state
        value_and_grad = jax.value_and_grad(lambda p: residual(options.way, network(p, size.hidden), points))
        loss, gradients = value_and_grad(parameters)
        count = count + 1
        first = jax.tree.map(lambda m, g: size.beta1 * m + (1 - size.beta1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: size.beta2 * v + (1 - size.beta2) * g * g, second, gradients)
        scale, root = 1 - size.beta1**count, 1 - size.beta2**count

        def moved(p: Array, m: Array, v: Array) -> Array:
            return p - size.learning_rate * (m / scale) / (jnp.sqrt(v / root) + size.eps)

        return loss, (jax.tree.map(moved, parameters, first, second), first, second, count)

    start = {name: jnp.asarray(value) for name, value in weights.items()}
    state = (start, jax.tree.map(jnp.zeros_like, start), jax.tree.map(jnp.zeros_like, start), jnp.float32(0))

    loop_jax.train(update, state, options, cases.UPDATES["pinn"])


if __name__ == "__main__":
    main()
