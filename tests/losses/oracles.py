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


def cross_entropy(logits, own):
  exponents = [math.exp(logit) for logit in logits]
  return -math.log(exponents[own] / math.fsum(exponents))


def arcface(x, y, c, *, scale, margin):
  z, c = unit(x), unit(c)
  values = []
  for i in range(len(z)):
    cosines = [math.fsum(z[i] * c[k]) for k in range(len(c))]
    angle = math.acos(cosines[y[i]])
    if angle <= math.pi - margin:
      cosines[y[i]] = math.cos(angle + margin)
    else:
      cosines[y[i]] = math.cos(angle) - margin * math.sin(margin)
    values.append(cross_entropy([scale * cosine for cosine in cosines], y[i]))
  return np.array(values)


def proxy_nca(x, y, c, *, temperature):
  z, c = unit(x), unit(c)
  values = []
  for i in range(len(z)):
    squared = [math.fsum((z[i] - c[k]) ** 2) for k in range(len(c))]
    values.append(cross_entropy([-value / temperature for value in squared], y[i]))
  return np.array(values)


def proxy_anchor(x, y, c, *, scale, margin):
  """The published scalar, which every example carries whole."""
  z, c = unit(x), unit(c)
  pulls, pushes = [], []
  for k in range(len(c)):
    cosines = [math.fsum(z[i] * c[k]) for i in range(len(z))]
    own = [math.exp(-scale * (cosines[i] - margin)) for i in range(len(z)) if y[i] == k]
    others = [
      math.exp(scale * (cosines[i] + margin)) for i in range(len(z)) if y[i] != k
    ]
    if own:
      pulls.append(math.log(1 + math.fsum(own)))
    pushes.append(math.log(1 + math.fsum(others)))
  loss = math.fsum(pulls) / len(pulls) + math.fsum(pushes) / len(pushes)
  return np.full(len(z), loss)


def soft_triple(x, y, w, *, scale, gamma, margin, regularizer):
  z, w = unit(x), unit(w)
  classes, per_class, _ = w.shape
  values = []
  for i in range(len(z)):
    logits = []
    for k in range(classes):
      cosines = [math.fsum(z[i] * w[k, c]) for c in range(per_class)]
      weights = [math.exp(cosine / gamma) for cosine in cosines]
      mixed = math.fsum(a * b for a, b in zip(weights, cosines, strict=True))
      logits.append(scale * (mixed / math.fsum(weights) - margin * (y[i] == k)))
    values.append(cross_entropy(logits, y[i]))
  apart = [
    math.sqrt(2 + 1e-5 - 2 * math.fsum(w[k, a] * w[k, b]))
    for k in range(classes)
    for b in range(per_class)
    for a in range(b)
  ]
  pairs = classes * per_class * (per_class - 1)
  return np.array(values) + regularizer * math.fsum(apart) / pairs


def pairs_of(x, y, memory=None, memory_labels=None, positives=None):
  """Of each anchor, the cosines to its positives and those to its negatives."""
  given = positives
  rows, labels = unit(x), list(y)
  if memory is not None:
    rows = np.concatenate([rows, unit(memory)])
    labels += list(memory_labels)
  found = []
  for i in range(len(x)):
    positives, negatives = [], []
    for j in range(len(rows)):
      if j != i and labels[j] >= 0:
        wanted = labels[j] == y[i] if given is None else given[i, j]
        kind = positives if wanted else negatives
        kind.append(math.fsum(rows[i] * rows[j]))
    found.append((positives, negatives))
  return found


def spread(terms, count):
  """Sums of terms by anchor, so that their mean is that over `count` terms."""
  return np.array([math.fsum(own) for own in terms]) * len(terms) / max(count, 1)


def supcon(x, y, *, temperature, base_temperature=0.07, **memory):
  terms = []
  for positives, negatives in pairs_of(x, y, **memory):
    exponents = [math.exp(cosine / temperature) for cosine in positives + negatives]
    shares = [
      math.exp(cosine / temperature) / math.fsum(exponents) for cosine in positives
    ]
    mean = math.fsum(map(math.log, shares)) / max(len(shares), 1)
    terms.append([-temperature / base_temperature * mean] if positives else [])
  return spread(terms, sum(map(len, terms)))


def multi_similarity(x, y, *, alpha, beta, base, epsilon, **memory):
  values = []
  for positives, negatives in pairs_of(x, y, **memory):
    if epsilon < math.inf:
      hard_positives = [p for p in positives if any(p - epsilon < n for n in negatives)]
      negatives = [n for n in negatives if any(n + epsilon > p for p in positives)]
      positives = hard_positives
    pull = math.fsum(math.exp(-alpha * (p - base)) for p in positives)
    push = math.fsum(math.exp(beta * (n - base)) for n in negatives)
    values.append(math.log(1 + pull) / alpha + math.log(1 + push) / beta)
  return np.array(values)


def triplet(x, y, *, margin, mining, **memory):
  terms = []
  for positives, negatives in pairs_of(x, y, **memory):
    near = [2 - 2 * cosine for cosine in positives]
    far = [2 - 2 * cosine for cosine in negatives]
    if mining == "batch_hard":
      triplets = [(max(near), min(far))] if near and far else []
    else:
      triplets = [
        (p, min(n for n in far if n > p)) for p in near if any(n > p for n in far)
      ]
    terms.append([max(0.0, margin + p - n) for p, n in triplets])
  return spread(terms, sum(map(len, terms)))


def prototypical(x, y, *, temperature):
  z, terms = unit(x), []
  for i in range(len(z)):
    logits = {}
    for k in set(y):
      rows = [z[j] for j in range(len(z)) if y[j] == k and j != i]
      if rows:
        logits[k] = -math.fsum((z[i] - sum(rows) / len(rows)) ** 2) / temperature
    below = math.fsum(map(math.exp, logits.values()))
    mine = y[i] in logits
    terms.append([-math.log(math.exp(logits[y[i]]) / below)] if mine else [])
  return spread(terms, sum(map(len, terms)))


def contrastive(x, y, *, margin, **memory):
  pulls, pushes = [], []
  for positives, negatives in pairs_of(x, y, **memory):
    pulls.append([(2 - 2 * cosine) / 2 for cosine in positives])
    distances = [math.sqrt(2 - 2 * cosine) for cosine in negatives]
    pushes.append([(margin - d) ** 2 / 2 for d in distances if d < margin])
  return sum(spread(terms, sum(map(len, terms))) for terms in (pulls, pushes))


def views_and_classes(x, y, images, *, temperature, pulled, contrasted, clamp=False):
  """What NT-Xent and both parts of ConTeX do to each anchor that has pairs.

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
