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


def views_and_classes(x, y, images, *, temperature, pulled, contrasted, clamp=False):
  """What NT-Xent, SupCon and both parts of ConTeX do to each anchor that has pairs.

  The others of an anchor i are named by what they share with it: "views" its image,
  "class" its label, "rest" another label, "all" nothing need be shared.
  """
  z = unit(x)
  values = {}
  for i in range(len(z)):
    others = [j for j in range(len(z)) if j != i and y[i] >= 0 and y[j] >= 0]
    named = {
      "all": others,
      "views": [j for j in others if images[j] == images[i]],
      "class": [j for j in others if y[j] == y[i]],
      "rest": [j for j in others if y[j] != y[i]],
    }
    if not named[pulled] or not named[contrasted]:
      continue
    similarity = [math.fsum(z[i] * z[j]) / temperature for j in range(len(z))]
    total = math.log(math.fsum(math.exp(similarity[n]) for n in named[contrasted]))
    terms = [total - similarity[p] for p in named[pulled]]
    if clamp:
      terms = [max(term, 0.0) for term in terms]
    values[i] = math.fsum(terms) / len(terms)
  examples = sum(y >= 0)
  spread = np.zeros(len(z))
  for i, value in values.items():
    spread[i] = value * examples / len(values)
  return spread


def nt_xent(x, y, images, *, temperature):
  return views_and_classes(
    x, y, images, temperature=temperature, pulled="views", contrasted="all"
  )


def supcon(x, y, images, *, temperature, base_temperature=0.07):
  values = views_and_classes(
    x, y, images, temperature=temperature, pulled="class", contrasted="all"
  )
  return temperature / base_temperature * values


def contex(x, y, images, *, temperature, base_temperature=0.07, clamp=False):
  by_class = views_and_classes(
    x,
    y,
    images,
    temperature=temperature,
    pulled="class",
    contrasted="rest",
    clamp=clamp,
  )
  by_view = nt_xent(x, y, images, temperature=temperature)
  return temperature / base_temperature * (by_class + by_view) / 2


def slope(function, at, step=1e-6):
  """Central finite differences of a scalar function of an array, in float64."""
  slopes = np.zeros_like(at)
  for index in np.ndindex(at.shape):
    ahead, behind = at.copy(), at.copy()
    ahead[index] += step
    behind[index] -= step
    slopes[index] = (function(ahead) - function(behind)) / (2 * step)
  return slopes
