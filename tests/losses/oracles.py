"""The losses' formulas as float64 loops: what the code must equal."""

import math

import numpy as np


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def margin_softmax(z, y, c, *, scale, margin):
  """-log of the own class's share, its cosine reduced by the margin."""
  values = []
  for i in range(len(z)):
    cosines = [math.fsum(z[i] * c[k]) for k in range(len(c))]
    own = math.exp(scale * (cosines[y[i]] - margin))
    others = [math.exp(scale * cosines[k]) for k in range(len(c)) if k != y[i]]
    values.append(-math.log(own / (own + math.fsum(others))))
  return values


def center_contrastive(x, y, c, *, scale, margin, center_weight):
  """Eq. 5 of arXiv 2308.00458, literally, plus the constant 2 lambda."""
  z, c = unit(x), unit(c)
  values = []
  for i in range(len(z)):
    cosines = [math.fsum(z[i] * c[k]) for k in range(len(c))]
    own = cosines[y[i]]
    others = [math.exp(scale * cosines[k]) for k in range(len(c)) if k != y[i]]
    above = math.exp(scale * (own - margin) + 2 * center_weight * own)
    below = math.exp(scale * (own - margin)) + math.fsum(others)
    values.append(-math.log(above / below) + 2 * center_weight)
  return np.array(values)


def center_loss(x, y, c):
  z, c = unit(x), unit(c)
  return np.array([sum((z[i] - c[y[i]]) ** 2) / 2 for i in range(len(z))])


def contrastive_center(x, y, c, *, delta):
  z, c = unit(x), unit(c)
  values = []
  for i in range(len(z)):
    squared = [sum((z[i] - c[k]) ** 2) for k in range(len(c))]
    others = sum(squared[k] for k in range(len(c)) if k != y[i])
    values.append(squared[y[i]] / (others + delta) / 2)
  return np.array(values)


def cosface(x, y, c, *, scale, margin):
  return np.array(margin_softmax(unit(x), y, unit(c), scale=scale, margin=margin))


def normalized_softmax(x, y, c, *, temperature):
  z, c = unit(x), unit(c)
  return np.array(margin_softmax(z, y, c, scale=1 / temperature, margin=0.0))


def slope(function, at, step=1e-6):
  """Central finite differences of a scalar function of an array, in float64."""
  slopes = np.zeros_like(at)
  for index in np.ndindex(at.shape):
    ahead, behind = at.copy(), at.copy()
    ahead[index] += step
    behind[index] -= step
    slopes[index] = (function(ahead) - function(behind)) / (2 * step)
  return slopes
